"""python -m lessons_lib train: run recipes and show how they go."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from lessons_lib import data, recipes, training
from lessons_lib.cli import options as o
from lessons_lib.cli import processes
from lessons_lib.cli.common import check_dataset, folder_weights, progress_bar
from lessons_lib.cli.options import PROGRAM, option
from lessons_lib.files import check_writable
from lessons_lib.training import EpochDone, PrecisionChosen, StepDone, Stopped, TrainConfig

MODELS = ("denoiser", "classifier", "clean-classifier", "evaluator")
BY_NAME_ONLY = ("denoiser-v", "second-judge")  # no part of "all": the lessons do without them
FOLDER_MODELS = ("denoiser", "classifier", "evaluator")  # what can be trained on your own pictures
SEVERAL = {"both": ("denoiser", "classifier"), "all": MODELS}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be typed after train; fields of a TrainConfig or of DiffusionOptions have their names."""

    dataset: o.Source
    model: str = option(
        "denoiser, denoiser-v (answers v; of celeba told attributes), classifier, clean-classifier, "
        "evaluator, second-judge, both (denoiser and classifier) or all (but -v and second-judge).",
        "all",
    )
    epochs: int | None = option("Passes over the images. [default: the recipe's]")
    batch_size: int | None = option("Images a step, all processes together.")
    accumulation_steps: int | None = option(
        "Micro-batches that a step is cut into, to save memory. [default: 1]"
    )
    lr: float | None = option("Peak learning rate.")
    timesteps: int = option("T of the noise schedule.", 1000)
    schedule: str | None = option(
        "linear, cosine or sigmoid. [default: linear for mnist and celeba, else cosine]"
    )
    loss: str | None = option("mse, l1, v-mse, min-snr or held-snr. [default: the recipe's]")
    p_uncond: float | None = option(
        "Share of labels dropped, for guidance. [default: 0.2 for denoiser-v, else 0.1]"
    )
    t_density: str | None = option("Of t in training: uniform or logit-normal. [default: the recipe's]")
    loss_weight: str | None = option("none, or learned for each noise level. [default: the recipe's]")
    dropout: float | None = option("Inside the denoiser's blocks, in training.")
    told_augment: bool = option("Of a denoiser: distort the images and tell the network how.", False)
    device: o.Device = "auto"
    precision: str = option("auto (bf16 where the hardware multiplies it), float32, bf16, fp16.", "auto")
    ema_decay: float | None = option("Of the weights' average.")
    ema_sigma_rel: float | None = option(
        "Length of a power law average of the weights, as a share of the training, in place of "
        "--ema-decay. [default: the recipe's]"
    )
    lr_decay: float | None = option(
        "Last share of the training, over which the learning rate falls to 0. [default: the recipe's]"
    )
    sample_every: int | None = option(
        "Epochs between grids of samples; 0 never. [default: 1; 5 for celeba; of your own pictures, 20 grids]"
    )
    keep_epochs: bool = option("Keep the weights of every epoch.", False)
    output_dir: Path | None = option(
        "With --model both or all, the folder of their folders. [default: runs/DATASET-MODEL]"
    )
    resume: bool = option("Go on from the checkpoint in the output folder.", False)
    extend: bool = option(
        "Prolong the training in the output folder to --epochs, from its constant rate.", False
    )
    start: str | None = option(
        "Train on from these weights, a name or path; of the same network.", metavar="WEIGHTS"
    )
    seed: int | None = option("Decides all random numbers. [default: the recipe's]")
    max_seconds: float | None = option("Stop by the clock; for each model.")
    image_size: int | None = option(
        "Of celeba: pixels a side, a multiple of 16. [default: 64] Of your own pictures: a "
        "multiple of 4. [default: the median of their shorter sides, at most 64]",
        metavar="N",
    )
    channels: int | None = option(
        "Of your own pictures: 1 (grey) or 3 (colour). [default: 1 if all are grey, else 3]", metavar="1|3"
    )
    strict: bool = option("Stop at a picture of yours that cannot be read, instead of skipping it.", False)
    flip: bool | None = option(
        "Show your own pictures mirrored, too: right for faces and most things, wrong for digits "
        "and letters. [default: no-flip]"
    )
    attribute: str | None = option(
        "Of celeba: the attributes that the classifier and the evaluator read, such as "
        "Smiling,Eyeglasses. [default: all 40]",
        metavar="NAME[,NAME]",
    )
    fraction: float | None = option("Of celeba: the share of the faces to use. [default: 1]")

    def settings(self, kind: type) -> dict:
        """Those of the options that are fields of `kind`, and were given."""
        values = {field.name: getattr(self, field.name, None) for field in dataclasses.fields(kind)}
        return {name: value for name, value in values.items() if value is not None}


