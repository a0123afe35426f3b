"""Measure drawn images, counterfactuals and faces: three tasks that go the same way.

`plan` checks a request before any work and fills it in; `measure` gives a document for JSON, which `report`
tells people. A `sweep` writes every document as a row of a table. What is told and written is
in templates over the document: where something was not measured, the line or the cell is left out.
"""

from __future__ import annotations

import csv
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lessons_lib import data, pipeline, weights
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation import axioms, jumps, quality
from lessons_lib.evaluation.judge import Judge, accuracy_lines, command, pictures
from lessons_lib.files import atomic_write, check_writable, lock
from lessons_lib.names import place_of, refuse
from lessons_lib.pipeline import CounterfactualRequest, GenerationRequest
from lessons_lib.samplers import DEFAULT_SPACING

Request = GenerationRequest | CounterfactualRequest
Template = str | tuple | Callable[[dict], str]
# What every card of what draws says: (guidance scale, sampler, steps, samples).
STANDARD = {
    "mnist": ((1.0, "ddim", 50, 2_000), (1.0, "ddim", 25, 10_000), (2.0, "ddim", 25, 2_000),
              (2.0, "ddim", 10, 2_000)),
    "cifar10": ((1.0, "ddpm", 50, 1_000), (3.0, "ddpm", 50, 1_000), (1.0, "ddim", 50, 1_000)),
    "flow-map": ((2.0, None, 1, 2_000), (1.0, None, 2, 2_000), (2.0, None, 2, 2_000), (1.0, None, 1, 2_000)),
}  # fmt: skip
LETTER = {"cfg": "w", "classifier": "s"}  # of a guidance scale
NOISES = 10  # rows of the grid of cells
CFG_SCALE = 3.0  # of counterfactuals
NULLS = (1, 10)
REAL_IMAGES, STORED_IMAGES = 3000, 100  # that distances are held against; whose latents are kept
ANSWERS = {"yes": 1, "no": 0}
KEY = ("command", "weights_sha256")  # of a row of a table: one of other weights is an old one


def fill(template: Template, document: dict) -> str:
    """A template with what stands in the document, parts joined; nothing where one was not measured."""
    if isinstance(template, tuple):
        return "".join(fill(part, document) for part in template)
    try:
        text = template(document) if callable(template) else template.format_map(document)
    except (KeyError, TypeError):
        return ""
    return "" if text == "None" else text


def _settings(request: Request | type[Request], *names: str) -> dict:
    return {name: getattr(request, name) for name in names}


