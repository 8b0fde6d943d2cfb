"""CUDA: memory, streams, events, graphs, and arrays of other libraries."""
