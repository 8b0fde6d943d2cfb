"""Configurations of the networks: frozen, validated, to and from JSON.

Three presets share the same modules: `full` has the published widths (for latency measurements, with random
weights), `base` is meant for GPUs, `lite` for CPUs.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from ..runtime.bundle.manifest import ClassInfo
from ..runtime.errors import BundleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

LhOrder = Literal["upsample_first", "convolve_first"]


EVERYDAY_CLASSES: tuple[ClassInfo, ...] = (
    ClassInfo("sky", (135, 190, 235)),
    ClassInfo("building", (150, 75, 65)),
    ClassInfo("tree_plant", (30, 110, 40)),
    ClassInfo("grass", (130, 190, 70)),
    ClassInfo("water", (30, 80, 170)),
    ClassInfo("road_pavement", (110, 110, 120)),
    ClassInfo("ground_rock_mountain", (165, 135, 95)),
    ClassInfo("skin_hair", (245, 185, 150)),
    ClassInfo("clothes", (200, 60, 130)),
    ClassInfo("animal", (235, 140, 30)),
    ClassInfo("vehicle", (90, 60, 160)),
    ClassInfo("wall_ceiling", (225, 220, 200)),
    ClassInfo("floor", (120, 90, 70)),
    ClassInfo("furniture", (180, 120, 60)),
    ClassInfo("food", (220, 50, 40)),
    ClassInfo("sign_screen_text", (250, 225, 60)),
    ClassInfo("object", (128, 128, 128)),
)
"""What everyday photographs show. A person is `skin_hair` and `clothes`."""

_GROUPS: dict[str, tuple[str, ...]] = {
    "person": ("skin_hair", "clothes"),
    "foreground": ("skin_hair", "clothes", "animal", "vehicle", "food", "sign_screen_text", "object"),
    "text": ("sign_screen_text",),
}


def groups_of(classes: Sequence[ClassInfo]) -> dict[str, tuple[str, ...]]:
    """Names for what people mean by several classes together, as far as the classes are there."""
    names = {entry.name for entry in classes}
    return {group: members for group, members in _GROUPS.items() if names.issuperset(members)}


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

    def checks(self) -> tuple[tuple[bool, str], ...]:
        """What must hold, each with what is said where it does not."""
        return (
            (
                len(self.depths) == len(self.widths),
                "segnet.depths and segnet.widths must have one entry per encoder stage each",
            ),
            (
                1 <= len(self.decoder_depths) <= len(self.widths),
                "segnet.decoder_depths must have 1 to len(segnet.widths) entries",
            ),
        )

    @property
    def scale(self) -> int:
        """The logits' scale: one logit vector per `scale` x `scale` pixels."""
        return (2 if self.stem else 1) << (len(self.widths) - len(self.decoder_depths))

    @property
    def multiple(self) -> int:
        """What the height and the width of the input must be multiples of."""
        return (2 if self.stem else 1) << len(self.widths)