class Plan(NamedTuple):
    """A measurement before any work, checked."""

    asked: Request  # of one image
    request: Request  # the same with its defaults filled in
    command: str  # measures it again
    weights_sha256: str  # of denoiser, classifier and judge, shortened


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """What the measurements of one command have in common; a task adds plan(request) and measure(plan)."""

    judge: Judge
    batch_size: int = 100  # images at once
    in_sweep: bool = False  # whether each measurement is a row of a table, for which less is measured
    # The images [N, C, H, W] in [-1, 1] of a request on the CPU, at most so many at once.
    draw: Callable[[GenerationRequest, int], Tensor] = lambda request, count: torch.cat(
        [pipeline.generate_images(part).cpu() for part in pipeline.in_chunks(request, count)]
    )
    processes: int = 1  # how many those are
    progress: Callable[[int, str], tqdm] = lambda total, what: tqdm(total=total, desc=what, disable=True)

    REPORT: ClassVar[tuple[Template, ...]]  # lines for people
    LINE: ClassVar[Template]  # that a sweep tells of a row
    COLUMNS: ClassVar[dict[str, str]]  # of a sweep's table

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_samples", "num_counterfactuals"):
            if (number := getattr(self, name, 1)) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {number}.")

    def report(self, document: dict) -> str:
        return "\n".join(filter(None, (fill(line, document) for line in self.REPORT)))

    def _planned(self, what: str, asked: Request, request: Request, options: dict) -> Plan:
        usual = _settings(type(asked), "seed", "precision") | {"weights": f"{self.judge.dataset}-denoiser"}
        for name, value in _settings(asked, *usual).items():
            options[name] = None if value == usual[name] else value
        options["evaluator_weights"] = self.judge.named
        shas = [sha for name, sha in self._networks(request).items() if name.endswith("sha256")]
        return Plan(asked, request, command(f"evaluate {what}", options), " ".join(sha[:12] for sha in shas))

    def _networks(self, request: Request) -> dict:
        names = _settings(request, "weights", "classifier").items()
        shas = {f"{what}_sha256": weights.read_card(name)["sha256"] for what, name in names if name}
        return shas | {"evaluator": self.judge.name, "evaluator_sha256": self.judge.sha256}

    def _machine(self) -> dict:
        device = self.judge.device
        named = torch.cuda.get_device_name() if device == "cuda" else device
        return {"batch_size": self.batch_size, "device": named, "threads": torch.get_num_threads()}

    def _quality(self, images: Tensor, labels: Tensor) -> dict:
        """Feature FID beside its floor, and diversity; None where there are too few images."""
        judge, reference, fid = self.judge, self.judge.reference, None
        spread = quality.diversity(judge.model, images, labels, reference.spread)
        if len(images) > 1:
            value = quality.feature_fid(judge.model, reference.statistics, images)
            what = pictures(reference.source)
            fid = {
                "value": round(value, 4), "floor": round(reference.floor, 4),
                "times_floor": round(value / reference.floor, 2), "num_samples": len(images),
                "reference": f"{reference.statistics.count:,} training {what}",
                "floor_images": f"the other {reference.floor_count:,} training {what.split()[0]}",
                "extractor": judge.name, "extractor_sha256": judge.sha256,
            }  # fmt: skip
        return {"fid": fid, "diversity": None if math.isnan(spread) else round(spread, 4)}


