"""CompressAI's own answers, in its own environment (its NumPy is older than ours); files go in and out.

    python compressai_child.py forward ARCHITECTURE N M IMAGES.npz OUT        random weights; writes OUT/state.pth and
                                                                              OUT/answers.npz
    python compressai_child.py times ARCHITECTURE STATE.pth N M IMAGES.npz    asked by lines, answers by JSON lines

Nothing here imports OSLIC.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Its torchvision may be built for another torch than the CPU's: all that is imported of it are transforms.
for _name in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):
        torch.library.define(
            f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )

from compressai.models import FactorizedPrior, MeanScaleHyperprior, ScaleHyperprior  # noqa: E402

MODELS = {
    "bmshj2018-factorized": FactorizedPrior,
    "bmshj2018-hyperprior": ScaleHyperprior,
    "mbt2018-mean": MeanScaleHyperprior,
}


def random_model(architecture: str, channels: int, latents: int) -> Any:
    """Random weights whose latents are not all 0, and whose medians are not."""
    torch.manual_seed(7)
    model: Any = MODELS[architecture](channels, latents)
    with torch.no_grad():
        model.g_a[6].weight *= 30.0
        if hasattr(model, "h_a"):
            model.h_a[4].weight *= 20.0
            model.h_s[4].weight *= 10.0
            # Scales that fit the latents: trained networks do not code what they hold impossible.
            model.h_s[4].bias += 3.0
        model.entropy_bottleneck.quantiles[:, 0, 1] = (
            torch.rand(len(model.entropy_bottleneck.quantiles)) - 0.5
        )
    return model


def load(architecture: str, channels: int, latents: int, state: str) -> Any:
    """A model with weights from a file."""
    model = MODELS[architecture](channels, latents)
    found = torch.load(state, weights_only=True)
    # What CompressAI derives from the weights is not among ours.
    model.load_state_dict({**model.state_dict(), **found})
    return model


def as_input(pixels: Any) -> torch.Tensor:
    """Pixels, uint8 (H, W, 3), as the model takes them."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def as_pixels(picture: torch.Tensor) -> Any:
    """What the model gives, as pixels."""
    return (picture[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def forward(architecture: str, channels: str, latents: str, images: str, out: str) -> None:
    """Write random weights, and what the model's own forward pass makes of images with them."""
    model = random_model(architecture, int(channels), int(latents)).eval()
    folder = Path(out)
    torch.save(model.state_dict(), folder / "state.pth")
    answers: dict[str, Any] = {}
    with np.load(images) as file, torch.inference_mode():
        for name in file.files:
            made = model(as_input(file[name]))
            answers[f"{name}/picture"] = as_pixels(made["x_hat"])
            bits = sum(-torch.log2(part).sum().double() for part in made["likelihoods"].values())
            answers[f"{name}/bits"] = np.array(float(bits))
    np.savez(folder / "answers.npz", **answers)


def times(architecture: str, state: str, channels: str, latents: str, images: str) -> None:
    """Do what each line of the input asks for: `compress NAME`, `decompress NAME`."""
    torch.set_num_threads(2)
    model = load(architecture, int(channels), int(latents), state).eval()
    model.update(force=True)
    streams: dict[str, dict[str, Any]] = {}
    with np.load(images) as file, torch.inference_mode():
        pictures = {name: as_input(file[name]) for name in file.files}
        for line in sys.stdin:
            what, name = line.split()
            start = time.perf_counter()
            if what == "compress":
                streams[name] = model.compress(pictures[name])
                answer = {"bytes": sum(len(strings[0]) for strings in streams[name]["strings"])}
            else:
                as_pixels(model.decompress(streams[name]["strings"], streams[name]["shape"])["x_hat"])
                answer = {}
            print(json.dumps({**answer, "seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    {"forward": forward, "times": times}[sys.argv[1]](*sys.argv[2:])
