"""Checkpoints: safetensors files that carry their configuration, provenance and scores; never pickle.

A checkpoint is a folder with `weights.safetensors`, or with shards `weights-1-of-3.safetensors` and so on. Every
file's metadata hold the whole description, so that any of them says what it belongs to.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..runtime.errors import BundleError, OslicError, one_line
from ..runtime.files import require_regular_file
from ..runtime.plain_json import parse_object, with_nulls
from .codec import CodecNetworks
from .config import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

FORMAT = "oslic-checkpoint"
VERSION = "1"
SHARD_BYTES = 15 * 1024 * 1024
_ESTIMATE = "gnet."
_BOOKKEEPING = "num_batches_tracked"
_MOST_WIDTH = 1 << 16
_MOST_ENTRIES = 256
# Fields of a configuration that say how many layers there are.
_COUNTS = ("depths", "depth", "blocks")


class Described(Protocol):
    """Weights with what is said of them: a checkpoint of any kind of networks."""

    @property
    def config(self) -> Config:
        """Of the networks."""

    @property
    def state(self) -> dict[str, Tensor]:
        """Weights by name."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Where they come from."""

    @property
    def scores(self) -> dict[str, Any]:
        """What they reached."""


class Config(Protocol):
    """A configuration of networks."""

    def to_json(self) -> str:
        """As canonical JSON."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights with all that says what they are.

    Attributes:
        config: configuration of the networks.
        state: weights by name, float32.
        provenance: where they come from: data, license, command, revision and the like (plain JSON types).
        scores: what they reached (plain JSON types).
    """

    config: ModelConfig
    state: dict[str, Tensor]
    provenance: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """What defines the estimate, as 64 hexadecimal digits; see `fingerprint`."""
        return fingerprint(self.state, self.config)

    def networks(self) -> CodecNetworks:
        """The networks with these weights, in evaluation mode.

        Raises:
            BundleError: the weights do not fit the configuration.
        """
        # Shapes first, on a device without memory: a configuration may state any width.
        _require_bounded(self.config.to_dict(), len(self.state))
        networks = self._networks("meta")
        require_fitting(networks, self.state, self.config.name)
        networks = self._networks("cpu")
        networks.load_state_dict(self.state, strict=False)
        return networks.eval()

    def _networks(self, device: str) -> CodecNetworks:
        try:
            with torch.device(device):
                return CodecNetworks(self.config)
        except (TypeError, ValueError, ArithmeticError, IndexError, RuntimeError, AttributeError) as error:
            raise BundleError(
                f"no networks follow from the configuration {self.config.name!r:.80}: {one_line(error, 200)}"
            ) from error


def require_fitting(networks: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Raise BundleError unless weights have the names and shapes of networks.

    Args:
        networks: on any device.
        state: the weights by name.
        name: of the configuration, for the message.
    """
    wanted = {k: tuple(v.shape) for k, v in networks.state_dict().items() if not k.endswith(_BOOKKEEPING)}
    found = {k: tuple(v.shape) for k, v in state.items()}
    wrong = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
    if wrong:
        first = wrong[0]
        raise BundleError(
            f"the checkpoint does not fit its configuration {name!r}: {first} is {found.get(first, 'missing')}, "
            f"should be {wanted.get(first, 'absent')} ({len(wrong)} of {len(wanted)} tensors differ)"
        )


def fingerprint(state: Mapping[str, Tensor], config: ModelConfig) -> str:
    """SHA-256 over what defines the estimate in real arithmetic.

    That is: the part of the configuration that `synthesise` is built from, and names, shapes and values of
    GNet's weights, in the order of their names, as float32, little endian. It does not change with the form of the
    graph or the type in which the weights are stored, as long as the values do not.

    Returns:
        64 hexadecimal digits.
    """
    described = json.dumps(config.synthesis(), sort_keys=True, separators=(",", ":"))
    return weights_digest(
        described,
        {k: v for k, v in state.items() if k.startswith(_ESTIMATE) and not k.endswith(_BOOKKEEPING)},
    )


def weights_digest(described: str, state: Mapping[str, Tensor]) -> str:
    """SHA-256 over a description, and names, shapes and values of weights, as float32, little endian.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(described.encode())
    for name in sorted(state):
        values = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"\n{name} {list(values.shape)}\n".encode())
        digest.update(values.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def write(
    folder: Path, checkpoint: Described, dtype: Literal["float32", "float16"] = "float32"
) -> list[Path]:
    """Write a checkpoint; files appear whole or not at all, shards below 16 MiB each.

    Args:
        folder: where to; made if absent. Older weights in it are replaced.
        checkpoint: what to write, of any configuration.
        dtype: type of the stored weights. Statistics of batch normalizations stay float32.

    Returns:
        The files written.

    Raises:
        BundleError: a weight is not finite in `dtype`, or the folder cannot be written.
    """
    stored: dict[str, Tensor] = {}
    for name, value in checkpoint.state.items():
        if name.endswith(_BOOKKEEPING):
            continue
        kept = value.detach().to("cpu", torch.float32)
        if dtype == "float16" and _halved(name):
            kept = kept.to(torch.float16)
        if not bool(torch.isfinite(kept).all()):
            raise BundleError(
                f"{name} holds values that are not finite in {dtype}; the checkpoint was not written"
            )
        stored[name] = kept.contiguous()
    shards = _shards(stored)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": checkpoint.config.to_json(),
        "provenance": json.dumps(with_nulls(checkpoint.provenance), sort_keys=True),
        "scores": json.dumps(with_nulls(checkpoint.scores), sort_keys=True),
        "shards": str(len(shards)),
    }
    names = (
        ["weights.safetensors"]
        if len(shards) == 1
        else [f"weights-{i}-of-{len(shards)}.safetensors" for i in range(1, len(shards) + 1)]
    )
    paths = [folder / name for name in names]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, shard in zip(paths, shards, strict=True):
            temporary = path.with_suffix(".tmp")
            save_file(shard, temporary, metadata)
            # The library makes files that only their owner may read.
            temporary.chmod(0o644)
            temporary.replace(path)
        for old in folder.glob("weights*.safetensors"):
            if old not in paths:
                old.unlink()
    except OSError as error:
        raise BundleError(f"cannot write the checkpoint to {folder}: {error}") from error
    return paths


