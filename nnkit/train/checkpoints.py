"""Checkpoints: the whole network in safetensors, configuration and position in its metadata.

Tensors are named layers.I.weight (out, in) and layers.I.bias (out,). The file is replaced atomically, so the
last good one is never lost.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nnkit.errors import CheckpointError, UsageError, reason
from nnkit.files import check_file
from nnkit.nn.initialise import Parameters
from nnkit.train.config import TrainConfig
from nnkit.train.files import write_atomically
from nnkit.train.position import Position

FORMAT = "nnkit-checkpoint-1"
FILE_NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A network, how it was trained, and where training stood."""

    parameters: Parameters
    config: TrainConfig
    position: Position
    fingerprint: str
    """Of the data set, see `nnkit.data.Dataset`."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The width of every layer, input first."""
        return (self.parameters[0][0].shape[1], *(len(bias) for _, bias in self.parameters))

    def save(self, directory: Path) -> None:
        """Replace the checkpoint in `directory`, which is created if needed. Raises CheckpointError."""
        tensors: dict[str, np.ndarray[Any, Any]] = {}
        for layer, (weight, bias) in enumerate(self.parameters):
            tensors[f"layers.{layer}.weight"] = weight
            tensors[f"layers.{layer}.bias"] = bias
        metadata = {
            "format": FORMAT,
            "config": json.dumps(self.config.to_json()),
            "position": json.dumps(self.position.to_json()),
            "data": self.fingerprint,
        }
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(directory / FILE_NAME, save(tensors, metadata))
        except OSError as error:
            raise CheckpointError(
                f"cannot write a checkpoint to {directory}: {reason(error)}: "
                "give a directory with room to write"
            ) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a directory, or in a file. Raises CheckpointError if it is missing or damaged."""
    file = path / FILE_NAME if path.is_dir() else path
    if not file.exists():
        raise CheckpointError(f"there is no checkpoint at {file}: nnkit train --checkpoint {path} makes one")
    try:
        check_file(file.stat().st_mode)
        with safe_open(str(file), framework="numpy") as stream:
            metadata = stream.metadata() or {}
            names = list(stream.keys())
            tensors = {name: stream.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{file} is damaged or no checkpoint ({reason(error)}): give another, or train anew"
        ) from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{file} is a safetensors file, but not a checkpoint of this version of nnkit")
    try:
        config = TrainConfig.from_json(json.loads(metadata["config"]))
        position = Position.from_json(json.loads(metadata["position"]))
        parameters = _parameters(tensors, config.hidden)
        return Checkpoint(parameters, config, position, metadata["data"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UsageError) as error:
        raise CheckpointError(
            f"{file} is a damaged checkpoint ({reason(error)}): give another, or train anew"
        ) from None


def _parameters(tensors: dict[str, Any], hidden: tuple[int, ...]) -> Parameters:
    """Weights and biases, input side first. Raises KeyError or ValueError if they do not fit together."""
    layers = len(hidden) + 1
    pairs = [(tensors.pop(f"layers.{i}.weight"), tensors.pop(f"layers.{i}.bias")) for i in range(layers)]
    if tensors:
        raise ValueError(f"unexpected tensors {', '.join(sorted(tensors))}")
    dtype = pairs[0][0].dtype
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"parameters are {dtype}")
    width = pairs[0][0].shape[1] if pairs[0][0].ndim == 2 else 0
    for index, (weight, bias) in enumerate(pairs):
        outputs = hidden[index] if index < len(hidden) else len(bias)
        if weight.shape != (outputs, width) or bias.shape != (outputs,) or not width:
            raise ValueError(f"layer {index} has weight {weight.shape} and bias {bias.shape}")
        if weight.dtype != dtype or bias.dtype != dtype:
            raise ValueError(f"layer {index} is {weight.dtype} and {bias.dtype}, the first {dtype}")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ValueError(f"layer {index} holds what is no finite number")
        width = outputs
    return pairs
