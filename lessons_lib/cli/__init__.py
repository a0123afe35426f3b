"""The command line: python -m lessons_lib train | sample | evaluate | check-machine

Here are the options, and the one place that turns a user's error into a sentence. What a command does stands
in the module of its name, loaded only when it runs: torch takes seconds to load, and --help should not.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lessons_lib import keep_freed_memory

PROGRAM = "python -m lessons_lib"
USER_ERROR = 2  # the exit status, as for a wrong option

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _program() -> None:
    """Steering Diffusion: train a small diffusion model, draw with it, measure it."""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number.") from None


Dataset = Annotated[str, typer.Argument(help="The data set: mnist.", metavar="DATASET")]
Guidance = Annotated[
    str,
    typer.Option(
        help="cfg (classifier-free guidance), or none: the unconditional model, which ignores labels."
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(
        metavar="W",
        parser=_number,
        help="w of the guidance: 0 unconditional, 1 conditional, above 1 amplified. [default: the card's]",
    ),
]
Sampler = Annotated[str | None, typer.Option(help="ddim or ddpm. [default: the card's]")]
Steps = Annotated[
    int | None, typer.Option(help="Network evaluations an image, 1 to T. [default: the card's]")
]
Weights = Annotated[
    str | None,
    typer.Option(help="Name of shipped weights, or path of a .safetensors. [default: DATASET-denoiser]"),
]
Seed = Annotated[int, typer.Option(help="Decides all noise.")]
BatchSize = Annotated[
    int, typer.Option(help="Images drawn at once; changes speed and memory, not the noise.")
]
Device = Annotated[str, typer.Option(help="auto (CUDA if there is one, else cpu), cpu, cuda, mps.")]
NetworkPrecision = Annotated[str, typer.Option(help="Of the network: float32 or bf16.")]


@app.command()
def train(
    dataset: Dataset,
    model: Annotated[str, typer.Option(help="denoiser, evaluator or all.")] = "all",
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the images. [default: the recipe's]")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step, all processes together.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    timesteps: Annotated[int, typer.Option(help="T of the noise schedule.")] = 1000,
    schedule: Annotated[str, typer.Option(help="linear, cosine or sigmoid.")] = "linear",
    loss: Annotated[str, typer.Option(help="mse or l1.")] = "mse",
    p_uncond: Annotated[
        float, typer.Option(help="Share of labels dropped, for classifier-free guidance.")
    ] = 0.1,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(help="auto (bf16 where the hardware multiplies it), float32, bf16, fp16.")
    ] = "auto",
    ema_decay: Annotated[float | None, typer.Option(help="Of the moving average of the weights.")] = None,
    sample_every: Annotated[int, typer.Option(help="Epochs between grids of samples; 0 never.")] = 1,
    keep_epochs: Annotated[
        bool, typer.Option("--keep-epochs", help="Keep the weights of every epoch.")
    ] = False,
    output_dir: Annotated[
        Path | None, typer.Option(help="With --model all, a folder for each. [default: runs/DATASET-MODEL]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the output folder.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides all random numbers.")] = 0,
    max_seconds: Annotated[float | None, typer.Option(help="Stop by the clock; for each model.")] = None,
) -> None:
    """Train the models of a data set; several GPUs: accelerate launch -m lessons_lib train …"""
    from lessons_lib.cli import training

    changes = {
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "device": device, "precision": precision,
        "ema_decay": ema_decay, "seed": seed, "max_seconds": max_seconds,
    }  # fmt: skip
    options = {
        "timesteps": timesteps, "schedule": schedule, "loss": loss, "p_uncond": p_uncond,
        "sample_every": sample_every, "keep_epochs": keep_epochs,
    }  # fmt: skip
    training.run(dataset, model, changes, options, output_dir, resume)


@app.command()
def sample(
    dataset: Dataset,
    out: Annotated[
        Path,
        typer.Option(
            help="FILE.png (a row a label), .gif (the denoising) or .npz (images in [0, 1], labels)."
        ),
    ],
    labels: Annotated[str, typer.Option(help="Labels with commas between, such as 0,1,2; or all.")] = "all",
    num_per_label: Annotated[int, typer.Option(help="Images of each label.")] = 1,
    guidance: Guidance = "cfg",
    guidance_scale: Scale = None,
    sampler: Sampler = None,
    steps: Steps = None,
    seed: Seed = 0,
    weights: Weights = None,
    individual: Annotated[Path | None, typer.Option(help="A folder that gets one PNG an image too.")] = None,
    batch_size: BatchSize = 100,
    device: Device = "auto",
    precision: NetworkPrecision = "float32",
) -> None:
    """Draw images and write them to a file."""
    from lessons_lib.cli import sampling

    wanted = {
        "guidance": guidance, "guidance_scale": guidance_scale, "sampler": sampler, "steps": steps,
        "seed": seed, "device": device, "precision": precision,
    }  # fmt: skip
    sampling.run(dataset, weights, labels, num_per_label, wanted, out, individual, batch_size)


@app.command()
def evaluate(
    dataset: Dataset,
    guidance: Guidance = "cfg",
    guidance_scale: Scale = None,
    sampler: Sampler = None,
    steps: Steps = None,
    num_samples: Annotated[
        int, typer.Option(help="Images drawn, in the training set's class frequencies.")
    ] = 2000,
    seed: Seed = 0,
    weights: Weights = None,
    evaluator_weights: Annotated[
        str | None, typer.Option(help="The judge: name or path. [default: DATASET-evaluator]")
    ] = None,
    evaluator: Annotated[
        bool, typer.Option("--evaluator", help="Measure the judge itself, on the data set's test images.")
    ] = False,
    card: Annotated[
        bool,
        typer.Option("--card", help="Run the standard evaluations and write them into the weights' card."),
    ] = False,
    batch_size: BatchSize = 100,
    device: Device = "auto",
    precision: NetworkPrecision = "float32",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Draw images and measure them: accuracy by class, feature FID, diversity, seconds an image."""
    from lessons_lib.cli import evaluating

    judge = evaluating.Judge.load(dataset, evaluator_weights, device)
    wanted = {
        "guidance": guidance, "guidance_scale": guidance_scale, "sampler": sampler, "steps": steps,
        "seed": seed, "precision": precision,
    }  # fmt: skip
    if evaluator:
        evaluating.run_evaluator(judge, card, json)
    elif card:
        evaluating.run_card(judge, weights, wanted, batch_size, json)
    else:
        evaluating.run(judge, weights, wanted, num_samples, batch_size, json)


