"""The arguments that say how pictures are coded, for every command that compresses."""

from __future__ import annotations

import argparse
from typing import Any

from ..runtime.codec import DEFAULT_QUALITY
from ..runtime.codec.effort import DEFAULT_EFFORT, MAX_EFFORT
from ..runtime.codec.request import Request, make_request
from ..runtime.codec.settings import LAYER_MODES, TUNES, Settings
from .numbers import not_negative, positive

# What argparse has no public name for: a parser or a group of it.
Arguments = argparse._ActionsContainer  # noqa: SLF001


def add_coding_arguments(parser: Arguments) -> tuple[Arguments, Arguments]:
    """Add them.

    Args:
        parser: of the command, or a group of its arguments.

    Returns:
        The groups of which one argument can be given: those that say what a file may cost or must reach, and those that
        say what gets more of it. A command may add its own.
    """
    rate = _add_rate(parser)
    _add_encoder(parser)
    by_class = parser.add_mutually_exclusive_group()
    by_class.add_argument(
        "--focus",
        metavar="NAME[:mild|strong]",
        help="have a class or a group look better than the rest, at about the same size of the file if it is a "
        "part of the picture: person",
    )
    parser.add_argument(
        "--no-refine",
        dest="refine",
        action="store_false",
        help="have the decoder leave the refinement network out",
    )
    parser.add_argument(
        "--keep-invisible", action="store_true", help="keep the colors of pixels whose alpha is 0"
    )
    return rate, by_class


def _add_rate(parser: Arguments) -> Arguments:
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "-q",
        "--quality",
        type=not_negative,
        metavar="Q",
        help=f"0..100, also 37.5; 0 stores no residual; a table: docs/guides/compress.md (default: {DEFAULT_QUALITY})",
    )
    rate.add_argument(
        "--bpp", type=positive, metavar="B", help="at most this many bits per pixel, headers included"
    )
    rate.add_argument(
        "--psnr",
        type=positive,
        metavar="P",
        help="at least this PSNR in dB, of the colors that are to be seen",
    )
    return rate


def _add_encoder(parser: Arguments) -> None:
    parser.add_argument(
        "--effort",
        type=int,
        default=DEFAULT_EFFORT,
        metavar="E",
        help=f"0..{MAX_EFFORT}: larger takes longer and saves bytes, or at quality 0 makes better layers (default: "
        f"{DEFAULT_EFFORT})",
    )
    parser.add_argument(
        "--rate-weight",
        type=positive,
        default=Settings.rate_weight,
        metavar="W",
        help="of layers alone, at an effort that searches for better ones: what a bit is worth; more makes smaller "
        f"files (default: {Settings.rate_weight:g})",
    )
    parser.add_argument(
        "--layers",
        choices=LAYER_MODES,
        default=Settings.layers,
        help="which tiles have an estimate of their own beside the label map: all (of photographs), those that get "
        f"smaller by it, or none (default: {Settings.layers})",
    )
    parser.add_argument(
        "--tune",
        choices=TUNES,
        default=Settings.tune,
        help=f"what the residual coder aims at: the eye, or PSNR (default: {Settings.tune}; --psnr takes psnr)",
    )


def requested(args: argparse.Namespace, **more: Any) -> Request:
    """What the arguments of `add_coding_arguments` ask for.

    Args:
        args: of the command.
        more: further arguments of `make_request`, which the command has.

    Raises:
        UsageError: a value out of its range.
    """
    return make_request(
        args.quality,
        bpp=args.bpp,
        psnr=args.psnr,
        effort=args.effort,
        rate_weight=args.rate_weight,
        layers=args.layers,
        tune=args.tune,
        refine=args.refine,
        focus=args.focus,
        keep_invisible=args.keep_invisible,
        **more,
    )
