"""One request in, Steps out: the way in for the command line, the panels, the benchmarks and the evaluation.

A request refuses what no weights could do. Its plan looks the networks up, fills in what was left open and
refuses what these weights cannot do, all of it once. The plan yields the Steps.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from lessons_lib import guidance, samplers, weights
from lessons_lib.counterfactuals import METHODS, Abducted, abduct, in_8_bits, predict, to_depth
from lessons_lib.guidance import EpsFn, conditional, unconditional
from lessons_lib.names import place_of
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
    stamps = tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
    return _load_model(str(name), device or "cpu", stamps)


@functools.lru_cache(maxsize=8)
def _load_model(name: str, device: str, stamps: tuple[int, ...]) -> tuple:
    # Weights that were made under inference_mode could never take part in a gradient.
    with torch.inference_mode(False):
        return weights.load_pretrained(name, device)


# -- requests --------------------------------------------------------------------------------------


def _one_of(field: str, choice: Sequence[str]) -> tuple:
    sentence = f"Unknown {field} {{0!r}}: choose one of {', '.join(choice)}."
    return field, lambda value, r: value in choice, sentence


# What must hold of a field that was not left open, given (value, request), and the sentence if it does not.
# all_labels and row_values are no fields: each of their values is asked.
RULES = (
    _one_of("precision", ("float32", "bf16")),
    ("all_labels", lambda label, r: isinstance(label, tuple) == r.in_rows,
     "Labels must be all numbers or all rows of attributes, got both."),
    ("row_values", lambda value, r: not r.is_steered,
     "Rows of attributes need guidance 'cfg', not {r.guidance!r}."),
    ("row_values", lambda value, r: value in (1, 0, -1),
     "An attribute of a row must be 1 (yes), 0 (no) or -1 (untold), got {0}."),
    ("guidance_scale", lambda scale, r: isinstance(scale, Real) and math.isfinite(scale),
     "The guidance scale must be a finite number, got {0!r}."),
    ("guidance_scale", lambda scale, r: scale >= 0, "The guidance scale must be at least 0, got {0!r}."),
    ("classifier", lambda name, r: r.is_steered,
     "The guidance {r.guidance!r} asks no classifier, but '{0}' was given."),
    ("attribute", lambda name, r: r.guidance in ("cfg", "classifier"),
     "An attribute is asked for with guidance 'cfg' or 'classifier', not {r.guidance!r}."),
    ("all_labels", lambda label, r: r.attribute is None or label in (0, 1),
     "The target of an attribute must be 1 (yes) or 0 (no), got {0}."),
    ("steps", lambda steps, r: steps >= 1, "The number of steps must be at least 1, got {0}."),
    ("sample_indices", lambda indices, r: len(indices) == r.num_samples,
     "There are {count} sample indices for {r.num_samples} {r.LABELS[0]}."),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The fields, checks and noise of a drawing and a counterfactual.

    weights, classifier: what draws and what steers, by name or path.
    guidance_scale: w of cfg, 1 conditional; or s of a classifier, 1 Bayes' rule. 0 is unconditional.
    attribute: name or number of the one yes-or-no attribute that is asked for: with guidance "classifier" of
        those that the classifier reads, with "cfg" of those that the denoiser is told.
    seed, sample_indices: sample k's noise comes from (seed, k), as a rule k = 0, 1 …
    device: None is the CPU; precision: of the networks, "float32" or "bf16".
    """

    LABELS: ClassVar[tuple[str, ...]]  # the fields that hold labels, first the one with an entry a sample
    RULES: ClassVar[tuple]

    guidance_scale: float | None = None
    classifier: str | Path | None = None
    attribute: str | int | None = None
    seed: int = 0
    sample_indices: tuple[int, ...] | None = None
    device: str | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in self.LABELS:
            object.__setattr__(self, name, _whole(getattr(self, name)))
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        for name, holds, sentence in self.RULES:
            values = getattr(self, name)
            for value in (values,) if name in usual else values:
                is_open = value is None and usual[name] is None
                if not is_open and not holds(value, self):
                    count = len(value) if isinstance(value, Sized) else None
                    raise ValueError(sentence.format(value, count=count, r=self))

    @property
    def all_labels(self) -> Labels:
        return sum((getattr(self, name) for name in self.LABELS), ())

    @property
    def row_values(self) -> tuple[int, ...]:
        return sum((label for label in self.all_labels if isinstance(label, tuple)), ())

    @property
    def in_rows(self) -> bool:
        """Whether the labels are rows of attributes."""
        return isinstance(self.all_labels[0], tuple)

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
        return tuple(operator.index(value) for value in label) if is_row else operator.index(label)

    try:
        checked = tuple(whole(label) for label in labels)
    except TypeError:
        raise ValueError(f"Labels must be whole numbers or rows of them, got {labels!r}.") from None
    if not checked:
        raise ValueError("At least one label is needed.")
    return checked


