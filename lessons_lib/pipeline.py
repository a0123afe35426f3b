"""One request in, Steps out: the way in for the command line, the panels, the benchmarks and the evaluation.

A request refuses what no weights could do. Its plan looks the networks up, fills in what was left open,
refuses what these weights cannot do, and yields the Steps.
"""

from __future__ import annotations

import copy
import functools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from lessons_lib import guidance, samplers, weights
from lessons_lib.counterfactuals import METHODS, Abducted, abduct, in_8_bits, predict, to_depth
from lessons_lib.flow_map import MAX_GUIDANCE_SCALE, FlowMap, sample_flow_map
from lessons_lib.guidance import EpsFn, conditional, unconditional
from lessons_lib.names import check_choice, place_of, refuse
from lessons_lib.samplers import DEFAULT_SPACING, SAMPLERS, SPACINGS, SampleNoise, Step
from lessons_lib.schedules import NoiseSchedule

BY_CLASSIFIER = ("classifier", "classifier-x0")
GUIDANCES = ("none", "cfg", *BY_CLASSIFIER)
CLASSIFIER = "mnist-noisy-classifier"  # guides where neither the request nor the denoiser's card names one
USUAL = {"guidance_scale": 2.0, "sampler": "ddim", "steps": 25}  # where the denoiser's card says nothing
MUST_AGREE = {"num_classes": "classes", "image_size": "pixels a side", "in_channels": "channels"}
Labels = tuple[int, ...] | tuple[tuple[int, ...], ...]
Model = tuple[nn.Module, NoiseSchedule]
AbductFn = Callable[[EpsFn, NoiseSchedule, Tensor, Tensor], Tensor | Abducted]


def load_model(name: str | Path, device: str | None = None) -> tuple[nn.Module, NoiseSchedule | None, dict]:
    """`load_pretrained`, kept in memory until the weights or their card change."""
    path = weights.weights_path(name)
    files = (path, path.with_suffix(".json"))  # the card alone changes when it gets new metrics
    stamps = tuple(file.exists() and file.stat().st_mtime_ns for file in files)
    return _load_model(str(name), device or "cpu", stamps)


@functools.lru_cache(maxsize=8)
def _load_model(name: str, device: str, stamps: tuple[int, ...]) -> tuple:
    # Weights that were made under inference_mode could never take part in a gradient.
    with torch.inference_mode(False):
        return weights.load_pretrained(name, device)


# -- requests --------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class _Request:
    """The fields, checks and noise of a drawing and a counterfactual."""

    LABELS: ClassVar[tuple[str, ...]]  # the fields that hold labels, first the one with an entry a sample
    CHOICES: ClassVar[dict[str, tuple[str, ...]]]

    guidance_scale: float | None = None  # w of cfg, 1 conditional; or s of a classifier, 1 Bayes' rule
    classifier: str | Path | None = None  # what steers, by name or path
    attribute: str | int | None = None  # that is asked for, by name or number: the classifier's, or of "cfg"
    seed: int = 0
    sample_indices: tuple[int, ...] | None = None  # sample k's noise comes from (seed, k); None is 0, 1 …
    device: str | None = None  # None is the CPU
    precision: str = "float32"  # of the networks, or "bf16"

    def __post_init__(self) -> None:
        for name in self.LABELS:
            object.__setattr__(self, name, _whole(getattr(self, name)))
        for name, choice in {**self.CHOICES, "precision": ("float32", "bf16")}.items():
            if getattr(self, name) is not getattr(type(self), name):  # the default, which may be None
                check_choice(name, getattr(self, name), choice)
        _check_attributes(self)
        _check_kinds(self)
        scale, steps, total = self.guidance_scale, self.steps, self.num_samples
        count = total if self.sample_indices is None else len(self.sample_indices)
        is_number = scale is None or (isinstance(scale, Real) and math.isfinite(scale))
        is_idle = self.classifier is not None and not self.is_steered
        refuse({
            f"The guidance scale must be a finite number, got {scale!r}.": not is_number,
            f"The guidance scale must be at least 0, got {scale!r}.": is_number and (scale or 0) < 0,
            f"The guidance scale must be below 1e30, got {scale!r}.": is_number and (scale or 0) >= 1e30,
            f"The guidance {self.guidance!r} asks no classifier, but '{self.classifier}' was given.": is_idle,
            f"The number of steps must be at least 1, got {steps}.": steps is not None and steps < 1,
            f"There are {count} sample indices for {total} {self.LABELS[0]}.": count != total,
        })  # fmt: skip

    @property
    def in_rows(self) -> bool:
        """Whether the labels are rows of attributes."""
        return isinstance(self.labels[0], tuple)

    @property
    def is_steered(self) -> bool:
        """Whether a classifier guides."""
        return self.guidance in BY_CLASSIFIER

    @property
    def num_samples(self) -> int:
        return len(getattr(self, self.LABELS[0]))

    def noise(self) -> SampleNoise:
        return SampleNoise([(self.seed, k) for k in self.sample_indices or range(self.num_samples)])


