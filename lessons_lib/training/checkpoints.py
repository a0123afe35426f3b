"""Checkpoints: whole or not at all, and refused in a sentence where they do not fit."""

import io
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from lessons_lib.files import atomic_write
from lessons_lib.training.config import TrainConfig, TrainingError

CHECKPOINT = "checkpoint.pt"
LATER = {"images_sha256", "augment", "teacher_sha256"}  # settings that older checkpoints do not have
BEFORE_DECAY = "before_decay.pt"  # to prolong a training from, once its learning rate has begun to fall


@dataclass
class TrainState:
    """Where a training stands, besides its networks and optimizer; settings say what it is a training of."""

    settings: dict[str, Any]
    precision: str
    device: str
    step: int = 0
    decaying: bool = False  # the learning rate has begun to fall
    loss_sum: float = 0.0  # of the epoch so far
    loss_count: int = 0
    seconds: float = 0.0
    losses: dict[str, list] = field(default_factory=dict)  # the columns of losses.json

    def save(self, path: Path, parts: dict[str, Any]) -> None:
        """Write it and each part's state_dict; WriteError if that fails, and the old file is kept."""
        content = {name: part.state_dict() for name, part in parts.items()}
        with atomic_write(path) as temporary:
            buffer = io.BytesIO()  # writing a file itself, torch.save would not say that the disk is full
            torch.save(content | {"state": asdict(self)}, buffer)
            temporary.write_bytes(buffer.getbuffer())

    def resumed(self, config: TrainConfig, extend: bool) -> tuple[Self, dict]:
        """The kept state, and its parts' state_dicts; this one and none if the run was killed before.

        With `extend` the training may have more epochs than the checkpoint's: if that one's learning rate was
        falling already, it goes on from where the fall began.
        """
        if not config.output_dir:
            raise TrainingError("To resume, output_dir must name the folder of the earlier run.")
        path = config.output_dir / CHECKPOINT
        if extend and not path.exists():
            raise TrainingError(f"There is nothing to extend in {config.output_dir}.")
        if not path.exists():
            return self, {}
        state, content = _read(path)
        _check_settings(path, state.settings, self.settings, extend)
        if extend and state.decaying and state.settings["epochs"] < config.epochs:
            path = config.output_dir / BEFORE_DECAY
            if not path.exists():
                raise TrainingError(f"{path} is missing: without it this training cannot be prolonged.")
            state, content = _read(path)
        state.settings = self.settings
        if config.precision != "auto" or state.device != self.device:  # else what was measured there holds
            state.precision, state.device = self.precision, self.device
        return state, content


def _read(path: Path) -> tuple[TrainState, dict]:
    try:
        # A checkpoint is a zip, and a zip has a checksum of each file in it, which torch does not look at.
        kept = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(kept) as archive:
            if name := archive.testzip():
                raise zipfile.BadZipFile(name)
        kept.seek(0)
        # Through the CPU: each part moves what it gets to its own device.
        content = torch.load(kept, map_location="cpu", weights_only=True)
        return TrainState(**content.pop("state")), content
    except TypeError as error:
        raise TrainingError(f"{path} is of another version of this program: start anew.") from error
    except Exception as error:
        name = type(error).__name__
        raise TrainingError(f"{path} is damaged: delete it to start anew ({name}).") from error


def _check_settings(path: Path, old: dict[str, Any], new: dict[str, Any], extend: bool) -> None:
    for name in new | old:
        before, now = old.get(name), new.get(name)
        if extend and name == "epochs":
            if now < before:
                raise TrainingError(f"{path} is of {before} epochs: name more to extend it, not {now}.")
        elif before != now and not (name in LATER and name not in old):
            hint = " (to prolong it, extend it)" if name == "epochs" else ""
            raise TrainingError(
                f"{path} was made with {name} {_shown(before, now)}, this training has "
                f"{_shown(now, before)}: use the same settings to resume{hint}."
            )
    if extend and old["lr_decay"] == 1:
        raise TrainingError(f"{path} cannot be extended: its learning rate fell from the start (lr_decay 1).")


def _shown(value: object, other: object) -> str:
    """A value in a sentence; of a long list the first place where it differs from the other."""
    if not (isinstance(value, list | tuple) and isinstance(other, list | tuple)):
        return repr(value)
    place = [*(a == b for a, b in zip(value, other, strict=False)), False].index(False)
    return f"{value[place]!r} in place {place}" if place < len(value) else f"{len(value)} of them"
