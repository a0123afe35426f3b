"""python -m lessons_lib train: run recipes and show how they go."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from lessons_lib import data, recipes
from lessons_lib.cli import PROGRAM, processes, typed_command
from lessons_lib.cli.common import check_dataset, folder_weights, progress_bar
from lessons_lib.files import check_writable
from lessons_lib.training import (
    CHECKPOINT,
    EpochDone,
    PrecisionChosen,
    StepDone,
    Stopped,
    TrainConfig,
    TrainingError,
)

MODELS = ("denoiser", "classifier", "clean-classifier", "evaluator")
BY_NAME_ONLY = ("denoiser-v", "second-judge")  # no part of "all": the lessons do without them
OF_FOLDERS = ("denoiser", "classifier", "evaluator")  # what can be trained on your own pictures
# The options that are fields of a TrainConfig, and of DiffusionOptions.
CHANGES = (
    "epochs", "batch_size", "lr", "lr_decay", "device", "precision", "ema_decay", "ema_sigma_rel", "seed",
    "max_seconds", "accumulation_steps",
)  # fmt: skip
OPTIONS = (
    "timesteps", "schedule", "loss", "p_uncond", "t_density", "loss_weight", "dropout", "told_augment",
    "sample_every", "keep_epochs",
)  # fmt: skip
# The options that say which pictures, and what they belong to.
BELONGS = {
    "image_size": ("celeba", "folder"), "channels": ("folder",), "strict": ("folder",), "flip": ("folder",),
    "attribute": ("celeba",), "fraction": ("celeba",),
}  # fmt: skip
SEVERAL = {"both": ("denoiser", "classifier"), "all": MODELS}


def run(
    dataset: str, model: str, changes: dict, options: dict, output_dir: Path | None, resume: bool,
    pictures: dict, start: str | None = None, extend: bool = False,
) -> None:  # fmt: skip
    """Train one model or all.

    Args:
        changes: fields of TrainConfig; None keeps the recipe's.
        options: fields of DiffusionOptions; None keeps the recipe's.
        pictures: of folder:PATH, image_size, channels, strict and flip; of celeba, image_size, attribute and
            fraction.
        start: name or path of weights to train on from.
        extend: prolong what is there to more epochs.
    """
    check_dataset(dataset, folders=True)
    _check_together(dataset, changes, options, model, extend)
    if start and (resume or extend or model in SEVERAL):
        raise ValueError("--start begins one new training: leave out --resume, and name one --model.")
    wanted = _wanted(dataset, model)
    known, load = _recipes(dataset, model, wanted, changes, pictures)
    configs = {
        name: _config(recipe, changes, _folder(dataset, name, model, output_dir))
        for name, recipe in known.items()
    }
    for config in configs.values():
        _check_folder(config.output_dir, resume or extend)
    for name, config in configs.items():
        settings = _options(dataset, name, options, known[name])
        if data.is_folder(dataset) and options["sample_every"] is None:  # for the epochs that are asked for
            settings = dataclasses.replace(settings, sample_every=recipes.sample_every(config.epochs))
        images = load or functools.partial(recipes.load_splits, dataset, config)
        events = recipes.run_recipe(
            known[name], images, config, settings,
            resume=resume, extend=extend, start=start, command=typed_command(),
        )  # fmt: skip
        reason = _train(dataset, name, events)
        if reason == "interrupted":
            raise typer.Exit(130)  # so that a script does not go on as if all were done


def _check_together(dataset: str, changes: dict, options: dict, model: str, extend: bool) -> None:
    """Refuse options that exclude each other."""
    if options["told_augment"] and dataset == "mnist":
        raise ValueError("--told-augment mirrors images, which digits may not be.")
    if extend and not changes["epochs"]:
        raise ValueError("--extend goes on to more --epochs: name them.")
    if changes["ema_decay"] is not None and changes["ema_sigma_rel"] is not None:
        raise ValueError("--ema-decay and --ema-sigma-rel are two averages: choose one.")
    only = [name for name in ("t_density", "loss_weight", "dropout", "told_augment") if options[name]]
    if only and not model.startswith("denoiser"):
        raise ValueError(f"--{only[0].replace('_', '-')} belongs to a denoiser: name its --model.")


def _recipes(
    dataset: str, model: str, wanted: tuple[str, ...], changes: dict, pictures: dict
) -> tuple[dict[str, recipes.Recipe], Callable[[], dict] | None]:
    """The recipe of each model, and a function that gives the images (None: as the data set has them)."""
    kind = "folder" if data.is_folder(dataset) else dataset
    for name, value in pictures.items():
        if kind not in BELONGS[name] and (value or (name == "flip" and value is not None)):
            to = " or ".join({"folder": "folder:PATH, your own pictures"}.get(k, k) for k in BELONGS[name])
            raise ValueError(f"--{name.replace('_', '-')} belongs to {to}.")
    machine = TrainConfig(**{name: changes[name] for name in ("device", "precision")})
    if dataset == "celeba":
        return _of_faces(wanted, machine, pictures)
    if kind != "folder":
        return {name: recipes.RECIPES[dataset, name] for name in wanted}, None
    how = {name: pictures[name] for name in ("image_size", "channels", "strict")}
    sets = recipes.load_splits(dataset, machine, **how)
    found = recipes.folder_recipes(sets["train"], data.short_name(dataset), bool(pictures["flip"]))
    for name in wanted:
        if name not in found and model != "all":
            raise ValueError(
                f"--model {name} needs two class folders or more, and {dataset} has "
                f"{len(sets['train'].class_names) or 'none'}: only --model denoiser can be trained."
            )
    return {name: found[name] for name in wanted if name in found}, lambda: sets


def _of_faces(
    wanted: tuple[str, ...], machine: TrainConfig, pictures: dict
) -> tuple[dict[str, recipes.Recipe], Callable[[], dict]]:
    """CelebA's recipes and images, at the size and with the attributes that are asked for."""
    size = 64 if pictures["image_size"] is None else pictures["image_size"]
    share = 1.0 if pictures["fraction"] is None else pictures["fraction"]
    names = [name for name in (pictures["attribute"] or "").split(",") if name.strip()]
    chosen = [data.attribute_index(name) for name in names] or range(len(data.ATTRIBUTES))
    found = recipes.celeba_recipes(size, len(chosen))
    load = functools.partial(recipes.load_splits, "celeba", machine, image_size=size, fraction=share)
    return {name: found[name] for name in wanted}, lambda: {
        split: images.of_attributes(chosen) for split, images in load().items()
    }


