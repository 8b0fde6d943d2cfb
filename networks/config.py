"""Configurations of the networks: frozen, validated, to and from JSON.

Three presets share the same modules: `full` has the published widths (for latency measurements, with random
weights), `base` is meant for GPUs, `lite` for CPUs.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ..runtime.bundle import ClassInfo
from ..runtime.errors import BundleError, UsageError

LhOrder = Literal["upsample_first", "convolve_first"]


CAMVID_CLASSES: tuple[ClassInfo, ...] = (
    ClassInfo("Sky", (128, 128, 128)),
    ClassInfo("Building", (128, 0, 0)),
    ClassInfo("Pole", (192, 192, 128)),
    ClassInfo("Road", (128, 64, 128)),
    ClassInfo("Pavement", (60, 40, 222)),
    ClassInfo("Tree", (128, 128, 0)),
    ClassInfo("SignSymbol", (192, 128, 128)),
    ClassInfo("Fence", (64, 64, 128)),
    ClassInfo("Car", (64, 0, 128)),
    ClassInfo("Pedestrian", (64, 64, 0)),
    ClassInfo("Bicyclist", (0, 128, 192)),
)


@dataclass(frozen=True)
class SegNetConfig:
    """SegNet (Badrinarayanan et al., TPAMI 2017): pooling indices drive the upsampling.

    Attributes:
        stem: channels of a 3x3 convolution with stride 2 before the first stage; 0: none.
        widths: channels of each encoder stage; each stage ends with a 2x2 max-pooling.
        depths: 3x3 convolutions in each encoder stage; 0 pools the stage's input as it is.
        bottom: channels of the convolutions between the last pooling and the first unpooling.
        bottom_depth: how many of them; 0: none, as published.
        decoder_depths: 3x3 convolutions after each unpooling, deepest first, without the classifier. Fewer
            entries than `widths` leave the last unpoolings out: the logits then live at a coarser scale.
        residual: convolutions of equal width add their input.
        skip: the encoder's features before the pooling are added after the unpooling.
        smoothing: odd width of an average pooling of the logits before the argmax; 1: none.
    """

    stem: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    decoder_depths: tuple[int, ...]
    bottom: int = 0
    bottom_depth: int = 0
    residual: bool = False
    skip: bool = False
    smoothing: int = 1

    @property
    def scale(self) -> int:
        """The logits' scale: one logit vector per `scale` x `scale` pixels."""
        return (2 if self.stem else 1) << (len(self.widths) - len(self.decoder_depths))

    @property
    def multiple(self) -> int:
        """What the height and the width of the input must be multiples of."""
        return (2 if self.stem else 1) << len(self.widths)


@dataclass(frozen=True)
class ComNetConfig:
    """ComNet: three strided octave convolutions, octave residual blocks at 1/8 scale, a head of 3 channels.

    Attributes:
        widths: channels after each of the three strided octave convolutions.
        kernels: their kernel sizes, odd.
        blocks: octave residual blocks at 1/8 scale.
        skip: the head's output is added to the 8x8 box average of the image.
        label_entry: where the label embedding enters: "image" joins it to the image at full size, "low" to the
            low-rate features behind the first convolution, which live at 1/4 scale.
    """

    widths: tuple[int, int, int]
    kernels: tuple[int, int, int] = (3, 3, 3)
    blocks: int = 0
    skip: bool = True
    label_entry: Literal["image", "low"] = "image"


