"""Saving and loading trained weights, each with a card that says what they are and where they come from.

Weights are safetensors in half precision; the card is JSON beside them. Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import nn

from lessons_lib import __version__
from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.files import lock, write_whole
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
FACTS = ("architecture", "config", "schedule", "sha256")  # of a card: no one can change them by hand
KINDS = {"name": str, "architecture": str, "sha256": str, "config": dict, "class_names": list}
KINDS |= dict.fromkeys(("defaults", "metrics", "training"), dict)
COMING = ".json.new"  # the card of weights that are being written
PATIENCE = 30  # seconds for another process that writes the same weights


class WeightsError(RuntimeError):
    """Weights that are missing, damaged or of another shape; the message is one sentence for the user."""


def available() -> list[str]:
    """The names of the weights that came with the course."""
    return sorted(path.stem for path in WEIGHTS_DIR.glob("*.safetensors"))


def weights_path(name: str | Path) -> Path:
    """Where weights of that name lie; a path to a .safetensors file is taken as it is."""
    path = Path(os.path.expanduser(name))
    is_path = path.suffix == ".safetensors" or len(path.parts) > 1
    return path if is_path else WEIGHTS_DIR / f"{name}.safetensors"


def save_pretrained(path: str | Path, model: nn.Module, schedule: NoiseSchedule | None, card: dict) -> dict:
    """Write weights to a .safetensors file, and the card to the same name with .json; returns the whole card.

    The card that is given says what no file can: training, data, metrics, defaults. ValueError if a name and
    T cannot rebuild the schedule; WeightsError for numbers that are not finite in half precision.
    """
    path = Path(path)
    named = schedule and {"name": schedule.name, "num_timesteps": schedule.num_timesteps}
    is_named = schedule and schedule.name in SCHEDULES
    if schedule and not (is_named and torch.equal(NoiseSchedule.by_name(**named).betas, schedule.betas)):
        own = f"The schedule {schedule.name!r} has betas of its own"
        raise ValueError(f"{own}: a card can only name a standard one.")
    state = {name: tensor.cpu().contiguous().half() for name, tensor in model.state_dict().items()}
    _check_finite(path, state)
    content = save(state)
    facts = {
        "name": path.stem, "architecture": type(model).__name__, "config": dataclasses.asdict(model.config),
        "parameters": sum(p.numel() for p in model.parameters()), "schedule": named,
        "sha256": hashlib.sha256(content).hexdigest(), "library_version": __version__,
    }  # fmt: skip
    # The facts win: a card that was read with other weights and is used again must not keep their SHA-256.
    card = facts | card | facts
    card["facts_sha256"] = facts_sha256(card)
    with lock(path, PATIENCE):
        # Killed in between, it leaves the new card beside the old one: that counts whose weights are there.
        write_whole(coming := path.with_suffix(COMING), json.dumps(card, indent=2) + "\n")
        try:
            write_whole(path, content)
        except BaseException:
            coming.unlink()
            raise
        with contextlib.suppress(OSError):  # Windows, where somebody reads the old card
            os.replace(coming, path.with_suffix(".json"))
    return card


def _check_finite(path: Path, state: dict[str, torch.Tensor]) -> None:
    if wrong := [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]:
        raise WeightsError(f"The weights {path} hold numbers that are not finite (in {wrong[0]}).")


def facts_sha256(card: dict) -> str:
    """Of what a card says of its weights; 1 and 1.0 are the same number there."""
    numbers = json.loads(json.dumps([card[name] for name in FACTS]), parse_int=float)
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


def write_card(path: str | Path, card: dict) -> None:
    """Write the card of the weights at `path` (its name with .json)."""
    path = weights_path(path)
    write_whole(path.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    path.with_suffix(COMING).unlink(missing_ok=True)


def read_card(name: str | Path) -> dict:
    """The card of weights, by name or path; WeightsError if there are none, or the card is damaged."""
    path = weights_path(name)
    if not path.is_file():
        choice = ", ".join([*available(), "or a path to a .safetensors file"])
        raise WeightsError(f"There are no weights {str(name)!r}: choose one of {choice}.")
    with contextlib.suppress(WeightsError, OSError):
        card = path.with_suffix(COMING).exists() and _read_card(path.with_suffix(COMING))
        if card and card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest():
            return card
    return _read_card(path.with_suffix(".json"))


def _read_card(file: Path) -> dict:
    card = None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        card = json.loads(file.read_text(encoding="utf-8-sig"))  # Windows' editors put a mark before it
    if not isinstance(card, dict) or not {"name", "parameters", *FACTS} <= card.keys():
        raise WeightsError(f"The card {file} of these weights is missing or damaged.")
    wrong = [name for name, kind in KINDS.items() if not isinstance(card.get(name, kind()), kind)]
    if wrong or not all(isinstance(name, str) for name in card.get("class_names", ())):
        name = [*wrong, "class_names"][0]
        raise WeightsError(f"The card {file} was edited: its {name} cannot be {card[name]!r:.50}.")
    if card.get("facts_sha256", facts := facts_sha256(card)) != facts:  # older cards do not have it
        what = "where it says what its weights are (network, schedule, SHA-256)"
        raise WeightsError(f"The card {file} was edited {what}: undo that, or fetch the weights again.")
    return card


def load_pretrained(
    name: str | Path, device: str | torch.device | None = None
) -> tuple[nn.Module, NoiseSchedule | None, dict]:
    """Weights by name ("mnist-denoiser") or path: (network in eval mode and float32, its schedule, its card).

    On the CPU if no device is given; the schedule is None if it never sees noise. WeightsError if the weights
    are missing, damaged (SHA-256), or of another shape than their card says.
    """
    path = weights_path(name)
    for pause in (0, 0.1, 0.5):  # they may be replaced just now
        time.sleep(pause)
        card, content = read_card(name), path.read_bytes()
        if hashlib.sha256(content).hexdigest() == card["sha256"]:
            break
    else:
        damage = "are damaged (their SHA-256 is not the card's)"
        raise WeightsError(f"The weights {path} {damage}: fetch them again.")
    kept = card["schedule"]
    if card["architecture"] not in ARCHITECTURES:
        raise WeightsError(f"The card of {path} names an unknown network {card['architecture']!r}.")
    network, config = ARCHITECTURES[card["architecture"]]
    try:
        model = network(config(**card["config"]))
        model.load_state_dict({key: value.float() for key, value in load(content).items()})
    except Exception as error:  # whatever a network makes of such a config
        raise WeightsError(f"The weights {path} do not have the shapes that their card says.") from error
    try:
        schedule = None if kept is None else NoiseSchedule.by_name(kept["name"], kept["num_timesteps"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"The card of {path} names a noise schedule that cannot be built.") from error
    _check_finite(path, model.state_dict())
    return model.to(device or "cpu").eval().requires_grad_(False), schedule, card
