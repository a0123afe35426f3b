"""How a command declares its options; those that several commands share, and which data sets have which."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
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


def as_command(function: Callable) -> Callable:
    """A function of one dataclass, `options`, or of nothing, as typer reads it: with its fields."""
    kind = typing.get_type_hints(function).get("options")
    if kind is None:
        return function
    hints, parameters = typing.get_type_hints(kind, include_extras=True), inspect.signature(kind).parameters
    for field in dataclasses.fields(kind):
        if field.metadata:  # made by `option`; else the hint says it all
            hint = hints[field.name]
            flags = [flag(field.name)] if hint is bool else []  # a bool without --no-…
            parser = {"parser": number} if hint in (float, float | None) else {}
            hints[field.name] = Annotated[hint, Option(*flags, **field.metadata, **parser)]

    @functools.wraps(function)
    def command(**values):
        return function(kind(**values))

    command.__signature__ = inspect.Signature(
        [parameter.replace(annotation=hints[name]) for name, parameter in parameters.items()]
    )
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
    """What is typed for a field."""
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


# -- options of several commands -------------------------------------------------------------------


def _shared(kind: object, help: str, *flags: str, **how) -> object:
    return Annotated[kind, Option(*flags, help=help, **how)]


SOURCE = "mnist, cifar10 or celeba; or folder:PATH, your own pictures, in PATH or a folder for each class."
Source = Annotated[str, Argument(help=SOURCE, metavar="DATASET|folder:PATH")]
Device = _shared(str, "auto (CUDA if there is one, else cpu), cpu, cuda, mps.")
Seed = _shared(int, "Decides all random numbers.")
Guidance = _shared(
    str,
    "cfg (classifier-free), classifier (of noisy images), classifier-x0 (of clean images, reads the "
    "estimate), or none: the unconditional model, which ignores labels.",
)
Scale = _shared(
    float | None,
    "w of cfg, 1 conditional; or s of a classifier, 1 Bayes' rule; 0 is unconditional. [default: the "
    "card's; 3 for cfg of evaluate counterfactuals]",
    parser=number,
)
Classifier = _shared(
    str | None, "What steers, name or path. [default: the denoiser's card's, or mnist-noisy-classifier]"
)
Interval = _shared(
    str | None,
    "The timesteps at which the scale holds, both included; at others w is 1, or s is 0. [default: all]",
    parser=_timesteps,
    metavar="LOW,HIGH",
)
Sampler = _shared(str | None, "ddim, ddpm or dpmpp_2m. [default: the card's]")
Spacing = _shared(
    str | None, "trailing, leading, linspace or logsnr. [default: trailing; logsnr for dpmpp_2m]"
)
Steps = _shared(int | None, "Network evaluations an image, 1 to T. [default: the card's]")
Weights = _shared(
    str | None, "Name, or path of a .safetensors. [default: DATASET-denoiser; of folder:PATH, train's]"
)
BatchSize = _shared(int, "Images drawn at once; changes speed and memory, not the noise.")
NetworkPrecision = _shared(str, "Of the network: float32 or bf16.")
EvaluatorWeights = _shared(str | None, "The judge: name or path. [default: DATASET-evaluator]")
Json = _shared(bool, "Print one JSON object and nothing else.", "--json")
OneAttribute = _shared(str | None, "Of celeba: what is asked for, such as Smiling.")
Target = _shared(
    str | None, "Of celeba: 1, 0, or of sample none. [default: 1; of counterfactual what is not read]"
)
Method = _shared(
    str, "ddim (inversion), ddpm (edit-friendly inversion), sdedit or same-noise (ignores the image)."
)
DecodingGuidance = _shared(str, "cfg, or classifier (of noisy images, on the unconditional model).")
Depth = _shared(int | None, "The timestep that an image is taken back to. [default: T-1]", metavar="T0")
DecodingSteps = _shared(
    int | None, "Of the whole way from T-1; those up to --depth are taken. [default: 25; of celeba 50]"
)
