"""Rewrite rules: the exact identities of octave-convolution fusion, on any ONNX graph."""