def _wanted(dataset: str, model: str) -> tuple[str, ...]:
    """The models that are meant, of those that this data set has."""
    known = [name for name in (*MODELS, *BY_NAME_ONLY) if (dataset, name) in recipes.RECIPES]
    if data.is_folder(dataset):
        known = OF_FOLDERS
    several = {name: parts for name, parts in SEVERAL.items() if set(parts) <= {*known}}
    several["all"] = tuple(name for name in known if name not in BY_NAME_ONLY)
    if model not in (*known, *several):
        raise ValueError(f"Unknown model {model!r}: choose one of {', '.join((*known, *several))}.")
    return several.get(model, (model,))


def _options(
    dataset: str, model: str, options: dict, recipe: recipes.Recipe | None = None
) -> recipes.DiffusionOptions:
    given = {name: value for name, value in options.items() if value is not None}
    return dataclasses.replace((recipe or recipes.RECIPES[dataset, model]).options, **given)


def _config(recipe: recipes.Recipe, changes: dict, folder: Path) -> TrainConfig:
    given = {name: value for name, value in changes.items() if value is not None}
    if "ema_decay" in given:  # in place of the recipe's power law
        given["ema_sigma_rel"] = None
    return dataclasses.replace(recipe.config, **given, output_dir=folder)


def _folder(dataset: str, model: str, asked: str, output_dir: Path | None) -> Path:
    name = f"{data.short_name(dataset) if data.is_folder(dataset) else dataset}-{model}"
    if output_dir is None:
        return Path("runs") / name
    return output_dir / name if asked in SEVERAL else output_dir


def _check_folder(folder: Path, resume: bool) -> None:
    check_writable(folder, is_folder=True)
    if not resume and (folder / CHECKPOINT).exists():
        raise TrainingError(
            f"{folder} holds a training already: go on with --resume, or name another --output-dir."
        )


