"""A request drawn in batches, by one process or several."""

import functools
from collections.abc import Collection

import torch
from torch import Tensor

from lessons_lib import weights
from lessons_lib.cli import processes
from lessons_lib.cli.common import progress_bar, shown_steps
from lessons_lib.pipeline import GenerationRequest, generate, in_chunks


def check_settings(request: GenerationRequest, batch_size: int) -> int:
    """Refuse, before any work and in each process, what the weights cannot draw; K, their labels' number."""
    next(in_chunks(request, batch_size))
    plan = request.plan()
    first, *others = processes.spread(_hashes, [plan.request] * processes.count())
    if any(hashes != first for hashes in others):
        raise weights.WeightsError(f"Not all processes have the same weights {' and '.join(first)}.")
    return plan.num_labels


def _hashes(request: GenerationRequest, _: processes.Advance) -> dict[str, str]:
    """The SHA-256 of each of the weights that this process has, if they can draw the request."""
    request.plan()
    names = [str(request.weights), *([str(request.classifier)] if request.is_steered else [])]
    return {name: weights.read_card(name)["sha256"] for name in names}


def draw(
    request: GenerationRequest, batch_size: int, keep_states: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Draw a request a batch at a time: images [N, C, H, W] in [-1, 1], and the states x_t if asked.

    Several processes share the batches: with equal threads in each the images are the same bit for bit.
    """
    draw_part = functools.partial(_draw_part, kept=shown_steps(request.steps) if keep_states else ())
    parts, total = list(in_chunks(request, batch_size)), len(request.labels)
    own = sum(len(part.labels) for part in parts[:: processes.count()])  # the bar tells all by the own share
    layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} images [{elapsed}<{remaining}]"
    with progress_bar(total, "drawing", bar_format=layout) as bar:
        drawn = processes.spread(draw_part, parts, lambda count: bar.update(count * total / own))
    images, states = zip(*drawn, strict=True)
    return torch.cat(images), [torch.cat(steps) for steps in zip(*states, strict=True)]


def _draw_part(
    part: GenerationRequest, advance: processes.Advance, kept: Collection[int]
) -> tuple[Tensor, list[Tensor]]:
    """One batch, and its states after the steps in `kept`."""
    states = []
    for k, step in enumerate(generate(part)):
        if k in kept:
            states.append(step.x_t.cpu())
        advance(len(part.labels) / part.steps)
    return step.x_t.clamp(-1, 1).cpu(), states
