"""PyTorch modules of the codec, their configurations and their checkpoints."""