# -- drawn images of classes -----------------------------------------------------------------------
@dataclass(frozen=True, eq=False, kw_only=True)
class Classes(Task):
    """Images drawn in the training set's class frequencies: accuracy, feature FID, diversity, seconds."""

    num_samples: int = 2000

    REPORT = (
        "{settings}; {num_samples:,} samples on {device}",
        accuracy_lines,
        "feature FID  {fid[value]:.3f}, {fid[times_floor]:.1f} times the floor ({fid[floor]:.3f})",
        "             {fid[num_samples]:,} samples against {fid[reference]}",
        "             floor: {fid[floor_images]} against them",
        "             features of {fid[extractor]} (SHA-256 {fid[extractor_sha256]:.12}…)",
        "diversity    {diversity:.2f} (1: as far apart within a class as real images)",
        (
            "time         {seconds_per_image:.4f} seconds an image (batches of {batch_size}, {precision}, "
            "{threads} threads",
            lambda document: f" in each of {document['processes']} processes" * (document["processes"] > 1),
            ")",
        ),
    )
    LINE = ("{settings}; read right {accuracy:.1%}", ", feature FID {fid[value]:.3f}",
            ", diversity {diversity:.2f}")  # fmt: skip
    COLUMNS: ClassVar = {
        "method": "{request.guidance}", "classifier": "{request.classifier}",
        "guidance_scale": "{request.guidance_scale}",
        "interval": "{request.interval[0]}-{request.interval[1]}", "sampler": "{request.sampler}",
        "spacing": "{request.spacing}", "steps": "{request.steps}", "num_samples": "{num_samples}",
        "seed": "{request.seed}", "accuracy": "{accuracy[value]}",
        "accuracy_low": "{accuracy[interval_95][0]}", "accuracy_high": "{accuracy[interval_95][1]}",
        "cells_right": "{cells[right]}", "cells": "{cells[total]}", "fid": "{fid[value]}",
        "fid_floor": "{fid[floor]}", "diversity": "{diversity}", "seconds_per_image": "{seconds_per_image}",
    }  # fmt: skip

    def plan(self, request: GenerationRequest) -> Plan:
        resolved = request.plan()
        self.judge.check_classes(str(request.weights), resolved.num_labels)
        filled = resolved.request
        names = ("guidance", "classifier", "guidance_scale", "interval", "sampler", "steps")
        is_usual = filled.spacing == DEFAULT_SPACING[filled.sampler]
        options = _settings(filled, *names) | {"num_samples": self.num_samples}
        options["spacing"] = None if is_usual else filled.spacing
        if filled.guidance == "none":
            options["guidance_scale"] = None
        return self._planned(self.judge.dataset, request, filled, options)

    def measure(self, plan: Plan) -> dict:
        """With guidance "none" there is no label to read right: diversity takes what is read."""
        judge, request = self.judge, plan.request
        labels = quality.labels_by_frequency(self.judge.reference.class_counts, self.num_samples)
        started = time.perf_counter()
        images = self.draw(replace(request, labels=labels.tolist()), self.batch_size)
        seconds = (time.perf_counter() - started) / self.num_samples
        read = quality.predictions(judge.model, images)
        right = None if request.guidance == "none" else quality.Accuracy.of(read, labels)
        document = {
            "command": plan.command, "settings": describe(request), **self._networks(request),
            "num_samples": self.num_samples,
            "accuracy": right and right.as_json(data.CLASS_NAMES[judge.dataset]),
            **self._quality(images, labels if right else read),
            "seconds_per_image": round(seconds, 5), "precision": request.precision,
            **self._machine(), "processes": self.processes,
        }  # fmt: skip
        return document | {"cells": self.cells_right(request).as_json()} if self.in_sweep else document

    def cells_right(self, request: GenerationRequest) -> quality.Share:
        """Of the lessons' grid, NOISES noises each pushed towards every class, how much is read as asked."""
        num_classes = self.judge.num_classes
        labels = torch.arange(num_classes).repeat(NOISES)
        noises = tuple(torch.arange(NOISES).repeat_interleave(num_classes).tolist())
        cells = replace(request, labels=labels.tolist(), sample_indices=noises)
        return quality.accuracy(self.judge.model, self.draw(cells, self.batch_size), labels).overall

    def standard(self, request: GenerationRequest) -> Iterator[tuple[Classes, Plan]]:
        """What a card says: the request at the STANDARD settings."""
        kind = "flow-map" if request.plan().is_flow_map else self.judge.dataset
        for scale, sampler, steps, num_samples in STANDARD[kind]:
            task = replace(self, num_samples=num_samples)
            settings = {"guidance": "cfg", "guidance_scale": scale, "sampler": sampler, "steps": steps}
            yield task, task.plan(replace(request, **settings))

    def promises(self, request: GenerationRequest) -> dict:
        """Of a flow map, for its card: how it composes, how near one call is to 32 steps of its teacher."""
        if not (plan := request.plan()).is_flow_map:
            return {}
        found = {"composition": jumps.composition(plan.network)}
        try:
            teacher = weights.read_card(request.weights)["training"]["teacher"]["weights"]
        except (KeyError, TypeError) as error:
            raise weights.WeightsError(f"The card of {request.weights} does not name its teacher.") from error
        labels = quality.labels_by_frequency(self.judge.reference.class_counts, jumps.DIGITS)
        for scale in (2.0, 1.0):
            own = replace(request, labels=labels.tolist(), guidance_scale=scale, steps=1)
            theirs = replace(own, weights=teacher, sampler="ddim", steps=32)
            drawn = [self.draw(one, self.batch_size) for one in (own, theirs)]
            centred = (x.flatten(1) - x.flatten(1).mean(dim=1, keepdim=True) for x in drawn)
            found[f"agreement_at_w_{scale:g}"] = {
                "with": describe(theirs.plan().request), "num_samples": len(labels),
                "correlation": round(float(torch.cosine_similarity(*centred).mean()), 4),
                "diversity_of_both": [self._quality(x, labels)["diversity"] for x in drawn],
            }  # fmt: skip
        return found


def describe(request: GenerationRequest) -> str:
    """A request with its defaults filled in, in a few words."""
    scale = f"{request.guidance_scale:g}"
    guided = {"none": "no guidance", "cfg": f"cfg, w={scale}"}
    by_classifier = f"{request.guidance} {request.classifier}, s={scale}"
    words = [str(request.weights), guided.get(request.guidance, by_classifier)]
    if request.attribute is not None:
        answers = [name for name, label in ANSWERS.items() if label in request.labels]
        words.append(f"{request.attribute} = {' and '.join(answers)}")
    steps = f"{request.steps} step" + "s" * (request.steps > 1)
    words += [request.sampler, steps] if request.sampler else [steps]
    if request.interval:
        words.append("t from {} to {}".format(*request.interval))
    if request.spacing != DEFAULT_SPACING[request.sampler]:
        words.append(f"{request.spacing} spacing")
    return ", ".join([*words, f"seed {request.seed}"])


