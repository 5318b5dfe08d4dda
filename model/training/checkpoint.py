"""Training checkpoints, to resume from. They are safetensors files, not pickles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class CheckpointError(Exception):
    """A checkpoint cannot be used. The message names the file and the reason."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State after `epoch` epochs. Each epoch has its own seed, so no generator is saved."""

    epoch: int
    step: int
    history: tuple[tuple[int, float], ...]
    """The validation loss after so many steps."""
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    """Adam's tensors, named by state and parameter index, such as `exp_avg.0`."""
    best_step: int
    best_loss: float
    best_weights: Mapping[str, Tensor]


def save_checkpoint(path: Path, checkpoint: Checkpoint, run: Mapping[str, Any]) -> None:
    """Write the file atomically. `run` identifies the training: see `load_checkpoint`."""
    tensors = {
        f"{group}/{name}": tensor.detach().contiguous().clone()
        for group in ("weights", "optimizer", "best_weights")
        for name, tensor in getattr(checkpoint, group).items()
    }
    state = {
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "history": checkpoint.history,
        "best_step": checkpoint.best_step,
        "best_loss": checkpoint.best_loss,
    }
    metadata = {"state": json.dumps(state), "run": json.dumps(run, sort_keys=True)}
    metadata["sha256"] = _sha256(tensors, metadata["state"], metadata["run"])
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(safetensors.torch.save(tensors, metadata))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path, run: Mapping[str, Any]) -> Checkpoint:
    """Read a checkpoint written with the same `run`: architecture, options and data, as plain JSON.

    Raises `CheckpointError`: for a file that cannot be read, and for one of another run, naming the
    first value that differs. Weights trained partly by one recipe and partly by another would have
    a false provenance.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iter)
        if metadata["sha256"] != _sha256(tensors, metadata["state"], metadata["run"]):
            raise ValueError("it is damaged: its contents do not match its sha256")
        state, saved = json.loads(metadata["state"]), json.loads(metadata["run"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    current = json.loads(json.dumps(run))
    for key in sorted(set(saved) | set(current)):
        if saved.get(key) != current.get(key):
            raise CheckpointError(
                f"{path} was trained with {key} {saved.get(key)!r}, but this run has "
                f"{current.get(key)!r}: use the same value, or delete the file to start over"
            )
    groups: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}, "best_weights": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups[group][rest] = tensor
    return Checkpoint(
        epoch=state["epoch"],
        weights=groups["weights"],
        optimizer=groups["optimizer"],
        step=state["step"],
        history=tuple((step, loss) for step, loss in state["history"]),
        best_step=state["best_step"],
        best_loss=state["best_loss"],
        best_weights=groups["best_weights"],
    )


def _sha256(tensors: Mapping[str, Tensor], *texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def adam_tensors(optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """Adam's state as tensors with flat names, such as `exp_avg.0`."""
    return {
        f"{name}.{index}": tensor
        for index, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def restore_adam(optimizer: torch.optim.Adam, tensors: Mapping[str, Tensor]) -> None:
    """Load what `adam_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, index = key.rpartition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
