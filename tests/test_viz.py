"""Grids, GIFs and figures: shapes, shades, alternative texts, files that are whole or absent."""

import io

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from lessons_lib import viz
from lessons_lib.files import WriteError


def test_grid_places_images_row_by_row():
    images = torch.stack([torch.full((1, 4, 5), value) for value in (-1.0, 0.0, 1.0)])
    grid = viz.to_grid(images, columns=2, scale=3, gap=2)
    assert grid.shape == ((4 + 2 + 4) * 3, (5 + 2 + 5) * 3, 3)
    assert grid.dtype == np.uint8
    assert grid[0, 0, 0] == 0 and grid[0, -1, 0] == 128 and grid[-1, 0, 0] == 255


def test_grid_keeps_colour_and_clips():
    red = torch.tensor([5.0, -5.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert viz.to_grid(red, gap=0)[0, 0].tolist() == [255, 0, 0]


def test_gif_holds_every_frame_and_waits_at_the_end():
    frames = viz.denoising_frames([torch.randn(4, 1, 7, 6) for _ in range(5)], columns=2, scale=2)
    gif = viz.gif_bytes(frames, seconds=1.0, hold=2.0)
    assert len(iio.imread(gif, index=None)) == 5
    durations = [iio.immeta(gif, index=k)["duration"] for k in range(5)]
    assert durations == [250, 250, 250, 250, 2000]


def test_gif_of_noise_in_few_shades_is_smaller():
    noise = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 1), dtype=np.uint8).repeat(3, axis=3)
    assert len(viz.gif_bytes(list(noise), shades=16)) < 0.6 * len(viz.gif_bytes(list(noise), shades=256))


def test_gif_keeps_colour():
    frames = [np.full((8, 8, 3), (200, 30, 30), np.uint8), np.full((8, 8, 3), (30, 30, 200), np.uint8)]
    seen = iio.imread(viz.gif_bytes(frames), index=None)
    assert seen[0, 0, 0, 0] > 150 > seen[1, 0, 0, 0]


@pytest.mark.parametrize("kind", ["figure", "pixels", "gif"])
def test_every_picture_carries_its_text(kind, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a[0], k.get("metadata"))))
    pixels = np.zeros((6, 7, 3), np.uint8)
    picture = {
        "figure": viz.image_row({"a": torch.zeros(2, 1, 5, 5)}, ["x", "y"]),
        "pixels": pixels,
        "gif": viz.gif_bytes([pixels, pixels + 255]),
    }[kind]
    viz.show_figure(picture, alt='black & "white"', caption="See it.")
    content, metadata = shown[0]
    assert metadata["image/png"]["alt"] == 'black & "white"'
    assert iio.imread(io.BytesIO(__import__("base64").b64decode(content["image/png"]))).ndim >= 2
    assert ("text/html" in content) == (kind == "gif")
    if kind == "gif":
        assert "black &amp; &quot;white&quot;" in content["text/html"]
    assert "See it." in shown[1][0].data


def test_unwritable_picture_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        viz.save_png(tmp_path / "file" / "a.png", np.zeros((2, 2, 3), np.uint8))


def test_image_row_leaves_missing_places_empty():
    fig = viz.image_row({"long name": torch.zeros(3, 1, 5, 5), "b": torch.zeros(1, 3, 5, 5)}, ["1", "2", "3"])
    assert [ax.axison for ax in fig.axes] == [True, True, True, True, False, False]


def test_table_reads_numbers_words_and_skips_notes(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("# how it was made\nname,value\nddim,0.5\n")
    assert viz.read_table(path) == [{"name": "ddim", "value": 0.5}]


def test_live_loss_draws_one_picture_and_updates_it(monkeypatch):
    class Handle:
        updates = 0

        def update(self, image):
            Handle.updates += 1

    monkeypatch.setattr("IPython.display.display", lambda *a, **k: Handle())
    live = viz.LiveLoss(seconds=5, redraw_every=0.0)
    for step in range(1, 4):
        live(step, 1.0 / step)
    assert Handle.updates == 2 and live.losses == [1.0, 0.5, 1 / 3]