@app.command()
def check_machine() -> None:
    """Say in ten lines what this machine has, and what to do about what is missing."""
    from lessons_lib.cli import machine

    raise typer.Exit(machine.run())


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit status; a user's error is one sentence on stderr."""
    keep_freed_memory()
    try:
        status = app(arguments, standalone_mode=False, prog_name=PROGRAM)
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        print("Stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        rank = int(os.environ.get("RANK", "0"))
        print(f"Process {rank}: {sentence}" if rank else sentence, file=sys.stderr)
        return USER_ERROR


def explain(error: Exception) -> str | None:
    """What to tell the user about an error; None for one that is the library's own fault."""
    if hasattr(error, "format_message"):  # the parser's errors
        return error.format_message() or "A command is missing."
    import torch

    from lessons_lib.data import DataError
    from lessons_lib.files import WriteError
    from lessons_lib.training import TrainingError
    from lessons_lib.weights import WeightsError

    if isinstance(error, DataError | TrainingError | WeightsError | WriteError | ValueError):
        return " ".join(str(error).split())
    out_of_memory = isinstance(error, RuntimeError) and "allocate memory" in str(
        error
    )  # torch's word on a CPU
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or out_of_memory:
        return "The memory is full: use a smaller --batch-size."
    if isinstance(error, OSError):
        return f"{error.filename or 'A file'}: {error.strerror or error}."
    return None


def typed_command() -> str:
    """What the user typed, for the card."""
    return f"{PROGRAM} {shlex.join(sys.argv[1:])}"
