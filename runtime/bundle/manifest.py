"""The manifest of a bundle: what it says, what is checked of it, and its JSON."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeAlias

from ..errors import BundleError
from ..plain_json import parse_object

FORMAT: Final = "oslic-bundle"
VERSION: Final = 2
MANIFEST_NAME: Final = "manifest.json"
COMPACT_SCALE: Final = 8
"""The compact image has 1/8 of the image's size on each side (DESIGN, section 1)."""

OSLIC: Final = "oslic"
"""Kind of the codec that this project is named after."""
MAX_KIND_NAME: Final = 32
"""Characters of a kind's name."""

Preview = tuple[tuple[float, float, float, float], ...]

GraphName: TypeAlias = str
"""Name of a graph in a bundle's manifest."""
GRAPH_NAMES: Final[tuple[GraphName, ...]] = ("segment", "analyse", "synthesise", "refine")
"""All graphs that a bundle of the kind `oslic` may have; `Manifest.graph_names` are those that it has."""
LAYER_GRAPHS: Final[tuple[GraphName, ...]] = ("segment", "analyse", "synthesise")
"""The graphs that make the layers; every bundle of the kind `oslic` has them."""
OPTIONAL_GRAPHS: Final = frozenset(GRAPH_NAMES) - frozenset(LAYER_GRAPHS)
SEARCH_FILE: Final = "search"
"""The one file that a bundle of the kind `oslic` may have beside its graphs; see `runtime.codec.search`."""