def _halved(name: str) -> bool:
    """Whether a tensor may be stored as float16: statistics of batch normalizations may not."""
    return "running_" not in name


def exact_dtype(checkpoint: Checkpoint) -> Literal["float32", "float16"]:
    """The smallest type in which `write` stores the weights without changing them: that which they were read from."""
    kernels = (value for name, value in checkpoint.state.items() if _halved(name))
    exact = all(
        torch.equal(value, value.to(torch.float16).to(value.dtype))
        for value in kernels
        if value.is_floating_point()
    )
    return "float16" if exact else "float32"


def _shards(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name in sorted(tensors):
        value = tensors[name]
        taken = value.numel() * value.element_size()
        if shards[-1] and size + taken > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += taken
    return shards


def _files(path: Path) -> list[Path]:
    if path.exists() and not path.is_dir():
        return [path]
    if not path.is_dir():
        raise BundleError(f"there is no checkpoint at {path}")
    files = sorted(path.glob("weights*.safetensors"))
    if not files:
        raise BundleError(f"{path} holds no weights*.safetensors, so it is not a checkpoint")
    return files


class Contents(NamedTuple):
    """What a checkpoint's files hold, the configuration not yet looked at.

    Attributes:
        config: plain JSON types.
        state: weights by name, float32.
        provenance: plain JSON types.
        scores: plain JSON types.
        file: that the description was read from, for messages.
    """

    config: dict[str, Any]
    state: dict[str, Tensor]
    provenance: dict[str, Any]
    scores: dict[str, Any]
    file: Path


def read_contents(path: Path) -> Contents:
    """Read a checkpoint of any kind of networks.

    Args:
        path: its folder, or its file if there is only one.

    Raises:
        BundleError: it is missing, damaged, incomplete, of another format or version.
    """
    files = _files(Path(path))
    state: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        require_regular_file(file, "weights", BundleError)
        try:
            with safe_open(file, framework="pt") as stored:
                metadata = stored.metadata() or {}
                for name in stored.keys():  # noqa: SIM118 (not a dictionary)
                    state[name] = _weight(name, stored.get_tensor(name))
        except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
            raise BundleError(f"{file} is not a readable safetensors file: {one_line(error, 200)}") from error
        if metadata.get("format") != FORMAT:
            raise BundleError(f"{file} is not a checkpoint: its metadata do not say {FORMAT}")
        if metadata.get("version") != VERSION:
            raise BundleError(
                f"{file} is a checkpoint of version {metadata.get('version')}; this program reads {VERSION}"
            )
        if metadata.get("shards") != str(len(files)):
            raise BundleError(
                f"{path} holds {len(files)} of {metadata.get('shards')} files of its checkpoint"
            )
    described = {
        name: parse_object(metadata.get(name, ""), f"{files[-1]}: the description's {name}", BundleError)
        for name in ("config", "provenance", "scores")
    }
    return Contents(described["config"], state, described["provenance"], described["scores"], files[-1])


def read(path: Path) -> Checkpoint:
    """Read a checkpoint of the codec's networks.

    Args:
        path: its folder, or its file if there is only one.

    Raises:
        BundleError: as `read_contents`; the checkpoint is of another kind of networks.
    """
    found = read_contents(path)
    try:
        config = ModelConfig.from_dict(found.config)
    except (OslicError, ArithmeticError, IndexError) as error:
        raise BundleError(f"{found.file}: the checkpoint's description is not readable: {error}") from error
    return Checkpoint(config, found.state, found.provenance, found.scores)


def _require_bounded(config: dict[str, Any], tensors: int) -> None:
    """Refuse a configuration that would build layers for ever.

    Args:
        config: as plain JSON types.
        tensors: how many weights there are: every layer has at least one.

    Raises:
        BundleError: naming the field.
    """
    waiting: list[tuple[str, Any]] = [("config", config)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}", entry) for key, entry in value.items()]
        elif isinstance(value, list):
            if len(value) > _MOST_ENTRIES:
                raise BundleError(f"{name} has {len(value)} entries, more than {_MOST_ENTRIES}")
            waiting += [(name, entry) for entry in value]
        elif isinstance(value, int | float):
            most = tensors if name.endswith(_COUNTS) else _MOST_WIDTH
            if not 0 <= value <= most:
                raise BundleError(f"{name} is {value!r:.80}, must be 0 to {most}")


def _weight(name: str, value: Tensor) -> Tensor:
    """A stored weight as float32.

    Raises:
        BundleError: its type is none in which weights are stored.
    """
    if not value.is_floating_point():
        raise BundleError(f"{name} is {value.dtype}: weights are floating-point numbers")
    return value.to(torch.float32)