@dataclass(frozen=True)
class MobileSegNetConfig:
    """SegNet with an encoder of inverted residual blocks: (expansion, channels, kernel) each.

    Attributes:
        stem: channels of a 3x3 convolution with stride 2 before the first stage.
        stages: blocks of each encoder stage; each stage ends with a 2x2 max-pooling.
        bottom: blocks between the last pooling and the first unpooling; a 1x1 convolution behind them gives the
            channels that the last pooling had.
        decoder: channels of the 3x3 convolutions after each unpooling, deepest first, without the classifier. The last
            ones of a stage are those that the next unpooling's indices have. Fewer entries than `stages` leave the last
            unpoolings out: the logits then live at a coarser scale.
        skip: the encoder's features before the pooling are added after the unpooling.
        smoothing: odd width of an average pooling of the logits before the argmax; 1: none.
        least: a position whose class has a lower probability gets the last class; 0: none does.
    """

    stem: int
    stages: tuple[tuple[tuple[int, int, int], ...], ...]
    bottom: tuple[tuple[int, int, int], ...]
    decoder: tuple[tuple[int, ...], ...]
    skip: bool = True
    smoothing: int = 1
    least: float = 0.0

    @property
    def scale(self) -> int:
        """The logits' scale: one logit vector per `scale` x `scale` pixels."""
        return 2 << (len(self.stages) - len(self.decoder))

    @property
    def multiple(self) -> int:
        """What the height and the width of the input must be multiples of."""
        return 2 << len(self.stages)

    def checks(self) -> tuple[tuple[bool, str], ...]:
        """What must hold, each with what is said where it does not."""
        pooled = [stage[-1][1] for stage in self.stages if stage]
        return (
            (self.stem > 0, f"segnet.stem is {self.stem}; a mobile SegNet has one"),
            (all(self.stages), "every entry of segnet.stages must have a block"),
            (
                1 <= len(self.decoder) <= len(self.stages) and all(self.decoder),
                "segnet.decoder must have 1 to len(segnet.stages) entries of 1 channel count or more",
            ),
            (
                all(
                    widths[-1] == channels
                    for widths, channels in zip(self.decoder[:-1], reversed(pooled[:-1]), strict=False)
                ),
                f"the last channels of segnet.decoder's stages must be those of the poolings: {pooled[-2::-1]}",
            ),
        )


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
            detail need not show as color.
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
class RefineConfig:
    """RefineNet: a small residual network at half the size behind the residual.

    Attributes:
        width: channels of its layers.
        blocks: residual blocks of two convolutions.
    """

    width: int = 32
    blocks: int = 2


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
        refine: configuration of RefineNet; None: there is none.
        coarseness: least quality and coarseness of the compact images that ComNet and GNet were trained for, qualities
            ascending; below the first one it is 1. See `runtime.codec.coarseness`.
    """

    name: str
    levels: int
    label_scale: int
    multiple: int
    segnet: SegNetConfig | MobileSegNetConfig
    comnet: ComNetConfig
    gnet: GNetConfig
    alpha: float = 0.5
    lh_order: LhOrder = "upsample_first"
    embedding: int = 8
    classes: tuple[ClassInfo, ...] = field(default=EVERYDAY_CLASSES)
    refine: RefineConfig | None = None
    coarseness: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        # SegNet's scale is a number only once its own checks hold.
        for checks in (self.segnet.checks, self._checks):
            for ok, message in checks():
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
            (
                self.refine is None or (self.refine.width > 0 and self.refine.blocks >= 0),
                "refine.width must be positive, refine.blocks not negative",
            ),
            (
                list(self.coarseness) == sorted(self.coarseness)
                and all(
                    0 < quality <= 100 and 1 < degree < self.levels for quality, degree in self.coarseness
                ),
                f"coarseness is {self.coarseness}; it must be pairs of a quality, ascending, and a number above 1",
            ),
            (2 <= len(self.classes) <= 255, f"{len(self.classes)} classes; there must be 2 to 255"),
            (self.embedding >= 0, f"embedding is {self.embedding}; it must not be negative"),
            (
                isinstance(segnet, SegNetConfig) or 0.0 <= segnet.least < 1.0,
                f"segnet.least is {getattr(segnet, 'least', 0)}; it must be at least 0 and below 1",
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
            mobile = "stages" in rest["segnet"]
            rest["segnet"] = (MobileSegNetConfig if mobile else SegNetConfig)(**_tuples(rest["segnet"]))
            rest["comnet"] = ComNetConfig(**_tuples(rest["comnet"]))
            rest["gnet"] = GNetConfig(**_tuples(rest["gnet"]))
            if rest.get("refine") is not None:
                rest["refine"] = RefineConfig(**rest["refine"])
            rest["coarseness"] = _frozen(rest.get("coarseness", []))
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
    return {key: _frozen(entry) for key, entry in value.items()}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value


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
        # EfficientNet-Lite0's blocks; each pooling stands where that network strides, behind the first block at the
        # finer scale.
        segnet=MobileSegNetConfig(
            stem=32,
            stages=(
                ((1, 16, 3), (6, 24, 3)),
                ((6, 24, 3), (6, 40, 5)),
                ((6, 40, 5), (6, 80, 3)),
                ((6, 80, 3), (6, 80, 3), (6, 112, 5), (6, 112, 5), (6, 112, 5), (6, 192, 5)),
            ),
            bottom=((6, 192, 5), (6, 192, 5), (6, 192, 5), (6, 320, 3)),
            decoder=((192, 80), (80, 40), (64, 64)),
            smoothing=5,
            least=0.25,
        ),
        comnet=ComNetConfig(widths=(24, 48, 96), blocks=2, skip=False, label_entry="low"),
        gnet=GNetConfig(entry_scale=8, stem=96, blocks=3, up=(96,), up_blocks=(3,), mix=True),
        alpha=2 / 3,  # halves of 16 and 32 channels, which fill vector registers of 16
        refine=RefineConfig(),
        coarseness=((16, 6),),
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
