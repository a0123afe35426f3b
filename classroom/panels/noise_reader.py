"""The noisy reader: an image under noise, and what several classifiers read in it."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as w
import torch
from torch import Tensor

from classroom.panels.controls import ROOM
from classroom.panels.noise import Noised, NoiseExplorer

Reader = Callable[[Tensor, Tensor], Tensor]
BAR, GAP, TALL = 30, 6, 70  # of a bar chart, in screen pixels


class NoiseReader(NoiseExplorer):
    """An image under the linear schedule's noise, and a chart of class probabilities for each reader.

    Args:
        readers: name -> (x_t [B, C, H, W], t [B]) -> probabilities [B, K].
        others: as NoiseExplorer.

    Attributes:
        probabilities: name -> K numbers; empty until the first is done.
    """

    def __init__(self, readers: dict[str, Reader], t: int = 300, **others) -> None:
        if not readers:
            raise ValueError("At least one reader is needed.")
        self.readers, self.probabilities = dict(readers), {}
        self.charts = {name: w.HTML(layout={"margin": "0"} | ROOM) for name in readers}
        super().__init__(t, **others)
        self.schedule.layout.display = "none"  # the readers were trained on one schedule
        self.curve.layout.display = "none"
        place = self.children.index(self.curve)
        self.children = (*self.children[:place], *self.charts.values(), *self.children[place:])

    def _draw(self, settings: dict) -> tuple[dict, Noised, dict[str, list[float]]]:
        settings, found = super()._draw(settings)
        t = torch.tensor([settings["t"]])
        with torch.no_grad():
            read = {name: reader(found.x_t, t)[0].tolist() for name, reader in self.readers.items()}
        return settings, found, read

    def _show(self, result: tuple[dict, Noised, dict[str, list[float]]]) -> None:
        *shown, self.probabilities = result
        super()._show(tuple(shown))
        for name, numbers in self.probabilities.items():
            self.charts[name].value = bars_svg(name, numbers)
        self.say(f"t = {shown[0]['t']}: {self.reading()}")

    def reading(self) -> str:
        """What each reader reads, as a sentence."""
        told = []
        for name, numbers in self.probabilities.items():
            label = max(range(len(numbers)), key=numbers.__getitem__)
            told.append(f"{name} reads {label} ({numbers[label]:.0%})")
        return "; ".join(told) + "."

    def still(self) -> tuple[bytes, str] | None:
        picture = super().still()
        return picture and (picture[0], f"{picture[1]} {self.reading()}")


def bars_svg(name: str, numbers: list[float]) -> str:
    """A bar for each class, the highest in colour, as SVG in the page's own text colour."""
    highest = max(range(len(numbers)), key=numbers.__getitem__)
    width, bottom = len(numbers) * (BAR + GAP), TALL + 20
    text, parts = 'font-size="11" fill="currentColor"', []
    for k, number in enumerate(numbers):
        x, tall = k * (BAR + GAP), max(1.0, number * TALL)
        colour = "#2166ac" if k == highest else "#999999"
        parts.append(
            f'<rect x="{x}" y="{bottom - tall:.1f}" width="{BAR}" height="{tall:.1f}" fill="{colour}"/>'
        )
        parts.append(f'<text x="{x + BAR / 2}" y="{bottom + 13}" text-anchor="middle" {text}>{k}</text>')
    words = f"{name}: {highest} with {numbers[highest]:.0%}"
    title = f'<text x="0" y="12" {text}>{html.escape(words)}</text>'
    size = f'width="{width}" height="{bottom + 18}"'
    return f'<svg {size} role="img" aria-label="{html.escape(words)}">{title}{"".join(parts)}</svg>'
