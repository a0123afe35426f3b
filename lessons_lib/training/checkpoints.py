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
BEFORE_DECAY = (
    "before_decay.pt"  # from which a training is prolonged once its learning rate has begun to fall
)


@dataclass
class TrainState:
    """Where a training stands, besides its networks and optimizer; settings say what it is a training of."""

    settings: dict[str, Any]
    precision: str
    device: str
    step: int = 0
    decaying: bool = False  # the learning rate has begun to fall
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    losses: dict[str, list] = field(
        default_factory=lambda: {"epochs": [], "train_loss": [], "val_loss": [], "test_loss": []}
    )


def save_checkpoint(folder: Path, state: TrainState, parts: dict[str, Any], name: str = CHECKPOINT) -> None:
    """Write the state, and the state_dict of each part, to folder/name.

    Raises:
        WriteError: if it cannot be written; the old checkpoint is kept.
    """
    content = {name: part.state_dict() for name, part in parts.items()}
    with atomic_write(folder / name) as path:
        buffer = io.BytesIO()  # writing a file itself, torch.save would not say that the disk is full
        torch.save(content | {"state": asdict(state)}, buffer)
        path.write_bytes(buffer.getbuffer())


def load_checkpoint(folder: Path, fresh: TrainState, extend: bool = False) -> tuple[TrainState, dict]:
    """Read folder/checkpoint.pt.

    Args:
        fresh: the state of the training that wants to go on.
        extend: the training may have more epochs than the checkpoint's: if that one's learning rate was
            falling already, it goes on from where the fall began. With as many it is resumed.

    Returns:
        its state and its parts for `restore`; `fresh` and none where there is no checkpoint: the run was
        killed before its first.

    Raises:
        TrainingError: if it is damaged, or was made with other settings, of which the first is named.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        if extend:
            raise TrainingError(f"There is nothing to extend in {folder}.")
        return fresh, {}
    state, content = _read(path)
    _check_settings(path, state, fresh, extend)
    if extend and state.decaying and state.settings["epochs"] < fresh.settings["epochs"]:
        path = folder / BEFORE_DECAY
        if not path.exists():
            raise TrainingError(f"{path} is missing: without it this training cannot be prolonged.")
        state, content = _read(path)
    state.settings = fresh.settings
    return state, content


def restore(parts: dict[str, Any], content: dict, folder: Path) -> None:
    """Give each part its state_dict; TrainingError if one does not fit."""
    try:
        for name, part in parts.items():
            if name != "scaler" or name in content:  # only a training in float16 has one
                part.load_state_dict(content[name])
    except (KeyError, ValueError, RuntimeError) as error:
        path = folder / CHECKPOINT
        raise TrainingError(f"{path} belongs to another network: delete it to start anew.") from error


def _read(path: Path) -> tuple[TrainState, dict]:
    try:
        # Through the CPU: each part moves what it gets to its own device.
        content = torch.load(path, map_location="cpu", weights_only=True)
        return TrainState(**content.pop("state")), content
    except TypeError as error:
        raise TrainingError(f"{path} is of another version of this program: start anew.") from error
    except Exception as error:
        raise TrainingError(
            f"{path} is damaged: delete it to start anew ({type(error).__name__})."
        ) from error


def _check_settings(path: Path, state: TrainState, fresh: TrainState, extend: bool) -> None:
    for name in [*fresh.settings, *(state.settings.keys() - fresh.settings.keys())]:
        old, new = (settings.get(name) for settings in (state.settings, fresh.settings))
        if old == new or (extend and name == "epochs" and new > old):
            continue
        if extend and name == "epochs":
            raise TrainingError(f"{path} is of {old} epochs: name more to extend it, not {new}.")
        more = " (to prolong it, extend it)" if name == "epochs" else ""
        raise TrainingError(
            f"{path} was made with {name} {_shown(old, new)}, this training has {_shown(new, old)}: "
            f"use the same settings to resume{more}."
        )
    if extend and state.settings["lr_decay"] == 1:
        raise TrainingError(f"{path} cannot be extended: its learning rate fell from the start (lr_decay 1).")


def _shown(value: object, other: object) -> str:
    """A value in a sentence; of a long list the first place where it differs from the other."""
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        place = next(
            (k for k, pair in enumerate(zip(value, other, strict=False)) if pair[0] != pair[1]), len(other)
        )
        return f"{value[place]!r} in place {place}" if place < len(value) else f"{len(value)} of them"
    return f"{value!r}"
