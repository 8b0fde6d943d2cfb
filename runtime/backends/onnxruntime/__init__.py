"""Backends that run ONNX graphs with ONNX Runtime."""
