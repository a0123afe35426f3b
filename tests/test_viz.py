"""Grids, GIFs and figures: shapes, shades, alternative texts, files that are whole or absent."""

import base64
import io
import re

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from classroom import figures
from lessons_lib.images import gif_bytes, to_grid
from lessons_lib.unet import SelfAttention, UNet, UNetConfig


def test_grid_places_images_row_by_row_and_frames_the_marked():
    images = torch.stack([torch.full((1, 4, 5), value) for value in (-1.0, 0.0, 1.0)])
    grid = to_grid(images, columns=2, scale=3, gap=2)
    assert grid.shape == ((4 + 2 + 4) * 3, (5 + 2 + 5) * 3, 3) and grid.dtype == np.uint8
    assert grid[0, 0, 0] == 0 and grid[0, -1, 0] == 128 and grid[-1, 0, 0] == 255
    images = torch.rand(3, 1, 6, 5) * 2 - 1
    plain, framed = (to_grid(images, 3, marked=m) for m in (None, torch.tensor([False, True, False])))
    expected = np.zeros(plain.shape[:2], dtype=bool)
    expected[0:6, 7:12] = True
    expected[1:5, 8:11] = False
    assert ((plain != framed).any(axis=2) == expected).all()
    assert framed[0, 7].tolist() == [214, 96, 77]


def test_gif_of_noise_has_16_shades_and_one_frame_is_written():
    noise = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 1), dtype=np.uint8).repeat(3, axis=3)
    shown = iio.imread(gif_bytes(list(noise)), index=None)
    assert len(np.unique(shown)) == 16 and np.abs(shown - noise.astype(float)).max() <= 9
    assert gif_bytes([np.zeros((4, 5, 3), np.uint8)])[:3] == b"GIF"


@pytest.mark.parametrize("kind", ["figure", "pixels", "gif"])
def test_every_picture_carries_its_text(kind, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a[0], k.get("metadata"))))
    pixels = np.zeros((6, 7, 3), np.uint8)
    picture = {
        "figure": figures.image_row({"a": torch.zeros(2, 1, 5, 5)}, ["x", "y"], misread=torch.eye(2) > 0),
        "pixels": pixels,
        "gif": gif_bytes([pixels, pixels + 255]),
    }[kind]
    figures.show_figure(picture, alt='black & "white"', caption="See it.")
    content, _ = shown[0]
    assert set(content) == {"text/html", "text/plain"}
    assert 'alt="black &amp; &quot;white&quot;"' in content["text/html"]
    picture = base64.b64decode(re.search(r"base64,([^\"]+)", content["text/html"]).group(1))
    width = iio.imread(io.BytesIO(picture), index=0).shape[1]
    shown_at = int(re.search(r'width="(\d+)"', content["text/html"]).group(1))
    assert shown_at / width == {"figure": 0.5, "pixels": 1, "gif": 2}[kind]
    assert "See it." in shown[1][0].data


def test_steps_without_times_have_no_panel_of_time():
    row = {
        "way": "mnist-flow-map",
        "guidance_scale": 2.0,
        "fid_floor": 0.02,
        "diversity": 1.0,
        "accuracy": 1.0,
    }
    for milliseconds, panels in (("", 3), (9.0, 4)):
        rows = [row | {"steps": n, "fid": 0.1 / n, "milliseconds": milliseconds} for n in (1, 2)]
        assert len(figures.steps_figure(rows, 2)[1]) == panels


SMALL = UNetConfig(image_size=8, channel_mults=(1,), num_classes=0)
DEEP = UNetConfig(16, 3, channel_mults=(1, 2, 2, 3), blocks_per_level=2, attention_levels=(1, 3))


@pytest.mark.parametrize("config", [UNetConfig(), SMALL, DEEP])
def test_stages_have_the_shapes_of_the_real_network(config):
    network, shapes = UNet(config).eval(), []

    def note(module, inputs, output):
        shapes.append(tuple(output.shape[1:]))

    # The attention is the last of a level, also where it is an identity.
    for module in [*(level.attention for level in (*network.down, *network.up)), network.middle2]:
        module.register_forward_hook(note)
    size = config.image_size
    with torch.no_grad():
        network(torch.zeros(1, config.in_channels, size, size), torch.tensor([3]))
    stages = figures.unet_stages(config)
    assert [(s.channels, s.size, s.size) for s in stages] == shapes
    for stage, level in zip(stages, [*network.down, None, *network.up], strict=True):
        assert stage.attention == (level is None or isinstance(level.attention, SelfAttention))
        assert stage.blocks == (2 if level is None else len(level.blocks))
