"""The named trainings: what is trained, on what, how, and what is written.

Into its output folder: checkpoint.pt, losses.json, samples_epoch_NNN.png (denoisers), and at the end the
weights NAME.safetensors with their card NAME.json.
"""

import contextlib
import functools
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lessons_lib import data, weights
from lessons_lib.classifier import EvaluatorConfig, NoisyClassifierConfig, Whitening
from lessons_lib.files import write_whole
from lessons_lib.flow_map import FlowMapConfig
from lessons_lib.images import save_png, to_grid
from lessons_lib.names import refuse
from lessons_lib.pipeline import GenerationRequest, generate_with
from lessons_lib.recipes import losses
from lessons_lib.recipes.losses import noisy_classification_loss as noisy_classification_loss
from lessons_lib.recipes.losses import random_affine, random_crop_and_flip, random_flip
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.training import EpochDone, Event, LossFn, Stopped, TrainConfig, denoising_loss, train
from lessons_lib.training.config import StepDone, TrainingError
from lessons_lib.training.devices import make_accelerator
from lessons_lib.training.distillation import FlowMapLoss
from lessons_lib.unet import UNetConfig

ORIGIN = "start.json"  # of a training that began from given weights: which
DATA_NOTES = {
    "mnist": "MNIST (LeCun, Cortes and Burges), 60,000 training images, unchanged; CC BY-SA 3.0.",
    "digits": "scikit-learn's 1,797 digits (UCI, CC BY 4.0), enlarged from 8×8 to 20×20 and padded to 28×28.",
    "cifar10": "CIFAR-10 (Krizhevsky 2009), 45,000 of its 50,000 training images; no licence is stated.",
    "celeba": "CelebA (Liu et al. 2015), aligned faces, for non-commercial research only:",
    "folder": "own pictures:",  # the images' note says which
}


@dataclass(frozen=True)
class DiffusionOptions:
    """What a training on noisy images needs besides a TrainConfig."""

    schedule: str = "linear"
    timesteps: int = 1000
    loss: str = "mse"  # this and the next two as in denoising_loss
    p_uncond: float = 0.1
    t_density: str = "uniform"
    dropout: float = 0.0  # as in UNetConfig
    sample_every: int = 1  # epochs between grids of samples; 0 never
    keep_epochs: bool = False  # keep the weights of every epoch (epoch_NNN.safetensors), to study a training