CERTIFICATE_FIGURES: Final = (
    "nodes",
    "convolutions",
    "channels",
    "largest_bits",
    "allowed_bits",
    "largest_pair_sum",
    "allowed_pair_sum",
)
"""What a manifest says of a graph of integers: how many nodes are proved to be exact, and how near they come to where
they would not be; see docs/concepts/exactness.md."""
LABEL_SCALES: Final = (1, 2, 4)
_MAX_MULTIPLE: Final = 1024
_MAX_FIXED_BYTES: Final = 1 << 50
_MAX_TEXT: Final = 4096
_MAX_NAME_BYTES: Final = 255
_MAX_FIGURE: Final = 1e12
"""The largest of a graph's figures: far beyond any network, and safe to multiply by an image's size."""
_MAX_VERSION: Final = 1000
_MAX_PREVIEW: Final = 65536
_MAX_FILES: Final = 16
_MAX_SCALE: Final = 1024
_OF_OSLIC: Final = (
    "classes",
    "levels",
    "label_scale",
    "alpha",
    "preview",
    "groups",
    "coarseness",
    "refinement",
)
"""Fields of a manifest that only the kind `oslic` has."""
_OF_OTHERS: Final = ("package", "settings")
"""Fields that only the other kinds have."""
_Demand: TypeAlias = tuple[bool, object, str]
"""Whether a field is as it must be, what it is, and what it must be."""
_HEX256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ClassInfo:
    """One class of the label map.

    Attributes:
        name: what the class is called.
        color: RGB in 0..255, for pictures of label maps.
    """

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class GraphInfo:
    """One graph file.

    Attributes:
        file: name of the file inside the bundle.
        sha256: of the file's bytes, 64 hexadecimal digits.
        inputs: names of the inputs, in order.
        output: name of the only output.
        form: how octave convolutions are written: `naive`, `fused`, or a name of the exporter's.
        precision: `float32`, `float16`, `int8`, ...: the arithmetic of the heavy layers.
        opset: ONNX operator set.
        ir_version: ONNX IR version.
        macs_per_pixel: multiply-accumulates per pixel of the (padded) image.
        working_bytes_per_pixel: memory that a run takes per pixel of the (padded) image, as the exporter measured it.
        parameters: number of weights.
        fixed_bytes: memory that the loaded graph takes, its weights included, as the exporter measured it.
        scales: of kinds other than `oslic`: by how much each input's sides are smaller than the picture's.
    """

    file: str
    sha256: str
    inputs: tuple[str, ...]
    output: str
    form: str
    precision: str
    opset: int
    ir_version: int
    macs_per_pixel: float
    working_bytes_per_pixel: float
    parameters: int
    fixed_bytes: int = 0
    scales: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FileInfo:
    """A file of a bundle that is no graph.

    Attributes:
        file: its name inside the bundle.
        sha256: of its bytes, 64 hexadecimal digits.
    """

    file: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    What only the kind `oslic` has (classes, levels, label_scale, alpha, preview and so on) is empty in other kinds.

    Attributes:
        name: configuration of the networks: `full`, `base`, `lite`, or the user's.
        classes: the K classes of the label map, their names all different.
        levels: L; the compact image takes values 0..L-1.
        label_scale: Q; `analyse` and `synthesise` take labels at 1/Q of the image's size, and `segment` gives them at
            1/Q of the size of its input, which is the picture reduced as `runtime.segmentation_size` says.
        alpha: share of low-rate channels of the octave convolutions.
        multiple: the image is padded to multiples of this number on both sides.
        fingerprint: SHA-256 of what defines the estimate, 64 hexadecimal digits.
        license: terms of the weights.
        graphs: the graph files; of the kind `oslic` all of `GRAPH_NAMES` but for those of `OPTIONAL_GRAPHS`.
        preview: a 3 x 4 matrix; times the levels of a position of the compact image and 1 it gives the position's
            color, in gray levels: a picture of 1/8 of the size without a network.
        kind: of codec: `oslic`, or one that a package registers (docs/guides/codecs.md).
        package: distribution that brings another kind; "": this one.
        settings: what another kind has to say, plain JSON types.
        files: what there is beside graphs, by name: what another kind needs; of the kind `oslic` at most
            `SEARCH_FILE`.
        groups: names for several classes together, none of them a class's (docs/guides/labels.md).
        exact: whether `synthesise`, and `refine` where there is one, give the same on every machine.
        provenance: where the weights come from: checkpoint, data, scores, command, revision.
        tools: versions of what exported the bundle.
        quantization: settings of a quantized bundle, whose scales are in its graphs; None for others.
        coarseness: least quality and coarseness of the compact images that the networks were trained for, qualities
            ascending; below the first one it is 1. See `runtime.codec.coarseness`.
        refinement: SHA-256 of what defines `refine`, 64 hexadecimal digits; None exactly where there is no such graph.
    """

    name: str
    multiple: int
    fingerprint: str
    license: str
    graphs: dict[GraphName, GraphInfo]
    classes: tuple[ClassInfo, ...] = ()
    levels: int = 0
    label_scale: int = 0
    alpha: float = 0.0
    preview: Preview = ()
    kind: str = OSLIC
    package: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileInfo] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    exact: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    quantization: dict[str, Any] | None = None
    coarseness: tuple[tuple[int, int], ...] = ()
    refinement: str | None = None

    @property
    def graph_names(self) -> tuple[GraphName, ...]:
        """The graphs that there are, of the kind `oslic` in the order of `GRAPH_NAMES`."""
        known = tuple(name for name in GRAPH_NAMES if name in self.graphs)
        return known if self.kind == OSLIC else tuple(self.graphs)

    def to_json(self) -> str:
        """Return the manifest file's text."""
        body = {"format": FORMAT, "version": VERSION, **asdict(self)}
        for name in _OF_OTHERS if self.kind == OSLIC else _OF_OSLIC:
            del body[name]
        if not self.files:
            del body["files"]
        for graph in body["graphs"].values():
            if not graph["scales"]:
                del graph["scales"]
        return json.dumps(body, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = MANIFEST_NAME) -> Manifest:
        """Parse and check the manifest file's text.

        Raises:
            BundleError: not a manifest, of a newer version, or with missing or impossible values.
        """
        body = parse_object(text, where, BundleError)
        if body.pop("format", None) != FORMAT:
            raise BundleError(f"{where} is not the manifest of an OSLIC bundle (no format {FORMAT!r})")
        version = body.pop("version", None)
        if version != VERSION:
            raise BundleError(
                f"{where} has version {_shown(version)}, this runtime reads {VERSION}: export the bundle again, "
                "or install a newer oslic"
            )
        try:
            manifest = cls(**_parse(body, where))
        except (TypeError, KeyError, IndexError, ValueError, OverflowError, AttributeError) as error:
            raise BundleError(f"{where} has a field that is missing or of the wrong kind: {error}") from error
        manifest.check(where)
        return manifest

    def check(self, where: str = MANIFEST_NAME) -> None:
        """Check every value that the runtime relies on.

        Raises:
            BundleError: names the field, its value and what it must be.
        """
        demands = self._shared_demands() | (
            self._demands_of_oslic() if self.kind == OSLIC else self._demands_of_others()
        )
        for name, (good, value, wanted) in demands.items():
            if not good:
                raise BundleError(f"{where}: {name} is {_shown(value)}, must be {wanted}")

    def _shared_demands(self) -> dict[str, _Demand]:
        taken = [g.file for g in self.graphs.values()] + [f.file for f in self.files.values()]
        demands: dict[str, _Demand] = {
            "names of files": (len(set(taken)) == len(taken), taken, "all different"),
            "fingerprint": (bool(_HEX256.fullmatch(self.fingerprint)), self.fingerprint, "64 hex digits"),
            "kind": (
                is_kind_name(self.kind),
                self.kind,
                "1 to 32 ASCII letters, digits and underscores, no digit first",
            ),
        }
        entries = {f"graphs.{name}": (graph.file, graph.sha256) for name, graph in self.graphs.items()}
        entries |= {f"files.{name}": (file.file, file.sha256) for name, file in self.files.items()}
        for name, (file_name, digest) in entries.items():
            demands[f"{name}.file"] = (is_plain_name(file_name), file_name, "a file name without a folder")
            demands[f"{name}.sha256"] = (bool(_HEX256.fullmatch(digest)), digest, "64 hex digits")
        return demands

    def _demands_of_others(self) -> dict[str, _Demand]:
        foreign = [name for name in _OF_OSLIC if getattr(self, name)]
        return {
            "multiple": (1 <= self.multiple <= _MAX_MULTIPLE, self.multiple, f"1 to {_MAX_MULTIPLE}"),
            "graphs": (
                bool(self.graphs) and all(map(str.isidentifier, (*self.graphs, *self.files))),
                sorted(self.graphs),
                "at least one, under names of letters, digits and underscores",
            ),
            "fields": (not foreign, foreign, f"those of the kind {self.kind!r}, not of {OSLIC!r}"),
        }

    def _demands_of_oslic(self) -> dict[str, _Demand]:
        names = {class_.name for class_ in self.classes}
        foreign = [name for name in _OF_OTHERS if getattr(self, name)]
        demands: dict[str, _Demand] = {
            "fields": (not foreign, foreign, f"those of the kind {OSLIC!r}"),
            "files": (
                set(self.files) <= {SEARCH_FILE},
                sorted(self.files),
                f"at most {SEARCH_FILE!r}",
            ),
            "preview": (len(self.preview) == 3, self.preview, "3 rows of 4 numbers"),
            "levels": (2 <= self.levels <= 256, self.levels, "2..256"),
            "label_scale": (self.label_scale in LABEL_SCALES, self.label_scale, "1, 2 or 4"),
            "classes": (1 <= len(self.classes) <= 256, len(self.classes), "1..256 entries"),
            "names of classes": (len(names) == len(self.classes), sorted(names), "all different"),
            "multiple": (
                COMPACT_SCALE <= self.multiple <= _MAX_MULTIPLE and self.multiple % COMPACT_SCALE == 0,
                self.multiple,
                f"a multiple of {COMPACT_SCALE} up to {_MAX_MULTIPLE}",
            ),
            "graphs": (
                set(LAYER_GRAPHS) <= set(self.graphs) <= set(GRAPH_NAMES),
                sorted(self.graphs),
                f"{GRAPH_NAMES}, of which {', '.join(sorted(OPTIONAL_GRAPHS))} may be left out",
            ),
            "coarseness": (
                list(self.coarseness) == sorted(self.coarseness)
                and all(1 < degree < self.levels for _, degree in self.coarseness),
                self.coarseness,
                f"pairs of a quality, ascending, and a number from 2 to {self.levels - 1}",
            ),
            "refinement": (
                bool(_HEX256.fullmatch(self.refinement or "")) == ("refine" in self.graphs),
                self.refinement,
                "64 hex digits beside a refine graph, else null",
            ),
        }
        for group, members in self.groups.items():
            demands[f"groups.{group}"] = (
                bool(members) and names.issuperset(members) and group not in names,
                members,
                "names of classes, under a name that no class has",
            )
        for i, class_ in enumerate(self.classes):
            known = all(0 <= value <= 255 for value in class_.color)
            demands[f"classes[{i}].color"] = (known, class_.color, "three numbers in 0..255")
        return demands


