"""Post-training quantization of a bundle's graphs, without torch."""