def train(options: Options) -> int | None:
    """Train the models of a data set; several GPUs: accelerate launch -m lessons_lib train …"""
    check_dataset(options.dataset, folders=True)
    o.check_belongs(options, options.dataset)
    _check_together(options)
    chosen, load = _recipes(options)
    configs = {model: _config(options, model, recipe) for model, recipe in chosen.items()}
    for config in configs.values():
        _check_folder(config.output_dir, options.resume or options.extend)
    for model, config in configs.items():
        recipe = chosen[model]
        changes = options.settings(recipes.DiffusionOptions)
        if data.is_folder(options.dataset):  # by the epochs that there will be
            changes = {"sample_every": recipes.sample_every(config.epochs)} | changes
        diffusion = dataclasses.replace(recipe.options, **changes)
        events = recipes.run_recipe(
            recipe, load, config, diffusion, resume=options.resume, extend=options.extend,
            start=options.start, command=f"{PROGRAM} {shlex.join(sys.argv[1:])}",
        )  # fmt: skip
        if _show(options.dataset, model, events) == "interrupted":
            return 130  # so that a script does not go on as if all were done
    return None


def _check_together(options: Options) -> None:
    """Refuse options that exclude each other."""
    if options.told_augment and options.dataset == "mnist":
        raise ValueError("--told-augment mirrors images, which digits may not be.")
    if options.extend and not options.epochs:
        raise ValueError("--extend goes on to more --epochs: name them.")
    if options.ema_decay is not None and options.ema_sigma_rel is not None:
        raise ValueError("--ema-decay and --ema-sigma-rel are two averages: choose one.")
    for name in ("t_density", "loss_weight", "dropout", "told_augment"):
        if getattr(options, name) and not options.model.startswith("denoiser"):
            raise ValueError(f"{o.flag(name)} belongs to a denoiser: name its --model.")
    if options.start and (options.resume or options.extend or options.model in SEVERAL):
        raise ValueError("--start begins one new training: leave out --resume, and name one --model.")


def _models(dataset: str, model: str) -> tuple[str, ...]:
    """The models that are meant, of those that this data set has."""
    known = [name for name in (*MODELS, *BY_NAME_ONLY) if (dataset, name) in recipes.RECIPES]
    if data.is_folder(dataset):
        known = FOLDER_MODELS
    several = {name: parts for name, parts in SEVERAL.items() if set(parts) <= {*known}}
    several["all"] = tuple(name for name in known if name not in BY_NAME_ONLY)
    if model not in (*known, *several):
        raise ValueError(f"Unknown model {model!r}: choose one of {', '.join((*known, *several))}.")
    return several.get(model, (model,))


def _recipes(options: Options) -> tuple[dict[str, recipes.Recipe], Callable[[], dict]]:
    """The recipe of each model, and a function that gives the images of each split."""
    dataset, models = options.dataset, _models(options.dataset, options.model)
    machine = TrainConfig(device=options.device, precision=options.precision)
    load = functools.partial(recipes.load_splits, dataset, machine)
    if dataset == "celeba":  # at the size and with the attributes that are asked for
        size = 64 if options.image_size is None else options.image_size
        names = [name for name in (options.attribute or "").split(",") if name.strip()]
        places = [data.attribute_index(name) for name in names] or range(len(data.ATTRIBUTES))
        known = recipes.celeba_recipes(size, len(places))
        share = 1.0 if options.fraction is None else options.fraction
        return {model: known[model] for model in models}, lambda: {
            split: images.of_attributes(places)
            for split, images in load(image_size=size, fraction=share).items()
        }
    if not data.is_folder(dataset):
        return {model: recipes.RECIPES[dataset, model] for model in models}, load
    sets = load(image_size=options.image_size, channels=options.channels, strict=options.strict)
    known = recipes.folder_recipes(sets["train"], data.short_name(dataset), bool(options.flip))
    if options.model != "all" and (missing := [model for model in models if model not in known]):
        raise ValueError(
            f"--model {missing[0]} needs two class folders or more, and {dataset} has "
            f"{len(sets['train'].class_names) or 'none'}: only --model denoiser can be trained."
        )
    return {model: known[model] for model in models if model in known}, lambda: sets


