"""python -m lessons_lib evaluate | sweep: measure one setting, or every combination into a table."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from lessons_lib import weights as cards
from lessons_lib.cli import common, processes
from lessons_lib.cli import options as o
from lessons_lib.cli.common import check_dataset, make_request, progress_bar, resolve_device
from lessons_lib.counterfactuals import METHODS
from lessons_lib.evaluation import judge as judging
from lessons_lib.evaluation.judge import Judge
from lessons_lib.evaluation.task import KEY, Classes, Counterfactuals, Faces, Request, Task, read_rows, sweep
from lessons_lib.pipeline import BY_CLASSIFIER, CounterfactualRequest, GenerationRequest
from lessons_lib.samplers import SAMPLERS
from lessons_lib.signals import Terminated

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


Dataset = Annotated[str, Argument(help="mnist, cifar10 or celeba.", metavar="DATASET")]
NumSamples = Annotated[int, Option(help="Images drawn; of classes in the training set's frequencies.")]
NumImages = Annotated[int | None, Option("--num-samples", help="Test images. [default: 1000; of sweep 200]")]
Card = Annotated[bool, Option("--card", help="Write the standard evaluations into the weights' card.")]
Scales, Depths, StepCounts = _list("number", float), _list("whole number", int), _list("whole number", int)
Methods, Interventions = _list("method", known=("cfg", *BY_CLASSIFIER)), _list("method", known=METHODS)
Samplers = _list("sampler", known=SAMPLERS)
Table = Annotated[Path, Option("--out", help="FILE.csv, a row each.", metavar="FILE")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of every measurement; a field that a task or a request has too goes there under its name."""

    classifier: o.Classifier = None
    seed: o.Seed = 0
    weights: o.Weights = None
    evaluator_weights: o.EvaluatorWeights = None
    batch_size: o.BatchSize = 100
    device: o.Device = "auto"
    precision: o.NetworkPrecision = "float32"

    def task(self, kind: type[Task], dataset: str) -> Task:
        return kind(
            judge=Judge.load(dataset, self.evaluator_weights, resolve_device(self.device)),
            in_sweep=isinstance(self, Sweep), draw=lambda request, size: common.draw(request, size)[0],
            processes=processes.count(), progress=partial(progress_bar, unit="image"),
            **o.settings(self, kind),
        )  # fmt: skip

    def request(self, task: Task, labels: Sequence[tuple[int]], **others) -> Request:
        """Of one image, by what was typed and the others; two labels ask for a counterfactual."""
        kind = GenerationRequest if len(labels) == 1 else CounterfactualRequest
        named = {"weights": self.weights or f"{task.judge.dataset}-denoiser"} | others
        return make_request(kind, self, **dict(zip(kind.LABELS, labels, strict=True)), **named)


@dataclass(frozen=True, kw_only=True)
class Evaluate(Options):
    guidance_scale: o.Scale = None
    as_json: o.Json = False

    def measure(self, task: Task, request: Request) -> dict:
        plan = task.plan(request)
        task.judge.tell_if_circular([plan.request.classifier])
        document = task.measure(plan)
        print(json.dumps(document) if self.as_json else task.report(document))
        return document


@dataclass(frozen=True, kw_only=True)
class Sweep(Options):
    out: Table

    def fill(self, task: Task, requests: Sequence[Request]) -> None:
        try:
            for line in sweep(task, requests, self.out):
                print(line, flush=True)
        except KeyboardInterrupt as error:
            count = len(read_rows(self.out, (*task.COLUMNS, *KEY)))
            what, status = ("a signal to end", 143) if isinstance(error, Terminated) else ("Ctrl-C", 130)
            print(f"Stopped by {what}: {count} rows are in {self.out}, and the same command goes on.")
            raise typer.Exit(status) from None


@dataclass(frozen=True, kw_only=True)
class _Classes(Options):
    ctx: typer.Context
    interval: o.Interval = None
    spacing: o.Spacing = None
    num_samples: NumSamples = 2000


@dataclass(frozen=True, kw_only=True)
class _EvaluateClasses(_Classes, Evaluate):
    guidance: o.Guidance = "cfg"
    sampler: o.Sampler = None
    steps: o.Steps = None
    card: Card = False


@app.command("mnist")
@app.command("cifar10")
@o.as_command
def evaluate_classes(options: _EvaluateClasses) -> None:
    """Draw images and measure them: accuracy by class, feature FID, diversity, seconds an image."""
    task = options.task(Classes, options.ctx.info_name)
    request = options.request(task, [(0,)])
    common.check_settings(request, task.batch_size)
    if not options.card:
        options.measure(task, request)
        return
    judging.check_card(request.weights, task.judge.dataset, task.judge.reference.source)
    documents = []
    for standard, plan in task.standard(request):
        documents.append(standard.measure(plan))
        if not options.as_json:
            print(standard.report(documents[-1]), end="\n\n", flush=True)
    judging.write_metrics(request.weights, evaluations=documents, **task.promises(request))
    path = cards.weights_path(request.weights).with_suffix(".json")
    print(json.dumps(documents) if options.as_json else f"Written into {path}.")


@dataclass(frozen=True, kw_only=True)
class _SweepClasses(_Classes, Sweep):
    methods: Methods = None
    scales: Scales = "0,0.5,1,2,4,8"
    samplers: Samplers = None
    step_counts: StepCounts = None


