"""The bundled model of photographs."""
