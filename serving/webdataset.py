"""A decoder of `.oslic` members for WebDataset pipelines. See docs/guides/batch.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runtime.codec import Codec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class OslicDecoder:
    """Decodes members whose name ends in `.oslic` to uint8 arrays, (H, W) or (H, W, C); leaves all others.

    Each worker process of a loader opens a codec of its own, when the first stream comes.

    Args:
        bundle: a folder, the name of a shipped bundle, or None: the bundle that each stream names.
        threads: CPU threads of the networks. One, because loaders run several processes.
    """

    def __init__(self, bundle: str | None = None, threads: int = 1) -> None:
        self._bundle = bundle
        self._threads = threads
        self._codec: Codec | None = None

    def __call__(self, key: str, data: bytes) -> npt.NDArray[np.uint8] | None:
        """Decode a member.

        Args:
            key: the ending of its name, as WebDataset gives it.
            data: its bytes.

        Returns:
            The picture; None: another decoder may try.

        Raises:
            StreamError, BundleError: as `Codec.decompress`.
        """
        if key.rpartition(".")[2].lower() != "oslic":
            return None
        if self._codec is None:
            self._codec = Codec.open(self._bundle, threads=self._threads)
        return self._codec.decompress(data)

    def __getstate__(self) -> dict[str, object]:
        """Without the codec: what a loader sends to its workers."""
        return {"_bundle": self._bundle, "_threads": self._threads, "_codec": None}
