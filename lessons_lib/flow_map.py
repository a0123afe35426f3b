"""The flow map: a network that jumps along the sampler's path, from any timestep to any earlier one.

DDIM with many steps follows a path from noise to image that x_T alone decides. The flow map is told both ends
of a stretch of it, and takes it in one call. So one call draws a digit, two or four draw it better, all from
the same weights, and the same noise gives the same digit as the many steps do.

A jump is one DDIM step (Song et al. 2021, eq. 12), but with an estimate of x_0 made for the whole stretch. It
is a weighted mean of the estimates that small steps would make on their way, so it lies in [-1, 1] where they
do. `training.distillation` learns it from a denoiser.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib.samplers import Step
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet, UNetConfig, check_shape, timestep_embedding, zeroed

IMAGE = -1  # the s of a jump to the image itself: at code's t = 0 there still is a little noise
MAX_GUIDANCE_SCALE = 8.0  # w was told within 0 … this in training; beyond it the answer would be a guess

# -- the jump --------------------------------------------------------------------------------------


def jump_weights(schedule: NoiseSchedule, t: Tensor, s: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """What x_t and the estimate count in x_s: [B, 1, …, 1] each, as x [B, …] in dtype and device.

    sigma_s / sigma_t and alpha_s - alpha_t sigma_s / sigma_t, alpha = sqrt(abar), sigma = sqrt(1 - abar).
    t, s: [B] int64, s <= t, s in -1 … T-1; best on the CPU, where the float64 tables are.
    """
    abar = torch.cat([schedule.alphas_cumprod, torch.ones(1, dtype=torch.float64)])  # abar[-1] is the image's
    signal, noise = abar.sqrt(), (1 - abar).sqrt()
    t, s = t.cpu(), s.cpu()
    kept = noise[s] / noise[t]
    moved = signal[s] - signal[t] * kept
    shape = (-1, *(1,) * (x.ndim - 1))
    return kept.to(x.dtype).to(x.device).view(shape), moved.to(x.dtype).to(x.device).view(shape)


def jump(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, s: Tensor, x_0: Tensor) -> Tensor:
    """x_s, from x_t [B, …] and the estimate x_0 that holds from t [B] to s [B]: DDIM's step."""
    kept, moved = jump_weights(schedule, t, s, x_t)
    return kept * x_t + moved * x_0


# -- the network -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlowMapConfig(UNetConfig):
    """The shape of a flow map: of a U-Net with classes that answers v."""

    v_schedule: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.v_schedule or not self.num_classes or self.multi_label:
            raise ValueError("A flow map needs a v_schedule and classes, no attributes.")


