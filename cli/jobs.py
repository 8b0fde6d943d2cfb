"""What a command works on: files, folders and standard input become jobs, each a source and a target.

The names of targets follow from those of the sources alone, so a job that was interrupted finds its results again, and
no two sources of one folder share a target: `photo.jpg` becomes `photo.jpg.oslic`, `photo.png` `photo.png.oslic`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from ..runtime.errors import OslicError, UsageError
from ..runtime.files import check_target, descriptor, exists_already
from ..runtime.ledger import declare_outputs, note_inputs
from ..runtime.threads import default_jobs
from .file_arguments import Output, input_file, output_place, require_ending, standard_output
from .numbers import at_least

Existing = Literal["replace", "refuse", "skip"]
"""What becomes of a target that is there already."""

_STDOUT: Final = 1


@dataclass(frozen=True)
class Source:
    """A file to read.

    Attributes:
        path: of the file.
        inside: the folder that it was found in, relative to the one that was named; of a file that was named itself
            the empty path.
    """

    path: Path
    inside: Path = Path()

    @property
    def is_standard_input(self) -> bool:
        """Whether it is standard input, or another descriptor of this process."""
        return descriptor(self.path) is not None


@dataclass(frozen=True)
class Job:
    """A file to read, and the one to write.

    Attributes:
        source: to read.
        target: to write.
        existing: what becomes of a target that is there.
        folder: of the target, if it is made where it does not exist; None: it is not.
    """

    source: Path
    target: Path
    existing: Existing = "replace"
    folder: Path | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do: the target is there, and such jobs are skipped."""
        return self.existing == "skip" and self.target.is_file()

    @property
    def replaces(self) -> bool:
        """Whether a target that comes in between is replaced."""
        return self.existing == "replace"

    def prepare(self) -> None:
        """Refuse a target that cannot be written, before the work; make its folder.

        Raises:
            UsageError: it cannot be written, or exists and is not to be replaced.
        """
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise UsageError(f"cannot make the folder {self.folder}: {reason}") from error
        check_target(self.target)
        if self.existing == "refuse" and self.target.is_file() and descriptor(self.target) is None:
            there = exists_already(self.target)
            raise UsageError(
                f"{there} (--overwrite replaces it, --skip-existing leaves it out, -o names another)"
            )


@dataclass
class Found:
    """What the named inputs hold.

    Attributes:
        sources: files to work on, those of a folder sorted by name.
        failed: inputs and parts of folders that hold nothing to work on or cannot be looked into, and why.
        notes: what was left out on purpose, each a line for the user.
        folders: whether there is a folder among the inputs.
    """

    sources: list[Source] = field(default_factory=list)
    failed: list[tuple[Path, OslicError]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    folders: bool = False


def add_source_arguments(parser: argparse.ArgumentParser, what: str, name: str = "IN") -> None:
    """Add the inputs of a command, and `--recursive`."""
    parser.add_argument(
        "inputs",
        nargs="+",
        type=input_file,
        metavar=name,
        help=f"{what}; folders of them; - for standard input",
    )
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="enter the folders inside of folders, too"
    )


def add_target_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add what a command needs that makes a file of each input."""
    parser.add_argument(
        "-o",
        "--output",
        type=output_place(),
        metavar="OUT",
        help=f"{what}, a folder, or - for standard output (default: beside each input, under its whole name)",
    )
    add_existing_arguments(parser)
    add_work_arguments(parser)


def add_existing_arguments(parser: argparse.ArgumentParser, *, skip: bool = True) -> None:
    """Add what becomes of files that are there already.

    Args:
        parser: of the command.
        skip: whether inputs may be left out whose output is there.
    """
    existing = parser.add_mutually_exclusive_group()
    for option, value, text in (
        ("--overwrite", "replace", "replace files that are there (the default with -o)"),
        (
            "--no-overwrite",
            "refuse",
            "replace nothing: files that are there are errors (the default without -o)",
        ),
        (
            "--skip-existing",
            "skip",
            "leave out inputs whose output is there: a job that was interrupted goes on",
        ),
    ):
        if skip or value != "skip":
            existing.add_argument(option, dest="existing", action="store_const", const=value, help=text)


def policy_for(existing: Existing | None, output: Output | None) -> Existing:
    """What becomes of targets that are there: what was said, else they are replaced if `output` was given."""
    return existing or ("refuse" if output is None else "replace")


def add_work_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--jobs` and `--quiet`."""
    parser.add_argument(
        "-j",
        "--jobs",
        type=at_least(1),
        metavar="N",
        help="files in work at a time (default: two for each core, at most 16)",
    )
    parser.add_argument("--quiet", action="store_true", help="print errors and warnings alone")


def jobs_for(args: argparse.Namespace, count: int) -> int:
    """How many files are in work at a time.

    Args:
        args: `--jobs` of the command.
        count: of the files.
    """
    return max(1, min(args.jobs or default_jobs(), count))


def find_sources(
    inputs: Iterable[str], endings: Collection[str], what: str, *, recursive: bool = False
) -> Found:
    """Look up what the named inputs hold.

    Files that are named are taken whatever they are called; of a folder those with one of the endings, but for names
    that begin with a dot. Links to folders are followed, each folder is entered once.

    Args:
        inputs: files and folders, as the user gave them.
        endings: of the names of files in folders, in small letters.
        what: the files hold, for messages: "pictures".
        recursive: whether folders inside of folders are entered.

    Raises:
        UsageError: an input has no name.
    """
    found = Found()
    named: set[str] = set()
    for text in inputs:
        if not text:
            raise UsageError("the name of an input is empty: is a variable of the shell unset?")
        path = Path(text)
        if not is_folder(path):
            if text not in named:  # the same name twice is one job
                found.sources.append(Source(path))
            named.add(text)
            continue
        found.folders = True
        before = len(found.sources), len(found.failed)
        passed_by = _walk(path, endings, found, recursive=recursive)
        if (len(found.sources), len(found.failed)) == before:
            hint = "; --recursive enters its folders" if passed_by else ""
            known = ", ".join(sorted(endings))
            found.failed.append((path, UsageError(f"the folder {path} holds no {what} ({known}){hint}")))
    note_inputs(*(source.path for source in found.sources))
    return found


