"""The graphs of a checkpoint by PyTorch, with the interface of the runtime's: scores come from real streams."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..networks.config import groups_of
from ..networks.deploy import deployable
from ..runtime.bundle.folder import Bundle
from ..runtime.bundle.manifest import GRAPH_NAMES, GraphInfo, GraphName, Manifest
from ..runtime.codec.networks import Graphs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..networks.codec import CodecNetworks


class TorchGraphs(Graphs):
    """Networks as the runtime's codec takes them; nothing is exported.

    Args:
        networks: in evaluation mode.
        fingerprint: of the checkpoint.
    """

    def __init__(self, networks: CodecNetworks, fingerprint: str) -> None:
        self._networks = deployable(networks)
        self._device = next(networks.parameters()).device
        config = networks.config
        absent = GraphInfo("none", "0" * 64, (), "", "", "", 0, 0, 0, 0, 0)
        names = [name for name in GRAPH_NAMES if name in self._networks]
        manifest = Manifest(
            name=config.name,
            classes=config.classes,
            levels=config.levels,
            label_scale=config.label_scale,
            alpha=config.alpha,
            multiple=config.multiple,
            fingerprint=fingerprint,
            license="",
            graphs=dict.fromkeys(names, absent),
            preview=networks.gnet.preview(),
            groups=groups_of(config.classes),
            coarseness=config.coarseness,
            refinement=hashlib.sha256().hexdigest() if "refine" in names else None,
        )
        self.bundle = Bundle(Path("checkpoint"), manifest)

    def load(self, *graphs: GraphName) -> None:
        """Nothing: the networks are there."""

    def give_back(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is held."""

    def run(self, graph: GraphName, *inputs: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Run one network, see `Graphs.run`."""
        with torch.inference_mode():
            tensors = [torch.from_numpy(np.array(array)).to(self._device) for array in inputs]
            result: NDArray[np.uint8] = self._networks[graph](*tensors).cpu().numpy()
        return result
