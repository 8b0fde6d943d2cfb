"""The kind `transform`: an analysis makes latents of a picture, fixed tables code them, a synthesis makes a picture.

By its hyperprior (the bundle's settings) a bundle has these graphs; sides are the picture's over 16, or 64:

    analysis         image, uint8 (N, H, W, 3)                latents, float32 (N, M, H/16, W/16)
    synthesis        latents, float32 (N, M, H/16, W/16)      image, uint8 (N, H, W, 3)
    hyper_analysis   latents                                  hyper, float32 (N, C, H/64, W/64)
    hyper_synthesis  hyper                                    parameters, float32 (N, M or 2M, H/16, W/16): scales, or
                                                              scales and means

Which table codes a latent follows from its scale, so a decoder must come to the same scales as the encoder. A bundle
whose manifest says `exact` has a hyper-synthesis of integers, which gives the same on every machine
(docs/concepts/exactness.md); with every other one a check in the stream finds out before anything is decoded by the
wrong table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from ...errors import BundleError, StreamError
from ..contract import LearnedCodec
from .entropy import EntropyCoder
from .tables import MOST_MAGNITUDE, read_tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from ...bundle.folder import Bundle
    from ...image.arrays import Pixels
    from ..contract import Run

    Floats = npt.NDArray[np.float32]
    Numbers = npt.NDArray[np.int32]

HYPERPRIORS: Final = ("none", "scale", "mean_scale")
_LATENT_SCALE: Final = 16
_HYPER_SCALE: Final = 64
_MOST_CHANNELS: Final = 1024


class TransformCodec(LearnedCodec):
    """Factorized prior, scale hyperprior, mean and scale hyperprior. See `LearnedCodec` for what the methods do."""

    kind: ClassVar[str] = "transform"
    graphs: ClassVar[tuple[str, ...]] = ("analysis", "synthesis")
    decoding_graphs: ClassVar[tuple[str, ...]] = ("synthesis",)
    entropy_graphs: ClassVar[tuple[str, ...]] = ("hyper_synthesis",)
    sections: ClassVar[Mapping[str, int]] = {"hyper": 1, "latents": 2}

    def __init__(self, bundle: Bundle) -> None:
        settings = bundle.manifest.settings
        hyperprior, channels = settings.get("hyperprior"), settings.get("latents")
        where = f"the bundle {bundle.path}"
        if hyperprior not in HYPERPRIORS:
            raise BundleError(
                f"{where} has the hyperprior {hyperprior!r:.40}, must have one of {', '.join(HYPERPRIORS)}"
            )
        if type(channels) is not int or not 1 <= channels <= _MOST_CHANNELS:
            raise BundleError(
                f"{where} has {channels!r:.40} channels of latents, must have 1 to {_MOST_CHANNELS}"
            )
        self._has_means = hyperprior == "mean_scale"
        self._channels = channels
        self._tables = tables = read_tables(bundle.read_file("tables"), f"{where}: its tables")
        self._has_hyperprior = hyperprior != "none"
        if self._has_hyperprior != bool(tables.by_scale):
            raise BundleError(
                f"{where} has tables that do not go with its hyperprior {hyperprior!r}: export it again"
            )
        if not self._has_hyperprior and len(tables.apart) != channels:
            raise BundleError(
                f"{where} has {len(tables.apart)} tables for {channels} channels: export it again"
            )
        missing = {"hyper_analysis", "hyper_synthesis"} - set(bundle.manifest.graphs)
        if self._has_hyperprior and missing:
            raise BundleError(f"{where} has no graph {', '.join(sorted(missing))}: export it again")
        multiple = _HYPER_SCALE if self._has_hyperprior else _LATENT_SCALE
        if bundle.manifest.multiple % multiple:
            raise BundleError(
                f"{where} takes sides of {bundle.manifest.multiple}, must be a multiple of {multiple}"
            )
        self._offsets = tables.offsets[:, None, None]
        self._apart = EntropyCoder(tables.apart)
        self._by_scale = EntropyCoder(tables.by_scale) if self._has_hyperprior else None

    def encode(self, image: Pixels, run: Run) -> Mapping[str, bytes]:
        """Code a picture."""
        latents = run("analysis", image=image[np.newaxis])
        self._require_shape(latents, (self._channels, *self._sides(run, _LATENT_SCALE)), "analysis")
        if self._by_scale is None:
            numbers = _rounded(latents[0] - self._offsets)
            run.check("latents", numbers)
            return {"hyper": b"", "latents": self._apart.encode(list(numbers.reshape(len(numbers), -1)))}
        hyper = run("hyper_analysis", latents=latents)
        self._require_shape(
            hyper, (len(self._tables.apart), *self._sides(run, _HYPER_SCALE)), "hyper_analysis"
        )
        numbers = _rounded(hyper[0] - self._offsets)
        indices, means = self._distributions(numbers, run)
        run.check("scales", indices)
        centered = _rounded(latents[0] if means is None else latents[0] - means)
        run.check("latents", centered)
        order, counts = self._grouped(indices)
        flat = centered.reshape(-1)[order]
        return {
            "hyper": self._apart.encode(list(numbers.reshape(len(numbers), -1))),
            "latents": self._by_scale.encode(np.split(flat, np.cumsum(counts)[:-1])),
        }

    def decode(self, sections: Mapping[str, bytes], run: Run) -> Pixels:
        """Decode a picture."""
        if self._by_scale is None:
            if sections["hyper"]:
                raise StreamError(
                    "the hyper section is not empty, and the networks have no hyperprior: damaged stream"
                )
            numbers = self._read_apart(sections["latents"], run, _LATENT_SCALE, "latents")
            run.check("latents", numbers)
            values = numbers + self._offsets
        else:
            numbers = self._read_apart(sections["hyper"], run, _HYPER_SCALE, "hyper")
            indices, means = self._distributions(numbers, run)
            run.check("scales", indices)
            order, counts = self._grouped(indices)
            flat = np.empty(indices.size, np.int32)
            flat[order] = np.concatenate(self._by_scale.decode(sections["latents"], counts, "latents"))
            centered = flat.reshape(indices.shape)
            run.check("latents", centered)
            values = centered.astype(np.float32) if means is None else centered + means
        image = run("synthesis", latents=np.ascontiguousarray(values[np.newaxis], np.float32))
        picture: Pixels = image[0]
        return picture

    def _distributions(self, hyper: Numbers, run: Run) -> tuple[npt.NDArray[np.uint16], Floats | None]:
        """The number of each latent's table, (M, H/16, W/16), and the means where there are some."""
        values = np.ascontiguousarray((hyper + self._offsets)[np.newaxis], np.float32)
        parameters = run("hyper_synthesis", hyper=values)
        channels = self._channels * (2 if self._has_means else 1)
        self._require_shape(parameters, (channels, *self._sides(run, _LATENT_SCALE)), "hyper_synthesis")
        means = parameters[0, self._channels :] if self._has_means else None
        return self._tables.indices(parameters[0, : self._channels]), means

    def _grouped(self, indices: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.intp], list[int]]:
        """The latents' places by table, those of one table in their order, and how many each table has."""
        counts = np.bincount(indices.reshape(-1), minlength=len(self._tables.by_scale))
        return np.argsort(indices, axis=None, kind="stable"), counts.tolist()

    def _read_apart(self, data: bytes, run: Run, scale: int, what: str) -> Numbers:
        rows, columns = self._sides(run, scale)
        channels = len(self._tables.apart)
        groups = self._apart.decode(data, [rows * columns] * channels, what)
        return np.stack(groups).reshape(channels, rows, columns)

    @staticmethod
    def _sides(run: Run, scale: int) -> tuple[int, int]:
        return run.height // scale, run.width // scale

    @staticmethod
    def _require_shape(found: npt.NDArray[Any], wanted: tuple[int, ...], graph: str) -> None:
        if found.dtype != np.float32 or found.shape != (1, *wanted):
            raise BundleError(
                f"the {graph} graph gave {found.dtype} {found.shape}, must give float32 {(1, *wanted)}: export the "
                "bundle again"
            )


def _rounded(values: Floats) -> Numbers:
    """Rounded, halves to even.

    Raises:
        BundleError: a value is not finite, or larger than any network's latents are.
    """
    # Comparisons with NaN are false.
    if not np.abs(values).max(initial=0.0) <= MOST_MAGNITUDE:
        raise BundleError(
            f"a latent is not finite, or above {MOST_MAGNITUDE}: the networks do not fit the picture"
        )
    return np.rint(values).astype(np.int32)
