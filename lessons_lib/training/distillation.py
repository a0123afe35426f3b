"""The loss of a flow map: two short jumps, one after the other, teach a long one.

The shortest jumps are taught by a frozen denoiser with guidance (Meng et al. 2023), longer ones by the map's
own average (progressive distillation, Salimans & Ho 2022, in one network: Frans et al. 2024; Boffi et al.
2025). No derivative goes through a target.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lessons_lib.flow_map import IMAGE, MAX_GUIDANCE_SCALE, jump, jump_weights
from lessons_lib.schedules import predict_x0, q_sample, spaced_timesteps
from lessons_lib.training.averaging import EMA

Teacher = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, t, y) -> eps, where y may be the null label

WHOLE_SHARE = 0.25  # of the samples: from pure noise as far as the training has come
ROLLED_SHARE = 0.5  # of the others: their states are the map's own
ANCHORED_SHARE = 0.125  # of all: taught by the teacher's small steps, however long the jump is
NULL_SHARE = 0.05  # of all: w = 0, near which the map changes fastest with w
SCALE_POWER = 1.5  # of w / 8: 63% of the scales lie below 4, a quarter below 1
# Below this error of a pixel the loss is quadratic, above it linear. Not smaller: where all is linear, long
# jumps pull at the short ones that teach them as hard as the teacher does, and all drift off together.
HUBER = 0.3


class FlowMapLoss(nn.Module):
    """Pseudo-Huber distance of where a jump ends from where it should; a LossFn.

    All times lie on one grid of N intervals, from pure noise to the image. Jumps over one or two of them, and
    a share of the longer ones, are taught by the teacher's small steps. The others are taught by the average
    of the network that is trained, in two jumps of half the length.

    Args:
        flow_map: the network that will be trained, as it starts.
        teacher: frozen; predicts the noise, told a label or the null label.
        timesteps: [N] int64, N a power of 2: the steps that the teacher draws with; else 32 trailing ones.
        doubling_steps: training steps until jumps twice as long join in; at first they are of up to 4.
        ema_decay: of the average that teaches the long jumps.
        max_guidance_scale: the highest w that is taught.
        bf16: run teacher and average in bfloat16, too.
    """

    def __init__(
        self, flow_map: nn.Module, teacher: Teacher, *, timesteps: Tensor | None = None,
        doubling_steps: int = 100, ema_decay: float = 0.99, max_guidance_scale: float = MAX_GUIDANCE_SCALE,
        bf16: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.schedule, self.null_label = flow_map.schedule, flow_map.null_label
        self.clip_x0 = flow_map.clip_x0
        if timesteps is None:
            timesteps = spaced_timesteps(self.schedule.num_timesteps, 32)
        self.times = torch.cat([timesteps, torch.tensor([IMAGE])])  # on the CPU
        self.stages = round(math.log2(len(timesteps)))
        if len(timesteps) != 2**self.stages:
            raise ValueError(f"The timesteps must be 2, 4, 8 … of them, got {len(timesteps)}.")
        self.teacher, self.doubling_steps, self.bf16 = teacher, doubling_steps, bf16
        self.max_guidance_scale = max_guidance_scale
        self.ema = EMA(flow_map, ema_decay)
        self.average = self.ema.model  # a part of this module, so that a checkpoint keeps it
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if model.training:
            self.ema.num_updates = int(self.updates)
            self.ema.update(model)
            self.updates += 1
        chance, scale = torch.rand(2, len(x_0), generator=generator)
        w = torch.where(chance < NULL_SHARE, 0, self.max_guidance_scale * scale**SCALE_POWER)
        w, eps = w.to(x_0), torch.randn(x_0.shape, generator=generator).to(x_0)
        start, end = self._stretches(len(x_0), generator)
        t, s = self.times[start], self.times[end]
        with torch.no_grad(), torch.autocast(x_0.device.type, torch.bfloat16, enabled=self.bf16):
            x_t = self._states(x_0, eps, start, y, w, generator)
            target = self._target(x_t, start, end, y, w, generator)
        _, moved = jump_weights(self.schedule, t, s, x_0)
        error = (model(x_t, t, s, y, w) - target) / moved  # of the estimate of x_0
        # The weight max(SNR, 1) of Salimans & Ho 2022, sec. 4: where there is little noise it counts in eps.
        weight = self.schedule.snr[t].clamp(min=1).to(x_0.dtype).to(x_0.device)
        squares = weight * error.flatten(1).square().mean(dim=1)
        return ((squares + HUBER**2).sqrt() - HUBER).mean()

    def _stretches(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where each jump starts and ends, as places in the grid, [B] int64 each."""
        stages = min(self.stages, 2 + int(self.updates) // self.doubling_steps)
        length = 2 ** torch.randint(1, stages + 1, (batch,), generator=generator)
        chance, less, place, whole = torch.rand(4, batch, generator=generator)
        # Half of them are 2, 4, 8 … long, the others anything between that and the next shorter one.
        length = torch.where(chance < 0.5, length, length - (less * length / 2).long())
        start = (place * (len(self.times) - length)).long()
        is_whole = whole < WHOLE_SHARE
        start, length = start.masked_fill(is_whole, 0), length.masked_fill(is_whole, 2**stages)
        return start, start + length

    def _states(
        self, x_0: Tensor, eps: Tensor, start: Tensor, y: Tensor, w: Tensor, generator: torch.Generator
    ) -> Tensor:
        """x_t: noised images, pure noise, or what the map itself comes by, which for w > 1 is not q(x_t)."""
        t = self.times[start]
        x_t = q_sample(self.schedule, x_0, t.to(x_0.device), eps)
        x_t[start == 0] = eps[start == 0]
        chance, where = torch.rand(2, len(x_0), generator=generator)
        rows = (start > 0) & (chance < ROLLED_SHARE)
        if rows.any():  # in one jump or two
            between = self.times[(where * start).long()][rows]
            first, told = torch.full_like(between, int(self.times[0])), (y[rows], w[rows])
            x_t[rows] = self.average(self.average(eps[rows], first, between, *told), between, t[rows], *told)
        return x_t

    def _target(
        self, x_t: Tensor, start: Tensor, end: Tensor, y: Tensor, w: Tensor, generator: torch.Generator
    ) -> Tensor:
        """x_s, [B, …]: by the teacher's small steps, or by two jumps of the average."""
        x_s, middle = x_t.clone(), start + (end - start) // 2
        walked = (end - start <= 2) | (torch.rand(len(x_t), generator=generator) < ANCHORED_SHARE)
        for k in range(int((end - start)[walked].max())) if walked.any() else ():
            rows = walked & (start + k < end)
            t, s = self.times[start[rows] + k], self.times[start[rows] + k + 1]
            x_s[rows] = self._teacher_step(x_s[rows], t, s, y[rows], w[rows])
        if (rows := ~walked).any():
            t, m, s = (self.times[place[rows]] for place in (start, middle, end))
            x_s[rows] = self.average(self.average(x_t[rows], t, m, y[rows], w[rows]), m, s, y[rows], w[rows])
        return x_s

    def _teacher_step(self, x_t: Tensor, t: Tensor, s: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """One DDIM step of the teacher with classifier-free guidance, at a scale a sample."""
        x, ts = torch.cat([x_t, x_t]), torch.cat([t, t]).to(x_t.device)
        labels = torch.cat([torch.full_like(y, self.null_label), y])
        x_0_uncond, x_0_cond = predict_x0(self.schedule, x, ts, self.teacher(x, ts, labels)).chunk(2)
        x_0 = torch.lerp(x_0_uncond, x_0_cond, w.view(-1, *(1,) * (x_t.ndim - 1)))
        return jump(self.schedule, x_t, t, s, x_0.clamp(-1, 1) if self.clip_x0 else x_0)
