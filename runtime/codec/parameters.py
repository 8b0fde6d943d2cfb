"""Parameters and records of the kind `oslic` in a stream; see docs/reference/stream.md."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from ..errors import StreamError
from .container import DIGEST_BYTES, FieldReader, choice, varint

LEAST_QUALITY: Final = 1
"""The least quality of a residual, as Pillow's AVIF quality; 0 stands for "no residual at all"."""
MAX_QUALITY: Final = 100
"""The greatest one."""
MAX_WEIGHT: Final = 8
"""Weight of an estimate that is the whole prediction of the residual: weights are in eighths."""
MAX_ERROR: Final = 16
"""The largest bound of near-lossless pictures."""
QUARTERS: Final = 4
"""Qualities are coded in quarters."""
MAX_LABEL_SCALE: Final = 65535
_REFINED: Final = 0x01
_TUNED_FOR_THE_EYE: Final = 0x02
_BOUNDED: Final = 0x04
_GAINS: Final = 0x08
_EXACT: Final = 0x10
_UNDERSTOOD: Final = _REFINED | _TUNED_FOR_THE_EYE | _BOUNDED | _GAINS | _EXACT
_MAX_CLASSES: Final = 256
_MODE_BITS: Final = 0x03
_SCALE_2: Final = 0x04
_CONSTANT: Final = 0x08
_WEIGHT_SHIFT: Final = 4
_UNREFINED: Final = 1 << _WEIGHT_SHIFT  # where the compact image is constant, which leaves no weight to state


@dataclass(frozen=True)
class Parameters:
    """What holds for the whole stream.

    Attributes:
        quality: of the residual, 0..100; 0: there is none.
        label_scale: S; the label map has 1/S of the picture's size.
        visual: whether the encoder aimed at the eye instead of the PSNR.
        exact: whether the estimate is the same on every machine; a digest that differs is then an error.
        refined: whether the decoder refines the picture.
        gains: class and gain in sixteenths, 1..255, classes ascending; see `class_gains`.
        max_error: the most that any sample is off by, 0 to 16: 0 is lossless; None: the picture is coded lossily.
    """

    quality: float
    label_scale: int
    visual: bool = False
    exact: bool = False
    refined: bool = False
    gains: tuple[tuple[int, int], ...] = ()
    max_error: int | None = None

    def to_bytes(self) -> bytes:
        """As they stand in the header."""
        stated = (
            (_REFINED, self.refined),
            (_TUNED_FOR_THE_EYE, self.visual),
            (_BOUNDED, self.max_error is not None),
            (_GAINS, bool(self.gains)),
            (_EXACT, self.exact),
        )
        flags = sum(bit for bit, value in stated if value)
        data = bytes([flags]) + varint(round(QUARTERS * self.quality)) + varint(self.label_scale)
        if self.max_error is not None:
            data += varint(self.max_error)
        if self.gains:
            data += varint(len(self.gains)) + bytes(number for pair in self.gains for number in pair)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Parameters:
        """Inverse of `to_bytes`.

        Raises:
            StreamError: damaged, or something that this version does not know.
        """
        reader = FieldReader(data, 0, len(data), "list of parameters")
        flags = reader.byte("flags")
        if flags & ~_UNDERSTOOD:
            raise StreamError(f"unknown flags 0x{flags:02x} in the parameters: install a newer oslic")
        quality = reader.varint("quality", QUARTERS * MAX_QUALITY) / QUARTERS
        scale = reader.varint("label scale", MAX_LABEL_SCALE, 1)
        if flags & _BOUNDED and flags & (_REFINED | _TUNED_FOR_THE_EYE | _GAINS):
            raise StreamError("a lossless stream is refined, tuned or has gains: damaged stream")
        max_error = reader.varint("largest error", MAX_ERROR) if flags & _BOUNDED else None
        gains = _read_gains(reader) if flags & _GAINS else ()
        reader.finish()
        return cls(
            quality,
            scale,
            bool(flags & _TUNED_FOR_THE_EYE),
            bool(flags & _EXACT),
            bool(flags & _REFINED),
            gains,
            max_error,
        )


