"""A bundle on NVIDIA Triton Inference Server.

`repository` writes the models; `codec_models` and `graph_model` are what they run, inside the server's Python.
"""
