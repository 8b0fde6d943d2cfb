"""`oslic doctor`: what works here, what does not, why, and the one command that mends it."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from ...runtime.errors import (
    BackendError,
    BundleError,
    DependencyError,
    OslicError,
    VerificationError,
    one_line,
    printable,
)
from ...runtime.limits import available_memory
from ...runtime.threads import usable_cores

if TYPE_CHECKING:
    import numpy.typing as npt

State = Literal["ok", "missing", "broken"]
"""Works; is optional and not there; is needed and does not work."""

DESKTOP: Final = Path(__file__).parent.parent / "desktop"
"""The folder of the MIME type and of the entry for file(1)."""
_ON_CPUS: Final = frozenset({"onnxruntime-cpu", "openvino"})
_LEAST_SPACE: Final = 1 << 30
_LEAST_PSNR: Final = 25.0
_MARKS: Final[dict[State, str]] = {"ok": "ok", "missing": "-", "broken": "BROKEN"}


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        name: of the thing.
        state: of it.
        reason: what is there, or why it does not work.
        remedy: the command that mends it; None: nothing to mend, or no command does.
        exit_code: of the error where it is broken; else 0.
    """

    name: str
    state: State
    reason: str
    remedy: str | None = None
    exit_code: int = 0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")


def run(args: argparse.Namespace) -> int:
    findings = []
    for name, check in _CHECKS.items():
        findings += list(_safely(name, check, debug=args.debug))
    code = next((f.exit_code for f in findings if f.state == "broken"), 0)
    if args.json:
        print(
            json.dumps({"findings": [asdict(finding) for finding in findings], "exit_code": code}, indent=2)
        )
        return code
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{_MARKS[finding.state]:<6}  {finding.name:<{width}}  {printable(finding.reason)}")
        if finding.remedy is not None:
            print(f"{'':<6}  {'':<{width}}  -> {printable(finding.remedy)}")
    broken = [finding.name for finding in findings if finding.state == "broken"]
    print(
        f"\nbroken: {', '.join(broken)}" if broken else "\npictures can be compressed and decompressed here"
    )
    return code


def _safely(name: str, check: Callable[[], Iterator[Finding]], *, debug: bool) -> Iterator[Finding]:
    """Run a check; whatever goes wrong in it is a finding, unless tracebacks are wanted."""
    try:
        yield from check()
    except Exception as error:
        if debug:
            raise
        code = error.exit_code if isinstance(error, OslicError) else OslicError.exit_code
        yield Finding(name, "broken", one_line(error) or type(error).__name__, None, code)


def _machine() -> Iterator[Finding]:
    yield Finding(
        "oslic", "ok", f"{version('oslic')}, Python {platform.python_version()} on {platform.platform()}"
    )
    cores = usable_cores()
    free = available_memory() / (1 << 30)
    yield Finding("processor", "ok", f"{_processor()}, {cores} {'core' if cores == 1 else 'cores'} usable")
    yield Finding("memory", "ok", f"{free:.1f} GiB free; pictures may take half of it (--max-memory)")


def _processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE
        )
        if found:
            return found[1]
    return platform.machine()


def _av1() -> Iterator[Finding]:
    from PIL import __version__, features

    mend = f"{_python()} -m pip install --force-reinstall --only-binary pillow 'pillow>=11.3'"
    if not features.check("avif"):
        why = f"Pillow {__version__} was built without AVIF, which codes the residual"
        yield Finding("AV1", "broken", why, mend, DependencyError.exit_code)
        return
    from PIL import _avif

    if not _avif.encoder_codec_available("aom"):
        why = f"the AVIF library of Pillow {__version__} was built without the encoder libaom"
        yield Finding("AV1", "broken", why, mend, DependencyError.exit_code)
        return
    yield Finding("AV1", "ok", f"libavif {features.version('avif')} with libaom, of Pillow {__version__}")


def _flif() -> Iterator[Finding]:
    from ...runtime import flif

    values = (np.add.outer(np.arange(24), np.arange(31)) * 5 % 256).astype(np.uint8)
    if not np.array_equal(flif.decode(flif.encode(values)), values):
        raise VerificationError("what FLIF decodes is not what it encoded")
    yield Finding("FLIF", "ok", "encodes and decodes")


def _bundles() -> Iterator[Finding]:
    from ...runtime.bundle.finder import VARIABLE, known_bundles

    count = 0
    for bundle in known_bundles():
        for name in bundle.manifest.graphs:
            bundle.read_graph(name)
        bundle.read_files()
        count += 1
        yield Finding(
            f"bundle {bundle.manifest.name}",
            "ok",
            f"whole, {bundle.manifest.fingerprint[:10]}, {bundle.path}",
        )
    if not count:
        raise BundleError("the shipped networks are gone: install oslic again")
    for place in os.environ.get(VARIABLE, "").split(os.pathsep):
        if place and not Path(place).is_dir():
            yield Finding(
                VARIABLE, "broken", f"{place} is no folder", f"unset {VARIABLE}", BundleError.exit_code
            )


def _backends() -> Iterator[Finding]:
    from ...runtime.backends import first_usable, probe_all
    from ...runtime.bundle.finder import open_bundle

    found = probe_all(open_bundle(None))
    auto = first_usable(found)
    no_gpu = any("no GPU can be used" in backend.reason for backend in found.values())
    for name, backend in found.items():
        mend = None if no_gpu and name not in _ON_CPUS else _pip_commands(backend.reason)
        if backend.usable:
            chosen = "; taken by default" if name == auto else ""
            yield Finding(name, "ok", f"{backend.version}; {backend.reason}{chosen}")
        elif backend.expected or (auto is None and name == "onnxruntime-cpu"):
            yield Finding(name, "broken", backend.reason, mend, BackendError.exit_code)
        else:
            yield Finding(name, "missing", backend.reason, mend)


