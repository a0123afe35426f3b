"""The moving world: 500 dots in a plane whose every score is known, computed on the page (world.js)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets as t
from torch import Tensor

from classroom import figures
from classroom.figures.basics import SCREEN
from classroom.figures.curves import canvas
from classroom.panels.panel import with_still
from lessons_lib.names import check_choice
from lessons_lib.samplers import ddim_invert, sample_ddim, sample_ddpm
from lessons_lib.schedules import NoiseSchedule, q_sample, spaced_timesteps
from lessons_lib.toy import seven_and_three

Way = Sequence[tuple[int, Tensor]]  # (t, x_t [N, 2]), t = -1 the picture
SCENES = {  # and the titles of their rows on pages without a kernel
    "noise": ("noise tears it apart",),
    "flow": ("the way back",),
    "samplers": ("DDIM", "DDPM"),
    "guide": ("without a wish", "w = {scale:g}"),
    "invert": ("up, told what it is; then down, told the wish",),
    "steps": ("60 steps", "{steps} steps"),
    "yours": (),
}
COLOURS = figures.ORANGE, "#762a83"  # of the 7 and the 3
COUNT, FRAMES, STAGE = 140, 15, (2.9, 2.45)  # dots, pictures and inches of a row, on pages without a kernel


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

    def ways(self) -> Iterator[tuple[Way, Tensor]]:
        """Of each picture the states of COUNT dots in their order, and the dots' classes [N]."""
        generator, schedule, mixture = torch.Generator().manual_seed(0), self.schedule, self.mixture
        x_0, y = mixture.sample(COUNT, generator)
        x_T, eps_fn = torch.randn(COUNT, 2, generator=generator), mixture.eps_fn(schedule)
        wished = mixture.eps_fn(schedule, torch.full((COUNT,), self.target))
        guided = lambda x, t: torch.lerp(eps_fn(x, t), wished(x, t), self.guidance_scale)  # noqa: E731
        times = spaced_timesteps(1000, 60)

        def drawn(fn, start=x_T, times=times, sampler=sample_ddim, **options):
            steps = sampler(fn, schedule, start, times, clip_x0=False, **options)
            states = [start, *(step.x_t for step in steps)]
            nearest = torch.cdist(states[-1], mixture.means).argmin(dim=1)
            return list(zip([*times.tolist(), -1], states, strict=True)), mixture.classes[nearest]

        yield from self._recorded()
        if self.scene == "noise":
            noised = [
                (t, q_sample(schedule, x_0, torch.full((COUNT,), t), x_T)) for t in times.flip(0).tolist()
            ]
            yield [(-1, x_0), *noised], y
        elif self.scene == "invert":
            up = [
                (step.t, step.x_t) for step in ddim_invert(mixture.eps_fn(schedule, y), schedule, x_0, times)
            ]
            yield [(-1, x_0), *up, *drawn(guided, up[-1][1])[0][1:]], y
        elif self.scene != "yours":
            yield drawn(eps_fn)
            if self.scene == "samplers":
                fresh = lambda x: torch.randn(x.shape, generator=generator)  # noqa: E731
                yield drawn(eps_fn, sampler=sample_ddpm, noise_fn=fresh)
            elif self.scene == "guide":
                yield drawn(guided)
            elif self.scene == "steps":
                yield drawn(eps_fn, times=spaced_timesteps(1000, self.steps))

    def _recorded(self) -> Iterator[tuple[Way, Tensor]]:
        for states in self.recorded.values():
            nearest = torch.cdist(states[-1].float(), self.mixture.means).argmin(dim=1)
            yield list(zip(self.times, states, strict=True)), self.mixture.classes[nearest]

    def film(self) -> tuple[bytes, str]:
        """The pictures side by side, as (a PNG that moves and rests on its end; words)."""
        titles = [
            name.format(scale=self.guidance_scale, steps=self.steps) for name in SCENES[self.scene]
        ] or self.names
        fig, pictures = canvas(len(titles) * STAGE[0], STAGE[1], "constrained"), []
        panes = list(zip(fig.subplots(1, len(titles), squeeze=False)[0], titles, self.ways(), strict=True))
        for part in np.linspace(0, 1, FRAMES):
            for ax, title, (way, classes) in panes:
                self._draw(ax, *_moment(way, part), classes)
                ax.set_title(title, fontsize=9, loc="left")
            pictures.append(figures.picture_of(fig, SCREEN))
        words = f"A world of dots along a 7 and a 3, by t: {'; beside it '.join(titles)}."
        return figures.film_png(pictures, COLOURS), words

    def _draw(self, ax, t: int, x_t: Tensor, classes: Tensor) -> None:
        colours, mixture = np.array(COLOURS), self.mixture
        left = self.schedule.alphas_cumprod[t] ** 0.5 if self.scene == "noise" and t >= 0 else 1
        ax.clear()
        ax.scatter(*left * mixture.means.T, s=6, color=colours[mixture.classes], alpha=0.25, lw=0)
        if self.arrows:
            grid = torch.cartesian_prod(torch.arange(-2, 2.1, 0.5), torch.arange(-1.5, 1.6, 0.5))
            score = mixture.score(self.schedule, grid, torch.full((len(grid),), max(t, 0)))
            figures.arrow_field(ax, grid, score)
        ax.scatter(*x_t.T, s=7, color=colours[classes], lw=0)
        ax.text(2.2, -1.65, f"t = {t}" if t >= 0 else "data", ha="right", fontsize=8)
        ax.set(xlim=(-2.3, 2.3), ylim=(-1.75, 1.75), xticks=[], yticks=[], aspect="equal")

    def _repr_mimebundle_(self, **kwargs):
        bundle, _ = super()._repr_mimebundle_(**kwargs)
        return with_still(
            bundle, *self.film(), round(len(SCENES[self.scene] or self.names) * STAGE[0] * SCREEN)
        )


def _moment(way: Way, part: float) -> tuple[int, Tensor]:
    """What a way shows at 0 … 1: slow near the picture, where most happens; halfway where it turns."""
    slow, last = lambda u: 1 - (1 - u) ** 1.9, len(way) - 1
    if way[0][0] > way[1][0]:
        return way[math.floor(last * slow(part))]
    if way[-1][0] >= 0:
        return way[math.ceil(last * (1 - slow(1 - part)))]
    turned = 1 - slow(1 - 2 * part) if part < 0.5 else 1 + slow(2 * part - 1)
    return way[round(last * turned / 2)]
