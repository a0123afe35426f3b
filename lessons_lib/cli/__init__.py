"""The command line: python -m lessons_lib train | sample | evaluate | counterfactual | check-machine

Here are the commands, and the one place that turns a user's error into a sentence. What a command does stands
in the module of its name, loaded only when it runs: torch takes seconds to load, and --help should not.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable

import typer
from typer.core import TyperGroup

from lessons_lib.cli import options as o
from lessons_lib.cli import processes
from lessons_lib.memory import keep_freed_memory

PROGRAM = "python -m lessons_lib"
USER_ERROR = 2  # the exit status, as for a wrong option
# Options of sample and evaluate that are fields of a GenerationRequest.
REQUESTED = (
    "guidance", "guidance_scale", "classifier", "interval", "sampler", "steps", "spacing", "seed", "precision"
)  # fmt: skip


class _Commands(TyperGroup):
    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # of which typer would make an exit status without a word
            raise typer.Abort from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _program() -> None:
    """Steering Diffusion: train a small diffusion model, draw with it, measure it."""


@app.command()
def train(
    dataset: o.Source,
    model: o.Model = "all",
    epochs: o.Epochs = None,
    batch_size: o.TrainBatchSize = None,
    accumulation_steps: o.AccumulationSteps = None,
    lr: o.LearningRate = None,
    timesteps: o.Timesteps = 1000,
    schedule: o.Schedule = None,
    loss: o.Loss = None,
    p_uncond: o.PUncond = None,
    t_density: o.TDensity = None,
    loss_weight: o.LossWeight = None,
    dropout: o.Dropout = None,
    told_augment: o.ToldAugment = False,
    device: o.Device = "auto",
    precision: o.TrainPrecision = "auto",
    ema_decay: o.EmaDecay = None,
    ema_sigma_rel: o.EmaSigmaRel = None,
    lr_decay: o.LrDecay = None,
    sample_every: o.SampleEvery = None,
    keep_epochs: o.KeepEpochs = False,
    output_dir: o.OutputDir = None,
    resume: o.Resume = False,
    extend: o.Extend = False,
    start: o.Start = None,
    seed: o.TrainSeed = None,
    max_seconds: o.MaxSeconds = None,
    image_size: o.ImageSize = None,
    channels: o.Channels = None,
    strict: o.Strict = False,
    flip: o.Flip = None,
    attribute: o.Attribute = None,
    fraction: o.Fraction = None,
) -> None:
    """Train the models of a data set; several GPUs: accelerate launch -m lessons_lib train …"""
    given = dict(locals())
    from lessons_lib.cli import training

    parts = ({name: given[name] for name in names} for names in (training.CHANGES, training.OPTIONS))
    pictures = {name: given[name] for name in training.BELONGS}
    training.run(dataset, model, *parts, output_dir, resume, pictures, start, extend)


@app.command()
def sample(
    dataset: o.Source,
    out: o.Out,
    labels: o.Labels = "all",
    num_per_label: o.NumPerLabel = 1,
    guidance: o.Guidance = "cfg",
    guidance_scale: o.Scale = None,
    classifier: o.Classifier = None,
    interval: o.Interval = None,
    sampler: o.Sampler = None,
    steps: o.Steps = None,
    spacing: o.Spacing = None,
    seed: o.Seed = 0,
    weights: o.Weights = None,
    individual: o.Individual = None,
    batch_size: o.BatchSize = 100,
    device: o.Device = "auto",
    precision: o.NetworkPrecision = "float32",
    attribute: o.OneAttribute = None,
    target: o.Target = None,
    num_samples: o.NumFaces = None,
) -> None:
    """Draw images and write them to a file."""
    given = dict(locals())
    from lessons_lib.cli import faces, sampling

    if dataset == "celeba":
        return faces.sample(given)
    faces.refuse(given, ("attribute", "target", "num_samples"))
    wanted = {name: given[name] for name in (*REQUESTED, "device")}
    sampling.run(dataset, weights, labels, num_per_label, wanted, out, individual, batch_size)


FORWARDED = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("evaluate", context_settings=FORWARDED, add_help_option=False)
def evaluate_group(ctx: typer.Context) -> int:
    """Measure drawn images, counterfactuals, or what judges them."""
    from lessons_lib.cli import evaluate as commands

    return commands.app(ctx.args, standalone_mode=False, prog_name=f"{PROGRAM} evaluate")


@app.command("sweep", context_settings=FORWARDED, add_help_option=False)
def sweep_group(ctx: typer.Context) -> int:
    """Measure every combination of lists into a table."""
    from lessons_lib.cli import evaluate as commands

    return commands.sweep_app(ctx.args, standalone_mode=False, prog_name=f"{PROGRAM} sweep")


@app.command("counterfactual")  # its module has this name already
def draw_counterfactual(
    dataset: o.Dataset,
    image: o.Image = None,
    index: o.Index = None,
    source_class: o.SourceClass = None,
    target_class: o.TargetClass = "all",
    method: o.Method = "ddim",
    guidance: o.DecodingGuidance = "cfg",
    guidance_scale: o.Scale = None,
    classifier: o.Classifier = None,
    depth: o.Depth = None,
    steps: o.DecodingSteps = None,
    seed: o.Seed = 0,
    weights: o.Weights = None,
    evaluator_weights: o.EvaluatorWeights = None,
    out: o.Row = None,
    output_dir: o.Folder = None,
    device: o.Device = "auto",
    precision: o.NetworkPrecision = "float32",
    json: o.Json = False,
    attribute: o.OneAttribute = None,
    target: o.Target = None,
) -> None:
    """Draw what an image would look like, had its label been another one, and measure it."""
    given = dict(locals())
    from lessons_lib.cli import counterfactual as command
    from lessons_lib.cli import faces

    if dataset == "celeba":
        return faces.counterfactual(given)
    faces.refuse(given, ("attribute", "target"))
    given["steps"] = 25 if steps is None else steps
    picture = command.Picture(dataset, image, index, source_class)
    names = ("method", "guidance", "guidance_scale", "classifier", "depth", "steps", "seed", "precision")
    wanted = {name: given[name] for name in (*names, "weights")}
    command.run(
        picture, target_class, wanted, command.Outputs(out, output_dir, json), evaluator_weights, device
    )


@app.command()
def check_machine() -> None:
    """Say in ten lines what this machine has, and what to do about what is missing."""
    from lessons_lib.cli import machine

    raise typer.Exit(machine.run())


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit status; a user's error is one sentence on stderr."""
    keep_freed_memory()
    command = functools.partial(app, arguments, standalone_mode=False, prog_name=PROGRAM)
    words = sys.argv[1:] if arguments is None else arguments
    if processes.count() == 1 or words[:1] == ["train"]:  # which keeps its processes together itself
        return _guarded(command)
    if processes.rank():
        processes.leave(_guarded(processes.follow))
    status = 1
    try:
        status = _guarded(lambda: processes.join() or command())
    finally:
        processes.dismiss(status)
    processes.leave(status)


def _guarded(command: Callable[[], object]) -> int:
    try:
        status = command()
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        if not processes.rank():
            print("Stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        processes.say(sentence, is_echo=processes.is_lost_connection(error))
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
    if processes.is_lost_connection(error):
        return "The connection to another process broke: that process says above why it ended."
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