def _read_gains(reader: FieldReader) -> tuple[tuple[int, int], ...]:
    count = reader.varint("number of gains", _MAX_CLASSES, 1)
    pairs = tuple((reader.byte("class of a gain"), reader.byte("gain")) for _ in range(count))
    classes = [index for index, _ in pairs]
    if sorted(set(classes)) != classes or any(gain == 0 for _, gain in pairs):
        raise StreamError("the gains by class are not in order, or 0: damaged stream")
    return pairs


class ResidualMode(enum.IntEnum):
    """How a tile's residual is coded."""

    NONE = 0
    """Not at all: the reconstruction is the estimate."""
    AV1 = 1
    """AV1 still picture, 8 bit, full range, YCbCr 4:4:4 (BT.601) or monochrome, without its AVIF container."""
    FLIF_RESIDUAL = 2
    """FLIF of what the picture differs from the prediction by, see `bounded`."""
    FLIF_PICTURE = 3
    """FLIF of the picture, see `bounded`."""

    @property
    def is_bounded(self) -> bool:
        """Whether it is one of lossless and near-lossless streams."""
        return self in {ResidualMode.FLIF_RESIDUAL, ResidualMode.FLIF_PICTURE}


@dataclass(frozen=True)
class TileRecord:
    """What a stream says of a tile.

    Attributes:
        mode: how its residual is coded.
        scale: 1 if the coded samples are r + 128, 2 if they are r/2 + 128.
        weight: w of the prediction 128 + w/8 (e - 128) that r is the difference to, 0..8.
        estimate_digest: 4 bytes, of the tile's estimate; zeros where there are no layers.
        residual_digest: 4 bytes, of the decoded residual's samples; zeros without a residual.
        plain: whether the tile has no layers: its compact image is constant.
        unrefined: whether a tile without layers is left as it is where the picture is refined.
    """

    mode: ResidualMode
    scale: int
    weight: int
    estimate_digest: bytes
    residual_digest: bytes = bytes(DIGEST_BYTES)
    plain: bool = False
    unrefined: bool = False

    def to_bytes(self) -> bytes:
        """As it stands in the stream, 9 bytes."""
        bits = (_SCALE_2 if self.scale == 2 else 0) | (_CONSTANT if self.plain else 0)
        first = self.mode | bits | self.weight << _WEIGHT_SHIFT
        first |= _UNREFINED if self.unrefined else 0
        return bytes([first]) + self.estimate_digest + self.residual_digest

    @classmethod
    def from_bytes(cls, data: bytes) -> TileRecord:
        """Inverse of `to_bytes`.

        Raises:
            StreamError: a mode or a weight that this version does not know.
        """
        mode = choice(ResidualMode, data[0] & _MODE_BITS, "mode of a residual")
        weight, plain = data[0] >> _WEIGHT_SHIFT, bool(data[0] & _CONSTANT)
        unrefined = plain and weight == _UNREFINED >> _WEIGHT_SHIFT
        if unrefined:
            weight = 0
        if weight > MAX_WEIGHT:
            raise StreamError(f"the residual weight is {weight}, must be 0 to {MAX_WEIGHT}")
        digests = data[1 : 1 + DIGEST_BYTES], data[1 + DIGEST_BYTES :]
        if mode is ResidualMode.NONE and any(digests[1]):
            raise StreamError("a tile without a residual has a digest of one: damaged stream")
        if mode.is_bounded and (unrefined or data[0] & _SCALE_2):
            raise StreamError("a lossless tile has a scale, or is said not to be refined: damaged stream")
        if mode is ResidualMode.FLIF_PICTURE and weight:
            raise StreamError("a tile that is a picture has a weight of its estimate: damaged stream")
        if plain and (weight or mode is ResidualMode.NONE or any(digests[0])):
            raise StreamError("a tile without layers has an estimate, or no residual: damaged stream")
        return cls(mode, 2 if data[0] & _SCALE_2 else 1, weight, *digests, plain, unrefined)