# -- counterfactuals of test images ----------------------------------------------------------------
SETTING = ("{method}, {guidance}, ", lambda document: LETTER[document["guidance"]],
           "={guidance_scale:g}", ", depth {depth:d}", ", {steps} steps")  # fmt: skip


def _nulls(document: dict) -> str:
    return "\n".join(
        f"null interventions    off by {mean:.4f} after {n}, {mean['total']:,} images"
        for n, mean in document["composition"].items()
    )


def _matrix(document: dict) -> str:
    """Percent read as the target, a row a source, a column a target."""
    matrix = document["effectiveness"]["matrix"]
    texts = [["–" if share is None else f"{100 * share:.0f}" for share in row] for row in matrix]
    rows = [f"{k:>4}" + "".join(f"{text:>5}" for text in row) for k, row in enumerate(texts)]
    columns = "    " + "".join(f"{k:>5}" for k in range(len(matrix)))
    return "\n".join(["", "read as the target, %: from row to column", columns, *rows])


@dataclass(frozen=True, eq=False, kw_only=True)
class Counterfactuals(Task):
    """How sound are they, by axioms and distances, on test images with one random other label each as target?

    A null intervention (source = target) is decoded as the image was abducted, under its own label at w = 1,
    whatever guidance the others have; a denoiser that knows no labels has no guidance then.
    """

    num_images: int | None = None  # the first test images; None is 1,000, in a sweep 200, or all
    null_images: int | None = None  # get ten null interventions, in a sweep one; None is all, in a sweep none

    REPORT = (
        (*SETTING, ", seed {seed}; {images}"),
        "read as the target    {effectiveness}",
        "L1 to the source      {proximity[l1]:.4f}; in features {proximity[features]:.3f} "
        "(1: two real images of different class)",
        "there and back        read as the source {reversibility[read_as_source]}, "
        "off by {reversibility[error]:.4f}",
        _nulls,
        "real images nearer    {minimality[pixels]:.2%} in pixels, {minimality[features]:.2%} in features",
        "feature FID           {feature_fid:.3f}; the originals {feature_fid_originals:.3f}, "
        "floor {feature_fid_floor:.3f}",
        "with stored latents   off by {with_stored_latents[error]:.4f}, {with_stored_latents[num_images]} "
        "images (apart: this is no axiom)",
        "time                  {seconds_per_image:.4f} seconds an image",
        _matrix,
    )
    LINE = (
        *SETTING,
        "; read as the target {effectiveness:.1%}, L1 {proximity[l1]:.4f}; back read as the source "
        "{reversibility[read_as_source]:.1%}, off by {reversibility[error]:.4f}",
    )
    COLUMNS: ClassVar = {
        "method": "{method}", "guidance": "{guidance}", "guidance_scale": "{guidance_scale}",
        "depth": "{depth}", "steps": "{steps}", "num_images": "{num_images}", "seed": "{seed}",
        "effectiveness": "{effectiveness[value]}", "effectiveness_low": "{effectiveness[interval_95][0]}",
        "effectiveness_high": "{effectiveness[interval_95][1]}", "l1": "{proximity[l1][value]}",
        "l1_low": "{proximity[l1][interval_95][0]}", "l1_high": "{proximity[l1][interval_95][1]}",
        "features": "{proximity[features][value]}", "minimality": "{minimality[pixels][value]}",
        "back_read": "{reversibility[read_as_source][value]}", "back_error": "{reversibility[error][value]}",
        "null_1": "{composition[1][value]}", "fid": "{feature_fid}",
        "seconds_per_image": "{seconds_per_image}",
    }  # fmt: skip

    @cached_property
    def images(self) -> data.ImageSet:
        test = data.load(self.judge.dataset, "test")
        usual, total = min(200 if self.in_sweep else 1000, len(test)), len(test)
        count = usual if self.num_images is None else self.num_images
        allowed = f"between 1 and {total} (test images)"
        refuse({f"--num-samples must be {allowed}, got {count}.": not 1 <= count <= total})
        return test.subset(torch.arange(count))

    @cached_property
    def num_nulls(self) -> int:
        """How many of the images get null interventions."""
        total, count = len(self.images), self.null_images
        allowed = f"between 0 and {total} (--num-samples)"
        refuse({f"--null-images must be {allowed}, got {count}.": not 0 <= (count or 0) <= total})
        return (0 if self.in_sweep else total) if count is None else count

    def targets(self, seed: int) -> Tensor:
        """[N] int64, another label for each image."""
        generator = torch.Generator().manual_seed(seed)
        jump = torch.randint(1, self.judge.num_classes, (len(self.images),), generator=generator)
        return (self.images.labels + jump) % self.judge.num_classes

    @cached_property
    def real(self) -> tuple[axioms.RealFeatures, str]:
        """What distances and minimality are held against, and what it is called."""
        train = data.load(self.judge.dataset, "train")
        real = axioms.real_features(self.judge.model, *train.batch(torch.arange(len(train))[:REAL_IMAGES]))
        return real, f"the first {len(real.labels):,} training {pictures(train.source)}"

    def plan(self, request: CounterfactualRequest) -> Plan:
        if request.guidance_scale is None and request.guidance == "cfg":
            request = replace(request, guidance_scale=CFG_SCALE)
        resolved = request.plan()
        self.judge.check_classes(str(request.weights), resolved.num_labels)
        filled = resolved.request
        options = _settings(filled, "method", "guidance", "classifier", "guidance_scale", "depth", "steps")
        options |= {"num_samples": len(self.images), "null_images": self.num_nulls}
        return self._planned("counterfactuals", request, filled, options)

    def measure(self, plan: Plan) -> dict:
        """In a sweep with one null intervention, not ten, and without stored latents."""
        request, count, nulls = plan.request, len(self.images), self.num_nulls
        times = NULLS[:1] if self.in_sweep else NULLS
        stored = 0 if self.in_sweep or request.method != "ddim" else min(STORED_IMAGES, count)
        x_0, source = self.images.batch(torch.arange(count))
        (real, real_images), statistics = self.real, self.judge.reference.statistics
        started, latents, seconds = time.perf_counter(), None, []
        with self.progress(2 * count + nulls * max(times) + stored, "intervening") as bar:
            intervene = intervention(request, self.batch_size, bar.update, seconds)
            measures = axioms.measure_axioms(
                intervene, self.judge.model, x_0, source, self.targets(request.seed), real, statistics,
                times=times if nulls else (), null_images=nulls or None, batch_size=count,
            )  # fmt: skip
            if stored:
                latents = self._with_stored_latents(intervene, x_0[:stored], source[:stored])
        names = ("method", "guidance", "guidance_scale", "classifier", "depth", "steps", "seed", "precision")
        return {
            "command": plan.command, **_settings(request, *names),
            "null_guidance_scale": null_fields(request)["guidance_scale"], "null_images": nulls,
            "starts_from": "8-bit pixels",
            "images": f"the first {count:,} test {pictures(self.images.source)}",
            "weights": str(request.weights), **self._networks(request), **measures,
            "feature_fid_floor": round(self.judge.reference.floor, 4),
            "feature_fid_reference": f"{statistics.count:,} training {pictures(self.judge.reference.source)}",
            "real_images": real_images, "with_stored_latents": latents,
            "seconds_per_image": round(seconds[0] / count, 5),
            "seconds": round(time.perf_counter() - started, 2), **self._machine(),
        }  # fmt: skip

    def _with_stored_latents(self, intervene: axioms.Intervention, x_0: Tensor, source: Tensor) -> dict:
        """How well images come back whose latents are kept; no axiom: every null intervention is this one."""
        model, back = self.judge.model, intervene(in_8_bits(x_0), source, source)
        return {
            "num_images": len(x_0),
            "error": round(float(axioms.proximity(model, in_8_bits(x_0), back).l1), 5),
            "read_as_source": quality.accuracy(model, back, source).overall.as_json(),
        }


