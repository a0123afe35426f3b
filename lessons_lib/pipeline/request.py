"""What can be asked for: the fields of a request, and one sentence for what no weights could draw."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lessons_lib.samplers import SAMPLERS, SPACINGS

BY_CLASSIFIER = ("classifier", "classifier-x0")
GUIDANCES = ("none", "cfg", *BY_CLASSIFIER)
PRECISIONS = ("float32", "bf16")
CHOICES = {"guidance": GUIDANCES, "precision": PRECISIONS, "sampler": SAMPLERS, "spacing": SPACINGS}


@dataclass(frozen=True)
class GenerationRequest:
    """What to draw and how; what is None comes from the card of the weights.

    Args:
        labels: [B] the label of each sample; with guidance "none" only their number counts. With an
            attribute 1 (yes) or 0 (no). Or rows [B, K] of all attributes that a denoiser is told, 1 (yes), 0
            (no) or -1 (untold), with guidance "cfg".
        weights: name or path.
        guidance: "cfg"; "classifier": the unconditional model, steered by a classifier of noisy images;
            "classifier-x0": by a classifier of clean ones, which reads the estimate; or "none": the
            unconditional model, which does not hear the labels.
        guidance_scale: w of cfg; 0 unconditional, 1 conditional, above 1 amplified. Or s of a classifier; 0
            unconditional, 1 Bayes' rule.
        classifier: name or path of the weights that steer; None with guidance "none" and "cfg".
        attribute: name or number of the one yes-or-no attribute that is asked for: with guidance "classifier"
            of those that the classifier reads, with "cfg" of those that the denoiser is told.
        interval: (t_low, t_high), the timesteps at which the scale holds; None for all.
        sampler: "ddim", "ddpm" or "dpmpp_2m".
        spacing: of the timesteps, one of SPACINGS; None is the sampler's own.
        steps: network evaluations, 1 … T.
        eta: of DDIM; 0 adds no noise on the way.
        seed: with sample_indices it decides all noise.
        sample_indices: [B] sample k's noise comes from (seed, k): equal numbers get equal noise. None counts
            from 0.
        device: None is the CPU.
        precision: of the network, "float32" or "bf16".

    Raises:
        ValueError: one sentence, for what no weights could draw.
    """

    labels: tuple[int, ...] | tuple[tuple[int, ...], ...]
    weights: str | Path = "mnist-denoiser"
    guidance: str = "cfg"
    guidance_scale: float | None = None
    interval: tuple[int, int] | None = None
    sampler: str | None = None
    steps: int | None = None
    eta: float = 0.0
    seed: int = 0
    sample_indices: tuple[int, ...] | None = None
    device: str | None = None
    precision: str = "float32"
    classifier: str | Path | None = None
    spacing: str | None = None
    attribute: str | int | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "labels", tuple(_label(each) for each in self.labels))
        except TypeError:
            raise ValueError(f"Labels must be whole numbers or rows of them, got {self.labels!r}.") from None
        if not self.labels:
            raise ValueError("At least one label is needed.")
        self._check_names()
        self._check_rows()
        if self.guidance_scale is not None and not _is_finite(self.guidance_scale):
            raise ValueError(f"The guidance scale must be a finite number, got {self.guidance_scale!r}.")
        if self.guidance_scale is not None and self.guidance_scale < 0:
            raise ValueError(f"The guidance scale must be at least 0, got {self.guidance_scale!r}.")
        if self.classifier is not None and not self.is_steered:
            raise ValueError(
                f"The guidance {self.guidance!r} asks no classifier, but {str(self.classifier)!r} was given."
            )
        if self.attribute is not None:
            self._check_attribute()
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"The number of steps must be at least 1, got {self.steps}.")
        if self.sample_indices is not None and len(self.sample_indices) != len(self.labels):
            raise ValueError(
                f"There are {len(self.sample_indices)} sample indices for {len(self.labels)} labels."
            )

    def _check_names(self) -> None:
        for what, choice in CHOICES.items():
            given = getattr(self, what)
            if given not in choice and not (given is None and what in ("sampler", "spacing")):
                raise ValueError(f"Unknown {what} {given!r}: choose one of {', '.join(choice)}.")

    def _check_rows(self) -> None:
        if not self.in_rows:
            return
        if not all(isinstance(label, tuple) for label in self.labels):
            raise ValueError("Labels must be all numbers or all rows of attributes, got both.")
        if self.is_steered:
            raise ValueError(f"Rows of attributes need guidance 'cfg', not {self.guidance!r}.")
        if wrong := [value for row in self.labels for value in row if value not in (1, 0, -1)]:
            raise ValueError(f"An attribute of a row must be 1 (yes), 0 (no) or -1 (untold), got {wrong[0]}.")

    def _check_attribute(self) -> None:
        if self.guidance not in ("cfg", "classifier"):
            raise ValueError(
                f"An attribute is asked for with guidance 'cfg' or 'classifier', not {self.guidance!r}."
            )
        if wrong := [label for label in self.labels if label not in (0, 1)]:
            raise ValueError(f"The target of an attribute must be 1 (yes) or 0 (no), got {wrong[0]}.")

    @property
    def is_steered(self) -> bool:
        """Whether a classifier guides."""
        return self.guidance in BY_CLASSIFIER

    @property
    def in_rows(self) -> bool:
        """Whether the labels are rows of attributes."""
        return any(isinstance(label, tuple) for label in self.labels)


def in_chunks(request: GenerationRequest, size: int = 100) -> Iterator[GenerationRequest]:
    """The request cut into requests of at most `size` samples; each sample's noise is as in the whole.

    Raises:
        ValueError: if size < 1.
    """
    if size < 1:
        raise ValueError(f"The batch size must be at least 1, got {size}.")
    indices = request.sample_indices or tuple(range(len(request.labels)))
    for i in range(0, len(indices), size):
        yield dataclasses.replace(
            request, labels=request.labels[i : i + size], sample_indices=indices[i : i + size]
        )


def _label(given: object) -> int | tuple[int, ...]:
    is_row = getattr(given, "ndim", isinstance(given, list | tuple))
    return tuple(operator.index(value) for value in given) if is_row else operator.index(given)


def _is_finite(number: object) -> bool:
    try:
        return math.isfinite(number)
    except TypeError:
        return False