@dataclass(frozen=True)
class Recipe:
    """A training with a name: of a denoiser, a flow map, a classifier of noisy images, or an evaluator."""

    name: str  # of the weights it makes
    network: UNetConfig | FlowMapConfig | NoisyClassifierConfig | EvaluatorConfig
    config: TrainConfig
    options: DiffusionOptions = DiffusionOptions()
    augment: Callable | None = None  # varies the images before they are shown, as in train
    defaults: Mapping[str, Any] = field(default_factory=dict)  # what the card proposes to draw with
    noisy: bool = True  # False: a classifier that sees clean images only
    label_smoothing: float = 0.05  # of an evaluator
    teacher: str = ""  # of a flow map: the denoiser that it is distilled from, and begins as
    channels_last: bool = False  # keep a pixel's channels side by side in memory: suits wide convolutions

    @property
    def is_denoiser(self) -> bool:
        return type(self.network) is UNetConfig  # a flow map's config is one, too

    @property
    def schedule(self) -> NoiseSchedule | None:
        """The one that the card names; an evaluator has none."""
        evaluates, options = isinstance(self.network, EvaluatorConfig), self.options
        if self.teacher:  # whose schedule it is
            return NoiseSchedule.by_name(self.network.v_schedule, self.network.v_timesteps)
        return None if evaluates else NoiseSchedule.by_name(options.schedule, options.timesteps)

    def build(self) -> nn.Module:
        """The untrained network: a denoiser as the options want it, with the first weights of config.seed."""
        config, options = self.network, self.options
        if self.is_denoiser:
            config = replace(config, dropout=options.dropout)
            if config.v_schedule:  # which must be the one that it is trained on
                config = replace(config, v_schedule=options.schedule, v_timesteps=options.timesteps)
            elif options.loss == "v-mse":  # whose weight has no bound where an answer of eps says little
                raise ValueError(
                    f"The loss {options.loss} is for a network that answers v, such as denoiser-v."
                )
        kind = {config: network for network, config in weights.ARCHITECTURES.values()}[type(self.network)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            network = kind(self.network)
            if self.is_denoiser:  # a second one: which weights a seed gives counts the numbers of the first
                network = kind(config)
        if self.teacher:
            network.start_from(weights.load_pretrained(self.teacher)[0])
        return network.to(memory_format=torch.channels_last) if self.channels_last else network


# The one recipe of all denoisers that answer v; benchmarks/recipe_bakeoff.py measures its choices.
V_OPTIONS = DiffusionOptions(loss="v-mse", t_density="logit-normal", p_uncond=0.2)
V_TRAINING = TrainConfig(lr=8e-4, lr_decay=0.25, warmup_steps=500, ema_sigma_rel=0.08, checkpoint_every=300)
DIGIT_READING = TrainConfig(batch_size=128, lr=2e-3)
OBJECT_READING = TrainConfig(
    batch_size=128, lr=3e-3, weight_decay=0.05, warmup_steps=700, ema_decay=0.998, checkpoint_every=300
)
SEEING_OBJECTS = {"augment": random_crop_and_flip, "channels_last": True}
# Small enough to train in hours on one CPU core; attention at 8×8 and below.
CIFAR10_UNET = UNetConfig(32, 3, 32, (1, 2, 4, 4), attention_levels=(2,), embedding_channels=256)
# The networks see 64×64 pixels as 32×32 positions, and cost what CIFAR-10's do. DDIM inversion runs on the
# linear schedule, too: the cosine one ends in noise so pure that DDIM's first step divides by almost nothing.
FACES = {"image_size": 64, "in_channels": 3, "num_classes": 40, "patch": 2, "multi_label": True}
FACE_UNET = replace(CIFAR10_UNET, **FACES, refine_channels=16, v_schedule="linear")
FACE_GUIDE = {"classifier": "celeba-classifier"}
FACE_EDIT = {"guidance_scale": 40.0, "depth": 500}
FACE_STEERING = {"guidance_scale": 10.0, "counterfactual": FACE_EDIT}
STEERING = {"guidance_scale": 4.0, "spacing": "logsnr"}
ONE_JUMP = {"guidance_scale": 2.0, "steps": 1}
DDIM_10 = {"guidance_scale": 2.0, "sampler": "ddim", "steps": 10}
# Where a picture has fine detail: DDIM at so few steps loses a third of it.
DPM_25 = {"guidance_scale": 2.0, "sampler": "dpmpp_2m", "steps": 25}

# fmt: off
RECIPES = {
    ("mnist", "denoiser"): Recipe("mnist-denoiser", UNetConfig(), TrainConfig(), defaults=DDIM_10),
    ("mnist", "denoiser-v"): Recipe("mnist-denoiser-v", UNetConfig(v_schedule="linear"),
        replace(V_TRAINING, epochs=11, lr=1e-3), V_OPTIONS, defaults=DDIM_10),
    # An image costs about four times what it costs a denoiser: the targets are drawn, too.
    ("mnist", "flow-map"): Recipe("mnist-flow-map", FlowMapConfig(),
        TrainConfig(epochs=10, lr=7e-4, lr_decay=0.4, warmup_steps=100, ema_sigma_rel=0.06,
            checkpoint_every=100, measure_every=10), defaults=ONE_JUMP, teacher="mnist-denoiser-v"),
    ("mnist", "classifier"): Recipe("mnist-noisy-classifier", NoisyClassifierConfig(),
        replace(DIGIT_READING, epochs=10), defaults=STEERING),
    # Its images are bent; those of the noisy one need not be: none comes twice anyway.
    ("mnist", "clean-classifier"): Recipe("mnist-clean-classifier", NoisyClassifierConfig(),
        replace(DIGIT_READING, epochs=2, ema_decay=0.998), augment=random_affine, noisy=False),
    ("mnist", "evaluator"): Recipe("mnist-evaluator", EvaluatorConfig(),
        replace(DIGIT_READING, epochs=8, ema_decay=0.998), augment=random_affine),
    # The linear schedule is nearly pure noise in its last fifth (Nichol & Dhariwal 2021, fig. 3).
    ("cifar10", "denoiser"): Recipe("cifar10-denoiser",
        replace(CIFAR10_UNET, base_channels=40, v_schedule="cosine"),
        replace(V_TRAINING, epochs=100, measure_every=5), replace(V_OPTIONS, schedule="cosine"), random_flip,
        DPM_25),
    ("cifar10", "evaluator"): Recipe("cifar10-evaluator",
        EvaluatorConfig(32, 3, (64, 256, 256), dropout=0.0, body="whitened", mirror=True),
        replace(OBJECT_READING, epochs=14, lr=4e-3), label_smoothing=0.15, **SEEING_OBJECTS),
    # The second judges: other networks and seeds, which no choice was made by.
    ("mnist", "second-judge"): Recipe("mnist-second-judge", EvaluatorConfig(body="resnet9"),
        TrainConfig(epochs=6, batch_size=128, lr=3e-3, weight_decay=0.05, ema_decay=0.998, seed=1),
        augment=random_affine, channels_last=True),
    ("cifar10", "second-judge"): Recipe("cifar10-second-judge",
        EvaluatorConfig(32, 3, (32, 64, 128, 256), body="resnet9", mirror=True),
        replace(OBJECT_READING, epochs=10, seed=1), **SEEING_OBJECTS),
    # Told the attributes, all, some or none of them.
    ("celeba", "denoiser"): Recipe("celeba-denoiser", replace(FACE_UNET, base_channels=40),
        replace(V_TRAINING, epochs=500, measure_every=25), replace(V_OPTIONS, sample_every=25), random_flip,
        DPM_25 | FACE_GUIDE),
    ("celeba", "classifier"): Recipe("celeba-classifier",
        NoisyClassifierConfig(widths=(32, 64, 128, 128), **FACES),
        TrainConfig(epochs=60, batch_size=128, lr=2e-3, weight_decay=0.05, checkpoint_every=125),
        augment=random_flip, defaults=FACE_STEERING, channels_last=True),
    ("celeba", "evaluator"): Recipe("celeba-evaluator",
        EvaluatorConfig(widths=(32, 64, 128, 256), body="resnet9", mirror=True, **FACES),
        replace(OBJECT_READING, epochs=30, warmup_steps=200, checkpoint_every=125), **SEEING_OBJECTS),
    ("celeba", "second-judge"): Recipe("celeba-second-judge",
        EvaluatorConfig(widths=(32, 64, 128, 128), mirror=True, **FACES),
        replace(OBJECT_READING, epochs=25, lr=2e-3, warmup_steps=200, seed=1, checkpoint_every=500),
        **SEEING_OBJECTS),
}
# fmt: on


def celeba_recipes(image_size: int = 64, num_attributes: int = 40) -> dict[str, Recipe]:
    """CelebA's trainings by model, at another size and with other attributes to read or be told."""
    if image_size % 16 or image_size < 32:
        raise ValueError(f"The image size must be a multiple of 16 from 32 on, got {image_size}.")
    recipes = {model: recipe for (dataset, model), recipe in RECIPES.items() if dataset == "celeba"}
    for model, recipe in recipes.items():
        num_classes = num_attributes if recipe.network.multi_label else 0
        network = replace(recipe.network, image_size=image_size, num_classes=num_classes)
        recipes[model] = replace(recipe, network=network)
    return recipes


def folder_recipes(images: data.ImageSet, name: str, flip: bool = False) -> dict[str, Recipe]:
    """The trainings that own pictures allow: a denoiser, and with two classes or more a judge and a guide.

    `flip` shows the images mirrored, too: right for faces, wrong for digits and letters.
    """
    if not len(images):
        raise data.DataError("No picture is left to train on: add some, or repair those that cannot be read.")
    (count, channels, size, _), num_classes = images.images.shape, len(images.class_names)
    refuse({f"The image size must be a multiple of 4, got {size}.": size % 4})
    training = _training(count, 600_000, lr=8e-4)
    options = replace(V_OPTIONS, schedule="cosine", sample_every=sample_every(training.epochs))
    network = replace(unet_config(size, channels, num_classes), v_schedule="cosine")
    augment = random_flip if flip else None
    denoiser = Recipe(f"{name}-denoiser", network, training, options, augment, DPM_25, channels_last=True)
    if num_classes < 2:
        return {"denoiser": denoiser}
    reading = _training(count, 200_000, lr=2e-3)
    widths = (32, 64, 128) if size <= 32 else (32, 64, 128, 128)
    classifier = Recipe(
        f"{name}-noisy-classifier", NoisyClassifierConfig(size, channels, widths, num_classes), reading,
        DiffusionOptions("cosine"), defaults=STEERING,  # the denoiser's schedule, or it could not steer it
    )  # fmt: skip
    evaluator = Recipe(
        f"{name}-evaluator",
        EvaluatorConfig(size, channels, (32, 64, 128, 256), num_classes, body="resnet9"),
        replace(reading, weight_decay=0.05, ema_decay=0.998),
        augment=random_crop_and_flip if flip else random_affine, channels_last=True,
    )  # fmt: skip
    return {"denoiser": denoiser, "classifier": classifier, "evaluator": evaluator}


def sample_every(epochs: int) -> int:
    """The epochs between grids of samples: about twenty grids in a training, however many epochs it has."""
    return max(1, epochs // 20)


def unet_config(size: int, channels: int, num_classes: int) -> UNetConfig:
    """A U-Net that halves the images down to about 4 pixels a side: 28 and 32 as for MNIST and CIFAR-10."""
    sides = [size]
    while sides[-1] % 2 == 0 and sides[-1] > 4 and len(sides) < 6:
        sides.append(sides[-1] // 2)
    mults = ((1,), (1, 2), (1, 2, 4), (1, 2, 4, 4), (1, 2, 2, 4, 4), (1, 1, 2, 2, 4, 4))[len(sides) - 1]
    # At 16 pixels a side it is too dear on a CPU. The middle, as small as the last level, always has it.
    attention = tuple(level for level, side in enumerate(sides[:-1]) if side <= 8)
    embedding = 128 if channels == 1 and size <= 28 else 256
    return UNetConfig(size, channels, 32, mults, 1, attention, num_classes, embedding_channels=embedding)


def _training(count: int, images_shown: int, lr: float) -> TrainConfig:
    """So many epochs that about `images_shown` are, and of few pictures none more than 2,000 times."""
    epochs, batch_size = min(2000, max(20, images_shown // count)), min(64, count)
    warmup_steps = max(1, min(300, epochs * (count // batch_size) // 10))
    return TrainConfig(epochs, batch_size, lr, warmup_steps=warmup_steps, checkpoint_every=300)


class SamplesDrawn(NamedTuple):
    """A grid of samples was written after an epoch, from the same noise every time."""

    epoch: int
    path: Path


class WeightsSaved(NamedTuple):
    path: Path
    is_new: bool = True  # False: this training had ended before, and its weights and card stay as they are


def load_splits(dataset: str, config: TrainConfig, **how) -> dict[str, data.ImageSet]:
    """The three splits of a data set; `how` goes to `data.load`."""
    # Of several processes on a machine one downloads, and the others find what it brought.
    with make_accelerator(config).local_main_process_first():
        return {split: data.load(dataset, split, **how) for split in data.SPLITS}


def run_recipe(
    recipe: Recipe, load: Callable[[], dict[str, data.ImageSet]], config: TrainConfig,
    options: DiffusionOptions | None = None, *,
    resume: bool = False, extend: bool = False, start: str | Path | None = None, command: str = "",
) -> Iterator[Event | SamplesDrawn | WeightsSaved]:  # fmt: skip
    """Run a recipe with this config, which has an output_dir, and these options; yield what happens.

    `load` gives the images of each split, once the options are known to be good; `resume` and `extend` are
    as in `train`; `start` names weights to train on from; `command` is what the user typed, for the card.
    """
    refuse({"A recipe needs an output_dir to write to.": config.output_dir is None})
    recipe = replace(recipe, config=config, options=options or recipe.options)
    schedule, network = recipe.schedule, recipe.build()
    origin = _start_from(network, start, schedule) if start else None
    history, has_stepped = origin or _origin(config.output_dir), False
    sets = load()
    for layer in network.modules():
        if isinstance(layer, Whitening) and not start:  # else what follows it fits the weights that are there
            layer.fit(sets["train"].batch(torch.arange(min(2000, len(sets["train"]))))[0])
    for event in train(
        network, _loss(recipe, network, schedule), sets["train"], config,
        val_data=sets["val"], test_data=sets["test"], resume=resume, extend=extend,
        settings=_settings(recipe, network, sets["train"]),
        augment=recipe.augment,
    ):  # fmt: skip
        yield event
        if (os.environ.get("RANK") or "0") != "0":
            continue
        if origin:  # written once; a resumed training finds it for its card
            write_whole(config.output_dir / ORIGIN, json.dumps(origin, indent=1))
            origin = None
        has_stepped |= isinstance(event, StepDone)
        if isinstance(event, EpochDone) and recipe.is_denoiser:
            yield from _after_epoch(event, recipe, schedule)
        if isinstance(event, Stopped):
            path = config.output_dir / f"{recipe.name}.safetensors"
            card = _card(recipe, sets["train"], event, command, history)
            if is_new := has_stepped or not _is_there(path, card):
                weights.save_pretrained(path, event.ema_model, schedule, card)
            yield WeightsSaved(path, is_new)


def _is_there(path: Path, card: dict) -> bool:
    """Whether whole weights of as long a training lie there: their card may have been measured since."""
    with contextlib.suppress(weights.WeightsError, KeyError):
        _, _, old = weights.load_pretrained(path)
        return old["training"]["images_seen"] == card["training"]["images_seen"]
    return False


def _origin(folder: Path) -> dict | None:
    """The weights that an earlier part of this training began from."""
    file = folder / ORIGIN
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file} is damaged: it says which weights this training began from.") from error


def _start_from(network: nn.Module, name: str | Path, schedule: NoiseSchedule | None) -> dict:
    """Load trained weights into an untrained network; returns what the new card says of them."""
    trained, trained_on, card = weights.load_pretrained(name)
    if type(trained) is not type(network) or trained.config != network.config:
        raise ValueError(f"The weights {str(name)!r} are of another network than this training's.")
    if schedule and not torch.equal(trained_on.betas, schedule.betas):
        schedule = f"the {trained_on.name} schedule, T = {trained_on.num_timesteps}"
        raise ValueError(f"The weights '{name}' were trained with {schedule}: start from them with the same.")
    network.load_state_dict(trained.state_dict())
    history, kept = card.get("training", {}), ("command", "images_seen", "hours", "start")
    origin = {"weights": card["name"], "sha256": card["sha256"]}
    return origin | {key: history[key] for key in kept if key in history}


def _loss(recipe: Recipe, network: nn.Module, schedule: NoiseSchedule | None) -> LossFn:
    options = recipe.options
    if recipe.teacher:
        teacher, _, _ = weights.load_pretrained(recipe.teacher)
        return FlowMapLoss(network, teacher, bf16=recipe.config.precision == "bf16")
    if schedule is None:
        return functools.partial(losses.cross_entropy_loss, smoothing=recipe.label_smoothing)
    if not recipe.is_denoiser:
        return noisy_classification_loss(schedule, timesteps=None if recipe.noisy else ())
    return denoising_loss(
        schedule, options.p_uncond, options.loss, recipe.network.num_classes or None, options.t_density
    )


def _settings(recipe: Recipe, network: nn.Module, images: data.ImageSet) -> dict[str, object]:
    """What a checkpoint must agree with to be resumed, besides the TrainConfig."""
    settings = {"recipe": recipe.name, "data": images.source, "num_images": len(images)}
    settings["class_names"], settings["images_sha256"] = images.class_names, images.fingerprint()
    settings["augment"] = recipe.augment and recipe.augment.__name__
    if recipe.teacher:
        settings["teacher_sha256"] = weights.read_card(recipe.teacher)["sha256"]
    if recipe.schedule:
        settings |= asdict(recipe.options)
        del settings["sample_every"], settings["keep_epochs"]  # what is written on the way
    return settings | {f"network's {name}": value for name, value in asdict(network.config).items()}


def _after_epoch(event: EpochDone, recipe: Recipe, schedule: NoiseSchedule) -> Iterator[SamplesDrawn]:
    """Four samples of each class, from the same noise every time, so that progress shows and luck does not.

    Of more than ten classes, four of each of the first ten; without classes, or untold attributes, sixteen.
    """
    network, options, folder = event.ema_model, recipe.options, recipe.config.output_dir
    if options.sample_every and event.epoch % options.sample_every == 0:
        num_classes = 0 if network.config.multi_label else network.config.num_classes
        labels = tuple(range(min(num_classes, 10) or 4))
        steps = min(max(recipe.defaults["steps"], 25), schedule.num_timesteps)
        request = GenerationRequest(
            labels * 4, guidance="cfg" if num_classes else "none", guidance_scale=1.0,
            sampler=recipe.defaults["sampler"], steps=steps,
        )  # fmt: skip
        *_, step = generate_with(network, schedule, request)
        path = folder / f"samples_epoch_{event.epoch:03d}.png"
        save_png(path, to_grid(step.x_t, columns=len(labels), scale=2))
        yield SamplesDrawn(event.epoch, path)
    if options.keep_epochs:
        path = folder / f"epoch_{event.epoch:03d}.safetensors"
        weights.save_pretrained(path, network, schedule, {"epoch": event.epoch})


def _card(recipe: Recipe, images: data.ImageSet, end: Stopped, command: str, origin: dict | None) -> dict:
    config, defaults = recipe.config, dict(recipe.defaults)
    settings = asdict(config)
    del settings["output_dir"]
    if recipe.is_denoiser:
        settings |= asdict(recipe.options)
        defaults["steps"] = min(defaults["steps"], recipe.options.timesteps)
    hardware = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    if torch.cuda.is_available():
        hardware = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    training = {
        "command": command, "settings": settings,
        "data": " ".join(filter(None, (DATA_NOTES[images.source], images.note))),
        "images_seen": end.step * config.batch_size, "ended": end.reason, "precision": end.precision,
        "ema_length_images": round(end.ema_length * config.batch_size),
        "hours": round(end.seconds / 3600, 2), "hardware": f"{hardware}, torch {torch.__version__}",
        "seed": config.seed,
    }  # fmt: skip
    if recipe.teacher:
        training["teacher"] = {
            "weights": recipe.teacher,
            "sha256": weights.read_card(recipe.teacher)["sha256"],
        }
    if origin:
        training["start"] = origin
    facts = {"training": training, "defaults": defaults, "metrics": {}}
    return {"class_names": list(images.class_names)} | facts
