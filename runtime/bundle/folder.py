"""Bundles: the folder that export writes and the runtime reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from ..errors import BundleError, UsageError
from ..files import read_regular_file
from ..folders import restore, write_folder
from ..ledger import note_inputs
from .graph_safety import require_self_contained
from .manifest import FORMAT, MANIFEST_NAME, OSLIC, SEARCH_FILE, GraphName, Manifest

ENGINES_NAME: Final = "engines"
REPORT_NAMES: Final = ("calibration.json", "calibration.html")
"""What `oslic calibrate` says of its work, in the bundle that it makes."""
_ENGINE_ENDINGS: Final = frozenset({".engine", ".json"})
_MAX_MANIFEST_BYTES: Final = 1 << 20
_MAX_GRAPH_BYTES: Final = (1 << 31) - 1  # of a protobuf message
_MAX_FILE_BYTES: Final = 1 << 26


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: a folder with a checked manifest. Graph files are read when they are needed.

    Attributes:
        path: the folder.
        manifest: what the bundle says of itself.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open the bundle in the folder `path`.

        Raises:
            BundleError: no folder, no manifest, or a manifest that does not check.
        """
        folder = Path(path)
        file = folder / MANIFEST_NAME
        if not folder.is_dir():
            raise BundleError(
                f"no bundle at {folder}: not a folder; `oslic export CHECKPOINT -o {folder}` makes one"
            )
        if not file.exists():
            raise BundleError(f"no bundle at {folder}: it has no {MANIFEST_NAME}")
        bundle = cls(folder, _read_manifest(file))
        note_inputs(file, *map(bundle.graph_path, bundle.manifest.graphs))
        return bundle

    def graph_path(self, name: GraphName) -> Path:
        """Return the path of a graph file. The file is not checked.

        A graph that the folder lacks is the default bundle's, where that has the same one: shipped bundles share files.
        """
        graph = self.manifest.graphs[name]
        own = self.path / graph.file
        return own if own.exists() else _default_graphs().get(graph.sha256, own)

    def file_path(self, name: str) -> Path:
        """Return the path of a file that is no graph. The file is not checked."""
        return self.path / self.manifest.files[name].file

    def read_file(self, name: str) -> bytes:
        """Read a file that is no graph, and check it against the manifest.

        Raises:
            BundleError: there is none of that name, it is missing, or its hash is not the manifest's.
        """
        info = self.manifest.files.get(name)
        if info is None:
            raise BundleError(
                f"{self.path} has no file {name!r}, which its kind needs: export the bundle again"
            )
        path = self.file_path(name)
        data = read_regular_file(path, name, _MAX_FILE_BYTES, BundleError)
        _require_hash(path, data, info.sha256)
        if name == SEARCH_FILE and self.manifest.kind == OSLIC:
            require_self_contained(data, f"{path}: the {name} graph")
        return data

    def read_files(self) -> dict[str, bytes]:
        """What lies in the folder beside graphs, by file name.

        Raises:
            BundleError: as `read_file`.
        """
        return {info.file: self.read_file(name) for name, info in self.manifest.files.items()}

    def read_graph(self, name: GraphName) -> bytes:
        """Read a graph file, and check it against the manifest and for what a bundle's graph must not hold.

        Raises:
            BundleError: the file is missing, its hash is not the manifest's, or it refers to other files.
        """
        path = self.graph_path(name)
        data = read_regular_file(path, f"{name} graph", _MAX_GRAPH_BYTES, BundleError)
        _require_hash(path, data, self.manifest.graphs[name].sha256)
        require_self_contained(data, f"{path}: the {name} graph")
        return data


def _read_manifest(file: Path) -> Manifest:
    return Manifest.from_json(
        read_regular_file(file, "manifest", _MAX_MANIFEST_BYTES, BundleError), str(file)
    )


def _require_hash(path: Path, data: bytes, wanted: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise BundleError(
            f"{path} was altered: its SHA-256 starts with {found[:16]}, the manifest says {wanted[:16]}; "
            "export the bundle again"
        )


def require_free(folder: Path, *, replace: bool) -> None:
    """Say before the work begins that a bundle cannot be written there.

    A bundle that is replaced goes with all that is in its folder: nothing but a bundle may be there.

    Raises:
        UsageError: the folder exists and is not to be replaced, holds other things than a bundle, or has no parent.
    """
    place = Path(os.path.realpath(folder))
    try:
        restore(place)
        if folder.exists():
            _require_replaceable(folder, replace)
        elif not place.parent.is_dir():
            raise UsageError(f"cannot write {folder}: the folder {place.parent} does not exist")
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}") from error


