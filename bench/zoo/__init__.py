"""A zoo of small networks with upsampling, as the field builds them: what fusion finds in them, and what it is worth.

Widths and depths are small, so that one graph takes some 10 to 100 ms of a core; kernels, orders of layers and shares
are those of the originals. Weights are random.
"""

from __future__ import annotations

from .registry import ZOO, Entry, Exporter, export

__all__ = ["ZOO", "Entry", "Exporter", "export"]