def _train(dataset: str, model: str, events: Iterator) -> str:
    """Run one recipe, say what happens, and return why it stopped."""
    is_main = processes.rank() == 0
    # The bar's own estimate knows nothing of --max-seconds: the event's does.
    layout = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    if is_main and (count := processes.count()) > 1:
        print(f"Training {dataset} {model} with {count} processes.")
    bar = progress_bar(1, f"{dataset} {model}", disable=not is_main, bar_format=layout)
    say = bar.write if is_main else lambda text: None
    reason, average = "", None
    with bar:
        for event in events:
            if isinstance(event, StepDone):
                average = event.loss if average is None else 0.98 * average + 0.02 * event.loss
                _show_step(bar, event, average)
            elif isinstance(event, PrecisionChosen):
                times = " and ".join(f"{1000 * s:.0f} ms a step in {p}" for p, s in event.seconds.items())
                say(f"Training in {event.precision}: measured {times}.")
            elif isinstance(event, Stopped):
                reason = event.reason
                say(_ending(event))
            elif isinstance(event, EpochDone):
                say(_epoch_line(event))
            elif isinstance(event, recipes.SamplesDrawn):
                say(f"  samples: {event.path}")
            elif isinstance(event, recipes.WeightsSaved):
                say(_how_to_use(dataset, model, event.path))
    return reason


def _show_step(bar, event: StepDone, average: float) -> None:
    bar.total = event.num_steps
    minutes, seconds = divmod(round(event.seconds_left), 60)
    left = (
        f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes:02}:{seconds:02}"
    )
    text = f"epoch {event.epoch}, loss {average:.4f}, {event.images_per_second:.0f} images/s, {left} left"
    bar.set_postfix_str(text, refresh=False)
    bar.update(event.step - bar.n)


def _epoch_line(event: EpochDone) -> str:
    losses = {"train": event.train_loss, "val": event.val_loss, "test": event.test_loss}
    return f"epoch {event.epoch}: loss " + ", ".join(
        f"{k} {v:.4f}" for k, v in losses.items() if v is not None
    )


def _ending(event: Stopped) -> str:
    after = f"after step {event.step}, {event.seconds / 60:.1f} minutes of training"
    if event.reason == "interrupted":
        return f"Stopped by Ctrl-C {after}. The model is kept; the same command with --resume goes on."
    return f"Stopped by the clock {after}." if event.reason == "time" else f"Finished {after}."


def _how_to_use(dataset: str, model: str, path: Path) -> str:
    if data.is_folder(dataset):
        return f"The weights are in {path}, their card beside them. {_use_of_folder(dataset, model, path)}"
    use = {
        "denoiser": f"{PROGRAM} sample {dataset} --weights {path} --out {dataset}.png",
        "evaluator": f"{PROGRAM} evaluate evaluator {dataset} --evaluator-weights {path}",
    }
    use |= {"denoiser-v": use["denoiser"], "second-judge": use["evaluator"]}
    guide = f"{PROGRAM} sample {dataset} --guidance classifier --classifier {path} --out {dataset}.png"
    use |= {"classifier": guide, "clean-classifier": guide}
    return f"The weights are in {path}, their card beside them. To use them:\n  {use[model]}"


def _use_of_folder(dataset: str, model: str, path: Path) -> str:
    """A command that works with the weights of your own pictures; what guides needs a denoiser."""
    name = data.short_name(dataset)
    beside = path.parent.parent / f"{name}-denoiser" / f"{name}-denoiser.safetensors"
    default = folder_weights(dataset)
    denoiser = path if model == "denoiser" else beside if beside.exists() else default
    words = ["sample", dataset]
    if denoiser != default:
        words += ["--weights", str(denoiser)]
    if model != "denoiser":
        guidance = "classifier" if model == "classifier" else "classifier-x0"
        words += ["--guidance", guidance, "--classifier", str(path)]
    command = f"{PROGRAM} {shlex.join([*words, '--out', f'{name}.png'])}"
    when = "To use them" if denoiser.exists() else f"To use them, once --model denoiser has made {denoiser}"
    return f"{when}:\n  {command}"
