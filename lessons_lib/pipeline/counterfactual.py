"""From images and a request to their counterfactuals: weights, labels, guidance, depth."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lessons_lib.counterfactuals import Abducted, abduct, check_method, in_8_bits, predict, to_depth
from lessons_lib.guidance import EpsFn
from lessons_lib.pipeline.drawing import check_request, denoiser, known_classes, prepare, with_defaults
from lessons_lib.pipeline.request import GenerationRequest
from lessons_lib.samplers import SampleNoise, Step
from lessons_lib.schedules import NoiseSchedule

COUNTERFACTUAL_GUIDANCES = ("cfg", "classifier")
AbductFn = Callable[[EpsFn, NoiseSchedule, Tensor, Tensor], Tensor | Abducted]


@dataclass(frozen=True)
class CounterfactualRequest:
    """What images are, what they should have been, and how to get there.

    Args:
        sources: [S] the label of each image; with an attribute 1 (yes) or 0 (no). Rows as in
            GenerationRequest; then the targets are, too.
        targets: [S * K] the labels asked for, K for each image, the first image's first. An image is abducted
            once for all its targets.
        weights: name or path of the denoiser.
        method: "ddim" (inversion), "ddpm" (edit-friendly inversion), "sdedit" or "same-noise".
        guidance: of the decoding: "cfg", or "classifier" of noisy images on the unconditional model.
            Abduction is under the sources' labels at w = 1; without a label if the denoiser knows none, or
            is told attributes but steered by a classifier's.
        guidance_scale: w of cfg or s of the classifier; None is the card's.
        classifier: name or path of the weights that steer; None with "cfg".
        attribute: as in GenerationRequest: the targets are then 1 (yes) or 0 (no).
        depth: t_0, 0 … T-1; an image is taken back to it and no further. None is T-1. Not of "same-noise".
        steps: of the whole way from T-1; with a depth, those up to it are taken. At most T.
        seed: with sample_indices it decides all noise.
        sample_indices: [S] image k's noise comes from (seed, k). None counts from 0.
        device: None is the CPU.
        precision: of the networks, "float32" or "bf16".

    Raises:
        ValueError: one sentence, for what no weights could do.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    weights: str | Path = "mnist-denoiser"
    method: str = "ddim"
    guidance: str = "cfg"
    guidance_scale: float | None = None
    classifier: str | Path | None = None
    depth: int | None = None
    steps: int = 25
    seed: int = 0
    sample_indices: tuple[int, ...] | None = None
    device: str | None = None
    precision: str = "float32"
    attribute: str | int | None = None

    def __post_init__(self) -> None:
        check_method(self.method)
        if self.guidance not in COUNTERFACTUAL_GUIDANCES:
            choice = ", ".join(COUNTERFACTUAL_GUIDANCES)
            raise ValueError(f"Unknown guidance {self.guidance!r}: choose one of {choice}.")
        object.__setattr__(self, "targets", self.decoding().labels)  # this checks most fields
        object.__setattr__(self, "sources", GenerationRequest(self.sources).labels)
        count = len(self.sources)
        if len(self.targets) % count:
            raise ValueError(
                f"There are {len(self.targets)} targets for {count} sources: as many for each are needed."
            )
        if self.sample_indices is not None and len(self.sample_indices) != count:
            raise ValueError(f"There are {len(self.sample_indices)} sample indices for {count} sources.")
        self._check_depth()

    def _check_depth(self) -> None:
        if self.depth is None:
            return
        try:
            object.__setattr__(self, "depth", operator.index(self.depth))
        except TypeError:
            raise ValueError(f"The depth must be a whole number, got {self.depth!r}.") from None
        if self.depth < 0:
            raise ValueError(f"The depth must be at least 0, got {self.depth}.")
        if self.method == "same-noise":
            raise ValueError("The method 'same-noise' starts from noise alone and takes no depth.")

    @property
    def targets_each(self) -> int:
        """K, the counterfactuals of each image."""
        return len(self.targets) // len(self.sources)

    def decoding(self) -> GenerationRequest:
        """The way down as a request of its own: the targets, with their guidance."""
        return GenerationRequest(
            self.targets, weights=self.weights, guidance=self.guidance, classifier=self.classifier,
            guidance_scale=self.guidance_scale, sampler="ddim", spacing="trailing", steps=self.steps,
            seed=self.seed, device=self.device, precision=self.precision, attribute=self.attribute,
        )  # fmt: skip


class _Prepared(NamedTuple):
    """Networks, schedule and timesteps of a request."""

    shape: tuple[int, ...]  # [C, H, W] of an image
    source_eps: EpsFn
    target_eps: EpsFn
    schedule: NoiseSchedule
    timesteps: Tensor