def _whole(labels: object) -> Labels:
    def whole(label: object) -> int | tuple[int, ...]:
        is_row = getattr(label, "ndim", isinstance(label, list | tuple))
        return tuple(map(operator.index, label)) if is_row else operator.index(label)

    try:
        checked = tuple(map(whole, labels))
    except TypeError:
        raise ValueError(f"Labels must be whole numbers or rows of them, got {labels!r}.") from None
    refuse({"At least one label is needed.": not checked})
    return checked


def _check_kinds(request: _Request) -> None:
    """Refuse what no field of a request can be, whether code or an edited card says so."""
    interval, eta, depth = (getattr(request, name, 0) for name in ("interval", "eta", "depth"))
    numbers = {"number of steps": request.steps, "seed": request.seed, "depth": depth}
    numbers |= {f"{k}th sample index": one for k, one in enumerate(request.sample_indices or ())}
    is_pair = isinstance(interval, list | tuple) and [hasattr(t, "__index__") for t in interval] == [True] * 2
    refuse({
        **{f"The {what} must be a whole number, got {value!r}.": True for what, value in numbers.items()
           if value is not None and not hasattr(value, "__index__")},
        f"The interval must be two timesteps, got {interval!r}.": interval is not None and not is_pair,
        f"eta must be a number from 0 on, got {eta!r}.": not isinstance(eta, Real) or not 0 <= eta < math.inf,
        **{f"Weights are a name or a path, got {name!r}.": not isinstance(name, str | Path | None)
           for name in (request.weights, request.classifier)},
    })  # fmt: skip


def _check_attributes(request: _Request) -> None:
    """Refuse rows of attributes, or labels of one attribute, that nothing could draw."""
    labels = sum((getattr(request, name) for name in request.LABELS), ())
    rows, way = [label for label in labels if isinstance(label, tuple)], request.guidance
    is_asked, values = request.attribute is not None, {value for row in rows for value in row}
    row_rule = "An attribute of a row must be 1 (yes), 0 (no) or -1 (untold)"
    target_rule = "The target of an attribute must be 1 (yes) or 0 (no)"
    refuse({
        "Labels must be all numbers or all rows of attributes, got both.": 0 < len(rows) < len(labels),
        f"Rows of attributes need guidance 'cfg', not {way!r}.": rows and request.is_steered,
        **{f"{row_rule}, got {value}.": True for value in values - {1, 0, -1}},
        f"An attribute is asked for with guidance 'cfg' or 'classifier', not {way!r}.":
            is_asked and way not in ("cfg", "classifier"),
        **{f"{target_rule}, got {label}.": is_asked for label in {*labels} - {0, 1}},
    })  # fmt: skip