def _config(options: Options, model: str, recipe: recipes.Recipe) -> TrainConfig:
    short = data.short_name(options.dataset) if data.is_folder(options.dataset) else options.dataset
    folder = Path("runs") if options.output_dir is None else options.output_dir
    if options.output_dir is None or options.model in SEVERAL:
        folder /= f"{short}-{model}"
    changes = options.settings(TrainConfig) | {"output_dir": folder}
    if options.ema_decay is not None:  # in place of the recipe's power law
        changes["ema_sigma_rel"] = None
    return dataclasses.replace(recipe.config, **changes)


def _check_folder(folder: Path, goes_on: bool) -> None:
    check_writable(folder, is_folder=True)
    if not goes_on and (folder / training.CHECKPOINT).exists():
        choice = "go on with --resume, or name another --output-dir"
        raise training.TrainingError(f"{folder} holds a training already: {choice}.")


# -- telling ---------------------------------------------------------------------------------------


def _show(dataset: str, model: str, events: Iterator) -> str:
    """Run one recipe, say what happens, and return why it stopped."""
    is_main = processes.rank() == 0
    # The bar's own estimate knows nothing of --max-seconds: the event's does.
    layout = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    if is_main and (count := processes.count()) > 1:
        print(f"Training {dataset} {model} with {count} processes.")
    bar = progress_bar(1, f"{dataset} {model}", disable=not is_main, bar_format=layout)
    reason, average = "", None
    with bar:
        for event in events:
            if isinstance(event, StepDone):
                average = event.loss if average is None else 0.98 * average + 0.02 * event.loss
                _show_step(bar, event, average)
            elif is_main:
                bar.write(_sentence(dataset, model, event))
            reason = event.reason if isinstance(event, Stopped) else reason
    return reason


def _show_step(bar: tqdm, event: StepDone, average: float) -> None:
    bar.total = event.num_steps
    left = tqdm.format_interval(round(event.seconds_left))
    text = f"epoch {event.epoch}, loss {average:.4f}, {event.images_per_second:.0f} images/s, {left} left"
    bar.set_postfix_str(text, refresh=False)
    bar.update(event.step - bar.n)


def _sentence(dataset: str, model: str, event: object) -> str:
    """What an event that is no step says."""
    match event:
        case PrecisionChosen(precision, seconds):
            times = " and ".join(f"{1000 * s:.0f} ms a step in {name}" for name, s in seconds.items())
            return f"Training in {precision}: measured {times}."
        case EpochDone():
            losses = {"train": event.train_loss, "val": event.val_loss, "test": event.test_loss}
            told = ", ".join(f"{split} {loss:.4f}" for split, loss in losses.items() if loss is not None)
            return f"epoch {event.epoch}: loss {told}"
        case recipes.SamplesDrawn():
            return f"  samples: {event.path}"
        case recipes.WeightsSaved():
            when, command = _use(dataset, model, event.path)
            return f"The weights are in {event.path}, their card beside them. {when}:\n  {command}"
    after = f"after step {event.step}, {event.seconds / 60:.1f} minutes of training"
    if event.reason == "interrupted":
        return f"Stopped by Ctrl-C {after}. The model is kept; the same command with --resume goes on."
    return f"Stopped by the clock {after}." if event.reason == "time" else f"Finished {after}."


def _use(dataset: str, model: str, path: Path) -> tuple[str, str]:
    """A command that works with the weights, and when it does; what guides needs a denoiser."""
    when, words, name = "To use them", ["sample", dataset], dataset
    is_denoiser, is_evaluator = model.startswith("denoiser"), model in ("evaluator", "second-judge")
    if data.is_folder(dataset):
        name, default = data.short_name(dataset), folder_weights(dataset)
        beside = path.parent.parent / default.parent.name / default.name
        denoiser = path if is_denoiser else beside if beside.exists() else default
        words += [] if denoiser == default else ["--weights", str(denoiser)]
        if not denoiser.exists():
            when = f"To use them, once --model denoiser has made {denoiser}"
    elif is_denoiser:
        words += ["--weights", str(path)]
    elif is_evaluator:
        return when, f"{PROGRAM} evaluate evaluator {dataset} --evaluator-weights {path}"
    if not is_denoiser:
        words += ["--guidance", "classifier-x0" if is_evaluator else "classifier", "--classifier", str(path)]
    return when, f"{PROGRAM} {shlex.join([*words, '--out', f'{name}.png'])}"
