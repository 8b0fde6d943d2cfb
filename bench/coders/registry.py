"""Coders to measure: ours and its peers, all behind one small interface."""

from __future__ import annotations

import importlib.util
import io
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, features

from ...runtime.bundle.finder import open_bundle
from ...runtime.codec import Codec, Layers, Settings
from ...runtime.codec.codec import backend_options
from ...runtime.codec.effort import DEFAULT_EFFORT
from ...runtime.codec.networks import Graphs
from ...runtime.codec.settings import LAYER_MODES, TUNES
from ...runtime.codec.yuv import compensate_rounding
from ...runtime.errors import BackendError, DependencyError, UsageError
from ...runtime.kinds.opening import open_codec
from ...runtime.limits import Limits

if TYPE_CHECKING:
    from ...runtime.image.arrays import Pixels

OURS: Final = "oslic"
_REFINED: Final = "refined-avif"
_BUNDLE: Final = "bundle"


@dataclass(frozen=True)
class Coding:
    """One image, coded and decoded.

    Attributes:
        size: bytes of the whole file.
        image: what the decoder gives, uint8 (H, W, 3).
        section_bytes: payload bytes by layer, for coders that have layers.
    """

    size: int
    image: Pixels
    section_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Coded:
    """One coded image.

    Attributes:
        data: the whole file.
        section_bytes: payload bytes by layer, for coders that have layers.
    """

    data: bytes
    section_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Coder:
    """An opened coder: both directions.

    Attributes:
        encode: image, uint8 (H, W, 3), and quality to the file.
        decode: the file to the image.
    """

    encode: Callable[[Pixels, float], Coded]
    decode: Callable[[bytes], Pixels]

    def code(self, image: Pixels, quality: float) -> Coding:
        """Code and decode an image."""
        coded = self.encode(image, quality)
        return Coding(len(coded.data), self.decode(coded.data), coded.section_bytes)


@dataclass(frozen=True)
class CoderSpec:
    """A coder with its settings; small and picklable, so that worker processes can open it.

    Attributes:
        name: in results and plots.
        kind: `OURS`, or a key of `_OPENERS`.
        qualities: settings to sweep, ascending in rate.
        options: what the opener needs: encoder parameters, bundle, command.
    """

    name: str
    kind: str
    qualities: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        """Names the weights that the coder opens by the name of a bundle; "": none."""
        if self.kind == _BUNDLE:
            return open_bundle(self.options["bundle"]).manifest.fingerprint
        if self.kind != _REFINED:
            return ""
        return open_bundle(self.options["bundle"]).manifest.refinement or ""

    def open(self, limits: Limits | None = None) -> Coder:
        """Make the coder ready for its first image.

        Args:
            limits: on images and streams, for coders that have limits; None for the defaults.

        Raises:
            DependencyError: the library behind it is not installed.
        """
        if self.kind == OURS:
            return _open_ours(self.options, limits)
        return _OPENERS[self.kind](self.options)


def _open_pillow(options: dict[str, Any]) -> Coder:
    options = dict(options)
    kind, quality_name, scale = (
        options.pop("format"),
        options.pop("quality_name"),
        options.pop("quality_type", "int"),
    )
    prepare = compensate_rounding if options.pop("compensate_rounding", False) else np.asarray
    if kind == "JXL":
        if importlib.util.find_spec("pillow_jxl") is None:
            raise DependencyError("JPEG XL needs the package pillow-jxl-plugin: pip install 'oslic[bench]'")
        import pillow_jxl  # noqa: F401  (registers the format)
    feature = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000", "JPEG": "jpg"}.get(kind)
    if feature is not None and not features.check(feature):
        raise DependencyError(f"this Pillow was built without {kind}: pip install --upgrade pillow")

    def encode(image: Pixels, quality: float) -> Coded:
        file = io.BytesIO()
        value: Any = int(quality) if scale == "int" else [quality]
        Image.fromarray(prepare(image)).save(file, kind, **{quality_name: value}, **options)
        return Coded(file.getvalue())

    def decode(data: bytes) -> Pixels:
        with Image.open(io.BytesIO(data)) as decoded:
            return np.asarray(decoded.convert("RGB"))

    return Coder(encode, decode)


