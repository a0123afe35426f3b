"""The moving world: 500 dots in a plane whose every score is known, computed on the page (world.js)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets as t
from torch import Tensor

from classroom import figures
from classroom.figures.basics import SCREEN
from classroom.panels.panel import with_still
from lessons_lib.evaluation.curves import canvas
from lessons_lib.names import check_choice
from lessons_lib.samplers import ddim_invert, sample_ddim, sample_ddpm
from lessons_lib.schedules import NoiseSchedule, q_sample, spaced_timesteps
from lessons_lib.toy import seven_and_three

SCENES = {  # and the titles of their rows in the still
    "noise": ("noise tears it apart",),
    "flow": ("the way back",),
    "samplers": ("DDIM", "DDPM"),
    "guide": ("without a wish", "w = {scale:g}"),
    "invert": ("up, told what it is", "down, told the wish"),
    "steps": ("60 steps", "{steps} steps"),
    "yours": (),
}
COUNT, WIDE = 300, 8.6  # dots and inches of the still
MOMENTS = (0.0, 0.6, 0.8, 0.92, 1.0)  # that a row shows of its way down; of a way up from the other end


class MovingWorld(anywidget.AnyWidget):
    """Dots along the strokes of a 7 and a 3, noised, drawn, guided and inverted by exact scores.

    Args:
        scene: one of SCENES.
        guidance_scale, target: w of the wish, 0 for the 7 and 1 for the 3.
        steps: of the scene "steps".
        ways, times: of the scene "yours", title -> states [K, N, 2], and their K timesteps, -1 the picture.
    """

    here = Path(__file__).parent
    _esm, _css = here / "world.js", here / "strip.css"
    scene = t.Unicode().tag(sync=True)
    guidance_scale, target = t.Float().tag(sync=True), t.Int().tag(sync=True)
    steps, seed, arrows = t.Int().tag(sync=True), t.Int(0).tag(sync=True), t.Bool().tag(sync=True)
    means, abar, classes = t.Bytes().tag(sync=True), t.Bytes().tag(sync=True), t.List().tag(sync=True)
    std = t.Float().tag(sync=True)
    ways_of, names, times = t.Bytes().tag(sync=True), t.List().tag(sync=True), t.List().tag(sync=True)

    def __init__(
        self, scene: str = "noise", *, guidance_scale: float = 1.0, target: int = 0, steps: int = 5,
        arrows: bool = False, ways: Mapping[str, Tensor] | None = None, times: Sequence[int] = (),
    ) -> None:  # fmt: skip
        check_choice("scene", scene, tuple(SCENES))
        self.recorded = ways or {}
        parts = [states.double().contiguous().numpy().tobytes() for states in self.recorded.values()]
        self.mixture, self.schedule = seven_and_three(), NoiseSchedule.linear(1000)
        super().__init__(
            scene=scene, guidance_scale=guidance_scale, target=target, steps=steps, arrows=arrows,
            means=self.mixture.means.double().numpy().tobytes(), classes=self.mixture.classes.tolist(),
            std=self.mixture.std, abar=self.schedule.alphas_cumprod.numpy().tobytes(),
            ways_of=b"".join(parts), names=list(self.recorded), times=list(map(int, times)),
        )  # fmt: skip

    def ways(self) -> Iterator[tuple[Mapping[int, Tensor], Tensor]]:
        """Of each row the states [N, 2] by timestep, in their order, -1 the picture; and the classes [N]."""
        generator, schedule, mixture = torch.Generator().manual_seed(0), self.schedule, self.mixture
        x_0, y = mixture.sample(COUNT, generator)
        x_T, eps_fn = torch.randn(COUNT, 2, generator=generator), mixture.eps_fn(schedule)
        wish = torch.full((COUNT,), self.target)
        wished = mixture.eps_fn(schedule, wish)
        guided = lambda x, t: torch.lerp(eps_fn(x, t), wished(x, t), self.guidance_scale)  # noqa: E731
        times = spaced_timesteps(1000, 60)

        def drawn(fn, start=x_T, times=times, sampler=sample_ddim, **options):
            steps = sampler(fn, schedule, start, times, clip_x0=False, **options)
            states = {int(times[0]): start}
            for step, s in zip(steps, [*times[1:].tolist(), -1], strict=True):
                states[s] = step.x_t
            nearest = torch.cdist(states[-1], mixture.means).argmin(dim=1)
            return states, mixture.classes[nearest]

        yield from self._recorded()
        if self.scene == "noise":
            noised = {
                int(s): q_sample(schedule, x_0, torch.full((COUNT,), int(s)), x_T) for s in times.flip(0)
            }
            yield {-1: x_0} | noised, y
        elif self.scene == "invert":
            back = {-1: x_0} | {
                step.t: step.x_t for step in ddim_invert(mixture.eps_fn(schedule, y), schedule, x_0, times)
            }
            yield back, y
            yield drawn(guided, back[999])[0], y
        elif self.scene != "yours":
            yield drawn(eps_fn)
            if self.scene == "samplers":
                yield drawn(
                    eps_fn, sampler=sample_ddpm, noise_fn=lambda x: torch.randn(x.shape, generator=generator)
                )
            elif self.scene == "guide":
                yield drawn(guided)
            elif self.scene == "steps":
                yield drawn(eps_fn, times=spaced_timesteps(1000, self.steps))

    def _recorded(self) -> Iterator[tuple[Mapping[int, Tensor], Tensor]]:
        for states in self.recorded.values():
            nearest = torch.cdist(states[-1].float(), self.mixture.means).argmin(dim=1)
            yield dict(zip(self.times, states, strict=True)), self.mixture.classes[nearest]

    def still(self) -> tuple[bytes, str]:
        """Five moments of each row, as (PNG, two pixels for one; words)."""
        titles = [
            name.format(scale=self.guidance_scale, steps=self.steps) for name in SCENES[self.scene]
        ] or self.names
        colours = np.array([figures.ORANGE, "#762a83"])
        fig = canvas(WIDE, 1.45 * len(titles) + 0.35, "constrained")
        axes = fig.subplots(len(titles), len(MOMENTS), squeeze=False)
        for row, title, (states, classes) in zip(axes, titles, self.ways(), strict=True):
            times = sorted(states, reverse=True)
            shown = [times[round(part * (len(times) - 1))] for part in MOMENTS]
            for ax, t_shown in zip(row, shown if next(iter(states)) >= 0 else shown[::-1], strict=True):
                ax.scatter(*states[t_shown].T, s=2, color=colours[classes])
                ax.set(xlim=(-2.3, 2.3), ylim=(-1.75, 1.75), xticks=[], yticks=[], aspect="equal")
                ax.set_title(f"t = {t_shown}" if t_shown >= 0 else "picture", fontsize=9)
            row[0].set_ylabel(title, fontsize=9)
        png = figures.figure_png(fig, 2 * SCREEN)
        return png, f"A world of dots along a 7 and a 3, by t: {'; then '.join(titles)}."

    def _repr_mimebundle_(self, **kwargs):
        bundle, _ = super()._repr_mimebundle_(**kwargs)
        return with_still(bundle, *self.still(), round(WIDE * SCREEN))