@sweep_app.command("mnist")
@sweep_app.command("cifar10")
@o.as_command
def sweep_classes(options: _SweepClasses) -> None:
    """Draw and measure images for each method (cfg and classifier), sampler, number of steps and scale."""
    classifier, task = options.classifier, options.task(Classes, options.ctx.info_name)
    base = options.request(task, [(0,)], classifier=None)
    plan = base.plan()
    methods = options.methods or ("cfg", "classifier")[: 1 if plan.is_flow_map else 2]
    if classifier and not set(methods) & set(BY_CLASSIFIER):
        raise ValueError("--classifier steers nothing here: add classifier or classifier-x0 to --methods.")
    # Named, or a classifier's own spacing would come with it, and the methods could not be compared.
    samplers = options.samplers or (plan.request.sampler,)
    combined = itertools.product(methods, samplers, options.step_counts or (None,), options.scales)
    requests = [
        replace(
            base, guidance=method, guidance_scale=scale, sampler=sampler, steps=steps,
            classifier=classifier if method in BY_CLASSIFIER else None,
        )
        for method, sampler, steps, scale in combined
    ]  # fmt: skip
    for request in requests:
        common.check_settings(request, task.batch_size)
    options.fill(task, requests)


@dataclass(frozen=True, kw_only=True)
class _Faces(Options):
    attribute: o.OneAttribute = "Smiling"
    method: o.Method = "ddim"
    steps: o.DecodingSteps = 25
    num_counterfactuals: int = o.option("How many test faces get a counterfactual.", 300)


@dataclass(frozen=True, kw_only=True)
class _EvaluateFaces(_Faces, Evaluate):
    depth: o.Depth = None
    num_samples: NumSamples = 1000
    card: Card = False


@app.command("celeba")
@o.as_command
def evaluate_faces(options: _EvaluateFaces) -> None:
    """Draw faces with and without an attribute, change real ones, and measure both."""
    task = options.task(Faces, "celeba")
    request = options.request(task, [(0,), (1,)], guidance="classifier")
    common.check_settings(task.drawing(task.plan(request).asked, 1), task.batch_size)
    if options.card:
        judging.check_card(request.weights, "celeba", task.judge.reference.source)
    document = options.measure(task, request)
    if options.card:
        before = cards.read_card(request.weights).get("metrics", {}).get("evaluations", [])
        rows = [row for row in before if isinstance(row, dict)] if isinstance(before, list) else []
        others = [row for row in rows if row.get("attribute") != document["attribute"]]
        judging.write_metrics(request.weights, evaluations=[*others, document])


@dataclass(frozen=True, kw_only=True)
class _SweepFaces(_Faces, Sweep):
    scales: Scales = "0,8,32,64,128"
    depths: Depths = "400,600"


@sweep_app.command("celeba")
@o.as_command
def sweep_faces(options: _SweepFaces) -> None:
    """Measure counterfactuals of the same real faces for each depth and scale."""
    task = options.task(Faces, "celeba")
    base = options.request(task, [(0,), (1,)], guidance="classifier")
    pairs = itertools.product(options.depths, options.scales)
    options.fill(task, [replace(base, depth=depth, guidance_scale=scale) for depth, scale in pairs])


@dataclass(frozen=True, kw_only=True)
class _Digits(Options):
    guidance: o.DecodingGuidance = "cfg"
    steps: o.DecodingSteps = 25
    num_images: NumImages = None
    null_images: int | None = o.option(
        "How many images get ten null interventions, in a sweep one. [default: all; of sweep none]"
    )


@dataclass(frozen=True, kw_only=True)
class _EvaluateDigits(_Digits, Evaluate):
    method: o.Method = "ddim"
    depth: o.Depth = None


@app.command("counterfactuals")
@o.as_command
def evaluate_counterfactuals(options: _EvaluateDigits) -> None:
    """Measure counterfactuals of mnist's test images by their axioms, proximity and minimality."""
    task = options.task(Counterfactuals, "mnist")
    options.measure(task, options.request(task, [(0,), (0,)]))


@dataclass(frozen=True, kw_only=True)
class _SweepDigits(_Digits, Sweep):
    methods: Interventions = "ddim,ddpm,sdedit,same-noise"
    scales: Scales = "1,2,3,4"
    depths: Depths = None


@sweep_app.command("counterfactuals")
@o.as_command
def sweep_counterfactuals(options: _SweepDigits) -> None:
    """Measure counterfactuals of mnist's test images for each method, depth and scale."""
    if options.depths and set(options.methods) == {"same-noise"}:
        raise ValueError("The method 'same-noise' starts from noise alone and takes no --depths.")
    task = options.task(Counterfactuals, "mnist")
    base = options.request(task, [(0,), (0,)])
    combined = itertools.product(options.methods, options.depths or (400, 600, 800, 999), options.scales)
    requests = [
        replace(base, method=method, depth=None if method == "same-noise" else depth, guidance_scale=scale)
        for method, depth, scale in combined
    ]
    options.fill(task, requests)


@app.command("evaluator")
def evaluate_evaluator(
    dataset: Dataset, evaluator_weights: o.EvaluatorWeights = None, card: Card = False,
    device: o.Device = "auto", as_json: o.Json = False,
) -> None:  # fmt: skip
    """Measure the judge itself, on the test images."""
    check_dataset(dataset)
    judge = Judge.load(dataset, evaluator_weights, resolve_device(device))
    document = judging.measure_judge(judge, card)
    print(json.dumps(document) if as_json else judging.report(judge.name, document))


@app.command("timesteps")
def evaluate_timesteps(
    dataset: Dataset, classifier: o.Classifier = None, card: Card = False,
    device: o.Device = "auto", as_json: o.Json = False,
) -> None:  # fmt: skip
    """Measure how well a classifier reads under noise, for each t, on the test images."""
    check_dataset(dataset, ("mnist", "cifar10"))
    name = classifier or f"{dataset}-noisy-classifier"
    document = judging.measure_reading(dataset, name, resolve_device(device), card)
    print(json.dumps(document) if as_json else judging.report(name, document))
