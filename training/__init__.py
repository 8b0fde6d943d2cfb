"""Data sets, losses and training loops."""
