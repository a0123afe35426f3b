"""The feature explorer: what a layer of the U-Net holds, and what another t changes in it."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import NamedTuple

import ipywidgets as w
import torch
from torch import Tensor, nn

from classroom.panels.controls import NARROW, ROOM, card_defaults, control
from classroom.panels.panel import Panel, Picture, caption, image_html, still_picture
from lessons_lib import data
from lessons_lib.images import png_bytes, to_grid
from lessons_lib.pipeline import Model, load_model
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import NoiseSchedule, predict_x0, q_sample

SHOWN = 8  # feature maps in a picture
MAP_PIXELS = 60  # of one of them on the screen


class Look(NamedTuple):
    """What one layer holds; the first of each pair was told the true t, the second the other one.

    x_t: [1, C, H, W].
    maps: [2, SHOWN, 1, h, w] in [-1, 1]: the layer's channels that vary most, one scale for both.
    x_0: [2, C, H, W], the estimates of the clean image.
    errors: the mean squared errors of the guessed noise.
    change: how far all channels of the layer moved, as a share of their size.
    shape: channels, height, width of the layer.
    """

    x_t: Tensor
    maps: Tensor
    x_0: Tensor
    errors: tuple[float, float]
    change: float
    shape: tuple[int, int, int]
    milliseconds: float


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """Name -> the module whose output is shown, in the order of the computation."""
    levels = len(network.down)
    found = {"stem": network.stem}
    found |= {f"down {k + 1}": level.attention for k, level in enumerate(network.down)}
    found |= {"middle": network.middle2}
    found |= {f"up {levels - k}": level.attention for k, level in enumerate(network.up)}
    return found


@torch.no_grad()
def look(
    network: nn.Module, schedule: NoiseSchedule, x_0: Tensor, t: int, told: int, layer: str, seed: int = 5
) -> Look:
    """Put x_0 [1, C, H, W] under the noise of t and ask the network twice: told t, and told another timestep.

    Raises:
        ValueError: for an unknown layer.
    """
    layers, kept = layers_of(network), []
    if layer not in layers:
        raise ValueError(f"Unknown layer {layer!r}: choose one of {', '.join(layers)}.")
    eps, true_t = SampleNoise([(seed, 0)])(x_0), torch.tensor([t])
    x_t = q_sample(schedule, x_0, true_t, eps)
    hook = layers[layer].register_forward_hook(lambda module, inputs, output: kept.append(output))
    started = time.perf_counter()
    try:
        eps_hat = network(x_t.expand(2, -1, -1, -1), torch.tensor([t, told]))
    finally:
        hook.remove()
    milliseconds = 1000 * (time.perf_counter() - started)
    features = kept[0].float()
    true, other = features
    errors = (eps_hat - eps).square().mean(dim=(1, 2, 3)).tolist()
    x_0_hat = predict_x0(schedule, x_t.expand(2, -1, -1, -1), true_t, eps_hat).clamp(-1, 1)
    change = float((other - true).norm() / true.norm().clamp(min=1e-9))
    return Look(x_t, _maps(features), x_0_hat, tuple(errors), change, tuple(true.shape), milliseconds)


def _maps(features: Tensor) -> Tensor:
    """The channels that vary most when told the truth, each scaled by its own range: [2, SHOWN, 1, h, w]."""
    liveliest = features[0].flatten(1).std(dim=1).argsort(descending=True)[:SHOWN]
    chosen = features[:, liveliest][:, :, None]  # [2, SHOWN, 1, h, w]
    low, high = (f(chosen[0].flatten(1), dim=1) for f in (torch.amin, torch.amax))
    low, high = low.view(1, -1, 1, 1, 1), high.view(1, -1, 1, 1, 1)
    return ((chosen - low) / (high - low).clamp(min=1e-9) * 2 - 1).clamp(-1, 1)


class FeatureExplorer(Panel):
    """A layer's feature maps for a noisy image; the network may be told another t than the image's.

    Args:
        weights: name or path of a denoiser's weights.
        t, told, layer: where the controls start.
        model: (network, schedule), in place of `weights`.

    Attributes:
        layer, t, told, truth: the controls.
        shown: the Look that is shown; None until the first is done.
    """

    def __init__(
        self,
        weights: str | Path = "mnist-denoiser",
        t: int = 300,
        told: int = 800,
        layer: str = "down 1",
        *,
        model: Model | None = None,
    ) -> None:
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.weights, self.model, self.shown = weights, model, None
        last = card_defaults(weights if model is None else model)[1] - 1
        names = list(layers_of(model[0] if model else load_model(weights)[0]))
        self.layer = control(w.Dropdown, options=names, value=layer, description="Layer", layout=NARROW)
        self.t = control(w.IntSlider, value=min(t, last), max=last, description="Image at t")
        self.told = control(w.IntSlider, value=min(told, last), max=last, description="Network told")
        self.truth = w.Button(description="Tell the truth", tooltip="Tell the network the image's own t")
        self.truth.on_click(lambda _: setattr(self.told, "value", self.t.value))
        self.noisy, self.estimates = Picture(120), (Picture(120), Picture(120))
        rows = (w.HTML(), w.HTML())
        self.rows = rows
        self.notes = caption(""), caption("")
        columns = [
            w.VBox([self.noisy, caption("the noisy image")]),
            w.VBox([self.estimates[0], caption("x̂<sub>0</sub>, told the truth")]),
            w.VBox([self.estimates[1], caption("x̂<sub>0</sub>, told the other t")]),
        ]
        pictures = w.HBox(columns, layout={"grid_gap": "16px"} | ROOM)
        maps = [w.VBox([note, row], layout=ROOM) for note, row in zip(self.notes, rows, strict=True)]
        told = w.HBox([self.told, self.truth])
        self.children = (self.layer, self.t, told, pictures, *maps, self.progress, self.status)
        for each in (self.layer, self.t, self.told):
            each.observe(self._redraw, "value")
        self._redraw()

    def _redraw(self, _change=None) -> None:
        settings = {"t": self.t.value, "told": self.told.value, "layer": self.layer.value}
        self.ask(functools.partial(self._draw, settings), self._show)

    def _draw(self, settings: dict) -> tuple[dict, Look]:
        network, schedule = self.model or load_model(self.weights)[:2]
        size = network.config.image_size
        x_0 = data.running_example() if size == 28 else torch.zeros(1, network.config.in_channels, size, size)
        return settings, look(network.eval(), schedule, x_0, **settings)

    def _show(self, result: tuple[dict, Look]) -> None:
        self._drawn, self.shown = result
        t, told, found = self._drawn["t"], self._drawn["told"], self.shown
        self.noisy.show(found.x_t, f"The seven under the noise of t = {t}")
        for k, asked in enumerate((t, told)):
            self.estimates[k].show(found.x_0[k : k + 1], f"The estimate when told t = {asked}")
            alt = f"{SHOWN} feature maps of the layer {self._drawn['layer']}, told t = {asked}"
            self.rows[k].value = _row_html(found.maps[k], alt)
            words = f"told t = {asked}: squared error of the guessed noise {found.errors[k]:.3f}"
            self.notes[k].value = caption(words).value
        channels, height, width = found.shape
        self.say(
            f"Layer {self._drawn['layer']}: {channels} maps of {height} × {width}; shown are the "
            f"{len(found.maps[0])} that vary most. Told t = {told} in place of {t}, the layer moves by "
            f"{found.change:.0%} of its size. Computed in {found.milliseconds:.0f} ms."
        )

    def still(self) -> tuple[bytes, str] | None:
        if self.shown is None:
            return None
        t, told, layer = (self._drawn[key] for key in ("t", "told", "layer"))
        rows = {f"told {t}": self.shown.maps[0], f"told {told}": self.shown.maps[1]}
        title = f"Layer {layer}, image at t = {t}, told {t} and told {told}"
        return still_picture(rows, title), f"{SHOWN} feature maps each. {title}."


def _row_html(maps: Tensor, alt: str) -> str:
    """Feature maps [N, 1, h, w] in one picture; gaps between them, hard pixels."""
    scale = max(1, round(MAP_PIXELS / maps.shape[-1]))
    grid = to_grid(maps, columns=len(maps), gap=max(1, round(4 / scale)))
    return image_html(png_bytes(grid), alt, grid.shape[1] * scale, grid.shape[0] * scale)
