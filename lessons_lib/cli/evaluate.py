"""python -m lessons_lib evaluate | sweep: measure one setting, or every combination into a table."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor
from typer import Argument, Option

from lessons_lib import weights as cards
from lessons_lib.cli import batches, processes
from lessons_lib.cli import options as o
from lessons_lib.cli.common import check_dataset, progress_bar, resolve_device
from lessons_lib.counterfactuals import METHODS
from lessons_lib.evaluation.judge import Judge, measure_judge, measure_reading, report, write_metrics
from lessons_lib.evaluation.task import KEY, Classes, Counterfactuals, Faces, Request, Task, read_rows, sweep
from lessons_lib.pipeline import BY_CLASSIFIER, CounterfactualRequest, GenerationRequest
from lessons_lib.samplers import SAMPLERS

PLAIN = {"no_args_is_help": True, "add_completion": False, "rich_markup_mode": None}
app = typer.Typer(help="Measure drawn images, counterfactuals, or what judges them.", **PLAIN)
sweep_app = typer.Typer(help="Measure every combination of lists into a table.", **PLAIN)


def _list(what: str, read: Callable[[str], object] = str, known: Sequence[str] = ()):
    """An option such as "0,0.5,1": each part read, in order, without repetitions."""

    def parse(text: str) -> tuple:
        parts = [part.strip() for part in text.split(",")]
        for part in parts:
            if known and part not in known:
                raise typer.BadParameter(f"Unknown {what} {part!r}: choose from {', '.join(known)}.")
            try:
                read(part)
            except ValueError:
                raise typer.BadParameter(f"{part!r} is not a {what}.") from None
        return tuple(dict.fromkeys(map(read, parts)))

    text = f"Of {', '.join(known)}." if known else f"Each a {what}, with commas between."
    return Annotated[str, Option(help=text, metavar="LIST", parser=parse)]


DatasetRead = Annotated[str, Argument(help="mnist, cifar10 or celeba.", metavar="DATASET")]
NumSamples = Annotated[int, Option(help="Images drawn; of classes in the training set's frequencies.")]
NumImages = Annotated[int | None, Option("--num-samples", help="Test images. [default: 1000; of sweep 200]")]
NumCounterfactuals = Annotated[int, Option(help="How many test faces get a counterfactual.")]
NULLS_HELP = "How many images get ten null interventions, in a sweep one. [default: all; of sweep none]"
NullImages = Annotated[int | None, Option(help=NULLS_HELP, metavar="N")]
Card = Annotated[bool, Option("--card", help="Write the standard evaluations into the weights' card.")]
Scales, Depths, StepCounts = _list("number", float), _list("whole number", int), _list("whole number", int)
Methods, Interventions = _list("method", known=("cfg", *BY_CLASSIFIER)), _list("method", known=METHODS)
Samplers = _list("sampler", known=SAMPLERS)
Table = Annotated[Path, Option("--out", help="FILE.csv, a row each; FILE.png shows it.", metavar="FILE")]


# -- what the commands have in common --------------------------------------------------------------


def _draw(request: GenerationRequest, batch_size: int) -> Tensor:
    return batches.draw(request, batch_size)[0]


def _task(kind: type[Task], dataset: str, judge_name: str | None, device: str, **options) -> Task:
    judge, bar = Judge.load(dataset, judge_name, resolve_device(device)), partial(progress_bar, unit="image")
    return kind(judge=judge, draw=_draw, processes=processes.count(), progress=bar, **options)


def _measure(task: Task, request: Request, as_json: bool) -> dict:
    """Measure one setting and tell it."""
    plan = task.plan(request)
    task.judge.tell_if_circular([plan.request.classifier])
    document = task.measure(plan)
    print(json.dumps(document) if as_json else task.report(document))
    return document


def _sweep(task: Task, requests: Sequence[Request], out: Path) -> None:
    try:
        for line in sweep(task, requests, out):
            print(line, flush=True)
    except KeyboardInterrupt:
        count = len(read_rows(out, (*task.COLUMNS, *KEY)))
        print(f"Stopped by Ctrl-C: {count} rows are in {out}, and the same command goes on.")
        raise typer.Exit(130) from None


def _check_processes(request: GenerationRequest, batch_size: int) -> None:
    """Refuse, before any work, weights that not all processes have."""
    batches.check_settings(request, batch_size)


# -- evaluate --------------------------------------------------------------------------------------


@app.command("mnist")
@app.command("cifar10")
def evaluate_classes(
    ctx: typer.Context,
    guidance: o.Guidance = "cfg",
    guidance_scale: o.Scale = None,
    classifier: o.Classifier = None,
    interval: o.Interval = None,
    sampler: o.Sampler = None,
    steps: o.Steps = None,
    spacing: o.Spacing = None,
    num_samples: NumSamples = 2000,
    seed: o.Seed = 0,
    weights: o.Weights = None,
    evaluator_weights: o.EvaluatorWeights = None,
    card: Card = False,
    batch_size: o.BatchSize = 100,
    device: o.Device = "auto",
    precision: o.NetworkPrecision = "float32",
    as_json: o.Json = False,
) -> None:
    """Draw images and measure them: accuracy by class, feature FID, diversity, seconds an image."""
    dataset = ctx.info_name
    task = _task(Classes, dataset, evaluator_weights, device, num_samples=num_samples, batch_size=batch_size)
    name = weights or f"{dataset}-denoiser"
    request = GenerationRequest(
        (0,), name, guidance, interval, sampler, spacing, steps, guidance_scale=guidance_scale,
        classifier=classifier, seed=seed, device=task.judge.device, precision=precision,
    )  # fmt: skip
    _check_processes(request, batch_size)
    if not card:
        return _measure(task, request, as_json)
    task.judge.check_card(name)
    documents = []
    for standard, plan in task.standard(request):
        documents.append(standard.measure(plan))
        if not as_json:
            print(standard.report(documents[-1]), end="\n\n", flush=True)
    write_metrics(name, evaluations=documents)
    path = cards.weights_path(name).with_suffix(".json")
    print(json.dumps(documents) if as_json else f"Written into {path}.")


@app.command("celeba")
def evaluate_faces(
    attribute: o.OneAttribute = "Smiling",
    method: o.Method = "ddim",
    guidance_scale: o.Scale = None,
    classifier: o.Classifier = None,
    depth: o.Depth = None,
    steps: o.DecodingSteps = 50,
    num_samples: NumSamples = 1000,
    num_counterfactuals: NumCounterfactuals = 300,
    seed: o.Seed = 0,
    weights: o.Weights = None,
    evaluator_weights: o.EvaluatorWeights = None,
    card: Card = False,
    batch_size: o.BatchSize = 100,
    device: o.Device = "auto",
    precision: o.NetworkPrecision = "float32",
    as_json: o.Json = False,
) -> None:
    """Draw faces with and without an attribute, change real ones, and measure both."""
    task = _task(
        Faces, "celeba", evaluator_weights, device, attribute=attribute, num_samples=num_samples,
        num_counterfactuals=num_counterfactuals, batch_size=batch_size,
    )  # fmt: skip
    name = weights or "celeba-denoiser"
    request = CounterfactualRequest(
        (0,), (1,), name, method, "classifier", depth, steps, guidance_scale=guidance_scale,
        classifier=classifier, seed=seed, device=task.judge.device, precision=precision,
    )  # fmt: skip
    _check_processes(task.drawing(task.plan(request).asked, 1), batch_size)
    if card:
        task.judge.check_card(name)
    document = _measure(task, request, as_json)
    if card:
        before = cards.read_card(name).get("metrics", {}).get("evaluations", [])
        others = [row for row in before if row["attribute"] != document["attribute"]]
        write_metrics(name, evaluations=[*others, document])


@app.command("counterfactuals")
def evaluate_counterfactuals(
    method: o.Method = "ddim",
    guidance: o.DecodingGuidance = "cfg",
    guidance_scale: o.Scale = None,
    classifier: o.Classifier = None,
    depth: o.Depth = None,
    steps: o.DecodingSteps = 25,
    num_samples: NumImages = None,
    null_images: NullImages = None,
    seed: o.Seed = 0,
    weights: o.Weights = None,
    evaluator_weights: o.EvaluatorWeights = None,
    batch_size: o.BatchSize = 100,
    device: o.Device = "auto",
    precision: o.NetworkPrecision = "float32",
    as_json: o.Json = False,
) -> None:
    """Measure counterfactuals of mnist's test images by their axioms, proximity and minimality."""
    counts = {"num_images": num_samples, "null_images": null_images, "batch_size": batch_size}
    task = _task(Counterfactuals, "mnist", evaluator_weights, device, **counts)
    request = CounterfactualRequest(
        (0,), (0,), weights or "mnist-denoiser", method, guidance, depth, steps, classifier=classifier,
        guidance_scale=guidance_scale, seed=seed, device=task.judge.device, precision=precision,
    )  # fmt: skip
    _measure(task, request, as_json)


