"""An example for the `--help` of every command: what people copy first."""

from __future__ import annotations

import argparse
from typing import Final

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "compress": (
        "oslic compress photo.jpg",
        "oslic compress photos -r -o streams --quality 75",
        "oslic compress photo.png -o small.oslic --bpp 0.5 --strip location",
        "djxl photo.jxl - --output_format png | oslic compress - -o photo.oslic",
    ),
    "decompress": (
        "oslic decompress photo.jpg.oslic -o photo.png",
        "oslic decompress streams -r -o photos --format jpeg --quality 90",
        "oslic decompress photo.oslic -o - | display",
        "oslic decompress photo.oslic -o part.png --region 1200,800,512,512",
    ),
    "verify": ("oslic verify archive -r --quiet", "oslic verify photo.oslic --checksums"),
    "info": ("oslic info photo.oslic", "oslic info streams -r --json"),
    "labels": (
        "oslic labels photo.oslic",
        "oslic labels streams -r --json",
        "oslic labels photo.oslic --mask person",
    ),
    "backends": ("oslic backends", "oslic backends --bundle my-bundle --json"),
    "doctor": ("oslic doctor", "oslic doctor --json"),
    "completion": (
        "oslic completion bash > ~/.local/share/bash-completion/completions/oslic",
        "oslic completion zsh > ~/.zfunc/_oslic",
        "oslic completion fish > ~/.config/fish/completions/oslic.fish",
    ),
    "man": ("oslic man | man -l -", "oslic man -o ~/.local/share/man/man1/oslic.1"),
    "run": (
        "oslic run model.onnx --shapes image=1x3x224x224",
        "oslic run model.onnx --inputs in.npz -o out.npz",
    ),
    "inspect": ("oslic inspect model.onnx", "oslic inspect my-bundle --json"),
    "flif": ("oslic flif encode picture.png picture.flif",),
    "flif encode": ("oslic flif encode picture.png picture.flif --effort 100",),
    "flif decode": ("oslic flif decode picture.flif picture.png",),
    "flif info": ("oslic flif info picture.flif --json",),
    "batch": (
        "oslic batch photos -o streams --quality 60",
        "oslic batch s3://bucket/photos -o s3://bucket/streams",
    ),
    "triton": ("oslic triton lite -o models",),
    "export": ("oslic export checkpoints/lite -o my-bundle",),
    "fuse": ("oslic fuse model.onnx -o fused.onnx --measure",),
    "cast": ("oslic cast model.onnx -o half.onnx --precision fp16",),
    "build": ("oslic build model.onnx --backend tensorrt --precision fp16 -o engines",),
    "calibrate": ("oslic calibrate model.onnx --data photos -o int8.onnx --target cpu",),
    "train": ("oslic train codec --data data --out runs/codec",),
    "train segment": ("oslic train segment --data data --out runs/segment",),
    "train codec": ("oslic train codec --data data --out runs/codec --minutes 60",),
    "train refine": ("oslic train refine --data data --out runs/refine --init runs/codec",),
    "train transform": ("oslic train transform --data data --out runs/transform",),
    "train evaluate": ("oslic train evaluate checkpoints/lite --data data",),
    "train teach": ("oslic train teach --data data --out soft photos",),
    "train pack": ("oslic train pack --data data --out packed",),
    "compare": ("oslic compare before.onnx after.onnx --atol 1e-5",),
    "bench": ("oslic bench latency photo.png -o latency.json",),
    "bench latency": (
        "oslic bench latency photo.png --size 768x512 -o latency.json",
        "oslic bench latency model.onnx",
    ),
    "bench throughput": ("oslic bench throughput photos -o throughput.json",),
    "bench rd": ("oslic bench rd photos -o rd.json --peers avif-s6,jpeg",),
    "bench fusion": ("oslic bench fusion --network lite -o fusion.json",),
    "bench zoo": ("oslic bench zoo -o zoo.json",),
    "bench flif": ("oslic bench flif -o flif.json --labels maps",),
    "bench drift": ("oslic bench drift photos -o drift.json",),
    "bench lossless": ("oslic bench lossless --photos photos -o lossless.json",),
    "bench memory": ("oslic bench memory photo.png -o memory.json",),
    "bench compressai": (
        "oslic bench compressai photos --python .venv-compressai/bin/python -o compressai.json",
    ),
    "bench effort": ("oslic bench effort photos -o effort.json",),
    "bench focus": ("oslic bench focus photos --values 7,8 -o focus.json",),
    "bench scale": ("oslic bench scale photo.png -o scale.json",),
    "bench seams": ("oslic bench seams photos -o seams.json",),
    "bench gpu": ("oslic bench gpu -o gpu.json --quick",),
    "bench int8": ("oslic bench int8 lite lite-int8 -o int8.json",),
    "bench report": ("oslic bench report latency.json rd.json -o report.html",),
    "bench selfcheck": ("oslic bench selfcheck photo.png -o selfcheck.json",),
    "bench regress": ("oslic bench regress before.json after.json",),
    "demo": ("oslic demo photo.png -o pictures",),
}
"""By the words behind `oslic`."""


def add_examples(parser: argparse.ArgumentParser, words: str) -> None:
    """Put the examples of a command, and those of its own commands, behind its help.

    Args:
        parser: of the command, configured.
        words: that call it, behind `oslic`.
    """
    if words in EXAMPLES:
        lines = "\n".join(f"  {example}" for example in EXAMPLES[words])
        title = "examples" if len(EXAMPLES[words]) > 1 else "example"
        parser.epilog = f"{title}:\n{lines}" + (f"\n\n{parser.epilog}" if parser.epilog else "")
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, inner in subparsers(parser).items():
        add_examples(inner, f"{words} {name}")


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a command's own commands, by name."""
    return {
        name: inner
        for action in parser._actions  # noqa: SLF001 (argparse has no other way to ask)
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
        for name, inner in action.choices.items()
    }