def _pip_commands(reason: str) -> str | None:
    """The commands that a reason names, as one."""
    found = re.findall(r"pip ((?:un)?install) ('[^']+'|[a-z][\w.-]*(?: [a-z][\w.-]*)*)", reason)
    words = {"install": "install", "uninstall": "uninstall -y"}
    return " && ".join(f"{_python()} -m pip {words[verb]} {what}" for verb, what in found) or None


def _round_trip() -> Iterator[Finding]:
    from ...runtime.codec import Codec
    from ...runtime.image.arrays import psnr

    y, x = np.mgrid[0:96, 0:128].astype(np.float32)
    waves = [127 + 90 * np.sin(x / (9 + 4 * c) + c) * np.cos(y / (13 - 2 * c)) for c in range(3)]
    picture: npt.NDArray[np.uint8] = np.stack(waves, axis=2).astype(np.uint8)
    start = time.perf_counter()
    with Codec.open() as codec:
        encoded = codec.compress(picture)
        decoded = codec.decode(encoded)
        backend = codec.graphs.selection.backend.name
    took = 1e3 * (time.perf_counter() - start)
    found = psnr(decoded.image, picture)
    if not decoded.digest_matches or found < _LEAST_PSNR:
        raise VerificationError(
            f"a picture comes back with {found:.1f} dB, digests {'match' if decoded.digest_matches else 'DIFFER'}"
        )
    yield Finding("there and back", "ok", f"a picture of 128x96 on {backend}: {found:.1f} dB, {took:.0f} ms")


def _extras() -> Iterator[Finding]:
    """What pictures of some kinds or sizes need."""
    for name, module, package, purpose in (
        ("OpenCV", "cv2", "'oslic[cpu]'", "16-bit PNG files (flif, compress --convert)"),
        ("libvips", "pyvips", "'oslic[large]'", "pictures larger than the memory"),
        ("HEIC", "pillow_heif", "pillow-heif", "reading HEIC files"),
        ("JPEG XL", "pillow_jxl", "pillow-jxl-plugin", "reading JPEG XL files"),
    ):
        if importlib.util.find_spec(module) is None:
            yield Finding(name, "missing", f"for {purpose}", f"{_python()} -m pip install {package}")
            continue
        try:
            found = importlib.import_module(module)
        except Exception as error:  # libraries that do not load raise what they like
            mend = f"{_python()} -m pip install --force-reinstall {package}"
            yield Finding(
                name, "broken", f"does not load: {one_line(error)}", mend, DependencyError.exit_code
            )
            continue
        yield Finding(name, "ok", f"{getattr(found, '__version__', 'installed')}, for {purpose}")


def _places() -> Iterator[Finding]:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    state: State = "ok" if free >= _LEAST_SPACE else "missing"
    mend = None if state == "ok" else "export TMPDIR=/a/folder/with/room"
    yield Finding(
        "temporary files", state, f"{free / (1 << 30):.1f} GiB free in {folder}, for pictures in strips", mend
    )


def _desktop() -> Iterator[Finding]:
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    types = [home / "mime/packages/oslic.xml", Path("/usr/share/mime/packages/oslic.xml")]
    definition, entry = DESKTOP / "oslic.xml", DESKTOP / "oslic.magic"
    if any(path.is_file() for path in types):
        yield Finding("MIME type", "ok", "image/x-oslic is registered")
    else:
        mend = f"xdg-mime install --novendor {shlex.quote(str(definition))}"
        yield Finding("MIME type", "missing", "image/x-oslic is not registered with the desktop", mend)
    magic = Path.home() / ".magic"
    if magic.is_file() and "OSLIC" in magic.read_text(encoding="utf-8", errors="replace"):
        yield Finding("file(1)", "ok", "knows .oslic files, by ~/.magic")
    else:
        yield Finding(
            "file(1)", "missing", "does not know .oslic files", f"cat {shlex.quote(str(entry))} >> ~/.magic"
        )
    places = {
        "bash": home / "bash-completion/completions/oslic",
        "zsh": Path.home() / ".zfunc/_oslic",
        "fish": Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        / "fish/completions/oslic.fish",
    }
    shell = Path(os.environ.get("SHELL") or "bash").name
    place = places.get(shell, places["bash"])
    shell = shell if shell in places else "bash"
    if place.is_file():
        yield Finding("completion", "ok", f"for {shell}, in {place}")
    else:
        mend = f"mkdir -p {shlex.quote(str(place.parent))} && oslic completion {shell} > {shlex.quote(str(place))}"
        yield Finding("completion", "missing", f"{shell} does not complete the commands of oslic", mend)


def _versions() -> Iterator[Finding]:
    for package, least in (("numpy", 2), ("pillow", 11)):
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        if int(found.split(".", maxsplit=1)[0]) < least:
            mend = f"{_python()} -m pip install --upgrade {package}"
            yield Finding(
                package, "broken", f"{found} is older than {least}", mend, DependencyError.exit_code
            )


def _python() -> str:
    return shlex.quote(sys.executable or "python3")


_CHECKS: Final[dict[str, Callable[[], Iterator[Finding]]]] = {
    "machine": _machine,
    "versions": _versions,
    "AV1": _av1,
    "FLIF": _flif,
    "bundles": _bundles,
    "backends": _backends,
    "there and back": _round_trip,
    "extras": _extras,
    "temporary files": _places,
    "desktop": _desktop,
}
"""By what a check is called that fails altogether."""