@app.command("evaluator")
def evaluate_evaluator(
    dataset: DatasetRead,
    evaluator_weights: o.EvaluatorWeights = None,
    card: Card = False,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Measure the judge itself, on the test images."""
    check_dataset(dataset)
    judge = Judge.load(dataset, evaluator_weights, resolve_device(device))
    document = measure_judge(judge, card)
    print(json.dumps(document) if as_json else report(judge.name, document))


@app.command("timesteps")
def evaluate_timesteps(
    dataset: DatasetRead,
    classifier: o.Classifier = None,
    card: Card = False,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Measure how well a classifier reads under noise, for each t, on the test images."""
    check_dataset(dataset, ("mnist", "cifar10"))
    name = classifier or f"{dataset}-noisy-classifier"
    document = measure_reading(dataset, name, resolve_device(device), card)
    print(json.dumps(document) if as_json else report(name, document))


# -- sweep -----------------------------------------------------------------------------------------


@sweep_app.command("mnist")
@sweep_app.command("cifar10")
def sweep_classes(
    ctx: typer.Context,
    out: Table,
    methods: Methods = "cfg,classifier",
    scales: Scales = "0,0.5,1,2,4,8",
    samplers: Samplers = None,
    step_counts: StepCounts = None,
    classifier: o.Classifier = None,
    interval: o.Interval = None,
    spacing: o.Spacing = None,
    num_samples: NumSamples = 2000,
    seed: o.Seed = 0,
    weights: o.Weights = None,
    evaluator_weights: o.EvaluatorWeights = None,
    batch_size: o.BatchSize = 100,
    device: o.Device = "auto",
    precision: o.NetworkPrecision = "float32",
) -> None:
    """Draw and measure images for each method, sampler, number of steps and scale."""
    if classifier and not set(methods) & set(BY_CLASSIFIER):
        raise ValueError("--classifier steers nothing here: add classifier or classifier-x0 to --methods.")
    options = {"in_sweep": True, "num_samples": num_samples, "batch_size": batch_size}
    task = _task(Classes, ctx.info_name, evaluator_weights, device, **options)
    base = GenerationRequest(
        (0,), weights or f"{ctx.info_name}-denoiser", interval=interval, seed=seed, device=task.judge.device,
        precision=precision, spacing=spacing,
    )  # fmt: skip
    # Named, or a classifier's own spacing would come with it, and the methods could not be compared.
    samplers = samplers or (base.plan().request.sampler,)
    combined = itertools.product(methods, samplers, step_counts or (None,), scales)
    requests = [
        dataclasses.replace(
            base, guidance=method, guidance_scale=scale, sampler=sampler, steps=steps,
            classifier=classifier if method in BY_CLASSIFIER else None,
        )
        for method, sampler, steps, scale in combined
    ]  # fmt: skip
    for request in requests:
        _check_processes(request, batch_size)
    _sweep(task, requests, out)


@sweep_app.command("celeba")
def sweep_faces(
    out: Table,
    attribute: o.OneAttribute = "Smiling",
    scales: Scales = "0,8,32,64,128",
    depths: Depths = "400,600",
    method: o.Method = "ddim",
    classifier: o.Classifier = None,
    steps: o.DecodingSteps = 50,
    num_counterfactuals: NumCounterfactuals = 300,
    seed: o.Seed = 0,
    weights: o.Weights = None,
    evaluator_weights: o.EvaluatorWeights = None,
    batch_size: o.BatchSize = 100,
    device: o.Device = "auto",
    precision: o.NetworkPrecision = "float32",
) -> None:
    """Measure counterfactuals of the same real faces for each depth and scale."""
    counts = {"num_counterfactuals": num_counterfactuals, "batch_size": batch_size}
    task = _task(Faces, "celeba", evaluator_weights, device, in_sweep=True, attribute=attribute, **counts)
    requests = [
        CounterfactualRequest(
            (0,), (1,), weights or "celeba-denoiser", method, "classifier", depth, steps,
            guidance_scale=scale, classifier=classifier, seed=seed, device=task.judge.device,
            precision=precision,
        )
        for depth, scale in itertools.product(depths, scales)
    ]  # fmt: skip
    _sweep(task, requests, out)


@sweep_app.command("counterfactuals")
def sweep_counterfactuals(
    out: Table,
    methods: Interventions = "ddim,ddpm,sdedit,same-noise",
    scales: Scales = "1,2,3,4",
    depths: Depths = None,
    guidance: o.DecodingGuidance = "cfg",
    classifier: o.Classifier = None,
    steps: o.DecodingSteps = 25,
    num_samples: NumImages = None,
    null_images: NullImages = None,
    seed: o.Seed = 0,
    weights: o.Weights = None,
    evaluator_weights: o.EvaluatorWeights = None,
    batch_size: o.BatchSize = 100,
    device: o.Device = "auto",
    precision: o.NetworkPrecision = "float32",
) -> None:
    """Measure counterfactuals of mnist's test images for each method, depth and scale."""
    if depths and set(methods) == {"same-noise"}:
        raise ValueError("The method 'same-noise' starts from noise alone and takes no --depths.")
    counts = {"num_images": num_samples, "null_images": null_images, "batch_size": batch_size}
    task = _task(Counterfactuals, "mnist", evaluator_weights, device, in_sweep=True, **counts)
    combined = itertools.product(methods, depths or (400, 600, 800, 999), scales)
    requests = [
        CounterfactualRequest(
            (0,), (0,), weights or "mnist-denoiser", method, guidance,
            None if method == "same-noise" else depth, steps, guidance_scale=scale, classifier=classifier,
            seed=seed, device=task.judge.device, precision=precision,
        )
        for method, depth, scale in combined
    ]  # fmt: skip
    _sweep(task, requests, out)
