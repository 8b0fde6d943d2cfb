"""The training loop: optimizer steps, EMA, schedule, logs, saving and resuming.

Every batch is a function of the seed and the step alone, so a run that was interrupted and resumed equals one that
was not. The state is a safetensors file, like a checkpoint; nothing is pickled.
"""

from __future__ import annotations

import csv
import json
import math
import re
import signal
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..runtime.errors import DataError, UsageError, VerificationError, one_line
from ..runtime.files import require_regular_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    from torch import Tensor

Batch = TypeVar("Batch")
# What AdamW keeps of each parameter.
_MOMENTS = frozenset({"step", "exp_avg", "exp_avg_sq"})


@dataclass(frozen=True)
class Schedule:
    """Optimization of a run.

    Attributes:
        steps: optimizer steps in all.
        learning_rate: peak of the schedule: linear warm-up, then half a cosine down to 1 % of it.
        warmup: steps of the warm-up.
        weight_decay: of AdamW, on kernels only (not on biases, tables and normalizations).
        clip: largest norm of the gradient.
        ema: decay of the exponential moving average of the weights.
        validate_every: steps between validations; the state is saved then, too.
        log_every: steps between rows of the log.
        seed: of the weights and of every batch.
    """

    steps: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    validate_every: int = 1000
    log_every: int = 50
    seed: int = 1

    def rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class Objective:
    """A loss and what it trains.

    Attributes:
        module: its parameters are trained by this objective.
        loss: the terms of the loss, from a batch; "loss" is their weighted sum, the others are for the log.
        rate_factor: factor on the schedule's learning rate.
    """

    module: nn.Module
    loss: Callable[[Any, int], dict[str, Tensor]]
    rate_factor: float = 1.0


class Task(Protocol):
    """What is to be learned."""

    @property
    def objectives(self) -> Mapping[str, Objective]:
        """Objectives by name, in the order in which each step optimizes them; the first one's EMA is kept."""

    def sample(self, step: int) -> Any:
        """The batch of a step, on the CPU: a function of the seed and the step alone."""

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Scores of the first objective's module with averaged weights; "score" is the one to raise."""