def intervention(
    asked: CounterfactualRequest, batch_size: int, advance: Callable[[int], Any], seconds: list[float]
) -> axioms.Intervention:
    """What `measure_axioms` calls with all images at once; the seconds of each call are added to the list.

    Image k's noise comes from (seed, k) in every intervention, on the way back, too.
    """

    def intervene(x_0: Tensor, source: Tensor, target: Tensor) -> Tensor:
        null = null_fields(asked) if bool((source == target).all()) else {}
        request, started = replace(asked, sources=source, targets=target, **null), time.perf_counter()
        drawn = pipeline.counterfactual_images(request, x_0, batch_size, advance)
        seconds.append(time.perf_counter() - started)
        return drawn

    return intervene


def null_fields(request: CounterfactualRequest) -> dict:
    """What a null intervention changes in a request: decoding is as abduction was."""
    if request.plan().tells_sources:
        return {"guidance": "cfg", "guidance_scale": 1.0, "classifier": None}
    return {"guidance_scale": 0.0}


# -- faces -----------------------------------------------------------------------------------------
def face_defaults(request: CounterfactualRequest) -> CounterfactualRequest:
    """The request with what the classifier's card proposes for counterfactuals: a scale and a depth."""
    filled = request.plan().request
    proposed = weights.read_card(filled.classifier).get("defaults", {}).get("counterfactual", {})
    refuse({f"The card of {filled.classifier} proposes {proposed!r:.50}.": not isinstance(proposed, dict)})
    names = ("guidance_scale",) if request.method == "same-noise" else ("guidance_scale", "depth")
    missing = {name: proposed[name] for name in names if name in proposed and getattr(request, name) is None}
    return replace(filled, **missing)