def counterfactuals(
    request: CounterfactualRequest,
    images: Tensor,
    *,
    abduct_fn: AbductFn | None = None,
    model: tuple[nn.Module, NoiseSchedule] | None = None,
) -> Iterator[Step]:
    """What these images would look like with other labels.

    Args:
        images: [S, C, H, W] in [-1, 1]; they are rounded to 8-bit pixels first.
        abduct_fn: in place of the request's method: (eps_fn, schedule, x_0, timesteps) -> the state at
            timesteps[0], [S, C, H, W], or an Abducted. The request's own is `abduction(request)`.
        model: (network, schedule), in place of the request's weights; guidance_scale must be set then.

    Yields:
        one Step for each timestep of the decoding, abduction done before the first; the last one's x_t
        [S * K, C, H, W] in [-1, 1] are the counterfactuals.

    Raises:
        ValueError: if the labels, the depth, the steps, the classifier or the images do not suit the weights.
        WeightsError: as `generate`.
    """
    shape, source_eps, target_eps, schedule, timesteps = _prepared(request, model)
    expected = (len(request.sources), *shape)
    if tuple(images.shape) != expected:
        raise ValueError(f"The images must have shape {list(expected)}, got {list(images.shape)}.")
    x_0 = in_8_bits(images.to(request.device or "cpu"))
    found = (abduct_fn or abduction(request))(source_eps, schedule, x_0, timesteps)
    if not isinstance(found, Abducted):
        found = Abducted(found, timesteps)
    yield from predict(target_eps, schedule, found.repeated(request.targets_each))


def abduction(request: CounterfactualRequest) -> AbductFn:
    """The request's own abduction: its method, with its noise."""
    indices = request.sample_indices or range(len(request.sources))
    noise_fn = SampleNoise([(request.seed, k) for k in indices])
    return functools.partial(abduct, request.method, noise_fn=noise_fn)


def counterfactual_images(request: CounterfactualRequest, images: Tensor, batch_size: int = 100) -> Tensor:
    """The counterfactuals only, [S * K, C, H, W] in [-1, 1] on the CPU, drawn a batch of images at a time.

    Args:
        images: as in `counterfactuals`.
        batch_size: counterfactuals at once, at most; but never fewer than one image's.

    Raises:
        ValueError: if batch_size < 1, and as in `counterfactuals`.
    """
    drawn = []
    for part, mine in in_batches(request, images, batch_size):
        *_, last = counterfactuals(part, mine)
        drawn.append(last.x_t.clamp(-1, 1).cpu())
    return torch.cat(drawn)


def in_batches(
    request: CounterfactualRequest, images: Tensor, size: int = 100
) -> Iterator[tuple[CounterfactualRequest, Tensor]]:
    """The request and its images cut into parts of at most `size` counterfactuals; the noise stays as it is.

    Raises:
        ValueError: if size < 1, or there is not one image a source.
    """
    if size < 1:
        raise ValueError(f"The batch size must be at least 1, got {size}.")
    if len(images) != len(request.sources):
        raise ValueError(f"There are {len(images)} images for {len(request.sources)} sources.")
    each = request.targets_each
    indices = request.sample_indices or tuple(range(len(images)))
    count = max(1, size // each)
    for i in range(0, len(images), count):
        part = dataclasses.replace(
            request,
            sources=request.sources[i : i + count],
            targets=request.targets[i * each : (i + count) * each],
            sample_indices=indices[i : i + count],
        )
        yield part, images[i : i + count]


def check_counterfactual(request: CounterfactualRequest) -> int:
    """Refuse before any work what `counterfactuals` would refuse; returns K, the number of labels known.

    Raises:
        ValueError, WeightsError: as `counterfactuals`.
    """
    _prepared(request)
    return check_request(request.decoding())


def counterfactual_defaults(request: CounterfactualRequest) -> CounterfactualRequest:
    """The request with the classifier, the scale and the depth filled in.

    Raises:
        WeightsError: as load_pretrained.
    """
    filled = with_defaults(request.decoding())
    depth = request.depth
    if depth is None and request.method != "same-noise":
        depth = denoiser(filled)[1].num_timesteps - 1
    return dataclasses.replace(
        request, classifier=filled.classifier, guidance_scale=filled.guidance_scale, depth=depth
    )


def tells_sources(model: nn.Module, request: GenerationRequest | CounterfactualRequest) -> bool:
    """Whether abduction tells the denoiser the sources' labels: a classifier's attributes are not its own."""
    return request.guidance == "cfg" or known_classes(model) > 0


def _prepared(
    request: CounterfactualRequest, given: tuple[nn.Module, NoiseSchedule] | None = None
) -> _Prepared:
    """Everything that can be refused beforehand is refused here."""
    down = with_defaults(request.decoding()) if given is None else request.decoding()
    model, schedule = given or denoiser(down)
    target_eps, timesteps = prepare(model, schedule, down)
    told = {"guidance": "cfg", "guidance_scale": 1.0} if tells_sources(model, down) else {"guidance": "none"}
    attribute = down.attribute if down.guidance == "cfg" else None
    up = dataclasses.replace(down, labels=request.sources, classifier=None, attribute=attribute, **told)
    source_eps, _ = prepare(model, schedule, up)
    if request.depth is not None:
        timesteps = to_depth(timesteps, request.depth)
    config = model.config
    shape = (config.in_channels, config.image_size, config.image_size)
    return _Prepared(shape, source_eps, target_eps, schedule, timesteps)
