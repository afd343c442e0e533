"""The bundled model of drawn shapes."""