def _walk(top: Path, endings: Collection[str], found: Found, *, recursive: bool) -> bool:
    """Look through a folder that was named; returns whether it has folders that were not entered."""
    passed_by = False
    entered: dict[tuple[int, int], Path] = {}
    waiting = [(top, Path())]
    while waiting:
        folder, inside = waiting.pop()
        try:
            status = folder.stat()
            before = entered.setdefault((status.st_dev, status.st_ino), folder)
            if before is not folder:
                found.notes.append(
                    f"{folder} leads to {before}, which is looked through already: not entered"
                )
                continue
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208
        except OSError as error:
            found.failed.append((folder, UsageError(f"cannot look into {folder}: {error.strerror}")))
            continue
        folders = []
        for name in names:
            path = folder / name
            mode = _mode(path)
            if mode is not None and stat.S_ISDIR(mode):
                folders.append((path, inside / name))
            elif path.suffix.lower() in endings and (mode is None or stat.S_ISREG(mode)):
                found.sources.append(Source(path, inside))
        if recursive:
            waiting += reversed(folders)
        else:
            passed_by = passed_by or bool(folders)
    return passed_by


def _mode(path: Path) -> int | None:
    """Mode of what a name leads to; None: to nowhere, or around in a circle, which who opens it says."""
    try:
        return path.stat().st_mode
    except OSError:
        return None


def is_folder(path: Path) -> bool:
    """Whether it is a folder; of names with which something is wrong, whoever opens them says so."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_dir()
    return False


@dataclass(frozen=True)
class Naming:
    """How the files are called that are made of sources.

    Attributes:
        kind: what they hold, see `file_arguments.require_ending`.
        short: a source's name -> the usual name.
        long: a source's name -> a name that no other source's gets; for those whose usual names are the same.
    """

    kind: str
    short: Callable[[str], str]
    long: Callable[[str], str]


def plan_jobs(
    found: Found, output: Output | None, naming: Naming, existing: Existing | None = None
) -> list[Job]:
    """Pair every source with its target, and enter the targets into the call's ledger.

    Args:
        found: the sources.
        output: a file for a single source, or a folder, which keeps the folders inside of a folder that was named;
            None: the folder of each source.
        naming: how targets are called.
        existing: what becomes of targets that are there; None: they are replaced if `output` was given.

    Raises:
        UsageError: several sources for one file, two that would become the same one, a target that is one of the
            sources, or a name that promises another kind of file.
    """
    policy = policy_for(existing, output)
    sources = found.sources
    if output is None and any(source.is_standard_input for source in sources):
        if len(sources) > 1 or found.folders:
            raise UsageError(
                "standard input among other inputs has no folder for what is written: name one with -o"
            )
        output = standard_output()
    if output is not None and not _is_for_many(output, found):
        if len(sources) > 1:
            raise UsageError(
                f"{output} is one file, and there are {len(sources)} inputs: name a folder with -o"
            )
        return [_single(source, Path(output), naming, policy) for source in sources]
    if (
        output is not None
        and not is_folder(Path(output))
        and not Path(os.path.realpath(output)).parent.is_dir()
    ):
        raise UsageError(
            f"cannot make the folder {output}: the one that it is in does not exist; create it first"
        )
    jobs = _named(sources, None if output is None else Path(output), naming, policy)
    declare_outputs(*(job.target for job in jobs))
    for job in jobs:
        require_ending(job.target, naming.kind)
    return jobs


def _is_for_many(output: Output, found: Found) -> bool:
    """Whether an output is a folder, or is to become one."""
    path = Path(output)
    with contextlib.suppress(OSError, ValueError):
        if path.exists():
            return path.is_dir()
    several = found.folders or len(found.sources) > 1
    return output.endswith("/") or (several and descriptor(path) is None and not path.suffix)


def _single(source: Source, target: Path, naming: Naming, policy: Existing) -> Job:
    if descriptor(target) == _STDOUT and os.isatty(_STDOUT):
        raise UsageError("standard output is a terminal: name a file with -o, or redirect it")
    declare_outputs(target)
    require_ending(target, naming.kind)
    return Job(source.path, target, policy)


def _named(sources: Sequence[Source], output: Path | None, naming: Naming, policy: Existing) -> list[Job]:
    """Name the targets: as usual, or where several sources would get one, by their whole names."""

    def place(source: Source) -> Path:
        return source.path.parent if output is None else output / source.inside

    counts = Counter(place(source) / naming.short(source.path.name) for source in sources)
    made: dict[Path, Path] = {}
    for source in sources:
        target = place(source) / naming.short(source.path.name)
        if counts[target] > 1:
            target = place(source) / naming.long(source.path.name)
        if target in made:
            raise UsageError(
                f"{made[target]} and {source.path} would both be written to {target}: give them different names, or "
                "name a folder that holds both"
            )
        made[target] = source.path
    return [
        Job(source, target, policy, None if output is None else target.parent)
        for target, source in made.items()
    ]
