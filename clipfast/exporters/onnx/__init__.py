"""Writes graphs as ONNX: translations of operators, rewrites of the graph, and the file."""
