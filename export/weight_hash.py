"""What names weights: a hash over their names, shapes and values."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping


def hash_of_state(state: Mapping[str, torch.Tensor], start: str = "") -> str:
    """SHA-256 over names, shapes and values, as float32, of weights, in the order of their names.

    Args:
        state: the weights.
        start: text that is hashed before them.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(start.encode())
    for name, value in sorted(state.items()):
        values = value.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"\n{name} {list(values.shape)}\n".encode())
        digest.update(values.numpy().astype("<f4").tobytes())
    return digest.hexdigest()