class Ema:
    """Exponential moving average of a module's parameters and buffers.

    Args:
        module: what to follow.
        decay: of the average; early steps use less, (1 + n) / (10 + n).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's present values; `step` counts from 0."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            mean = self.values[name]
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)


def _adam(module: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    kernels = [p for p in module.parameters() if p.requires_grad and p.ndim == 4]
    others = [p for p in module.parameters() if p.requires_grad and p.ndim != 4]
    groups = [
        {"params": kernels, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.99))


class Trainer:
    """Runs a task.

    Args:
        task: what is learned.
        schedule: how.
        folder: where state and log live; made if absent.
        device: "cpu" or "cuda".
        description: said in the state's metadata; a run resumes only what has the same description.
        workers: threads that prepare batches ahead; 0: none.
    """

    def __init__(
        self,
        task: Task,
        schedule: Schedule,
        folder: Path,
        *,
        device: str = "cpu",
        description: Mapping[str, Any] | None = None,
        workers: int = 0,
    ) -> None:
        self.task = task
        self.schedule = schedule
        self.folder = folder
        self.device = torch.device(device)
        self.description = json.dumps(dict(description or {}), sort_keys=True)
        self.workers = workers
        self.step = 0
        self.best = -math.inf
        self._stop = False
        folder.mkdir(parents=True, exist_ok=True)
        for objective in task.objectives.values():
            objective.module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers = {name: _adam(o.module, schedule) for name, o in task.objectives.items()}
        self.main = next(iter(task.objectives.values())).module
        self.ema = Ema(self.main, schedule.ema)

    @property
    def state_path(self) -> Path:
        """The file that a run is resumed from."""
        return self.folder / "state.safetensors"

    def save(self, path: Path | None = None) -> None:
        """Write the state, whole or not at all.

        Raises:
            VerificationError: a weight is not finite; the older state stays.
        """
        tensors = {f"ema.{name}": value for name, value in self.ema.values.items()}
        for name, objective in self.task.objectives.items():
            for key, value in objective.module.state_dict().items():
                tensors[f"{name}.{key}"] = value
            names = {id(p): key for key, p in objective.module.named_parameters()}
            for parameter, moments in self.optimizers[name].state.items():
                for moment, value in moments.items():
                    tensors[f"adam.{name}.{names[id(parameter)]}|{moment}"] = value
        copies = {key: value.detach().to("cpu").contiguous().clone() for key, value in tensors.items()}
        for key, value in copies.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise VerificationError(
                    f"{key} is not finite at step {self.step}; the state was not saved, {self.state_path} stays"
                )
        target = path or self.state_path
        temporary = target.with_suffix(".tmp")
        metadata = {"step": str(self.step), "best": str(self.best), "description": self.description}
        save_file(copies, temporary, metadata)
        temporary.replace(target)

    def resume(self) -> bool:
        """Continue from the saved state, if there is one; says whether there was.

        Raises:
            DataError: the state is unreadable, or lacks what a run must have.
            UsageError: it belongs to a run of another description.
        """
        if not self.state_path.exists():
            return False
        metadata, tensors = _read_state(self.state_path)
        if metadata.get("description") != self.description:
            raise UsageError(
                f"{self.state_path} belongs to a run with other settings; give another --out or the same settings"
            )
        step, best = _progress(metadata, self.state_path)
        _require_tensors(tensors, self._expected(), self.state_path)
        # Nothing is changed before everything is known to be there.
        self.step, self.best = step, best
        for key, value in self.ema.values.items():
            value.copy_(tensors[f"ema.{key}"])
        for name, objective in self.task.objectives.items():
            module_state = {key: tensors[f"{name}.{key}"] for key in objective.module.state_dict()}
            objective.module.load_state_dict(module_state)
            for key, parameter in objective.module.named_parameters():
                moments = _moments(tensors, name, key)
                if moments:
                    self.optimizers[name].state[parameter] = {
                        k: v if k == "step" else v.to(self.device, memory_format=_format(v))
                        for k, v in moments.items()
                    }
        return True

    def _expected(self) -> dict[str, torch.Size]:
        """Shapes of the weights that a state must hold, by name."""
        found = {f"ema.{key}": value.shape for key, value in self.ema.values.items()}
        for name, objective in self.task.objectives.items():
            found |= {f"{name}.{key}": value.shape for key, value in objective.module.state_dict().items()}
        return found

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights of the first objective's module."""
        return self.ema.values

    def run(self, *, minutes: float | None = None) -> bool:
        """Train until the schedule ends, time is up, or a signal asks to stop; the state is saved in any case.

        Args:
            minutes: time after which to stop and save; None: no limit.

        Returns:
            Whether the schedule was completed.

        Raises:
            VerificationError: a loss is not finite; nothing is overwritten then.
        """
        started, first = time.monotonic(), self.step
        # A term need not be in the loss of every batch.
        found: dict[str, list[Tensor]] = {}
        with _Signals(self):
            for batch in self._batches():
                terms = self._optimize(batch)
                for key, value in terms.items():
                    found.setdefault(key, []).append(value)
                self.step += 1
                last = self.step >= self.schedule.steps
                elapsed = time.monotonic() - started
                late = minutes is not None and elapsed > 60.0 * minutes
                stop = last or late or self._stop
                validating = self.step % self.schedule.validate_every == 0 or last
                if self.step % self.schedule.log_every == 0 or stop or validating:
                    means = self._means(found)
                    found = {}
                    self._report(means, elapsed, first)
                if validating or stop:
                    self.save()
                if validating:
                    self._validate()
                    self.save()
                if stop:
                    break
        return self.step >= self.schedule.steps

    def _batches(self) -> Iterator[Any]:
        if self.workers == 0:
            for step in range(self.step, self.schedule.steps):
                yield self.task.sample(step)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            ahead: deque[Any] = deque()
            following = self.step
            while ahead or following < self.schedule.steps:
                while len(ahead) < 2 * self.workers and following < self.schedule.steps:
                    ahead.append(pool.submit(self.task.sample, following))
                    following += 1
                yield ahead.popleft().result()

    def _optimize(self, batch: Any) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for name, objective in self.task.objectives.items():
            optimizer = self.optimizers[name]
            rate = self.schedule.rate(self.step) * objective.rate_factor
            for group in optimizer.param_groups:
                group["lr"] = rate
            objective.module.train()
            losses = objective.loss(batch, self.step)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(objective.module.parameters(), self.schedule.clip)
            # On a CPU the look costs nothing, and a bad step never reaches the weights.
            if self.device.type == "cpu" and not bool(torch.isfinite(norm)):
                self._not_finite("gradient")
            optimizer.step()
            for key, value in losses.items():
                terms[f"{name}.{key}"] = value.detach()
        self.ema.update(self.main, self.step)
        return terms

    def _not_finite(self, what: str) -> None:
        raise VerificationError(
            f"the {what} is not finite at step {self.step}; training stopped, {self.state_path} was not "
            "overwritten; lower the learning rate or train in float32"
        )

    def _means(self, found: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
        means = {key: float(torch.stack(list(values)).mean()) for key, values in sorted(found.items())}
        for key, value in means.items():
            if not math.isfinite(value):
                self._not_finite(f"loss ({key})")
        return means

    def _report(self, means: Mapping[str, float], elapsed: float, first: int) -> None:
        speed = (self.step - first) / max(elapsed, 1e-9)
        left = (self.schedule.steps - self.step) / max(speed, 1e-9) / 60.0
        shown = "  ".join(f"{key.split('.', 1)[1]} {value:.4f}" for key, value in means.items())
        print(
            f"{self.step}/{self.schedule.steps}  {shown}  {speed:.2f} steps/s  {left:.0f} min left",
            flush=True,
        )
        self._log("log.csv", {"step": self.step, "steps_per_second": round(speed, 3), **means})

    def _validate(self) -> None:
        kept = {key: value.detach().clone() for key, value in self.main.state_dict().items()}
        self.main.load_state_dict(self.ema.values)
        self.main.eval()
        scores = self.task.validate(self.main)
        self.main.load_state_dict(kept)
        print("validation  " + "  ".join(f"{k} {v:.4f}" for k, v in scores.items()), flush=True)
        self._log("validation.csv", {"step": self.step, **scores})
        if scores["score"] > self.best:
            self.best = scores["score"]
            self.save(self.folder / "best.safetensors")

    def _log(self, name: str, row: Mapping[str, float]) -> None:
        path = self.folder / name
        names = list(row)
        if path.exists():
            with path.open(newline="") as file:
                names = next(csv.reader(file), names)
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=names, extrasaction="ignore")
            if not file.tell():
                writer.writeheader()
            writer.writerow(dict(row))


