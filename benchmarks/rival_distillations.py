"""Ways to learn a flow map, at equal time: self-composition, MeanFlow and the Lagrangian loss.

    python -m benchmarks.rival_distillations [--seconds 8] [--threads 1] [--json]

trains `toy.ToyFlowMap` on the two clouds with their perfect teacher, each way for the same processor time. It
prints the distance to where 1,000 DDIM steps end from the same noise: the mean of the seeds, and their range.
"""

import time

import torch
from torch import Tensor, nn
from torch.func import jvp

from benchmarks import parser, prepare, show
from lessons_lib.flow_map import sample_flow_map
from lessons_lib.schedules import NoiseSchedule, predict_x0, q_sample, spaced_timesteps_logsnr
from lessons_lib.toy import ToyFlowMap, two_clouds
from lessons_lib.training.averaging import EMA
from lessons_lib.training.distillation import HUBER, FlowMapLoss
from lessons_lib.unet import timestep_embedding

SCHEDULE, MIXTURE, BATCH, LR, MAX_SCALE = NoiseSchedule.linear(1000), two_clouds(), 256, 8e-3, 4.0
TEACHER, GRID = MIXTURE.teacher(SCHEDULE), spaced_timesteps_logsnr(SCHEDULE, 128).flip(0)
# On a straight path z = (1 - tau) x_0 + tau eps the velocity is eps - x_0; z is x_t over alpha + sigma.
ABAR = torch.cat([torch.ones(1, dtype=torch.float64), SCHEDULE.alphas_cumprod])  # at place t + 1
TAU = ((1 - ABAR).sqrt() / (ABAR.sqrt() + (1 - ABAR).sqrt())).float()
T_BY_TAU, SIZE = 1 / torch.gradient(TAU)[0], ((1 - TAU) ** 2 + TAU**2).sqrt()[:, None]  # dt / dtau; z / x_t


def mean_velocity(model: ToyFlowMap, z: Tensor, tau: Tensor, t: Tensor, s: Tensor, y: Tensor, w: Tensor):
    """u [B, D] with z_s = z_t + (tau_s - tau_t) u: ToyFlowMap's jump, for times between the timesteps too."""
    size = ((1 - tau) ** 2 + tau**2).sqrt()[:, None]
    label = torch.lerp(model.label_table(torch.full_like(y, 2)), model.label_table(y), w[:, None])
    times = [timestep_embedding(n, 16) for n in (t / 10, s / 10, w)]
    v = model.layers(torch.cat([z / size, *times, label], dim=1))
    return (v + (2 * tau[:, None] - 1) * z / size) / size  # eps - x_0, of the v that the network answers


def velocity(z: Tensor, t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """The guided teacher's eps - x_0 at z_t."""
    x = z / SIZE[t + 1]
    untold, told = TEACHER(x, t, torch.full_like(y, 2)), TEACHER(x, t, y)
    eps = untold + w[:, None] * (told - untold)
    return eps - predict_x0(SCHEDULE, x, t, eps)


def drawn(x_0: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """z_t, t, s and w; t is pure noise in a quarter of the samples, s any time below, w as in the library."""
    chance, place, less, scale = torch.rand(4, len(x_0), generator=generator)
    start = torch.where(chance < 0.25, 127, (place * 128).long())
    t, s = GRID[start], torch.cat([torch.tensor([-1]), GRID])[(less * (start + 1)).long()]
    x_t = q_sample(SCHEDULE, x_0, t, torch.randn(x_0.shape, generator=generator))
    return x_t * SIZE[t + 1], t, s, MAX_SCALE * scale**1.5


def mean_flow(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """u = velocity - (tau_t - tau_s) du/dtau along the path (Geng et al. 2025, eq. 6); half have s = t."""
    z, t, s, w = drawn(x_0, generator)
    s = torch.where(torch.rand(len(s), generator=generator) < 0.5, t, s)
    tau, now = TAU[t + 1], velocity(z, t, y, w)
    tangents = now, torch.ones_like(tau), T_BY_TAU[t + 1]
    u, slope = jvp(lambda *at: mean_velocity(model, *at, s.float(), y, w), (z, tau, t.float()), tangents)
    return u - (now - (tau - TAU[s + 1])[:, None] * slope).detach()


def lagrangian(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """As s moves, the end of a jump moves with the teacher's velocity there (Boffi et al. 2025)."""
    z, t, s, w = drawn(x_0, generator)
    s, tau = s.clamp(min=0), TAU[t + 1]  # the teacher is not asked at the image itself
    z_s, moves = jvp(
        lambda tau_s, s: z + (tau_s - tau)[:, None] * mean_velocity(model, z, tau, t.float(), s, y, w),
        (TAU[s + 1], s.float()), (torch.ones_like(tau), T_BY_TAU[s + 1]),
    )  # fmt: skip
    return moves - velocity(z_s.detach(), s, y, w)


WAYS = {
    "self-composition": lambda model: FlowMapLoss(
        model, TEACHER, timesteps=GRID.flip(0)[::8], doubling_steps=100, max_guidance_scale=MAX_SCALE),
    "MeanFlow": lambda _: mean_flow, "Lagrangian": lambda _: lagrangian,
}  # fmt: skip


def trained(make_loss, seconds: float, seed: int) -> EMA:
    """The average of the network after so many seconds of processor time."""
    torch.manual_seed(seed)
    model, generator = ToyFlowMap(SCHEDULE, 2, 2), torch.Generator().manual_seed(seed)
    loss, ema, optimizer = make_loss(model), EMA(model, 0.99), torch.optim.AdamW(model.parameters(), LR)
    started = time.process_time()
    while (gone := (time.process_time() - started) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = LR * min(1, ema.num_updates / 50) * (1 - gone)
        optimizer.zero_grad()
        error = loss(model, *MIXTURE.sample(BATCH, generator), generator)
        if error.ndim:  # FlowMapLoss ends with the same pseudo-Huber distance
            error = ((error.square().mean(dim=1) + HUBER**2).sqrt() - HUBER).mean()
        error.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model)
    return ema


def main() -> None:
    """Train every way with every seed, and print the table."""
    options = parser(__doc__, threads=1)
    options.add_argument("--seconds", type=float, default=8)
    arguments = options.parse_args()
    machine, exact, rows = prepare(arguments.threads), {}, []
    x_T, y = torch.randn(1000, 2, generator=torch.Generator().manual_seed(1)), torch.arange(1000) % 2
    for w in torch.tensor([[1.0], [2.0]]).expand(2, len(y)):
        z = x_T * SIZE[-1]
        for t in reversed(range(1000)):  # a step of DDIM is an Euler step of z
            z = z + (TAU[t] - TAU[t + 1]) * velocity(z, torch.full_like(y, t), y, w)
        exact[float(w[0])] = z
    for name, make_loss in WAYS.items():
        runs = [trained(make_loss, arguments.seconds, seed) for seed in range(3)]
        rows.append((name, f"{[ema.num_updates for ema in runs]} updates"))
        for w, calls in [(w, calls) for w in exact for calls in (1, 2)]:
            found = []
            for ema in runs:
                *_, last = sample_flow_map(ema.model, x_T, y, w, GRID[[127, 60]][:calls])
                found.append(float((last.x_t - exact[w]).square().sum(dim=1).mean().sqrt()))
            told = f"{sum(found) / len(found):.3f} ({min(found):.3f} to {max(found):.3f})"
            rows.append((f"{name}, w={w:g}, calls: {calls}", told))
    show({"rows": rows, "machine": machine}, rows, arguments.json)


if __name__ == "__main__":
    main()