def _drawn(name: str, words: str) -> Template:
    return (
        f"{words:15} read as {{attribute}} {{drawn[{name}][read_as_yes]}}",
        f", feature FID {{drawn[{name}][fid][value]:.3f}}",
        f" (as many unseen faces, labelled so: {{drawn[{name}][fid][unseen]:.3f}})",
    )


def _drift(answer: str, document: dict) -> str:
    drift = document["counterfactuals"]["guided"][f"to_{answer}"]["drift"].items()
    moved = (f"{name} {change['mean']:+.2f}" for name, change in itertools.islice(drift, 6))
    return f"  drift to {answer}: {', '.join(moved)}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Faces(Task):
    """Faces drawn with and without an attribute, and counterfactuals of real ones; in a sweep only those."""

    attribute: str = "Smiling"
    num_samples: int = 1000
    num_counterfactuals: int = 300

    REPORT = (
        _drawn("unguided", "unguided"),
        _drawn("yes", "guided to yes"),
        _drawn("no", "guided to no"),
        "counterfactuals flipped {counterfactuals[guided][flipped]}, L1 {counterfactuals[guided][l1]:.3f}",
        "inversion alone flipped {counterfactuals[inversion_alone][flipped]}, "
        "L1 {counterfactuals[inversion_alone][l1]:.3f}",
        partial(_drift, "yes"),
        partial(_drift, "no"),
    )
    LINE = (
        "s={request.guidance_scale:g}, depth {request.depth}: flipped {flipped:.1%}, L1 {l1:.3f}, "
        "mean drift {mean_drift:.3f}",
    )
    COLUMNS: ClassVar = {
        "attribute": "{request.attribute}", "guidance_scale": "{request.guidance_scale}",
        "depth": "{request.depth}", "steps": "{request.steps}", "num_faces": "{flipped[total]}",
        "flipped": "{flipped[value]}", "flipped_low": "{flipped[interval_95][0]}",
        "flipped_high": "{flipped[interval_95][1]}", "to_yes": "{to_yes[flipped][value]}",
        "to_no": "{to_no[flipped][value]}", "l1": "{l1[value]}", "mean_drift": "{mean_drift}",
        "largest_drift": "{largest_drift}", "largest_drift_of": "{largest_drift_of}",
    }  # fmt: skip

    @cached_property
    def place(self) -> int:
        """Of the attribute among those that the judge reads."""
        return place_of(self.attribute, self.judge.attributes, "attribute")

    @cached_property
    def subjects(self) -> tuple[Tensor, Tensor]:
        """Test faces [N, 3, S, S] that are read as labelled, and the other answers [N].

        The other faces would count as flipped before anything was done.
        """
        faces, images, targets, count = self.judge.images("test"), [], [], self.num_counterfactuals
        label = data.ATTRIBUTES.index(self.judge.attributes[self.place])
        for part in torch.arange(len(faces)).split(quality.BATCH):
            x_0, y = faces.batch(part)
            read = quality.read_attributes(self.judge.model, x_0)[:, self.place] >= 0.5
            right = read == (y[:, label] == 1)
            images.append(x_0[right])
            targets.append(1 - y[right, label])
            if sum(map(len, targets)) >= count:
                return torch.cat(images)[:count], torch.cat(targets)[:count]
        few = sum(map(len, targets))
        raise data.DataError(f"Only {few} test faces are read right: ask for fewer --num-counterfactuals.")

    def plan(self, request: CounterfactualRequest) -> Plan:
        request = replace(request, attribute=self.judge.attributes[self.place])
        self.judge.check_size(str(request.weights))
        filled = face_defaults(request)
        filled.plan()
        self.drawing(request, 1).plan()
        options = _settings(request, "attribute", "method", "classifier", "guidance_scale", "depth")
        options["num_samples"] = None if self.in_sweep else self.num_samples
        options |= {"num_counterfactuals": self.num_counterfactuals, "steps": request.steps}
        options["method"] = None if request.method == "ddim" else request.method
        return self._planned("celeba", request, filled, options)

    def drawing(self, request: Request, target: int | None, count: int = 1) -> GenerationRequest:
        """Faces guided to the target, or unguided for None."""
        options = _settings(request, "weights", "seed", "precision", "steps", "device")
        guided = _settings(request, "guidance", "attribute", "guidance_scale", "classifier")
        options |= {"guidance": "none"} if target is None else guided
        return GenerationRequest((target or 0,) * count, **options)

    def measure(self, plan: Plan) -> dict:
        num_faces, request = len(self.subjects[0]), plan.request  # too few are refused before any drawing
        if self.in_sweep:
            flips = self._flips(request)
            return flips | _drift_sizes(flips)
        names = ("method", "classifier", "guidance_scale", "depth", "steps", "seed")
        counterfactuals = {
            "num_faces": num_faces,
            "which": "the first test faces whose attribute is read as labelled, sent to the other answer",
            "settings": _settings(request, *names), "guided": self._flips(request),
            "inversion_alone": self._flips(replace(request, guidance_scale=0.0)),
        }  # fmt: skip
        return {
            "command": plan.command, "attribute": request.attribute, **self._networks(request),
            "drawn": self._drawn(plan.asked), "counterfactuals": counterfactuals,
        }  # fmt: skip

    def _drawn(self, asked: CounterfactualRequest) -> dict:
        """Faces drawn unguided and towards both answers: how they are read, how far from real ones."""
        documents, baseline = {}, None
        for name, target in {"unguided": None, **ANSWERS}.items():
            request = self.drawing(asked, target, self.num_samples).plan().request
            images = self.draw(request, self.batch_size)
            read = quality.read_attributes(self.judge.model, images)
            documents[name] = {
                "settings": describe(request),
                "read_as_yes": quality.share_of_yes(read[:, self.place]).as_json(),
                **self._quality(images, torch.zeros(len(images))),
            }
            if target is None:
                baseline = read
            else:  # the same noises: each face beside its unguided twin
                moved = axioms.drifts(self.judge.attributes, self.place, baseline, read)
                documents[name]["drift"] = axioms.drifts_json(moved)
            if documents[name]["fid"]:
                documents[name]["fid"]["unseen"] = self._unseen(target)
        return documents

    def _unseen(self, target: int | None) -> float:
        """The feature FID of as many faces that no network saw, labelled so: the best that there is."""
        found, left, label = [], self.num_samples, data.ATTRIBUTES.index(self.judge.attributes[self.place])
        for faces in map(self.judge.images, ("test", "val")):
            y = faces.labels[:, label]
            alike = y >= 0 if target is None else y == target
            found.append(self.judge.over(quality.features, faces.subset(alike.nonzero().flatten()[:left])))
            left -= len(found[-1])
            if not left:
                break
        return round(quality.fid_of_features(self.judge.reference.statistics, torch.cat(found)), 4)

    def _flips(self, request: CounterfactualRequest) -> dict:
        """Of all faces, and of those sent to each answer: their drifts go opposite ways."""
        x_0, targets = self.subjects
        request = replace(request, sources=1 - targets, targets=targets)
        images = pipeline.counterfactual_images(request, x_0, self.batch_size)

        def measured(chosen: Tensor | slice) -> dict:
            pairs = x_0[chosen], images[chosen]
            answers = self.judge.attributes, self.place, targets[chosen]
            return axioms.measure_flips(self.judge.model, *pairs, *answers).as_json()

        document = measured(slice(None))
        del document["drift"]
        asked = {f"to_{answer}": targets == target for answer, target in ANSWERS.items()}
        return document | {name: measured(chosen) for name, chosen in asked.items() if chosen.any()}


