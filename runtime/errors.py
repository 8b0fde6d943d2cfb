"""Every error that OSLIC raises on purpose, and the exit code that the command line gives it.

A message says what was wrong, where, and what to do about it, in one line.
"""

from __future__ import annotations


class OslicError(Exception):
    """Base of all errors raised by OSLIC.

    Attributes:
        exit_code: what `oslic` exits with when this error ends a command.
    """

    exit_code = 1


class UsageError(OslicError):
    """Arguments that do not fit together, or name something that does not exist."""

    exit_code = 2


class ImageError(OslicError):
    """An input that is not an image, or an image of a kind that is not supported."""

    exit_code = 3


class StreamError(OslicError):
    """An `.oslic` file that is damaged, truncated, or of an unknown version."""

    exit_code = 4


class FormatError(OslicError):
    """A FLIF file that is damaged, truncated, or of an unsupported kind."""

    exit_code = 4


class BundleError(OslicError):
    """A bundle or checkpoint that is missing something, was altered, or does not fit the stream."""

    exit_code = 5


class BackendError(OslicError):
    """A backend that is not installed, not usable here, or failed while running."""

    exit_code = 6


class LimitError(OslicError):
    """A size beyond the limits in force; the message names the limit and what would fit."""

    exit_code = 7


class RateError(OslicError):
    """A rate or quality that cannot be reached; the message names the floor or the ceiling."""

    exit_code = 8


class VerificationError(OslicError):
    """A numeric check that failed: graph against reference, estimate against digest, run against run."""

    exit_code = 9


class DataError(OslicError):
    """Training or calibration data that is missing, or has values it must not have."""

    exit_code = 10


class DependencyError(OslicError):
    """A package that the command needs and that is not installed; the message names the extra."""

    exit_code = 11


class DeviceError(OslicError):
    """A command that needs a GPU, on a machine that has none which can be used."""

    exit_code = 12


def one_line(error: Exception, longest: int = 1000) -> str:
    """What somebody else's error says, in one line and cut where it runs to a page."""
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"{text[:longest]} ..."


def told(error: OslicError, source: str = "") -> str:
    """What one of our errors says, in one line that names the file that it is about.

    Args:
        error: of ours.
        source: the file; "": the message says enough.
    """
    message = " ".join(str(error).split("\n"))
    return message if source in message else f"{source}: {message}"


def printable(text: str) -> str:
    """A text for a terminal: whatever would move its cursor, color it or reorder it is escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text
    )


def out_of_memory(error: MemoryError) -> LimitError:
    """The error that says to the user that there was not enough memory."""
    what = f": {one_line(error)}" if str(error) else ""
    return LimitError(
        f"not enough memory{what}; free some, raise the limit (`ulimit -v`), or take a smaller image"
    )
