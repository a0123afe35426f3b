"""Three faulty guidances as pictures to diagnose: the moving world, pushed towards the 3 at three scales."""

from __future__ import annotations

import torch

from classroom.figures.basics import DATA, PAGE, canvas
from lessons_lib.samplers import sample_ddim
from lessons_lib.schedules import NoiseSchedule, spaced_timesteps
from lessons_lib.toy import seven_and_three

DOTS, SCALES, THREE = 300, (0, 1, 3), "#762a83"
FAULTS = {  # (scale, sqrt(1 - abar_t)) -> how often the difference of the two exact answers is added
    "right": lambda s, noise: s,
    "program A": lambda s, noise: s + 1,
    "program B": lambda s, noise: s / DOTS,
    "program C": lambda s, noise: s / noise,
}


def faults_figure() -> tuple:
    """A row for each program, a column for each scale; and name -> scale -> the share of dots at the 3."""
    schedule, world = NoiseSchedule.linear(1000), seven_and_three()
    x_T = torch.randn(DOTS, 2, generator=torch.Generator().manual_seed(0))
    free, told = world.eps_fn(schedule), world.eps_fn(schedule, torch.ones(DOTS, dtype=torch.int64))
    shares: dict[str, dict[int, float]] = {name: {} for name in FAULTS}
    fig = canvas(PAGE, 6.4, "constrained")
    axes = fig.subplots(len(FAULTS), len(SCALES))
    for row, (name, share) in zip(axes, FAULTS.items(), strict=True):
        for ax, scale in zip(row, SCALES, strict=True):

            def guided(x, t, share=share, scale=scale):
                weight = share(scale, schedule.signal_and_noise(t, x)[1])
                return free(x, t) + weight * (told(x, t) - free(x, t))

            *_, end = sample_ddim(guided, schedule, x_T, spaced_timesteps(1000, 40), clip_x0=False)
            kinds = world.classes[torch.cdist(end.x_t, world.means).argmin(1)]
            shares[name][scale] = float(kinds.float().mean())
            ax.scatter(*end.x_t.T, s=2, c=[(DATA, THREE)[kind] for kind in kinds])
            ax.set(xlim=(-1.5, 1.5), ylim=(-1.15, 1.15), aspect="equal", xticks=(), yticks=())
        row[0].set_ylabel(name)
    for ax, scale in zip(axes[0], SCALES, strict=True):
        ax.set_title(f"s = {scale}")
    return fig, shares
