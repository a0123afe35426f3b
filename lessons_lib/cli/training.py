"""python -m lessons_lib train: run recipes and show how they go."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import typer

from lessons_lib import recipes
from lessons_lib.cli import PROGRAM, typed_command
from lessons_lib.cli.common import check_dataset, check_writable, progress_bar
from lessons_lib.training import CHECKPOINT, EpochDone, StepDone, Stopped, TrainConfig, TrainingError

MODELS = ("denoiser", "classifier", "clean-classifier", "evaluator")
SEVERAL = {"both": ("denoiser", "classifier"), "all": MODELS}


def run(
    dataset: str, model: str, changes: dict, options: dict, output_dir: Path | None, resume: bool
) -> None:
    """Train one model or all.

    Args:
        changes: fields of TrainConfig; None keeps the recipe's.
        options: fields of DiffusionOptions; None keeps the recipe's.
    """
    check_dataset(dataset)
    wanted = _wanted(dataset, model)
    configs = {
        name: _config(dataset, name, changes, _folder(dataset, name, model, output_dir)) for name in wanted
    }
    for config in configs.values():
        _check_folder(config.output_dir, resume)
    for name, config in configs.items():
        reason = _train(dataset, name, config, _options(dataset, name, options), resume)
        if reason == "interrupted":
            raise typer.Exit(130)  # so that a script does not go on as if all were done


def _wanted(dataset: str, model: str) -> tuple[str, ...]:
    """The models that are meant, of those that this data set has."""
    known = [name for name in MODELS if (dataset, name) in recipes.RECIPES]
    several = {name: parts for name, parts in SEVERAL.items() if set(parts) <= {*known}} | {"all": (*known,)}
    if model not in (*known, *several):
        raise ValueError(f"Unknown model {model!r}: choose one of {', '.join((*known, *several))}.")
    return several.get(model, (model,))


def _options(dataset: str, model: str, options: dict) -> recipes.DiffusionOptions:
    given = {name: value for name, value in options.items() if value is not None}
    return dataclasses.replace(recipes.RECIPES[dataset, model].options, **given)


def _config(dataset: str, model: str, changes: dict, folder: Path) -> TrainConfig:
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(recipes.RECIPES[dataset, model].config, **given, output_dir=folder)


def _folder(dataset: str, model: str, asked: str, output_dir: Path | None) -> Path:
    name = f"{dataset}-{model}"
    if output_dir is None:
        return Path("runs") / name
    return output_dir / name if asked in SEVERAL else output_dir


def _check_folder(folder: Path, resume: bool) -> None:
    check_writable(folder, is_folder=True)
    if not resume and (folder / CHECKPOINT).exists():
        raise TrainingError(
            f"{folder} holds a training already: go on with --resume, or name another --output-dir."
        )


def _train(
    dataset: str, model: str, config: TrainConfig, options: recipes.DiffusionOptions, resume: bool
) -> str:
    """Run one recipe, say what happens, and return why it stopped."""
    is_main = os.environ.get("RANK", "0") == "0"
    # The bar's own estimate knows nothing of --max-seconds: the event's does.
    layout = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    bar = progress_bar(1, f"{dataset} {model}", disable=not is_main, bar_format=layout)
    if is_main and (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        print(f"Training {dataset} {model} with {processes} processes.")
    say = bar.write if is_main else lambda text: None
    reason, average = "", None
    with bar:
        events = recipes.run(dataset, model, config, options, resume=resume, command=typed_command())
        for event in events:
            if isinstance(event, StepDone):
                average = event.loss if average is None else 0.98 * average + 0.02 * event.loss
                _show_step(bar, event, average)
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
    use = {
        "denoiser": f"{PROGRAM} sample {dataset} --weights {path} --out {dataset}.png",
        "evaluator": f"{PROGRAM} evaluate {dataset} --evaluator --evaluator-weights {path}",
    }
    guide = f"{PROGRAM} sample {dataset} --guidance classifier --classifier {path} --out {dataset}.png"
    use |= {"classifier": guide, "clean-classifier": guide}
    return f"The weights are in {path}, their card beside them. To use them:\n  {use[model]}"
