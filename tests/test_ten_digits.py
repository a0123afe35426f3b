"""The first panel: ten wishes from one noise."""

import pytest
import torch

from classroom import panels
from classroom.panels import ten_digits as ten


@pytest.mark.parametrize("seed", range(10))
def test_without_a_wish_all_ten_are_one_picture(seed):
    images = ten.ten_digits(0.0, seed, steps=2)
    assert images.shape == (10, 1, 28, 28)
    assert all(torch.equal(image, images[0]) for image in images)


def test_with_a_wish_they_part_and_are_read():
    readings = ten.read(ten.ten_digits(2.0, seed=3))
    assert sum(reading.label == digit for digit, reading in enumerate(readings)) >= 9


def test_it_plays_once_it_is_displayed_and_obeys(monkeypatch):
    monkeypatch.setattr(ten, "FRAME_S", 0.0)
    panel = panels.TenDigits(steps=1)
    bundle, _ = panel._repr_mimebundle_()
    assert "image/png" in bundle and "Press Shift + Enter" in bundle["text/plain"]
    assert panel.wait()
    assert panel.guidance_scale.value == ten.RISE[-1]
    assert len({picture.value for picture in panel.pictures}) == 10
    panel.guidance_scale.value = 0.0
    assert panel.wait()
    sources = {picture.value.split("src=")[1] for picture in panel.pictures}
    assert len(sources) == 1 and "All ten are the same" in panel.status.value
    before = panel.seed
    panel.another.click()
    assert panel.wait() and panel.seed != before


def test_a_move_ends_the_play(monkeypatch):
    monkeypatch.setattr(ten, "FRAME_S", 0.2)
    panel = panels.TenDigits(steps=1)
    assert panel.wait()
    panel.play.click()
    panel.guidance_scale.value = 3.0
    assert panel.wait()
    assert panel.guidance_scale.value == 3.0 and "Scale 3:" in panel.status.value


def test_weights_that_are_missing_are_a_sentence(monkeypatch):
    monkeypatch.setattr(ten, "ten_digits", lambda *_: (_ for _ in ()).throw(ten_missing()))
    panel = panels.TenDigits()
    assert panel.wait() and "no weights" in panel.status.value and panel.still() is None


def ten_missing():
    from lessons_lib.weights import WeightsError

    return WeightsError("There are no weights here.")