@dataclass(frozen=True)
class GenerationRequest(_Request):
    """What to draw and how; what is None comes from the card of the weights.

    labels: [B] one a sample; with guidance "none" only their number counts. With an attribute 1 (yes) or 0
        (no). Or, with "cfg", rows [B, K] of all attributes that a denoiser is told, and -1 for untold.
    guidance: "cfg"; or the unconditional model alone ("none"), or steered by a classifier of noisy images
        ("classifier"), or of clean ones, which reads the estimate ("classifier-x0").
    interval: (t_low, t_high), the timesteps at which the scale holds; None for all.
    steps: network evaluations, 1 … T; spacing: of their timesteps.
    eta: of DDIM; 0 adds no noise on the way.
    """

    LABELS: ClassVar = ("labels",)
    CHOICES: ClassVar = {"guidance": GUIDANCES, "sampler": SAMPLERS, "spacing": SPACINGS}
    RULES: ClassVar = (*map(_one_of, CHOICES, CHOICES.values()), *RULES)

    labels: Labels
    weights: str | Path = "mnist-denoiser"
    guidance: str = "cfg"
    interval: tuple[int, int] | None = None
    sampler: str | None = None
    spacing: str | None = None
    steps: int | None = None
    eta: float = 0.0

    def plan(self, model: Model | None = None) -> Plan:
        """The request with its networks; model: (network, schedule) in place of the weights and their card.

        ValueError for what does not suit the weights, WeightsError for weights that cannot draw or steer.
        """
        return Plan(*_resolved(self, model))


@dataclass(frozen=True)
class CounterfactualRequest(_Request):
    """What images are, what they should have been, and how to get there.

    sources: [S] the label of each image, or its row; see GenerationRequest.
    targets: [S * K] the labels asked for, K for each image, all from one abduction; the first image's first.
    method: "ddim" (inversion), "ddpm" (edit-friendly inversion), "sdedit" or "same-noise".
    guidance: of the way down, "cfg" or "classifier". Abduction is under the sources' labels at w = 1; without
        a label if the denoiser knows none, or is told attributes but steered by a classifier's.
    depth: t_0, 0 … T-1; an image is taken back to it and no further. None is T-1. Not of "same-noise".
    steps: of the whole way from T-1, at most T; with a depth, those up to it are taken.
    """

    LABELS: ClassVar = ("sources", "targets")
    RULES: ClassVar = (
        *(_one_of("method", METHODS), _one_of("guidance", ("cfg", "classifier")), *RULES),
        ("targets", lambda targets, r: len(targets) % r.num_samples == 0,
         "There are {count} targets for {r.num_samples} sources: as many for each are needed."),
        ("depth", lambda depth, r: hasattr(depth, "__index__"),
         "The depth must be a whole number, got {0!r}."),
        ("depth", lambda depth, r: depth >= 0, "The depth must be at least 0, got {0}."),
        ("depth", lambda depth, r: r.method != "same-noise",
         "The method 'same-noise' starts from noise alone and takes no depth."),
    )  # fmt: skip
    interval, sampler, spacing = None, "ddim", "trailing"  # of the decoding, which abduction walks backwards

    sources: Labels
    targets: Labels
    weights: str | Path = "mnist-denoiser"
    method: str = "ddim"
    guidance: str = "cfg"
    depth: int | None = None
    steps: int = 25

    @property
    def labels(self) -> Labels:
        """Of the images that are drawn."""
        return self.targets

    @property
    def targets_each(self) -> int:
        """K, the counterfactuals of each image."""
        return len(self.targets) // len(self.sources)

    def plan(self, model: Model | None = None) -> CounterfactualPlan:
        """As `GenerationRequest.plan`; the sources and the depth must suit the weights, too."""
        return CounterfactualPlan(*_resolved(self, model))


