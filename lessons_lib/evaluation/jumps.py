"""What a flow map promises beside good images: one long jump ends where two short ones do."""

import torch

from lessons_lib.evaluation.quality import like
from lessons_lib.flow_map import FlowMap
from lessons_lib.samplers import SampleNoise

DIGITS, SCALES = 500, (0.0, 1.0, 2.0, 4.0)
STRETCHES = (
    (1, 1 / 2, 0),
    (1, 3 / 4, 1 / 2),
    (3 / 4, 3 / 8, 0),
    (1 / 2, 1 / 4, 0),
    (1, 1 / 4, 1 / 8),
)  # of T


@torch.no_grad()
def composition(flow_map: FlowMap, count: int = DIGITS) -> dict:
    """How far the jump t to s ends from t to m to s, in [-1, 1] pixels, over digits.

    Each has one of the STRETCHES (t, m, s) and SCALES in turn; x_t is pure noise, or one jump away from it.
    """
    config, k, off = flow_map.config, torch.arange(count), []
    times = (torch.tensor(STRETCHES) * flow_map.schedule.num_timesteps).long() - 1  # 0 becomes the image
    w, top = torch.tensor(SCALES)[k // len(STRETCHES) % len(SCALES)], times[0, 0]
    for part in k.split(100):
        (t, m, s), told = times[part % len(times)].unbind(1), (part % config.num_classes, w[part])
        x = torch.empty(len(part), config.in_channels, config.image_size, config.image_size)
        x, later = like(flow_map, SampleNoise([(0, k) for k in part.tolist()])(x)), t < top
        x[later] = flow_map(x, top.expand(len(t)), t.clamp(max=top - 1), *told)[later]
        off.append(flow_map(x, t, s, *told) - flow_map(flow_map(x, t, m, *told), m, s, *told))
    pixels = torch.cat(off).cpu().double().abs().flatten()
    found = {"rms": pixels.square().mean().sqrt(), "percentile_99": pixels.quantile(0.99)}
    return {name: round(float(value), 4) for name, value in found.items()} | {"num_samples": count}