class _BlankLabels(Graphs):
    """Networks that see one class everywhere."""

    def segment(self, image: Pixels) -> Pixels:
        return np.zeros_like(super().segment(image))


def _open_ours(options: dict[str, Any], limits: Limits | None) -> Coder:
    limits = limits or Limits()
    chosen = dict(options["settings"])
    networks = _BlankLabels if chosen.pop("blank_labels", False) else Graphs
    told = backend_options(options["threads"], None, limits, None)
    codec = Codec(networks(open_bundle(options["bundle"]), options["backend"], told), limits)
    settings = Settings(effort=options["effort"], **chosen)
    # The networks' part of an image is the same at every quality.
    kept: tuple[Pixels, Layers] | None = None

    def encode(image: Pixels, quality: float) -> Coded:
        nonlocal kept
        if kept is None or kept[0] is not image:
            kept = (image, codec.layers(image, settings))
        encoded = codec.finish(kept[1], quality=int(quality))
        return Coded(encoded.data, encoded.section_bytes)

    return Coder(encode, codec.decompress)


def _open_bundle(options: dict[str, Any]) -> Coder:
    """A bundle of any kind as it is: those of other kinds than ours have one rate."""
    codec = open_codec(options["bundle"], threads=options["threads"])

    def encode(image: Pixels, quality: float) -> Coded:
        del quality
        encoded = codec.encode(image)
        return Coded(encoded.data, encoded.section_bytes)

    return Coder(encode, lambda data: codec.decode(data).image)


def bundle_peer(folder: str, threads: int | None = None) -> CoderSpec:
    """A bundle as a peer, named after the folder.

    Args:
        folder: of the bundle.
        threads: CPU threads of its networks; None: the backend's choice.
    """
    return CoderSpec(Path(folder).name, _BUNDLE, (0,), {"bundle": folder, "threads": threads})


def _open_command(options: dict[str, Any]) -> Coder:
    encoder, decoder = shlex.split(options["encode"]), shlex.split(options["decode"])

    def execute(template: list[str], values: dict[str, str]) -> None:
        words = [word.format(**values) for word in template]
        try:
            subprocess.run(words, check=True, capture_output=True, text=True, timeout=600)
        except FileNotFoundError as error:
            raise DependencyError(f"the peer's command {words[0]} is not installed") from error
        except subprocess.CalledProcessError as error:
            raise BackendError(
                f"the peer's command failed: {shlex.join(words)}: {error.stderr.strip()}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise BackendError(
                f"the peer's command took more than {error.timeout:.0f} s: {shlex.join(words)}"
            ) from error

    def encode(image: Pixels, quality: float) -> Coded:
        with tempfile.TemporaryDirectory() as folder:
            original, coded = Path(folder) / "in.png", Path(folder) / "coded"
            Image.fromarray(image).save(original, compress_level=1)
            execute(encoder, {"input": str(original), "output": str(coded), "quality": f"{quality:g}"})
            try:
                return Coded(coded.read_bytes())
            except FileNotFoundError:
                raise BackendError(
                    f"the peer's command ended well and wrote no {{output}}: {options['encode']}"
                ) from None

    def decode(data: bytes) -> Pixels:
        with tempfile.TemporaryDirectory() as folder:
            coded, decoded = Path(folder) / "coded", Path(folder) / "out.png"
            coded.write_bytes(data)
            execute(decoder, {"input": str(coded), "output": str(decoded)})
            try:
                with Image.open(decoded) as picture:
                    return np.asarray(picture.convert("RGB"))
            except OSError as error:  # no file there, or no picture
                raise BackendError(
                    f"the peer's command ended well, but its {{output}} is no PNG file: {options['decode']}"
                ) from error

    return Coder(encode, decode)