@dataclass(frozen=True)
class GNetConfig:
    """GNet: stem, octave downsamplings, octave residual blocks, octave upsamplings, head.

    Attributes:
        entry_scale: the scale at which the network starts, 1, 2, 4 or 8; the compact image is brought to it.
        stem: channels of the stem.
        stem_kernel: kernel size of the stem, odd.
        down: channels after each octave convolution with stride 2.
        blocks: octave residual blocks behind the downsamplings.
        up: channels after each nearest x2 upsampling and octave convolution.
        up_blocks: octave residual blocks behind each upsampling; as many entries as `up`.
        head_kernel: kernel size of the head, odd. The head gives 3 channels for each pixel that one position
            of its input stands for; depth-to-space spreads them.
        mix: a learned 3x3 matrix mixes the channels of the compact image before its upsampling: those that carry
            detail need not show as colour.
    """

    entry_scale: int
    stem: int
    blocks: int
    stem_kernel: int = 3
    down: tuple[int, ...] = ()
    up: tuple[int, ...] = ()
    up_blocks: tuple[int, ...] = ()
    head_kernel: int = 3
    mix: bool = False

    @property
    def trunk_scale(self) -> int:
        """Scale of the residual blocks' high rate."""
        return self.entry_scale << len(self.down)

    @property
    def head_scale(self) -> int:
        """Scale of the head's input: the factor of the depth-to-space."""
        return self.trunk_scale >> len(self.up)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that builds the networks of one checkpoint.

    Attributes:
        name: name of the configuration.
        levels: L; the compact image takes the values 0..L-1. A power of two, 2..256.
        label_scale: the label map has 1/`label_scale` of the image's size: 1, 2 or 4.
        multiple: what the height and the width of the networks' input must be multiples of.
        alpha: fraction of the channels at the low rate, 0 <= alpha < 1.
        lh_order: "upsample_first" convolves the upsampled low rate, "convolve_first" upsamples the convolved.
        embedding: channels of the label embedding in ComNet and GNet; 0: they do not see the label map.
        segnet: configuration of SegNet.
        comnet: configuration of ComNet.
        gnet: configuration of GNet.
        classes: the K classes of the label map.
    """

    name: str
    levels: int
    label_scale: int
    multiple: int
    segnet: SegNetConfig
    comnet: ComNetConfig
    gnet: GNetConfig
    alpha: float = 0.5
    lh_order: LhOrder = "upsample_first"
    embedding: int = 8
    classes: tuple[ClassInfo, ...] = field(default=CAMVID_CLASSES)

    def __post_init__(self) -> None:
        for ok, message in self._checks():
            if not ok:
                raise UsageError(f"configuration {self.name!r}: {message}")

    def _checks(self) -> tuple[tuple[bool, str], ...]:
        segnet, gnet = self.segnet, self.gnet
        octave = max(16, 2 * gnet.trunk_scale)
        return (
            (
                2 <= self.levels <= 256 and self.levels & (self.levels - 1) == 0,
                f"levels is {self.levels}; it must be a power of two from 2 to 256",
            ),
            (self.label_scale in {1, 2, 4}, f"label_scale is {self.label_scale}; it must be 1, 2 or 4"),
            (
                self.label_scale % segnet.scale == 0,
                f"SegNet's logits live at 1/{segnet.scale}, coarser than labels at 1/{self.label_scale}",
            ),
            (0.0 <= self.alpha < 1.0, f"alpha is {self.alpha}; it must be at least 0 and below 1"),
            (
                self.lh_order in {"upsample_first", "convolve_first"},
                f"lh_order is {self.lh_order!r}; it must be upsample_first or convolve_first",
            ),
            (2 <= len(self.classes) <= 255, f"{len(self.classes)} classes; there must be 2 to 255"),
            (self.embedding >= 0, f"embedding is {self.embedding}; it must not be negative"),
            (
                len(segnet.depths) == len(segnet.widths),
                "segnet.depths and segnet.widths must have one entry per encoder stage each",
            ),
            (
                1 <= len(segnet.decoder_depths) <= len(segnet.widths),
                "segnet.decoder_depths must have 1 to len(segnet.widths) entries",
            ),
            (segnet.smoothing % 2 == 1, f"segnet.smoothing is {segnet.smoothing}; it must be odd"),
            (gnet.entry_scale in {1, 2, 4, 8}, f"gnet.entry_scale is {gnet.entry_scale}, not 1, 2, 4 or 8"),
            (len(gnet.up) == len(gnet.up_blocks), "gnet.up and gnet.up_blocks must have equal lengths"),
            (gnet.head_scale >= 1, "gnet has more upsamplings than its scale allows"),
            (
                self.multiple % segnet.multiple == 0 and self.multiple % octave == 0,
                f"multiple is {self.multiple}; SegNet needs {segnet.multiple}, the octave layers {octave}",
            ),
            (
                self.comnet.label_entry == "image" or self.alpha > 0,
                "comnet.label_entry 'low' needs alpha above 0: without it there is no low rate",
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON types."""
        return cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(self))))

    def to_json(self) -> str:
        """The configuration as canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def synthesis(self) -> dict[str, Any]:
        """The part of the configuration that defines the estimate in real arithmetic, as plain JSON types."""
        whole = self.to_dict()
        keys = ("levels", "label_scale", "multiple", "alpha", "lh_order", "embedding", "gnet")
        return {key: whole[key] for key in keys} | {"classes": len(self.classes)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> ModelConfig:
        """Inverse of `to_dict`.

        Raises:
            BundleError: a key is missing, unknown, or of the wrong kind.
            UsageError: a value is out of its range.
        """
        try:
            rest: dict[str, Any] = dict(value)
            rest["segnet"] = SegNetConfig(**_tuples(rest["segnet"]))
            rest["comnet"] = ComNetConfig(**_tuples(rest["comnet"]))
            rest["gnet"] = GNetConfig(**_tuples(rest["gnet"]))
            rest["classes"] = tuple(ClassInfo(**_tuples(entry)) for entry in rest["classes"])
            return cls(**rest)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise BundleError(f"not a configuration of this version's networks: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Inverse of `to_json`.

        Raises:
            BundleError: not JSON, or not a configuration.
        """
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise BundleError(f"the configuration is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BundleError("the configuration is not a JSON object")
        return cls.from_dict(value)


def _tuples(value: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(entry) if isinstance(entry, list) else entry for key, entry in value.items()}


_VGG16 = SegNetConfig(
    stem=0,
    widths=(64, 128, 256, 512, 512),
    depths=(2, 2, 3, 3, 3),
    decoder_depths=(3, 3, 3, 2, 1),
)

PRESETS: dict[str, ModelConfig] = {
    "full": ModelConfig(
        name="full",
        levels=32,
        label_scale=1,
        multiple=32,
        segnet=_VGG16,
        comnet=ComNetConfig(widths=(128, 256, 512)),
        gnet=GNetConfig(
            entry_scale=1,
            stem=64,
            stem_kernel=7,
            down=(128, 256, 512),
            blocks=9,
            up=(256, 128, 64),
            up_blocks=(0, 0, 0),
            head_kernel=7,
        ),
    ),
    "base": ModelConfig(
        name="base",
        levels=32,
        label_scale=4,
        multiple=32,
        segnet=dataclasses.replace(_VGG16, decoder_depths=(1, 1, 1)),
        comnet=ComNetConfig(widths=(64, 128, 256), blocks=1, skip=False),
        gnet=GNetConfig(entry_scale=8, stem=256, blocks=6, up=(128, 64), up_blocks=(2, 1), mix=True),
    ),
    "lite": ModelConfig(
        name="lite",
        levels=16,
        label_scale=4,
        multiple=32,
        segnet=SegNetConfig(
            stem=32,
            widths=(32, 40, 80, 128),
            depths=(0, 1, 2, 2),
            bottom=160,
            bottom_depth=3,
            decoder_depths=(1, 1, 1),
            residual=True,
            skip=True,
            smoothing=3,
        ),
        comnet=ComNetConfig(widths=(24, 48, 96), blocks=2, skip=False, label_entry="low"),
        gnet=GNetConfig(entry_scale=8, stem=96, blocks=3, up=(96,), up_blocks=(3,), mix=True),
        alpha=2 / 3,  # halves of 16 and 32 channels, which fill vector registers of 16
    ),
    # For tests: every kind of layer, as narrow as it goes.
    "tiny": ModelConfig(
        name="tiny",
        levels=32,
        label_scale=4,
        multiple=32,
        segnet=SegNetConfig(
            stem=4,
            widths=(4, 6, 8, 8),
            depths=(0, 1, 1, 2),
            bottom=8,
            bottom_depth=2,
            decoder_depths=(1, 1, 1),
            residual=True,
            skip=True,
        ),
        comnet=ComNetConfig(widths=(4, 8, 8), blocks=1, label_entry="low"),
        gnet=GNetConfig(entry_scale=8, stem=8, blocks=1, up=(8,), up_blocks=(1,)),
        embedding=4,
    ),
}


def preset(name: str) -> ModelConfig:
    """The configuration of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise UsageError(f"no configuration {name!r}; there are {', '.join(PRESETS)}") from None
