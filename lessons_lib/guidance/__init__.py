"""Guidance: wrappers that turn a network into an EpsFn, and an EpsFn into a steered one.

An EpsFn takes (x_t [B, C, H, W], t [B] int64) and returns the noise in x_t, in x_t's shape and dtype.
Samplers know nothing else, so every sampler works with every guidance.

networks.py asks a network, alone or against itself (classifier-free guidance); classifiers.py lets a second
network pull.
"""

from lessons_lib.guidance.classifiers import (
    LogProbFn,
    attribute_log_prob,
    class_log_prob,
    with_classifier,
    x0_log_prob,
)
from lessons_lib.guidance.networks import (
    EpsFn,
    Interval,
    conditional,
    in_bfloat16,
    unconditional,
    with_cfg,
)

__all__ = [
    "EpsFn",
    "Interval",
    "LogProbFn",
    "attribute_log_prob",
    "class_log_prob",
    "conditional",
    "in_bfloat16",
    "unconditional",
    "with_cfg",
    "with_classifier",
    "x0_log_prob",
]