def _open_refined_avif(options: dict[str, Any]) -> Coder:
    """AVIF with the filter that our own streams have behind them, as for tiles without layers.

    The file gets one byte more: the filter is told the quality.
    """
    plain = _open_pillow({**options["avif"], "compensate_rounding": True})
    graphs = Codec.open(options["bundle"], threads=1).graphs
    visual = options["avif"]["advanced"]["tune"] == "iq"

    def encode(image: Pixels, quality: float) -> Coded:
        return Coded(plain.encode(image, quality).data + bytes([int(quality)]))

    def decode(data: bytes) -> Pixels:
        decoded = plain.decode(data[:-1])
        return graphs.refine(decoded, decoded, quality=data[-1], visual=visual)

    return Coder(encode, decode)


def _open_hyperprior(options: dict[str, Any]) -> Coder:
    from .compressai import open_hyperprior

    return open_hyperprior(options["model_quality"], options["threads"])


_OPENERS: Final[dict[str, Callable[[dict[str, Any]], Coder]]] = {
    "pillow": _open_pillow,
    "command": _open_command,
    "hyperprior": _open_hyperprior,
    _BUNDLE: _open_bundle,
    _REFINED: _open_refined_avif,
}


_AVIF_QUALITIES: Final = (10, 18, 26, 34, 42, 50, 58, 66, 74, 82)


def avif(
    speed: int, name: str = "", qualities: tuple[float, ...] = _AVIF_QUALITIES, **more: Any
) -> CoderSpec:
    """Pillow's AVIF: 4:4:4, tuned for PSNR, two threads, if nothing else is said.

    Args:
        speed: of the encoder, 0..10.
        name: in results and plots; "": by the speed.
        qualities: settings to sweep.
        more: for Pillow's writer.
    """
    options = {
        "format": "AVIF",
        "quality_name": "quality",
        "speed": speed,
        "subsampling": "4:4:4",
        "max_threads": 2,
        "autotiling": False,
        "advanced": {"tune": "psnr"},
        **more,
    }
    return CoderSpec(name or f"avif-s{speed}", "pillow", qualities, options)


def _refined(spec: CoderSpec) -> CoderSpec:
    """The same with superblocks of 64x64, as our residuals have them, and the shipped filter behind it."""
    avif = {**spec.options, "advanced": {**spec.options["advanced"], "sb-size": "64"}}
    return CoderSpec(f"{spec.name}-refined", _REFINED, spec.qualities, {"avif": avif, "bundle": None})


_SPECS: Final = (
    avif(6),
    _refined(avif(6)),
    _refined(avif(6, "avif-iq-s6", advanced={"tune": "iq"})),
    # What our own residual gets, too: without it Pillow's AVIF has a cast of half a gray level.
    avif(6, "avif-s6-rounded", compensate_rounding=True),
    # What Pillow writes by default, tuned for the eye, and the same with whole chroma.
    avif(6, "avif-iq-s6", advanced={"tune": "iq"}),
    avif(6, "avif-iq-420-s6", advanced={"tune": "iq"}, subsampling="4:2:0"),
    avif(8),
    avif(9),
    CoderSpec(
        "jpeg",
        "pillow",
        (10, 18, 30, 45, 60, 72, 82, 90, 95),
        {
            "format": "JPEG",
            "quality_name": "quality",
            "subsampling": "4:4:4",
            "optimize": True,
            "progressive": True,
        },
    ),
    CoderSpec(
        "jpeg2000",
        "pillow",
        (28, 30, 32, 34, 36, 38, 40, 42),
        {
            "format": "JPEG2000",
            "quality_name": "quality_layers",
            "quality_type": "list",
            "quality_mode": "dB",
            "irreversible": True,
            "mct": 1,
            "no_jp2": True,
        },
    ),
    CoderSpec(
        "webp",
        "pillow",
        (2, 10, 25, 45, 65, 80, 90, 96),
        {"format": "WEBP", "quality_name": "quality", "method": 6},
    ),
    CoderSpec(
        "jxl",
        "pillow",
        (12, 22, 35, 50, 65, 77, 86, 92),
        {"format": "JXL", "quality_name": "quality", "effort": 7},
    ),
)