AnyRequest = TypeVar("AnyRequest", GenerationRequest, CounterfactualRequest)


def in_chunks(request: AnyRequest, size: int = 100) -> Iterator[AnyRequest]:
    """The request cut into requests of at most `size` images, or one sample's; noise is as in the whole."""
    if size < 1:
        raise ValueError(f"The batch size must be at least 1, got {size}.")
    total = request.num_samples
    indices = request.sample_indices or tuple(range(total))
    per_sample = {name: len(getattr(request, name)) // total for name in request.LABELS}
    count = max(1, size // max(per_sample.values()))
    for i in range(0, total, count):
        labels = {name: getattr(request, name)[i * n : (i + count) * n] for name, n in per_sample.items()}
        yield dataclasses.replace(request, sample_indices=indices[i : i + count], **labels)


# -- from a request to a plan ----------------------------------------------------------------------


def _resolved(request: AnyRequest, model: Model | None) -> tuple:
    """The fields of a plan."""
    network, schedule, card = (*model, {}) if model else load_model(request.weights, request.device)
    if schedule is None or not hasattr(network, "null_label"):
        name = str(request.weights)
        raise weights.WeightsError(f"The weights {name!r} are no denoiser: they cannot draw.")
    defaults, classifier = card.get("defaults", {}), None
    usual = USUAL | {field: defaults[field] for field in USUAL if defaults.get(field) is not None}
    usual["spacing"] = DEFAULT_SPACING[request.sampler or usual["sampler"]]
    if request.is_steered:
        name = request.classifier or defaults.get("classifier") or CLASSIFIER
        device = next(network.parameters()).device
        classifier, trained_on, card = load_model(name, str(device) if device.index else device.type)
        _check_classifier(request, str(name), (classifier, trained_on), (network, schedule))
        defaults = card.get("defaults", {})  # the denoiser's card has w, which is no s
        usual |= {"classifier": name, "guidance_scale": defaults.get("guidance_scale", 1.0)}
        if request.sampler is None and request.guidance == "classifier":  # as it was measured, as a whole
            usual["spacing"] = defaults.get("spacing") or usual["spacing"]
    missing = {field: value for field, value in usual.items() if getattr(request, field) is None}
    request, last = dataclasses.replace(request, **missing), schedule.num_timesteps - 1
    timesteps = samplers.timesteps_for(schedule, request.steps, request.spacing)
    if request.interval is not None and not 0 <= request.interval[0] <= request.interval[1] <= last:
        raise ValueError(
            f"The guidance interval must be (t_low, t_high) with 0 <= t_low <= t_high <= {last}, "
            f"got {request.interval}."
        )
    names = card.get("class_names") or [str(k) for k in range((classifier or network).config.num_classes)]
    return request, network, schedule, classifier, names, timesteps


def _check_classifier(request: AnyRequest, name: str, guide: Model, denoiser: Model) -> None:
    """Refuse a classifier that cannot steer this denoiser."""
    (classifier, trained_on), (network, schedule) = guide, denoiser
    reads_attributes = getattr(classifier.config, "multi_label", False)
    sees_noise = request.guidance == "classifier"
    if hasattr(classifier, "null_label"):
        raise weights.WeightsError(f"The weights {name!r} are no classifier: they cannot steer.")
    if sees_noise and trained_on is None:
        raise weights.WeightsError(
            f"The classifier {name!r} reads clean images only: steer with guidance classifier-x0."
        )
    theirs, ours = (one and f"{one.name}, T={one.num_timesteps}" for one in (trained_on, schedule))
    faults = {
        f"was trained on another schedule ({theirs}; not {ours})": sees_noise and theirs != ours,
        "reads attributes: steer with guidance classifier": reads_attributes and not sees_noise,
        "reads attributes: name one, such as Smiling": reads_attributes and request.attribute is None,
        "reads classes, not attributes": request.attribute is not None and not reads_attributes,
    }
    for field, words in MUST_AGREE.items():
        theirs, ours = (getattr(one.config, field) for one in (classifier, network))
        # A denoiser without classes is never told a label here: the classifier's may be any.
        is_free = field == "num_classes" and (network.config.multi_label or not ours)
        faults[f"has {theirs} {words} but the denoiser has {ours}"] = theirs != ours and not is_free
    for fault, is_there in faults.items():
        if is_there:
            raise ValueError(f"The classifier {name!r} {fault}.")


@dataclass(eq=False)
class _Plan:
    """A request resolved."""

    request: GenerationRequest | CounterfactualRequest  # with its defaults filled in
    network: nn.Module
    schedule: NoiseSchedule
    classifier: nn.Module | None  # steers, if one does
    names: Sequence[str]  # of the attributes that can be asked for
    timesteps: Tensor  # [N] int64, descending
    eps_fn: EpsFn = dataclasses.field(init=False)  # the guided network

    def __post_init__(self) -> None:
        self.eps_fn = self._guided()

    @property
    def num_classes(self) -> int:
        """K of the denoiser; 0 if it is told nothing, or attributes."""
        return 0 if self.network.config.multi_label else self.network.config.num_classes

    @property
    def num_labels(self) -> int:
        """To choose from: 2, no and yes, with attributes; or else the denoiser's, or the classifier's."""
        if self.request.attribute is not None or self.request.in_rows:
            return 2
        return self.num_classes or (self.classifier.config.num_classes if self.classifier else 0)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[C, H, W]."""
        config = self.network.config
        return config.in_channels, config.image_size, config.image_size

    def _guided(self) -> EpsFn:
        request, base = self.request, unconditional(self.network)
        scale, interval = request.guidance_scale, request.interval
        if request.guidance == "none":
            return self._run(base)
        if self.classifier is None:
            y = self._told(request.labels, request.attribute)
            return self._run(guidance.with_cfg(self.network, y, scale, interval))
        y = _classes(request.labels, self.num_labels)
        if request.guidance == "classifier-x0":
            log_prob_fn = guidance.x0_log_prob(self.classifier, base, self.schedule, y)
        elif request.attribute is None:
            log_prob_fn = guidance.class_log_prob(self.classifier, y)
        else:
            place = place_of(request.attribute, self.names, "attribute")
            log_prob_fn = guidance.attribute_log_prob(self.classifier, place, y)
        base, log_prob_fn = self._run(base), self._run(log_prob_fn)
        return guidance.with_classifier(base, log_prob_fn, self.schedule, scale, interval)

    def _run(self, function: EpsFn) -> EpsFn:
        """The function with its networks in the precision that is asked for."""
        return guidance.in_bfloat16(function) if self.request.precision == "bf16" else function

    def _told(self, labels: Labels, attribute: str | int | None) -> Tensor:
        """What the denoiser is told: y [B], or of attributes [B, K], 1 yes, 0 no, -1 untold."""
        name, config = f"The denoiser {str(self.request.weights)!r}", self.network.config
        if not (config.multi_label or attribute is not None or self.request.in_rows):
            return _classes(labels, config.num_classes)
        if not config.multi_label:
            raise ValueError(f"{name} is told no attributes: steer it with guidance classifier.")
        if self.request.in_rows:
            if wrong := {*map(len, labels)} - {config.num_classes}:
                raise ValueError(f"{name} is told {config.num_classes} attributes, got {min(wrong)}.")
            return torch.tensor(labels)
        if attribute is None:
            raise ValueError(f"{name} is told attributes: name one, such as Smiling.")
        y = torch.full((len(labels), config.num_classes), -1)
        y[:, place_of(attribute, self.names, "attribute")] = torch.tensor(labels)
        return y


def _classes(labels: Labels, num_classes: int) -> Tensor:
    for label in labels:
        if not 0 <= label < num_classes:
            raise ValueError(f"Unknown label {label}: choose from 0 to {num_classes - 1}.")
    return torch.tensor(labels)


class Plan(_Plan):
    """A drawing, from noise."""

    @functools.cached_property
    def x_T(self) -> Tensor:
        """[B, C, H, W], the noise that drawing starts from."""
        self._noise_fn, device = self.request.noise(), next(self.network.parameters()).device
        return self._noise_fn(torch.empty(self.request.num_samples, *self.image_shape, device=device))

    def steps(self, clip_x0: bool = True) -> Iterator[Step]:
        """One Step for each network evaluation; the last one's x_t [B, C, H, W] in [-1, 1] are the images."""
        way = self.eps_fn, self.schedule, self.x_T, self.timesteps
        noise_fn = copy.deepcopy(self._noise_fn)  # as it is after x_T: a plan may be walked twice
        if self.request.sampler == "ddpm":
            return samplers.sample_ddpm(*way, noise_fn=noise_fn, clip_x0=clip_x0)
        if self.request.sampler == "dpmpp_2m":
            return samplers.sample_dpmpp_2m(*way, clip_x0=clip_x0)
        return samplers.sample_ddim(*way, eta=self.request.eta, noise_fn=noise_fn, clip_x0=clip_x0)


class CounterfactualPlan(_Plan):
    """From images back to noise under `source_eps`, which `tells_sources` or not, and down to the targets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.request.method != "same-noise":
            if self.request.depth is None:
                self.request = dataclasses.replace(self.request, depth=self.schedule.num_timesteps - 1)
            self.timesteps = to_depth(self.timesteps, self.request.depth)
        is_cfg, source_eps = self.request.guidance == "cfg", unconditional(self.network)
        self.tells_sources = is_cfg or self.num_classes > 0
        if self.tells_sources:  # but a classifier's attributes are not the denoiser's own
            y = self._told(self.request.sources, self.request.attribute if is_cfg else None)
            source_eps = conditional(self.network, y)
        self.source_eps = self._run(source_eps)

    def abduct(self, images: Tensor, abduct_fn: AbductFn | None = None) -> Abducted:
        """What is left of images [S, C, H, W], in 8-bit pixels, without their labels.

        abduct_fn: in place of the request's method; a Tensor that it returns is the state at timesteps[0].
        """
        expected = [self.request.num_samples, *self.image_shape]
        if list(images.shape) != expected:
            raise ValueError(f"The images must have shape {expected}, got {list(images.shape)}.")
        own = functools.partial(abduct, self.request.method, noise_fn=self.request.noise())
        x_0 = in_8_bits(images.to(self.request.device or "cpu"))
        state = (abduct_fn or own)(self.source_eps, self.schedule, x_0, self.timesteps)
        return state if isinstance(state, Abducted) else Abducted(state, self.timesteps)

    def predict(self, abducted: Abducted) -> Iterator[Step]:
        """The Steps from one abduction to all targets; the last one's x_t are [S * K, C, H, W] in [-1, 1]."""
        return predict(self.eps_fn, self.schedule, abducted.repeated(self.request.targets_each))


def generate(request: GenerationRequest) -> Iterator[Step]:
    """The Steps of the request's plan."""
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


def counterfactual_images(request: CounterfactualRequest, images: Tensor, batch_size: int = 100) -> Tensor:
    """The counterfactuals only, [S * K, C, H, W] in [-1, 1] on the CPU, at most batch_size at once."""
    drawn = []
    for part, batch in in_batches(request, images, batch_size):
        *_, last = counterfactuals(part, batch)
        drawn.append(last.x_t.clamp(-1, 1).cpu())
    return torch.cat(drawn)


def in_batches(
    request: CounterfactualRequest, images: Tensor, size: int = 100
) -> Iterator[tuple[CounterfactualRequest, Tensor]]:
    """`in_chunks`, each with its images."""
    if len(images) != len(request.sources):
        raise ValueError(f"There are {len(images)} images for {len(request.sources)} sources.")
    parts = list(in_chunks(request, size))
    yield from zip(parts, images.split([part.num_samples for part in parts]), strict=True)