def _format(value: Tensor) -> torch.memory_format:
    return torch.channels_last if value.ndim == 4 else torch.contiguous_format


class _Signals:
    """While entered, SIGINT and SIGTERM ask the trainer to stop after the present step instead of breaking it."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            print("stopping after this step; the state will be saved", file=sys.stderr, flush=True)
            self.trainer._stop = True  # noqa: SLF001

        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, ask)
        except ValueError:
            # Not in the main thread: whoever runs us there handles signals.
            self.before = {}

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def averaged_state(path: Path) -> dict[str, Tensor]:
    """The averaged weights in a saved state.

    Raises:
        DataError: the state is missing or unreadable.
    """
    _, tensors = _read_state(path)
    return {key[4:]: value for key, value in tensors.items() if key.startswith("ema.")}


def _read_state(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a saved state.

    Raises:
        DataError: it is missing, no regular file, or no safetensors file.
    """
    require_regular_file(path, "state", DataError)
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = dict(stored.metadata() or {})
            return metadata, {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise DataError(f"{path} is not a readable state: {one_line(error, 200)}") from error


def _progress(metadata: Mapping[str, str], path: Path) -> tuple[int, float]:
    """Step and best score of a state.

    Raises:
        DataError: they are missing or no numbers.
    """
    step, best = metadata.get("step", ""), metadata.get("best", "")
    if not re.fullmatch(r"[0-9]{1,12}", step):
        raise DataError(f"{path} is not a readable state: its step is {step[:40]!r}, must be a whole number")
    try:
        return int(step), float(best)
    except ValueError:
        raise DataError(f"{path} is not a readable state: its best score is {best[:40]!r}") from None


def _moments(tensors: Mapping[str, Tensor], name: str, key: str) -> dict[str, Tensor]:
    """The optimizer's moments of a parameter, by their names."""
    prefix = f"adam.{name}.{key}|"
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _require_tensors(tensors: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], path: Path) -> None:
    """Refuse a state that lacks weights, or has them in other shapes, moments of the optimizer included.

    Raises:
        DataError: naming the first.
    """
    for key, shape in wanted.items():
        if key not in tensors or tensors[key].shape != shape:
            found = tuple(tensors[key].shape) if key in tensors else "missing"
            raise DataError(f"{path} does not fit this run: {key} is {found}, must be {tuple(shape)}")
    for key, value in tensors.items():
        if not key.startswith("adam."):
            continue
        parameter, _, moment = key.removeprefix("adam.").partition("|")
        shape = wanted.get(parameter, torch.Size())
        if moment not in _MOMENTS or value.shape != (torch.Size() if moment == "step" else shape):
            raise DataError(
                f"{path} does not fit this run: {key} is {tuple(value.shape)}, of a moment of {parameter}"
            )
    names = {key.partition("|")[0] for key in tensors if key.startswith("adam.")}
    for name in sorted(names):
        lacking = sorted(moment for moment in _MOMENTS if f"{name}|{moment}" not in tensors)
        if lacking:
            raise DataError(f"{path} does not fit this run: {name} lacks {', '.join(lacking)}")