PEERS: Final = {spec.name: spec for spec in _SPECS}
"""Peers with fair settings: 4:4:4 where the format has it, tuned for the metric where the encoder offers it."""

TIMED_PEERS: Final = {
    **PEERS,
    "hyperprior-untrained": CoderSpec(
        "hyperprior-untrained", "hyperprior", (5,), {"model_quality": 5, "threads": None}
    ),
}
"""`PEERS`, and what can be timed but has no rates here."""


VARIANTS: Final[dict[str, dict[str, Any]]] = {
    f"{tune}-{layers}{'' if refine else '-unrefined'}": {"tune": tune, "layers": layers, "refine": refine}
    for tune in TUNES
    for layers in LAYER_MODES
    for refine in (True, False)
} | {f"{tune}-always-blank": {"tune": tune, "layers": "always", "blank_labels": True} for tune in TUNES}
"""Settings of our codec that can be measured beside the default ones; `blank`: one class everywhere, for what the label
map costs and gives."""
_QUALITIES: Final = (2, 10, 18, 26, 34, 42, 50, 58, 66, 74, 82)


def ours(
    bundle: str | None,
    backend: str = "auto",
    *,
    threads: int | None = None,
    effort: int = DEFAULT_EFFORT,
    rate_weight: float = Settings.rate_weight,
    variant: str = "",
    name: str = "",
    qualities: tuple[float, ...] = _QUALITIES,
) -> CoderSpec:
    """Return this project's codec as a coder.

    Args:
        bundle: a folder, or the name of a shipped bundle; None: the default one.
        backend: a name from `oslic backends`, or "auto".
        threads: CPU threads of the networks; None leaves it to the backend.
        effort: of the encoder, 0..9.
        rate_weight: where the quality is 0 alone, see `Settings`.
        variant: a key of `VARIANTS`; "": the default settings.
        name: in results and plots; "": by the variant.
        qualities: settings to sweep.

    The weights and graphs are part of its description, so that a run that goes on takes no points of others.

    Raises:
        BundleError: no bundle there, or a damaged one.
    """
    manifest = open_bundle(bundle).manifest
    # Layers alone are searched as they are made; what stands before a residual is not.
    alone: dict[str, Any] = {"quality": 0, "rate_weight": rate_weight} if qualities == (0,) else {}
    options = {
        "bundle": bundle,
        "backend": backend,
        "threads": threads,
        "effort": effort,
        "settings": (VARIANTS[variant] if variant else {}) | alone,
        "fingerprint": manifest.fingerprint,
        "graphs": {name: info.sha256 for name, info in manifest.graphs.items()},
        "files": {name: info.sha256 for name, info in manifest.files.items()},
    }
    return CoderSpec(name or (f"{OURS}-{variant}" if variant else OURS), OURS, qualities, options)


def command(text: str) -> CoderSpec:
    """Parse a peer given as `NAME:Q1,Q2,...:ENCODE:DECODE`.

    The commands hold `{input}`, `{output}` and, for the encoder, `{quality}`.

    Raises:
        UsageError: another form.
    """
    parts = text.split(":", 3)
    if (
        len(parts) != 4
        or "{quality}" not in parts[2]
        or not all("{input}" in p and "{output}" in p for p in parts[2:])
    ):
        raise UsageError(
            f"the peer {text!r} must be NAME:QUALITIES:ENCODE:DECODE, the commands with {{input}} and {{output}}, "
            "the encoder's with {quality}: 'x:20,50,80:enc -q {quality} {input} {output}:dec {input} {output}'"
        )
    try:
        qualities = tuple(float(q) for q in parts[1].split(","))
    except ValueError as error:
        raise UsageError(f"the peer {text!r} has a quality that is no number: {error}") from error
    try:
        for part in parts[2:]:
            part.format(input="", output="", quality="")
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"the peer {text!r} has braces around something else than input, output and quality: {error}"
        ) from error
    return CoderSpec(parts[0], "command", qualities, {"encode": parts[2], "decode": parts[3]})