def is_kind_name(name: str) -> bool:
    """Whether a string can name a kind of codec, in a manifest and in a stream."""
    return name.isascii() and name.isidentifier() and len(name) <= MAX_KIND_NAME


def is_plain_name(name: str) -> bool:
    """Whether a string names a file in a folder, and nothing outside of it."""
    return (
        name == Path(name).name
        and name not in {"", ".", ".."}
        and len(name.encode("utf-8", "surrogatepass")) <= _MAX_NAME_BYTES
    )


def _known(kind: type, body: Any, where: str) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BundleError(f"{where} is {_shown(body)}, must be an object")
    names = {f.name for f in fields(kind)}
    unknown = sorted(set(body) - names)
    if unknown:
        raise BundleError(f"{where} has unknown fields {', '.join(unknown)}: install a newer oslic")
    return body


def _parse(body: dict[str, Any], where: str) -> dict[str, Any]:
    """Turn JSON's lists and objects into the types of `Manifest`; every field has its type behind it."""
    values = dict(_known(Manifest, body, where))
    kind = values.setdefault("kind", OSLIC)
    for name in ("name", "fingerprint", "license", "kind"):
        _require_text(values[name], f"{where}: {name}")
    graphs = values["graphs"]
    if not isinstance(graphs, dict) or len(graphs) > _MAX_FILES:
        raise BundleError(f"{where}: graphs is {_shown(graphs)}, must be an object of at most {_MAX_FILES}")
    values["graphs"] = {name: _graph(entry, f"{where}: graphs.{name}") for name, entry in graphs.items()}
    _require_whole(values["multiple"], f"{where}: multiple")
    if not isinstance(values.get("exact", False), bool):
        raise BundleError(f"{where}: exact is {_shown(values['exact'])}, must be true or false")
    (_parse_of_oslic if kind == OSLIC else _parse_of_others)(values, where)
    values["files"] = _files(values.get("files", {}), f"{where}: files")
    for name in ("provenance", "tools", "quantization"):
        if not isinstance(values.get(name) or {}, dict):
            raise BundleError(f"{where}: {name} is {_shown(values[name])}, must be an object")
    quantization = values.get("quantization") or {}
    _check_certificate(quantization.get("certificate") or {}, f"{where}: quantization.certificate")
    limit = quantization.get("weight_limit")
    if limit is not None and not (type(limit) is int and 1 <= limit <= 128):
        raise BundleError(f"{where}: quantization.weight_limit is {_shown(limit)}, must be 1 to 128")
    return values


