"""The feature explorer: what a layer of the U-Net holds, and what another t changes in it."""

from __future__ import annotations

import time
from pathlib import Path

import ipywidgets as w
import torch
from torch import Tensor, nn

from classroom.panels import controls
from classroom.panels.film import Film, Row, seconds
from classroom.panels.panel import Panel
from lessons_lib import data
from lessons_lib.pipeline import load_model
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import predict_x0, q_sample

SHOWN = 8  # feature maps in a row
SEED = 5


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """Name -> the module whose output is shown, in the order of the computation."""
    levels = len(network.down)
    layers = {"stem": network.stem}
    layers |= {f"down {k + 1}": level.attention for k, level in enumerate(network.down)}
    layers |= {"middle": network.middle2}
    return layers | {f"up {levels - k}": level.attention for k, level in enumerate(network.up)}


def maps_of(features: Tensor) -> Tensor:
    """Of a layer's output [2, C, h, w] the channels that vary most in the first: [2, SHOWN, 1, h, w].

    In [-1, 1], each scaled by its own range in the first.
    """
    liveliest = features[0].flatten(1).std(dim=1).argsort(descending=True)[:SHOWN]
    chosen = features[:, liveliest][:, :, None]
    low, high = (f(chosen[0].flatten(1), dim=1).view(1, -1, 1, 1, 1) for f in (torch.amin, torch.amax))
    return ((chosen - low) / (high - low).clamp(min=1e-9) * 2 - 1).clamp(-1, 1)


class FeatureExplorer(Panel):
    """A layer's feature maps for a noisy image; the network may be told another t than the image's."""

    doing = "Asking the network twice …"

    def __init__(
        self, weights: str | Path = "mnist-denoiser", t: int = 300, told: int = 800, layer: str = "down 1"
    ) -> None:
        self.network, self.schedule, _ = load_model(weights)
        self.layers, last = layers_of(self.network), self.schedule.num_timesteps - 1
        config = self.network.config
        self.x_0 = torch.zeros(1, config.in_channels, config.image_size, config.image_size)
        if self.x_0.shape == (1, 1, 28, 28):
            self.x_0 = data.running_example()
        shown = {
            "layer": controls.dropdown("Layer", list(self.layers), layer),
            "t": controls.control(w.IntSlider, "Image at t", min(t, last), max=last),
            "told": controls.control(w.IntSlider, "Network told", min(told, last), max=last),
        }
        truth, own = "Tell the truth", "Tell the network the image's own t"
        button = controls.button(truth, own, lambda: setattr(self.told, "value", self.t.value))
        super().__init__(shown, [button])

    @torch.no_grad()
    def draw(self, layer: str, t: int, told: int) -> Film:
        eps, kept, began = SampleNoise([(SEED, 0)])(self.x_0), [], time.perf_counter()
        x_t, true_t = q_sample(self.schedule, self.x_0, torch.tensor([t]), eps), torch.tensor([t, t])
        hook = self.layers[layer].register_forward_hook(lambda *found: kept.append(found[-1].float()))
        try:
            eps_hat = self.network(x_t.expand(2, -1, -1, -1), torch.tensor([t, told]))
        finally:
            hook.remove()
        took, (true, other) = 1000 * (time.perf_counter() - began), kept[0]
        x_0_hat = predict_x0(self.schedule, x_t.expand(2, -1, -1, -1), true_t, eps_hat).clamp(-1, 1)
        heads = ["the noisy image", "x̂_0, told the truth", "x̂_0, told the other t"]
        rows = [Row.of(torch.cat([x_t, x_0_hat]), heads=heads, side=168)]
        errors = (eps_hat - eps).square().mean(dim=(1, 2, 3)).tolist()
        for maps, asked, error in zip(maps_of(kept[0]), (t, told), errors, strict=True):
            name = f"Told t = {asked}: squared error of the guessed noise {error:.3f}"
            alts = [f"Feature map {k + 1} of layer {layer}, told t = {asked}" for k in range(len(maps))]
            rows.append(Row.of(maps, name, alts=alts, side=66))
        (channels, height, width), change = true.shape, float((other - true).norm() / true.norm())
        line = (
            f"Layer {layer}: {channels} maps of {height} × {width}; shown are the {len(maps)} that vary "
            f"most. Told t = {told} in place of {t}, the layer moves by {change:.0%} of its size. "
            f"Computed in {seconds(took)}."
        )
        return Film(rows, line, f"Layer {layer}, image at t = {t}, told {t} and told {told}", result=kept)
