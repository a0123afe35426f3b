"""Saving and loading trained weights, each with a card that says what they are and where they come from.

Weights are safetensors in half precision; the card is JSON beside them. Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from lessons_lib import __version__
from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.files import write_whole
from lessons_lib.flow_map import FlowMap, FlowMapConfig
from lessons_lib.schedules import SCHEDULES, NoiseSchedule
from lessons_lib.unet import UNet, UNetConfig

WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "assets" / "weights"
ARCHITECTURES = {
    "UNet": (UNet, UNetConfig),
    "Evaluator": (Evaluator, EvaluatorConfig),
    "NoisyClassifier": (NoisyClassifier, NoisyClassifierConfig),
    "FlowMap": (FlowMap, FlowMapConfig),
}


class WeightsError(RuntimeError):
    """Weights that are missing, damaged or of another shape; the message is one sentence for the user."""


def available() -> list[str]:
    """The names of the weights that came with the course."""
    return sorted(path.stem for path in WEIGHTS_DIR.glob("*.safetensors"))


def weights_path(name: str | Path) -> Path:
    """Where weights of that name lie; a path to a .safetensors file is taken as it is."""
    path = Path(name)
    is_path = path.suffix == ".safetensors" or len(path.parts) > 1
    return path if is_path else WEIGHTS_DIR / f"{name}.safetensors"


def save_pretrained(path: str | Path, model: nn.Module, schedule: NoiseSchedule | None, card: dict) -> dict:
    """Write weights to a .safetensors file, and the card to the same name with .json; returns the whole card.

    The card that is given says what no file can: training, data, metrics, defaults. ValueError if a name and
    T cannot rebuild the schedule.
    """
    path = Path(path)
    named = schedule and {"name": schedule.name, "num_timesteps": schedule.num_timesteps}
    is_named = schedule and schedule.name in SCHEDULES
    if schedule and not (is_named and torch.equal(NoiseSchedule.by_name(**named).betas, schedule.betas)):
        own = f"The schedule {schedule.name!r} has betas of its own"
        raise ValueError(f"{own}: a card can only name a standard one.")
    content = save({name: tensor.cpu().contiguous().half() for name, tensor in model.state_dict().items()})
    facts = {
        "name": path.stem, "architecture": type(model).__name__, "config": dataclasses.asdict(model.config),
        "parameters": sum(p.numel() for p in model.parameters()), "schedule": named,
        "sha256": hashlib.sha256(content).hexdigest(), "library_version": __version__,
    }  # fmt: skip
    # The facts win: a card that was read with other weights and is used again must not keep their SHA-256.
    card = facts | card | facts
    write_whole(path, content)
    write_card(path, card)
    return card


def write_card(path: str | Path, card: dict) -> None:
    """Write the card of the weights at `path` (its name with .json)."""
    write_whole(weights_path(path).with_suffix(".json"), json.dumps(card, indent=2) + "\n")


def read_card(name: str | Path) -> dict:
    """The card of weights, by name or path; WeightsError if there are none, or the card is damaged."""
    path = weights_path(name)
    if not path.is_file():
        choice = ", ".join([*available(), "or a path to a .safetensors file"])
        raise WeightsError(f"There are no weights {str(name)!r}: choose one of {choice}.")
    file = path.with_suffix(".json")
    with contextlib.suppress(OSError, ValueError):
        card = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(card, dict) and {"architecture", "config", "schedule", "sha256"} <= card.keys():
            return card
    raise WeightsError(f"The card {file} of these weights is missing or damaged.")


def load_pretrained(
    name: str | Path, device: str | torch.device | None = None
) -> tuple[nn.Module, NoiseSchedule | None, dict]:
    """Weights by name ("mnist-denoiser") or path: (network in eval mode and float32, its schedule, its card).

    On the CPU if no device is given; the schedule is None if it never sees noise. WeightsError if the weights
    are missing, damaged (SHA-256), or of another shape than their card says.
    """
    path, card = weights_path(name), read_card(name)
    content, kept = path.read_bytes(), card["schedule"]
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        damage = "are damaged (their SHA-256 is not the card's)"
        raise WeightsError(f"The weights {path} {damage}: fetch them again.")
    if card["architecture"] not in ARCHITECTURES:
        raise WeightsError(f"The card of {path} names an unknown network {card['architecture']!r}.")
    network, config = ARCHITECTURES[card["architecture"]]
    try:
        model = network(config(**card["config"]))
        model.load_state_dict({key: value.float() for key, value in load(content).items()})
    except (TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"The weights {path} do not have the shapes that their card says.") from error
    try:
        schedule = None if kept is None else NoiseSchedule.by_name(kept["name"], kept["num_timesteps"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"The card of {path} names a noise schedule that cannot be built.") from error
    return model.to(device or "cpu").eval().requires_grad_(False), schedule, card
