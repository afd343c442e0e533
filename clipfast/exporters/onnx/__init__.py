"""The defended classifier as ONNX: the exporter's translations, rewrites of its graph, and the file."""
