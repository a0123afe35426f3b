"""How a command declares its options; those that several commands share, and which data sets have which."""

import dataclasses
import functools
import inspect
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

PROGRAM = "python -m lessons_lib"
# Options that not every data set has, the kinds that have them, and what is said with the others.
BELONGS = (
    ("attribute target num_samples fraction", "celeba", "belongs to celeba."),
    ("channels strict flip", "folder", "belongs to folder:PATH, your own pictures."),
    ("image_size", "celeba folder", "belongs to celeba or folder:PATH, your own pictures."),
    ("labels num_per_label source_class target_class", "mnist cifar10 folder",
     "is for data sets with classes: of celeba name an --attribute and a --target."),
)  # fmt: skip


def option(help: str, default: object = None, **how) -> dataclasses.Field:
    """A field of a command's options that no other command has; `how` goes to typer.Option."""
    return dataclasses.field(default=default, metadata={"help": help, **how})


def shared(kind: object, help: str, *flags: str, **how) -> object:
    """The hint of an option that several commands have; `how` goes to typer.Option."""
    if kind in (float, float | None):
        how["parser"] = number
    return Annotated[kind, Option(*flags, help=help, **how)]


def as_command(function: Callable) -> Callable:
    """A function of one dataclass, `options`, or of nothing, as typer reads it: with its fields."""
    kind = typing.get_type_hints(function).get("options")
    if kind is None:
        return function
    hints, parameters = typing.get_type_hints(kind, include_extras=True), inspect.signature(kind).parameters
    for field in dataclasses.fields(kind):
        if field.metadata:  # made by `option`; else the hint says it all
            flags = [flag(field.name)] if hints[field.name] is bool else []  # a bool without --no-…
            how = dict(field.metadata)
            hints[field.name] = shared(hints[field.name], how.pop("help"), *flags, **how)

    @functools.wraps(function)
    def command(**values):
        # --out=~/x.png comes with its ~: a shell replaces only one that begins a word.
        given = {k: Path(os.path.expanduser(v)) if isinstance(v, Path) else v for k, v in values.items()}
        return function(kind(**given))

    typed = [parameter.replace(annotation=hints[name]) for name, parameter in parameters.items()]
    command.__signature__ = inspect.Signature(typed)
    return command


def settings(options: object, kind: type) -> dict:
    """Those of a command's options that are fields of `kind`, and were given."""
    values = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def check_belongs(options: object, dataset: str) -> None:
    """Raise ValueError for an option that was given, but does not belong to the data set."""
    for field in dataclasses.fields(options):
        for names, kinds, sentence in BELONGS:
            is_given = field.name in names.split() and getattr(options, field.name) != field.default
            if is_given and dataset.split(":")[0] not in kinds.split():
                raise ValueError(f"{flag(field.name)} {sentence}")


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number.") from None


def _timesteps(text: str) -> tuple[int, int]:
    try:
        low, high = (int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not two timesteps such as 200,800.") from None
    return low, high


SOURCE = "mnist, cifar10 or celeba; or folder:PATH, your own pictures, in PATH or a folder for each class."
Source = Annotated[str, Argument(help=SOURCE, metavar="DATASET|folder:PATH")]
Device = shared(str, "auto (CUDA if there is one, else cpu), cpu, cuda, mps.")
Seed = shared(int, "Decides all random numbers.")
Guidance = shared(str, "cfg, classifier (reads noisy images), classifier-x0 (reads the estimate) or none.")
Scale = shared(float | None, "w of cfg, s of a classifier: 0 unconditional, 1 conditional. [default: card's]")
Classifier = shared(str | None, "What steers: name or path. [default: the card's, or mnist-noisy-classifier]")
Interval = shared(str | None, "LOW,HIGH: at other t w is 1, or s 0. [default: all]", parser=_timesteps)
Sampler = shared(str | None, "ddim, ddpm or dpmpp_2m. [default: the card's]")
Spacing = shared(str | None, "trailing, leading, linspace, logsnr. [default: trailing; of dpmpp_2m logsnr]")
Steps = shared(int | None, "Network evaluations an image, 1 to T. [default: the card's]")
Weights = shared(str | None, "Name, or path of a .safetensors. [default: DATASET-denoiser, or train's]")
BatchSize = shared(int, "Images drawn at once; changes speed and memory, not the noise.")
NetworkPrecision = shared(str, "Of the network: float32 or bf16.")
EvaluatorWeights = shared(str | None, "The judge: name or path. [default: DATASET-evaluator]")
Json = shared(bool, "Print one JSON object and nothing else.", "--json")
OneAttribute = shared(str | None, "Of celeba: what is asked for, such as Smiling.")
Target = shared(str | None, "Of celeba: 1, 0 or none. [default: 1; of counterfactual what is not read]")
Method = shared(str, "ddim or ddpm (edit-friendly) inversion, sdedit, or same-noise (ignores the image).")
DecodingGuidance = shared(str, "cfg, or classifier (of noisy images, on the unconditional model).")
Depth = shared(int | None, "T0, the timestep that an image is taken back to. [default: T-1]")
DecodingSteps = shared(int | None, "From T-1; with --depth fewer are taken. [default: 25]")