@dataclass(frozen=True)
class GenerationRequest(_Request):
    """What to draw and how; what is None comes from the card of the weights.

    labels: [B] one a sample; with guidance "none" only their number counts. With an attribute 1 (yes) or 0
        (no). Or, with "cfg", rows [B, K] of all attributes that a denoiser is told, and -1 for untold.
    guidance: "cfg"; or the unconditional model alone ("none"), or steered by a classifier of noisy images
        ("classifier"), or of clean ones, which reads the estimate ("classifier-x0").
    """

    LABELS: ClassVar = ("labels",)
    CHOICES: ClassVar = {"guidance": GUIDANCES, "sampler": SAMPLERS, "spacing": SPACINGS}

    labels: Labels
    weights: str | Path = "mnist-denoiser"  # what draws, by name or path
    guidance: str = "cfg"
    interval: tuple[int, int] | None = None  # (t_low, t_high), the timesteps at which the scale holds
    sampler: str | None = None
    spacing: str | None = None
    steps: int | None = None  # network evaluations, 1 … T
    eta: float = 0.0  # of DDIM; 0 adds no noise on the way

    def plan(self, model: Model | None = None) -> Plan:
        """The request resolved; model: (network, schedule) in place of the weights and their card."""
        return Plan(self, model)


@dataclass(frozen=True)
class CounterfactualRequest(_Request):
    """What images are, what they should have been, and how to get there.

    guidance is of the way down. Abduction is under the sources' labels at w = 1; without a label if the
    denoiser knows none, or is told attributes but steered by a classifier's.
    """

    LABELS: ClassVar = ("sources", "targets")
    CHOICES: ClassVar = {"method": METHODS, "guidance": ("cfg", "classifier")}
    interval, sampler, spacing = None, "ddim", "trailing"  # of the decoding, which abduction walks backwards

    sources: Labels  # [S] the label of each image, or its row; see GenerationRequest
    targets: Labels  # [S * K] those asked for, K for each image in a row, from one abduction
    weights: str | Path = "mnist-denoiser"
    method: str = "ddim"
    guidance: str = "cfg"
    depth: int | None = None  # t_0, 0 … T-1, how far back an image is taken; None is T-1; not of "same-noise"
    steps: int = 25  # of the whole way from T-1; with a depth, those up to it are taken

    def __post_init__(self) -> None:
        super().__post_init__()
        count, total, depth = len(self.targets), self.num_samples, self.depth
        is_given = depth is not None
        refuse({
            f"There are {count} targets for {total} sources: as many for each are needed.": count % total,
            f"The depth must be at least 0, got {depth}.": is_given and depth < 0,
            "The method 'same-noise' starts from noise alone and takes no depth.":
                is_given and self.method == "same-noise",
        })  # fmt: skip

    @property
    def labels(self) -> Labels:
        """Of the images that are drawn."""
        return self.targets

    @property
    def targets_each(self) -> int:
        """K, the counterfactuals of each image."""
        return len(self.targets) // len(self.sources)

    def plan(self, model: Model | None = None) -> CounterfactualPlan:
        return CounterfactualPlan(self, model)


AnyRequest = TypeVar("AnyRequest", GenerationRequest, CounterfactualRequest)


