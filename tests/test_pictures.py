"""pictures.py: however a digit is drawn, scanned or coloured, it becomes one that an MNIST network reads."""

import functools
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from lessons_lib import data, pictures
from lessons_lib.guidance import conditional
from lessons_lib.pipeline import load_model
from lessons_lib.samplers import ddim_invert, sample_ddim
from lessons_lib.schedules import spaced_timesteps

NUM = 50
WHITE = (255, 255, 255)


@functools.cache
def digits():
    found = data.load("digits", "test")
    return found.images[:NUM, 0].numpy(), found.labels[:NUM]


def canvas(digit):
    """A digit [28, 28] enlarged in a picture of 200 × 150."""
    large = Image.fromarray(digit).resize((150, 150), Image.Resampling.BICUBIC)
    return np.pad(np.asarray(large), ((0, 0), (10, 40)))


def coloured(picture, ink, paper):
    share = picture[..., None] / 255
    return (np.array(ink) * share + np.array(paper) * (1 - share)).astype(np.uint8)


def scanned(picture):
    """Dark on paper-white, turned by 8 degrees, noisy, and darker towards one side."""
    turned = Image.fromarray(255 - picture).rotate(8, fillcolor=255, expand=True)
    pixels = 20 + 0.85 * np.asarray(turned).astype(float) + np.linspace(0, 15, turned.width)
    return (pixels + np.random.default_rng(0).normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)


def transparent(picture, ink):
    """Strokes of one colour on nothing, as a canvas in a browser hands them over."""
    return np.dstack([np.broadcast_to(np.uint8(ink), (*picture.shape, 3)), picture])


def opaque(picture):
    return np.dstack([coloured(picture, (0, 0, 0), WHITE), np.full(picture.shape, 255, np.uint8)])


DRAWN = {
    "as it is": lambda x: x,
    "light on dark": canvas,
    "dark on light": lambda x: 255 - canvas(x),
    "0 to 1": lambda x: canvas(x) / 255,
    "-1 to 1": lambda x: canvas(x) / 127.5 - 1,
    "16 bits": lambda x: canvas(x).astype(np.uint16) * 257,
    "faint": lambda x: (200 - canvas(x) * 0.2).astype(np.uint8),
    "yellow on white": lambda x: coloured(canvas(x), (255, 230, 0), WHITE),
    "red on blue": lambda x: coloured(canvas(x), (220, 30, 30), (30, 60, 200)),
    "scanned": lambda x: scanned(canvas(x)),
    "black on nothing": lambda x: transparent(canvas(x), (0, 0, 0)),
    "white on nothing": lambda x: transparent(canvas(x), WHITE),
    "opaque": lambda x: opaque(canvas(x)),
    "small in a corner of a large picture": lambda x: np.pad(canvas(x), ((40, 700), (900, 60))),
}


def centre_of_mass(digit):
    mass, at = (digit[0, 0] + 1) / 2, torch.arange(28.0)
    return float(mass.sum(1) @ at / mass.sum()), float(mass.sum(0) @ at / mass.sum())


@pytest.mark.parametrize("name", DRAWN)
def test_the_evaluator_reads_what_was_drawn(name):
    images, labels = digits()
    found = torch.cat([pictures.as_digit(DRAWN[name](image)) for image in images])
    assert found.shape == (NUM, 1, 28, 28) and found.dtype == torch.float32
    assert found.min() == -1 and found.max() == 1
    read = load_model("mnist-evaluator")[0].probabilities(found).argmax(dim=1)
    assert (read == labels).float().mean() >= 0.9
    for digit in found:
        # Half a pixel, and what rounding to bytes moves.
        assert centre_of_mass(digit[None]) == pytest.approx((14, 14), abs=0.51)


def png_header(width, height):
    """The first bytes of a PNG file of any size; there are no pixels behind them."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for chunk in (body, b"IDAT" + zlib.compress(b""), b"IEND"):
        png += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png


@pytest.mark.parametrize("size", [(10_000, 10_000), (4097, 1), (1, 5000), (100_000, 100_000)])
def test_a_large_picture_is_refused_before_it_is_decoded(tmp_path, size, recwarn):
    path = tmp_path / "large.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(ValueError, match="too large: at most 4,096 pixels on a side"):
        pictures.load_digit(path)
    assert not recwarn.list


def test_bad_files_are_one_sentence(tmp_path):
    for missing, said in ((tmp_path, "is a folder"), (tmp_path / "missing.png", "There is no picture")):
        with pytest.raises(data.DataError, match=said):
            pictures.load_digit(missing)
    path = tmp_path / "d.png"
    Image.fromarray(canvas(digits()[0][0])).save(path)
    content = path.read_bytes()
    unknown = b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", content[:5]
    damaged = content[:200], content[:60] + bytes(50) + content[110:], png_header(50, 50)
    for said, contents in (("is no picture of a known kind", unknown), ("is damaged", damaged)):
        for broken in contents:
            path.write_bytes(broken)
            with pytest.raises(data.DataError, match=rf"d\.png {said}"):
                pictures.load_digit(path)


EMPTY = {
    "black": np.zeros((50, 50)),
    "white": np.full((9, 7, 3), 255, np.uint8),
    "transparent": np.zeros((20, 20, 4), np.uint8),
    "opaque": np.dstack([np.full((20, 20, 3), 90, np.uint8), np.full((20, 20), 255, np.uint8)]),
    "one pixel": np.zeros((1, 1)),
    "noise": np.random.default_rng(0).normal(0.5, 0.1, (200, 150)),
    "paper": np.random.default_rng(0).integers(250, 255, (200, 150, 3)).astype(np.uint8),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_picture_is_one_sentence(name):
    with pytest.raises(ValueError, match=r"^The picture is empty: it has one colour and no strokes\.$"):
        pictures.as_digit(EMPTY[name])


def lost_by_inversion(images, labels):
    """How far DDIM inversion and its way back leave images from themselves, in [0, 1] pixels."""
    denoiser, schedule, _ = load_model("mnist-denoiser")
    eps_fn, timesteps = conditional(denoiser, labels), spaced_timesteps(schedule.num_timesteps, 10)
    *_, noise = ddim_invert(eps_fn, schedule, images, timesteps)
    *_, back = sample_ddim(eps_fn, schedule, noise.x_t, timesteps)
    return float((back.x_t - images).abs().mean() / 2)


def test_sharpened_digits_are_the_same_digits_and_come_back_from_their_noise():
    found = data.load("digits", "test")
    images, labels = found.batch(torch.arange(12))
    hard = pictures.sharpened(images)
    assert hard.shape == images.shape and hard.min() == -1 and hard.max() == 1
    # At the edges only a few pixels are neither ink nor paper.
    assert ((hard.abs() < 0.8).float().mean() < 0.1) and ((images.abs() < 0.8).float().mean() > 0.1)
    evaluator, _, _ = load_model("mnist-evaluator")
    assert (evaluator.probabilities(hard).argmax(1) == labels).sum() >= 10
    assert lost_by_inversion(hard, labels) < lost_by_inversion(images, labels) / 2
