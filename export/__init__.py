"""From a PyTorch checkpoint to verified ONNX graphs, fused octave convolutions and engines."""