def _parse_of_oslic(values: dict[str, Any], where: str) -> None:
    values["classes"] = tuple(_class(entry, where) for entry in _list(values["classes"], f"{where}: classes"))
    for name in ("levels", "label_scale"):
        _require_whole(values[name], f"{where}: {name}")
    _require_number(values["alpha"], f"{where}: alpha")
    values["preview"] = _preview(values["preview"], f"{where}: preview")
    values["groups"] = _groups(values.get("groups", {}), f"{where}: groups")
    _require_text(values.get("refinement") or "", f"{where}: refinement")
    values["coarseness"] = _pairs(values.get("coarseness", []), f"{where}: coarseness")


def _parse_of_others(values: dict[str, Any], where: str) -> None:
    _require_text(values.get("package", ""), f"{where}: package")
    if not isinstance(values.get("settings", {}), dict):
        raise BundleError(f"{where}: settings is {_shown(values['settings'])}, must be an object")


def _files(value: Any, what: str) -> dict[str, FileInfo]:
    if not isinstance(value, dict) or len(value) > _MAX_FILES:
        raise BundleError(f"{what} is {_shown(value)}, must be an object of at most {_MAX_FILES}")
    for name, entry in value.items():
        for text in _known(FileInfo, entry, f"{what}.{name}").values():
            _require_text(text, f"{what}.{name}")
    return {name: FileInfo(**entry) for name, entry in value.items()}


