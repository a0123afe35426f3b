"""The feature explorer: what a layer of the U-Net holds, and what another t changes in it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import ipywidgets as w
import torch
from torch import Tensor, nn

from classroom.panels import controls
from classroom.panels.film import Film, Row, seconds
from classroom.panels.panel import Panel
from lessons_lib import data
from lessons_lib.pipeline import load_model
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import NoiseSchedule, predict_x0, q_sample

SHOWN = 8  # feature maps in a row


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
    layers = {"stem": network.stem}
    layers |= {f"down {k + 1}": level.attention for k, level in enumerate(network.down)}
    layers |= {"middle": network.middle2}
    return layers | {f"up {levels - k}": level.attention for k, level in enumerate(network.up)}


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
    low, high = (f(chosen[0].flatten(1), dim=1).view(1, -1, 1, 1, 1) for f in (torch.amin, torch.amax))
    return ((chosen - low) / (high - low).clamp(min=1e-9) * 2 - 1).clamp(-1, 1)


class FeatureExplorer(Panel):
    """A layer's feature maps for a noisy image; the network may be told another t than the image's."""

    doing = "Asking the network twice …"

    def __init__(
        self, weights: str | Path = "mnist-denoiser", t: int = 300, told: int = 800, layer: str = "down 1"
    ) -> None:
        self.weights, last = weights, controls.card_defaults(weights)[1] - 1
        names = list(layers_of(load_model(weights)[0]))
        shown = {
            "layer": controls.dropdown("Layer", names, layer),
            "t": controls.control(w.IntSlider, "Image at t", min(t, last), max=last),
            "told": controls.control(w.IntSlider, "Network told", min(told, last), max=last),
        }
        truth = controls.button(
            "Tell the truth",
            "Tell the network the image's own t",
            lambda: setattr(self.told, "value", self.t.value),
        )
        super().__init__(shown, [truth])

    def draw(self, layer: str, t: int, told: int) -> Film:
        network, schedule = load_model(self.weights)[:2]
        size = network.config.image_size
        x_0 = data.running_example() if size == 28 else torch.zeros(1, network.config.in_channels, size, size)
        found = look(network.eval(), schedule, x_0, t, told, layer)
        heads = ["the noisy image", "x̂_0, told the truth", "x̂_0, told the other t"]
        rows = [Row.of(torch.cat([found.x_t, found.x_0]), heads=heads, side=168)]
        for maps, asked, error in zip(found.maps, (t, told), found.errors, strict=True):
            name = f"Told t = {asked}: squared error of the guessed noise {error:.3f}"
            alts = [f"Feature map {k + 1} of layer {layer}, told t = {asked}" for k in range(len(maps))]
            rows.append(Row.of(maps, name, alts=alts, side=66))
        channels, height, width = found.shape
        line = (
            f"Layer {layer}: {channels} maps of {height} × {width}; shown are the {len(found.maps[0])} that "
            f"vary most. Told t = {told} in place of {t}, the layer moves by {found.change:.0%} of its size. "
            f"Computed in {seconds(found.milliseconds)}."
        )
        return Film(rows, line, f"Layer {layer}, image at t = {t}, told {t} and told {told}", result=found)
