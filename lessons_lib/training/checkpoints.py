"""Checkpoints: whole or not at all, and refused in a sentence where they do not fit."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lessons_lib.files import atomic_write
from lessons_lib.training.config import TrainingError

CHECKPOINT = "checkpoint.pt"


@dataclass
class TrainState:
    """Where a training stands, besides its networks and optimizer."""

    seed: int
    steps_per_epoch: int
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    losses: dict[str, list] = field(
        default_factory=lambda: {"epochs": [], "train_loss": [], "val_loss": [], "test_loss": []}
    )


def save_checkpoint(folder: Path, state: TrainState, parts: dict[str, Any]) -> None:
    """Write the state, and the state_dict of each part, to folder/checkpoint.pt.

    Raises:
        WriteError: if it cannot be written; the old checkpoint is kept.
    """
    content = {name: part.state_dict() for name, part in parts.items()}
    with atomic_write(folder / CHECKPOINT) as path:
        buffer = io.BytesIO()  # writing a file itself, torch.save would not say that the disk is full
        torch.save(content | {"state": asdict(state)}, buffer)
        path.write_bytes(buffer.getbuffer())


def load_checkpoint(folder: Path, fresh: TrainState, parts: dict[str, Any]) -> TrainState:
    """Read folder/checkpoint.pt into the parts.

    Returns:
        its state, or `fresh` where there is none: the run was killed before its first.

    Raises:
        TrainingError: if it is damaged, or of a training with another seed, data, batch size or network.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return fresh
    try:
        # Through the CPU: each part moves what it gets to its own device.
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = TrainState(**content["state"])
    except Exception as error:
        raise TrainingError(
            f"{path} is damaged: delete it to start anew ({type(error).__name__})."
        ) from error
    if (state.seed, state.steps_per_epoch) != (fresh.seed, fresh.steps_per_epoch):
        raise TrainingError(
            f"{path} was made with seed {state.seed} and {state.steps_per_epoch} steps an epoch, "
            f"this training has {fresh.seed} and {fresh.steps_per_epoch}: use the same settings to resume."
        )
    try:
        for name, part in parts.items():
            part.load_state_dict(content[name])
    except (KeyError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{path} belongs to another network: delete it to start anew.") from error
    return state
