"""The codec on machines that other people schedule: Triton Inference Server, Ray Data, WebDataset and Zarr.

Scheduling, batching, retrying and scaling are theirs. This room imports `runtime` only, and what it needs of theirs
when it is used; see docs/guides/triton.md and docs/guides/batch.md.
"""