class FlowMap(nn.Module):
    """Jumps from x_t to x_s in one call, told the label and the scale of the guidance.

    A denoiser's U-Net with one more part, which reads t, s and w. That part starts at zero: with a teacher's
    weights an untrained jump is one DDIM step of the teacher, told the label (w >= 1) or not (w = 0).
    """

    # As the sampler clips its estimates, so the map clips its own.
    clip_x0 = True

    def __init__(self, config: FlowMapConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FlowMapConfig()
        self.unet = UNet(config)
        features, embedding = 2 * config.base_channels, config.embedding_channels
        self.jump_mlp = nn.Sequential(
            nn.Linear(3 * features, embedding), nn.SiLU(), zeroed(nn.Linear(embedding, embedding))
        )

    @property
    def schedule(self) -> NoiseSchedule:
        """The schedule that t and s count on."""
        return self.unet.v_schedule

    @property
    def null_label(self) -> int:
        """The label that is "not told"."""
        return self.unet.null_label

    def start_from(self, teacher: UNet) -> FlowMap:
        """Take a denoiser's weights over; ValueError if its shape is another. Returns itself."""
        ours, theirs = vars(self.config), vars(teacher.config)
        other = [name for name in theirs if theirs[name] != ours[name] and name != "dropout"]
        if other:
            raise ValueError(f"This teacher has another {', '.join(other)} than the flow map.")
        self.unet.load_state_dict(teacher.state_dict())
        return self

    def estimate(self, x_t: Tensor, t: Tensor, s: Tensor, y: Tensor, guidance_scale: Tensor) -> Tensor:
        """The x_0 that takes x_t to x_s in one jump, not clipped. Args as in forward."""
        # The network answers v, and x_0 = alpha x_t - sigma v: no division by sqrt(abar_T), nearly 0.
        v = self.unet.answer(x_t, self.embed(t, s, y, guidance_scale))
        signal, noise = self.schedule.signal_and_noise(t, x_t)
        return signal * x_t - noise * v

    def embed(self, t: Tensor, s: Tensor, y: Tensor, guidance_scale: Tensor) -> Tensor:
        """The embedding of all that is told, [B, embedding_channels]."""
        unet, channels = self.unet, 2 * self.config.base_channels
        told_t = timestep_embedding(t, channels)
        # Four times w: the sines then tell scales apart that are a quarter of one apart, and run smoothly.
        features = torch.cat([told_t, *(timestep_embedding(n, channels) for n in (s, 4 * guidance_scale))], 1)
        # From w = 1 down to 0 the label fades into the null label: all digits are one at w = 0.
        untold = unet.label_table(torch.full_like(y, self.null_label))
        label = torch.lerp(untold, unet.label_table(y), guidance_scale.clamp(max=1)[:, None].to(untold))
        dtype = untold.dtype  # the casts are for a network in half precision
        return F.silu(unet.time_mlp(told_t.to(dtype)) + self.jump_mlp(features.to(dtype)) + label)

    def forward(self, x_t: Tensor, t: Tensor, s: Tensor, y: Tensor, guidance_scale: Tensor) -> Tensor:
        """x_s [B, C, H, W], the state at s on the path through x_t [B, C, H, W].

        t, s: [B] int64, s < t; s = -1 is the image, t = T-1 pure noise.
        y: [B] int64 labels.
        guidance_scale: [B] w in 0 … 8, or ValueError; at w = 0 the label does not count.
        """
        check_shape(self.config, "x_t", x_t)
        if not bool(((guidance_scale >= 0) & (guidance_scale <= MAX_GUIDANCE_SCALE)).all()):
            raise ValueError(f"The guidance scale of a flow map must lie in 0 … {MAX_GUIDANCE_SCALE:g}.")
        t_there, s_there, y, w = (told.to(x_t.device) for told in (t, s, y, guidance_scale))
        x_0 = self.estimate(x_t, t_there, s_there, y, w)
        if self.clip_x0 and not self.training:  # a clipped pixel has no gradient
            x_0 = x_0.clamp(-1, 1)
        return jump(self.schedule, x_t, t, s, x_0)


# -- sampling --------------------------------------------------------------------------------------


def sample_flow_map(
    flow_map: nn.Module, x_T: Tensor, y: Tensor, guidance_scale: float | Tensor, timesteps: Tensor
) -> Iterator[Step]:
    """From noise to image in one jump a timestep, as a sampler does it; a Step's x_0 is the jump's estimate.

    Args:
        flow_map: a FlowMap, or another map of that face (`toy.ToyFlowMap`).
        x_T: [B, …] standard normal noise, at timesteps[0].
        y: [B] int64 labels.
        guidance_scale: w, one for all or [B].
        timesteps: [N] int64, N >= 1, strictly descending, in 0 … T-1, or ValueError; the last jump goes to
            the image.
    """
    ts = [int(t) for t in timesteps]
    last = flow_map.schedule.num_timesteps - 1
    if not ts or ts != sorted(set(ts), reverse=True) or ts[0] > last or ts[-1] < 0:
        raise ValueError(f"timesteps must descend strictly within {last} … 0, at least one, got {ts}.")
    x, w = x_T, torch.as_tensor(guidance_scale, dtype=torch.float32).expand(len(x_T))
    for t, s in zip(ts, [*ts[1:], IMAGE], strict=True):
        with torch.no_grad():
            now, then = torch.full((len(x),), t), torch.full((len(x),), s)
            x_s = flow_map(x, now, then, y, w)
            kept, moved = jump_weights(flow_map.schedule, now, then, x)
            x_0, x = (x_s - kept * x) / moved, x_s
        yield Step(t, x, x_0)