def _check_certificate(value: Any, what: str) -> None:
    """Raise BundleError unless this is what `oslic calibrate --integer` says of the graphs that it certified."""
    if not isinstance(value, dict) or not set(value) <= set(GRAPH_NAMES):
        raise BundleError(f"{what} is {_shown(value)}, must be an object with names of graphs")
    for name, proof in value.items():
        if not isinstance(proof, dict) or set(proof) != set(CERTIFICATE_FIGURES):
            raise BundleError(
                f"{what}.{name} is {_shown(proof)}, must be an object with {', '.join(CERTIFICATE_FIGURES)}"
            )
        for figure, number in proof.items():
            _require_number(number, f"{what}.{name}.{figure}")


def _preview(value: Any, what: str) -> Preview:
    rows = [_list(row, what) for row in _list(value, what)]
    for number in (number for row in rows for number in row):
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= _MAX_PREVIEW:
            raise BundleError(f"{what} holds {_shown(number)}, must hold numbers up to {_MAX_PREVIEW}")
    if [len(row) for row in rows] != [4, 4, 4]:
        raise BundleError(f"{what} is {_shown(value)}, must be 3 rows of 4 numbers")
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in rows)


def _pairs(value: Any, what: str) -> tuple[tuple[int, int], ...]:
    pairs = [_list(pair, what) for pair in _list(value, what)]
    for number in (number for pair in pairs for number in pair):
        _require_whole(number, what, 255)
    if any(len(pair) != 2 for pair in pairs):
        raise BundleError(f"{what} is {_shown(value)}, must be pairs of numbers")
    return tuple((first, second) for first, second in pairs)


def _groups(value: Any, what: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict) or len(value) > 256:
        raise BundleError(f"{what} is {_shown(value)}, must be an object of at most 256 entries")
    groups = {}
    for name, members in value.items():
        for text in (name, *_list(members, f"{what}.{name}")):
            _require_text(text, what)
        groups[name] = tuple(members)
    return groups


def _class(entry: Any, where: str) -> ClassInfo:
    parts = _known(ClassInfo, entry, f"{where}: classes")
    _require_text(parts["name"], f"{where}: a class's name")
    color = _list(parts["color"], f"{where}: color of {parts['name']}")
    for value in color:
        _require_whole(value, f"{where}: color of {parts['name']}")
    return ClassInfo(parts["name"], (color[0], color[1], color[2]))


def _graph(entry: Any, where: str) -> GraphInfo:
    parts = dict(_known(GraphInfo, entry, where))
    parts["inputs"] = tuple(_list(parts["inputs"], f"{where}.inputs"))
    for text in (*parts["inputs"], *(parts[k] for k in ("file", "sha256", "output", "form", "precision"))):
        _require_text(text, where)
    parts.setdefault("fixed_bytes", 0)
    scales = parts.setdefault("scales", {})
    if not isinstance(scales, dict) or len(scales) > _MAX_FILES:
        raise BundleError(f"{where}.scales is {_shown(scales)}, must be an object")
    for scale in scales.values():
        _require_whole(scale, f"{where}.scales", _MAX_SCALE)
        if not scale:
            raise BundleError(f"{where}.scales holds 0, must hold 1 to {_MAX_SCALE}")
    for key in ("macs_per_pixel", "working_bytes_per_pixel", "parameters"):
        _require_number(parts[key], f"{where}.{key}")
    for key in ("opset", "ir_version"):
        _require_whole(parts[key], f"{where}.{key}", _MAX_VERSION)
    _require_whole(parts["fixed_bytes"], f"{where}.fixed_bytes", _MAX_FIXED_BYTES)
    return GraphInfo(**parts)


def _shown(value: Any) -> str:
    """A value for a message, cut where it runs to a page."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > 256:
        raise BundleError(f"{what} is {_shown(value)}, must be a list of at most 256 entries")
    return value


def _require_text(value: Any, what: str) -> None:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise BundleError(f"{what} is {_shown(value)}, must be text of at most {_MAX_TEXT} characters")


def _require_whole(value: Any, what: str, most: int = 1 << 16) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise BundleError(f"{what} is {_shown(value)}, must be a whole number from 0 to {most}")


def _require_number(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_FIGURE:
        raise BundleError(f"{what} is {_shown(value)}, must be a number from 0 to {_MAX_FIGURE:g}")