def in_chunks(request: AnyRequest, size: int = 100) -> Iterator[AnyRequest]:
    """The request cut into requests of at most `size` images, or one sample's; noise is as in the whole."""
    refuse({f"The batch size must be at least 1, got {size}.": size < 1})
    total = request.num_samples
    indices = request.sample_indices or tuple(range(total))
    per_sample = {name: len(getattr(request, name)) // total for name in request.LABELS}
    count = max(1, size // max(per_sample.values()))
    for i in range(0, total, count):
        labels = {name: getattr(request, name)[i * n : (i + count) * n] for name, n in per_sample.items()}
        yield replace(request, sample_indices=indices[i : i + count], **labels)


# -- plans -----------------------------------------------------------------------------------------
class _Plan:
    """A request resolved: with its networks, and its defaults filled in.

    ValueError for what does not suit the weights, WeightsError for weights that cannot draw or steer.
    """

    def __init__(self, request: _Request, model: Model | None) -> None:
        network, schedule, card = (*model, {}) if model else load_model(request.weights, request.device)
        if schedule is None or not hasattr(network, "null_label"):
            raise weights.WeightsError(f"The weights '{request.weights}' are no denoiser: they cannot draw.")
        self.request, self.network, self.schedule, self.classifier = request, network, schedule, None
        config, defaults = network.config, card.get("defaults", {})
        self.num_classes = 0 if config.multi_label else config.num_classes  # that the denoiser is told
        self.image_shape = config.in_channels, config.image_size, config.image_size
        self.names = card.get("class_names")  # of attributes to ask for: of what steers, if that is another
        usual = USUAL | {field: defaults[field] for field in USUAL if defaults.get(field) is not None}
        self.is_flow_map = isinstance(network, FlowMap)
        if self.is_flow_map:
            _check_flow_map(request)
            usual["sampler"] = None
        usual["spacing"] = DEFAULT_SPACING[request.sampler or usual["sampler"]]
        if request.is_steered:
            usual |= self._look_up_classifier(request.classifier or defaults.get("classifier") or CLASSIFIER)
        missing = {field: value for field, value in usual.items() if getattr(request, field) is None}
        self.request = request = replace(request, **missing)
        self.timesteps = samplers.timesteps_for(schedule, request.steps, request.spacing)
        guidance.check_interval(request.interval, schedule.num_timesteps - 1)
        count = (self.classifier or network).config.num_classes
        self.names = self.names or tuple(map(str, range(count)))
        has_attributes = request.attribute is not None or request.in_rows  # then the labels are no and yes
        self.num_labels = 2 if has_attributes else self.num_classes or (count if self.classifier else 0)
        self._run = guidance.in_bfloat16 if request.precision == "bf16" else lambda function: function
        self.eps_fn = None if self.is_flow_map else self._guided()

    def _look_up_classifier(self, name: str | Path) -> dict:
        """What the card of what steers proposes; refuses one that cannot steer this denoiser."""
        request, network, device = self.request, self.network, next(self.network.parameters()).device
        classifier, trained_on, card = load_model(name, str(device) if device.index else device.type)
        reads_attributes = getattr(classifier.config, "multi_label", False)
        sees_noise, it = request.guidance == "classifier", f"The classifier '{name}'"
        if hasattr(classifier, "null_label"):
            raise weights.WeightsError(f"The weights '{name}' are no classifier: they cannot steer.")
        if sees_noise and trained_on is None:
            raise weights.WeightsError(f"{it} reads clean images only: steer with guidance classifier-x0.")
        theirs, ours = (one and f"{one.name}, T={one.num_timesteps}" for one in (trained_on, self.schedule))
        is_asked = request.attribute is not None
        faults = {
            f"{it} was trained on another schedule ({theirs}; not {ours}).": sees_noise and theirs != ours,
            f"{it} reads attributes: steer with guidance classifier.": reads_attributes and not sees_noise,
            f"{it} reads attributes: name one, such as Smiling.": reads_attributes and not is_asked,
            f"{it} reads classes, not attributes.": is_asked and not reads_attributes,
        }
        for field, words in MUST_AGREE.items():
            theirs, ours = (getattr(one.config, field) for one in (classifier, network))
            # A denoiser without classes is never told a label here: the classifier's may be any.
            is_free = field == "num_classes" and not self.num_classes
            faults[f"{it} has {theirs} {words} but the denoiser has {ours}."] = theirs != ours and not is_free
        refuse(faults)
        self.classifier, self.names, defaults = classifier, card.get("class_names"), card.get("defaults", {})
        proposed = {"classifier": name, "guidance_scale": defaults.get("guidance_scale", 1.0)}  # s; w is no s
        if sees_noise and request.sampler is None and defaults.get("spacing"):  # as it was measured
            proposed["spacing"] = defaults["spacing"]
        return proposed

    def _guided(self) -> EpsFn:
        request = self.request
        if request.is_steered:
            return self._steered()
        if request.guidance == "none":
            return self._run(unconditional(self.network))
        y = self._told(request.labels, request.attribute)
        return self._run(guidance.with_cfg(self.network, y, request.guidance_scale, request.interval))

    def _steered(self) -> EpsFn:
        request, base = self.request, unconditional(self.network)
        y = torch.tensor([place_of(label, range(self.num_labels), "label") for label in request.labels])
        if request.guidance == "classifier-x0":
            log_prob_fn = guidance.x0_log_prob(self.classifier, base, self.schedule, y)
        elif request.attribute is None:
            log_prob_fn = guidance.class_log_prob(self.classifier, y)
        else:
            place = place_of(request.attribute, self.names, "attribute")
            log_prob_fn = guidance.attribute_log_prob(self.classifier, place, y)
        way = self._run(base), self._run(log_prob_fn), self.schedule
        return guidance.with_classifier(*way, request.guidance_scale, request.interval)

    def _told(self, labels: Labels, attribute: str | int | None) -> Tensor:
        """What the denoiser is told: y [B], or of attributes [B, K], 1 yes, 0 no, -1 untold."""
        it, in_rows = f"The denoiser '{self.request.weights}' is told", self.request.in_rows
        total, is_named = self.network.config.num_classes, in_rows or attribute is not None
        if not self.network.config.multi_label:
            refuse({f"{it} no attributes: steer it with guidance classifier.": is_named})
            return torch.tensor([place_of(label, range(total), "label") for label in labels])
        refuse({f"{it} attributes: name one, such as Smiling.": not is_named})
        if in_rows:
            refuse({f"{it} {total} attributes, got {len(row)}.": len(row) != total for row in labels})
            return torch.tensor(labels)
        y = torch.full((len(labels), total), -1)
        y[:, place_of(attribute, self.names, "attribute")] = torch.tensor(labels)
        return y


def _check_flow_map(request: _Request) -> None:
    """Refuse what a flow map, which learned its path and its guidance, cannot be told."""
    it, scale, spacing = f"The flow map '{request.weights}'", request.guidance_scale or 0, request.spacing
    is_drawn, way = isinstance(request, GenerationRequest), request.guidance
    refuse({
        f"{it} only draws from noise: for counterfactuals take a denoiser.": not is_drawn,
        f"{it} learned guidance 'cfg' and no other, not {way!r}.": way != "cfg",
        f"{it} learned scales up to {MAX_GUIDANCE_SCALE:g}, not {scale:g}.": scale > MAX_GUIDANCE_SCALE,
        f"{it} learned one scale for the whole way: it takes no interval.": request.interval is not None,
        f"{it} jumps without a sampler: name none, not {request.sampler!r}.": request.sampler is not None,
        f"{it} learned steps of trailing spacing, not {spacing!r}.": spacing not in (None, "trailing"),
        f"{it} adds no noise on its way: eta must be 0.": getattr(request, "eta", 0) != 0,
        f"{it} draws in float32 only, not in {request.precision}.": request.precision != "float32",
    })  # fmt: skip


class Plan(_Plan):
    """A drawing, from noise."""

    @functools.cached_property
    def x_T(self) -> Tensor:
        """[B, C, H, W], the noise that drawing starts from."""
        self._noise_fn, device = self.request.noise(), next(self.network.parameters()).device
        return self._noise_fn(torch.empty(self.request.num_samples, *self.image_shape, device=device))

    def steps(self, clip_x0: bool = True) -> Iterator[Step]:
        """One Step for each network evaluation; the last one's x_t [B, C, H, W] in [-1, 1] are the images."""
        return _finite(self._steps(clip_x0), self.request)

    def _steps(self, clip_x0: bool) -> Iterator[Step]:
        if self.is_flow_map:
            y = self._told(self.request.labels, self.request.attribute)
            return sample_flow_map(self.network, self.x_T, y, self.request.guidance_scale, self.timesteps)
        way = self.eps_fn, self.schedule, self.x_T, self.timesteps
        noise_fn = copy.deepcopy(self._noise_fn)  # as it is after x_T: a plan may be walked twice
        if self.request.sampler == "ddpm":
            return samplers.sample_ddpm(*way, noise_fn=noise_fn, clip_x0=clip_x0)
        if self.request.sampler == "dpmpp_2m":
            return samplers.sample_dpmpp_2m(*way, clip_x0=clip_x0)
        return samplers.sample_ddim(*way, eta=self.request.eta, noise_fn=noise_fn, clip_x0=clip_x0)


class CounterfactualPlan(_Plan):
    """From images back to noise under `source_eps`, which `tells_sources` or not, and down to the targets."""

    def __init__(self, request: CounterfactualRequest, model: Model | None) -> None:
        super().__init__(request, model)
        if request.method != "same-noise":
            depth = self.schedule.num_timesteps - 1 if request.depth is None else request.depth
            self.request = replace(self.request, depth=depth)
            self.timesteps = to_depth(self.timesteps, depth)
        is_cfg, source_eps = request.guidance == "cfg", unconditional(self.network)
        self.tells_sources = is_cfg or self.num_classes > 0
        if self.tells_sources:  # but a classifier's attributes are not the denoiser's own
            y = self._told(request.sources, request.attribute if is_cfg else None)
            source_eps = conditional(self.network, y)
        self.source_eps = self._run(source_eps)

    def abduct(self, images: Tensor, abduct_fn: AbductFn | None = None) -> Abducted:
        """What is left of images [S, C, H, W], in 8-bit pixels, without their labels.

        abduct_fn: in place of the request's method; a Tensor that it returns is the state at timesteps[0].
        """
        shape, expected = list(images.shape), [self.request.num_samples, *self.image_shape]
        refuse({f"The images must have shape {expected}, got {shape}.": shape != expected})
        own = functools.partial(abduct, self.request.method, noise_fn=self.request.noise())
        x_0 = in_8_bits(images.to(self.request.device or "cpu"))
        state = (abduct_fn or own)(self.source_eps, self.schedule, x_0, self.timesteps)
        return state if isinstance(state, Abducted) else Abducted(state, self.timesteps)

    def predict(self, abducted: Abducted) -> Iterator[Step]:
        """The Steps from one abduction to all targets; the last one's x_t are [S * K, C, H, W] in [-1, 1]."""
        steps = predict(self.eps_fn, self.schedule, abducted.repeated(self.request.targets_each))
        return _finite(steps, self.request)


def _finite(steps: Iterator[Step], request: _Request) -> Iterator[Step]:
    """The same Steps; ValueError at the first whose numbers are not finite."""
    for step in steps:
        if not bool(step.x_t.isfinite().all()):
            advice = f"the guidance scale {request.guidance_scale:g} is too large, or these are no weights"
            raise ValueError(f"The images are no finite numbers any more at t = {step.t}: {advice}.")
        yield step


def generate(request: GenerationRequest) -> Iterator[Step]:
    yield from request.plan().steps()


def generate_with(model: nn.Module, schedule: NoiseSchedule, request: GenerationRequest) -> Iterator[Step]:
    """As `generate`, with a network in hand."""
    return request.plan((model, schedule)).steps()


def generate_images(request: GenerationRequest) -> Tensor:
    """The images only: [B, C, H, W] in [-1, 1]."""
    *_, last = generate(request)
    return last.x_t.clamp(-1, 1)


def counterfactuals(request: CounterfactualRequest, images: Tensor) -> Iterator[Step]:
    """What images [S, C, H, W] in [-1, 1] would look like with other labels: abduction, then its Steps."""
    plan = request.plan()
    yield from plan.predict(plan.abduct(images))


def counterfactual_images(
    request: CounterfactualRequest, images: Tensor, batch_size: int = 100, advance: Callable | None = None
) -> Tensor:
    """The counterfactuals only, [S * K, C, H, W] in [-1, 1] on the CPU; advance is told how many images."""
    count, total = len(images), len(request.sources)
    refuse({f"There are {count} images for {total} sources.": count != total})
    drawn, rest = [], images
    for part in in_chunks(request, batch_size):
        batch, rest = rest[: part.num_samples], rest[part.num_samples :]
        *_, last = counterfactuals(part, batch)
        drawn.append(last.x_t.clamp(-1, 1).cpu())
        if advance is not None:
            advance(len(batch))
    return torch.cat(drawn)
