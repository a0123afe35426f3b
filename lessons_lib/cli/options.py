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
REQUIRED = dataclasses.MISSING
# Options that not every data set has, the kinds that have them, and what is said with the others.
BELONGS = (
    (("attribute", "target", "num_samples", "fraction"), ("celeba",), "belongs to celeba."),
    (("channels", "strict", "flip"), ("folder",), "belongs to folder:PATH, your own pictures."),
    (("image_size",), ("celeba", "folder"), "belongs to celeba or folder:PATH, your own pictures."),
    (
        ("labels", "num_per_label", "source_class", "target_class"),
        ("mnist", "cifar10", "folder"),
        "is for data sets with classes: of celeba name an --attribute and a --target.",
    ),
)


def option(help: str, default: object = None, **how) -> dataclasses.Field:
    """A field of a command's options that no other command has; `how` goes to typer.Option."""
    return dataclasses.field(default=default, metadata={"help": help, **how})


def as_command(function: Callable) -> Callable:
    """A function of one dataclass, `options`, or of nothing, as typer reads it: with its fields."""
    kind = typing.get_type_hints(function).get("options")
    if kind is None:
        return function
    hints = typing.get_type_hints(kind, include_extras=True)
    parameters = dict(inspect.signature(kind).parameters)
    for field in dataclasses.fields(kind):
        hint, how = hints[field.name], dict(field.metadata)
        if hint == float | None:
            how["parser"] = number
        if how:  # made by `option`; else the hint says it all
            flags = [flag(field.name)] if hint is bool else []
            hint = Annotated[hint, Option(*flags, **how)]
        parameters[field.name] = parameters[field.name].replace(annotation=hint)

    @functools.wraps(function)
    def command(**values):
        return function(kind(**values))

    command.__signature__ = inspect.Signature(list(parameters.values()))
    return command


def check_belongs(options: object, dataset: str) -> None:
    """Raise ValueError for an option that was given, but does not belong to the data set."""
    for field in dataclasses.fields(options):
        for names, kinds, sentence in BELONGS:
            is_given = field.name in names and getattr(options, field.name) != field.default
            if is_given and dataset.split(":")[0] not in kinds:
                raise ValueError(f"{flag(field.name)} {sentence}")


def flag(name: str) -> str:
    """What is typed for a field."""
    return f"--{name.replace('_', '-')}"


def number(text: str) -> float:
    """A number as it is typed; --help names an option's value after this function."""
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


Source = Annotated[
    str,
    Argument(
        help="The data set: mnist, cifar10 or celeba; or folder:PATH, your own pictures, with a folder for "
        "each class in PATH, or all in PATH without classes.",
        metavar="DATASET|folder:PATH",
    ),
]
Device = _shared(str, "auto (CUDA if there is one, else cpu), cpu, cuda, mps.")
Seed = _shared(int, "Decides all random numbers.")
Guidance = _shared(
    str,
    "cfg (classifier-free), classifier (of noisy images), classifier-x0 (of clean images, reads the "
    "estimate), or none: the unconditional model, which ignores labels.",
)
Scale = _shared(
    float | None,
    "w of cfg: 0 unconditional, 1 conditional, above 1 amplified; or s of a classifier: 0 unconditional, 1 "
    "Bayes' rule. [default: the card's; 3 for cfg of evaluate counterfactuals]",
    parser=number,
)
Classifier = _shared(
    str | None,
    "What steers with --guidance classifier or classifier-x0: name or path. [default: the denoiser's card's, "
    "or else mnist-noisy-classifier]",
)
Interval = _shared(
    str | None,
    "The scale holds at these timesteps only, both included; outside them w is 1, or s is 0. [default: all]",
    parser=_timesteps,
    metavar="LOW,HIGH",
)
Sampler = _shared(str | None, "ddim, ddpm or dpmpp_2m. [default: the card's]")
Spacing = _shared(
    str | None,
    "Of the timesteps: trailing, leading, linspace or logsnr. [default: trailing; logsnr for dpmpp_2m]",
)
Steps = _shared(
    int | None,
    "Network evaluations an image, 1 to T. [default: the card's; of evaluate counterfactuals 25, of evaluate "
    "celeba 50]",
)
Weights = _shared(
    str | None,
    "Name of shipped weights, or path of a .safetensors. [default: DATASET-denoiser; of folder:PATH, "
    "runs/NAME-denoiser/NAME-denoiser.safetensors with the folder's own name]",
)
BatchSize = _shared(int, "Images drawn at once; changes speed and memory, not the noise.")
NetworkPrecision = _shared(str, "Of the network: float32 or bf16.")
EvaluatorWeights = _shared(str | None, "The judge: name or path. [default: DATASET-evaluator]")
Json = _shared(bool, "Print one JSON object and nothing else.", "--json")
OneAttribute = _shared(
    str | None, "Of celeba: what is asked for, such as Smiling. [default: Smiling of evaluate]"
)
Target = _shared(
    str | None,
    "Of celeba: 1 (yes), 0 (no), or of sample none. [default: 1; of counterfactual what is not read]",
)

Method = _shared(
    str, "ddim (inversion), ddpm (edit-friendly inversion), sdedit or same-noise (ignores the image)."
)
DecodingGuidance = _shared(
    str, "cfg (classifier-free), or classifier (of noisy images, on the unconditional model)."
)
Depth = _shared(int | None, "The timestep that an image is taken back to. [default: T-1]", metavar="T0")
DecodingSteps = _shared(
    int | None, "Of the whole way from T-1; those up to --depth are taken. [default: 25; of celeba 50]"
)