def _drift_sizes(flips: dict) -> dict:
    """The mean over attributes and both directions of the mean change's size, and the largest one."""
    sides = [flips[f"to_{answer}"]["drift"] for answer in ANSWERS if f"to_{answer}" in flips]
    moved = [(change["mean"], name) for side in sides for name, change in side.items()]
    largest, name = max(moved, key=lambda pair: abs(pair[0]))
    mean = round(sum(abs(change) for change, _ in moved) / len(moved), 5)
    return {"mean_drift": mean, "largest_drift": round(largest, 5), "largest_drift_of": name}


# -- sweeps ----------------------------------------------------------------------------------------
def sweep(task: Task, requests: Iterable[Request], out: Path) -> Iterator[str]:
    """Measure what the table does not hold yet, row by row; yields what to tell people."""
    plans = {(plan.command, plan.weights_sha256): plan for plan in map(task.plan, requests)}
    task.judge.tell_if_circular({plan.request.classifier for plan in plans.values()})
    read_rows(out, (*task.COLUMNS, *KEY))  # refuses another table before there is a lock beside it
    with lock(out):
        yield from _filled(task, plans, out)
    yield f"The table is {out}."


def _filled(task: Task, plans: dict[tuple, Plan], out: Path) -> Iterator[str]:
    columns = (*task.COLUMNS, *KEY)
    rows = read_rows(out, columns)
    there = {(row["command"], row["weights_sha256"]) for row in rows}
    left = [plan for key, plan in plans.items() if key not in there]
    if len(left) < len(plans):
        yield f"{len(plans) - len(left)} of {len(plans)} combinations are in {out} already."
    for count, plan in enumerate(left, start=1):
        document = task.measure(plan) | {"request": plan.request}
        row = {column: fill(template, document) for column, template in task.COLUMNS.items()}
        row |= {"command": plan.command, "weights_sha256": plan.weights_sha256}
        rows = [old for old in rows if old["command"] != plan.command] + [row]
        with atomic_write(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        yield f"{count} of {len(left)}: {fill(task.LINE, document)}"


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a sweep's table as texts; none if there is no file yet; ValueError if it is another one."""
    is_csv = path.suffix.lower() == ".csv"
    refuse({f"A sweep needs --out with a name that ends in .csv, got {str(path)!r}.": not is_csv})
    check_writable(path)
    if not path.exists():
        return []
    try:
        # Excel puts a mark before the text.
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        rows = list(reader)
        if tuple(reader.fieldnames or ()) == columns and all(row[columns[-1]] for row in rows):
            twice = len({tuple(row[name] for name in KEY) for row in rows}) < len(rows)
            refuse({f"{path} has two rows of one measurement: delete the wrong one.": twice})
            return rows
    except (UnicodeDecodeError, csv.Error):
        pass  # not even text
    raise ValueError(f"{path} is no table of a sweep: name another --out, or delete it.")
