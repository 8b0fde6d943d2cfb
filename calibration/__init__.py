"""Post-training quantisation of a bundle's graphs, without torch."""