def _require_replaceable(folder: Path, replace: bool) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder} exists and is not a folder; it is not replaced")
    if not replace:
        raise UsageError(f"{folder} exists; --force replaces it if it is a bundle")
    names = {path.name for path in folder.iterdir()}
    if not names:
        return
    foreign = names - {MANIFEST_NAME, ENGINES_NAME, *REPORT_NAMES, *_named_files(folder)}
    engines = folder / ENGINES_NAME
    if engines.is_dir():
        foreign |= {
            f"{ENGINES_NAME}/{path.name}"
            for path in engines.iterdir()
            if path.suffix not in _ENGINE_ENDINGS or not path.is_file()
        }
    if foreign:
        others = ", ".join(sorted(foreign)[:3])
        raise UsageError(
            f"{folder} holds {others} beside the bundle, which would be lost: it is not replaced"
        )


def _named_files(folder: Path) -> set[str]:
    """Names of the files of a bundle of whatever version: those which cannot be read any more are replaced, too.

    Raises:
        UsageError: there is no manifest of a bundle; other things have a `manifest.json` as well.
    """
    try:
        body = json.loads(read_regular_file(folder / MANIFEST_NAME, "manifest", _MAX_MANIFEST_BYTES))
        if body["format"] != FORMAT:
            raise UsageError(f"its {MANIFEST_NAME} is of another kind")
        entries = (*body["graphs"].values(), *body.get("files", {}).values())
        return {str(entry["file"]) for entry in entries}
    except (UsageError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(f"{folder} exists and is not a bundle; it is not replaced ({error})") from error


def require_another(folder: Path, source: Path, work: str, made: str) -> None:
    """Say before the work begins that a bundle would be written over the one that it is made from.

    Args:
        folder: where to.
        source: the bundle that it is made from.
        work: what is done to that one, a verb.
        made: what kind of bundle comes of it.

    Raises:
        UsageError: they are the same.
    """
    if folder.exists() and folder.samefile(source):
        raise UsageError(f"{folder} is the bundle to {work}; name another folder for the {made} bundle")


def write_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes], *, replace: bool) -> None:
    """Write a bundle; the folder appears whole or not at all.

    Args:
        folder: where to.
        manifest: its manifest.
        files: its graphs, and what else is to lie in the folder, by file name.
        replace: replace a bundle that is already there, its engines included.

    Raises:
        UsageError: the folder exists and is not to be replaced, or cannot be written.
        BundleError: a graph is missing, or is not the one that the manifest describes; or the bundle could not be read.
    """
    require_free(folder, replace=replace)
    text = manifest.to_json().encode("utf-8", "backslashreplace")
    Manifest.from_json(text, "the manifest of the new bundle")
    for name, graph in manifest.graphs.items():
        data = files.get(graph.file, b"")
        if hashlib.sha256(data).hexdigest() != graph.sha256:
            raise BundleError(f"the graph {name} changed while the bundle was written")
        require_self_contained(data, f"the {name} graph of the new bundle")
    for name, file in manifest.files.items():
        if hashlib.sha256(files.get(file.file, b"")).hexdigest() != file.sha256:
            raise BundleError(f"the file {name} is not the one that the manifest of the new bundle describes")
    try:
        write_folder(folder, {**files, MANIFEST_NAME: text})
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}; nothing was left behind") from error


@lru_cache(maxsize=1)
def _default_graphs() -> dict[str, Path]:
    """The graph files of the default bundle, by the hash that its manifest states."""
    folder = default_bundle()
    manifest = _read_manifest(folder / MANIFEST_NAME)
    return {graph.sha256: folder / graph.file for graph in manifest.graphs.values()}


def default_bundle() -> Path:
    """Return the folder of the bundle that is shipped with the package (`lite`)."""
    return Path(__file__).parent.parent / "bundles" / "lite"
