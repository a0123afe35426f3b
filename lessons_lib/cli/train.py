"""python -m lessons_lib train: run recipes and show how they go."""

import dataclasses
import functools
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lessons_lib import data, recipes, training
from lessons_lib.cli import options as o
from lessons_lib.cli import processes
from lessons_lib.cli.common import check_dataset, folder_weights, progress_bar
from lessons_lib.files import check_writable
from lessons_lib.names import check_choice, refuse
from lessons_lib.training import EpochDone, PrecisionChosen, StepDone, Stopped, TrainConfig

MODELS = ("denoiser", "classifier", "clean-classifier", "evaluator")
BY_NAME_ONLY = ("denoiser-v", "flow-map", "second-judge")  # no part of "all": the lessons do without them
STATUS = {"interrupted": 130, "terminated": 143}  # 128 and the signal's number
FOLDER_MODELS = ("denoiser", "classifier", "evaluator")  # what can be trained on your own pictures


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be typed after train; fields of a TrainConfig or of DiffusionOptions have their names."""

    dataset: o.Source
    model: str = o.option(
        "denoiser, classifier, clean-classifier, evaluator, or all; denoiser-v, flow-map, second-judge.",
        "all",
    )
    epochs: int | None = o.option("Passes over the images.")
    batch_size: int | None = o.option("Images a step, all processes together.")
    accumulation_steps: int | None = o.option("Micro-batches that a step is cut into, to save memory.")
    lr: float | None = o.option("Peak learning rate.")
    timesteps: int = o.option("T of the noise schedule.", 1000)
    schedule: str | None = o.option("linear, cosine or sigmoid.")
    loss: str | None = o.option("mse or v-mse.")
    p_uncond: float | None = o.option("Share of labels dropped, for guidance.")
    t_density: str | None = o.option("Of t in training: uniform or logit-normal.")
    dropout: float | None = o.option("Inside the denoiser's blocks, in training.")
    device: o.Device = "auto"
    precision: str = o.option("auto (bf16 where the hardware multiplies it), float32, bf16, fp16.", "auto")
    ema_decay: float | None = o.option("Of the weights' average.")
    ema_sigma_rel: float | None = o.option("In its place: a power law's length, as a share of the training.")
    lr_decay: float | None = o.option("Last share of the training, over which the learning rate falls to 0.")
    sample_every: int | None = o.option("Epochs between grids of samples; 0 never.")
    measure_every: int | None = o.option("Epochs between losses on validation and test images.")
    checkpoint_every: int | None = o.option("Steps between checkpoints.")
    keep_epochs: bool = o.option("Keep the weights of every epoch.", False)
    output_dir: Path | None = o.option("With all, a folder of folders. [default: runs/DATASET-MODEL]")
    resume: bool = o.option("Go on from the checkpoint in the output folder.", False)
    extend: bool = o.option("Go on to more --epochs, from the end of the constant learning rate.", False)
    start: str | None = o.option("Train on from these weights of the same network, a name or path.")
    seed: int | None = o.option("Decides all random numbers.")
    max_seconds: float | None = o.option("Stop by the clock; for each model.")
    image_size: int | None = o.option("Pixels a side. [default: of celeba 64, of your own what suits them]")
    channels: int | None = o.option("Of your own pictures: 1, grey, or 3, colour. [default: what suits them]")
    strict: bool = o.option("Stop at a picture of yours that cannot be read, instead of skipping it.", False)
    flip: bool | None = o.option("Show your own pictures mirrored, too: right for faces, wrong for letters.")
    attribute: str | None = o.option("Of celeba: what is read, such as Smiling,Eyeglasses. [default: all 40]")
    fraction: float = o.option("Of celeba: the share of the faces to use.", 1.0)


def train(options: Options) -> int | None:
    """Train the models of a data set, by a recipe, which decides what is left out.

    With several GPUs: accelerate launch -m lessons_lib train …
    """
    check_dataset(options.dataset, folders=True)
    o.check_belongs(options, options.dataset)
    _check_together(options)
    chosen, load = _recipes(options)
    configs = {model: _config(options, model, recipe) for model, recipe in chosen.items()}
    for config in configs.values():
        check_writable(config.output_dir, is_folder=True)
        if (config.output_dir / training.CHECKPOINT).exists() and not (options.resume or options.extend):
            choice = "go on with --resume, or name another --output-dir"
            raise training.TrainingError(f"{config.output_dir} holds a training already: {choice}.")
    for model, config in configs.items():
        recipe, changes = chosen[model], o.settings(options, recipes.DiffusionOptions)
        if data.is_folder(options.dataset):  # by the epochs that there will be
            changes = {"sample_every": recipes.sample_every(config.epochs)} | changes
        events = recipes.run_recipe(
            recipe, load, config, dataclasses.replace(recipe.options, **changes), resume=options.resume,
            extend=options.extend, start=options.start, command=f"{o.PROGRAM} {shlex.join(sys.argv[1:])}",
        )  # fmt: skip
        if status := STATUS.get(_show(options.dataset, model, events)):
            return status  # so that a script does not go on as if all were done
    return None


def _check_together(options: Options) -> None:
    of_denoisers = {
        f"{o.flag(name)} belongs to a denoiser: name its --model.": getattr(options, name)
        for name in ("t_density", "dropout")
    }
    goes_on, averages = options.resume or options.extend, (options.ema_decay, options.ema_sigma_rel)
    refuse({
        "--extend goes on to more --epochs: name them.": options.extend and not options.epochs,
        "--ema-decay and --ema-sigma-rel are two averages: choose one.": None not in averages,
        **({} if options.model.startswith("denoiser") else of_denoisers),
        "--start begins one new training: leave out --resume, and name one --model.":
            options.start and (goes_on or options.model == "all"),
    })  # fmt: skip


def _models(dataset: str, model: str) -> tuple[str, ...]:
    """The models that are meant, of those that this data set has."""
    known = [name for name in (*MODELS, *BY_NAME_ONLY) if (dataset, name) in recipes.RECIPES]
    if data.is_folder(dataset):
        known = FOLDER_MODELS
    check_choice("model", model, (*known, "all"))
    return tuple(name for name in known if name not in BY_NAME_ONLY) if model == "all" else (model,)


def _recipes(options: Options) -> tuple[dict[str, recipes.Recipe], Callable[[], dict]]:
    """The recipe of each model, and a function that gives the images of each split."""
    dataset, models = options.dataset, _models(options.dataset, options.model)
    names = [name for name in (options.attribute or "").split(",") if name.strip()]
    places = [data.attribute_index(name) for name in names] or range(len(data.ATTRIBUTES))

    @functools.cache
    def load() -> dict[str, data.ImageSet]:
        splits = recipes.load_splits(
            dataset, TrainConfig(device=options.device, precision=options.precision),
            image_size=options.image_size, channels=options.channels, strict=options.strict,
            fraction=options.fraction,
        )  # fmt: skip
        is_faces = dataset == "celeba"
        return {k: images.of_attributes(places) if is_faces else images for k, images in splits.items()}

    known = {model: recipe for (name, model), recipe in recipes.RECIPES.items() if name == dataset}
    if dataset == "celeba":
        known = recipes.celeba_recipes(64 if options.image_size is None else options.image_size, len(places))
    if data.is_folder(dataset):
        known = recipes.folder_recipes(load()["train"], data.short_name(dataset), bool(options.flip))
        if options.model != "all" and (missing := [model for model in models if model not in known]):
            count = len(load()["train"].class_names) or "none"
            needs = f"--model {missing[0]} needs two class folders or more, and {dataset} has {count}"
            raise ValueError(f"{needs}: only --model denoiser can be trained.")
    return {model: known[model] for model in models if model in known}, load


def _config(options: Options, model: str, recipe: recipes.Recipe) -> TrainConfig:
    short = data.short_name(options.dataset) if data.is_folder(options.dataset) else options.dataset
    folder = options.output_dir or Path("runs")
    if options.output_dir is None or options.model == "all":
        folder /= f"{short}-{model}"
    changes = o.settings(options, TrainConfig) | {"output_dir": folder}
    if options.ema_decay is not None:  # in place of the recipe's power law
        changes["ema_sigma_rel"] = None
    return dataclasses.replace(recipe.config, **changes)


def _show(dataset: str, model: str, events: Iterator) -> str:
    """Run one recipe, say what happens, and return why it stopped."""
    is_main, average = processes.rank() == 0, None
    # The bar's own estimate knows nothing of --max-seconds: the event's does.
    layout = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    if is_main and (count := processes.count()) > 1:
        print(f"Training {dataset} {model} with {count} processes.")
    with progress_bar(1, f"{dataset} {model}", disable=not is_main, bar_format=layout) as bar:
        for event in events:
            if isinstance(event, StepDone):
                average = event.loss if average is None else 0.98 * average + 0.02 * event.loss
                left, speed = bar.format_interval(round(event.seconds_left)), event.images_per_second
                text = f"epoch {event.epoch}, loss {average:.4f}, {speed:.0f} images/s, {left} left"
                bar.total = event.num_steps
                bar.set_postfix_str(text, refresh=False)
                bar.update(event.step - bar.n)
            elif is_main:
                bar.write(_sentence(dataset, model, event))
            if isinstance(event, Stopped):
                reason = event.reason
    return reason


def _sentence(dataset: str, model: str, event: object) -> str:
    """What an event that is no step says."""
    match event:
        case PrecisionChosen(precision, seconds):
            times = " and ".join(f"{1000 * s:.0f} ms a step in {name}" for name, s in seconds.items())
            return f"Training in {precision}: measured {times}."
        case EpochDone(epoch, train, val, test):
            losses = {"train": train, "val": val, "test": test}.items()
            means = ", ".join(f"{split} {loss:.4f}" for split, loss in losses if loss is not None)
            return f"epoch {epoch}: loss {means}"
        case recipes.SamplesDrawn(_, path):
            return f"  samples: {path}"
        case recipes.WeightsSaved(path, is_new):
            where = "their card beside them" if is_new else "and nothing was left to do"
            return f"The weights are in {path}, {where}. To use them:\n  {_use(dataset, model, path)}"
    after = f"after step {event.step}, {event.seconds / 60:.1f} minutes of training"
    if event.reason in STATUS:
        what = "Ctrl-C" if event.reason == "interrupted" else "a signal to end"
        return f"Stopped by {what} {after}. The model is kept; the same command with --resume goes on."
    return f"Stopped by the clock {after}." if event.reason == "time" else f"Finished {after}."


def _use(dataset: str, model: str, path: Path) -> str:
    """A command that works with the weights; what guides needs a denoiser, too."""
    is_denoiser, is_judge = model.startswith(("denoiser", "flow")), model in ("evaluator", "second-judge")
    name, words = dataset, ["--weights", str(path)] if is_denoiser else []
    if data.is_folder(dataset):
        name, usual = data.short_name(dataset), folder_weights(dataset)
        beside = path.parent.parent / usual.parent.name / usual.name
        denoiser = path if is_denoiser else beside if beside.exists() else usual
        words = [] if denoiser == usual else ["--weights", str(denoiser)]
    elif is_judge:
        return f"{o.PROGRAM} evaluate evaluator {dataset} --evaluator-weights {path}"
    if not is_denoiser:
        words += ["--guidance", "classifier-x0" if is_judge else "classifier", "--classifier", str(path)]
    return f"{o.PROGRAM} {shlex.join(['sample', dataset, *words, '--out', f'{name}.png'])}"
