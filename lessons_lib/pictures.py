"""A user's own picture becomes a digit as MNIST's are: drawn, scanned or photographed, any size, any colours.

MNIST was made so (LeCun et al. 1998): the strokes' bounding box is scaled to fit 20×20 pixels, its aspect
kept, and placed in 28×28 with the centre of mass in the middle; strokes bright, background black.
"""

import io
import math
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from lessons_lib.data import DataError, load, to_signed
from lessons_lib.names import refuse

MAX_SIDE = 4096
# No EPS among them: Pillow would hand it to another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SIZE, BOX = 28, 20
# The middle pixel to which MNIST's centres of mass are moved: over its test images they are 14.0 ± 0.3.
MIDDLE = 14
_WORK = 512  # larger pictures are shrunk first: only 20 pixels are left in the end
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_FAINTEST = 0.04  # of full contrast, 10 of 255 grey levels: less is the paper
TOO_LARGE = f"The picture is too large: at most {MAX_SIDE:,} pixels on a side are allowed"
EMPTY = "The picture is empty: it has one colour and no strokes."


def load_digit(path: str | os.PathLike) -> Tensor:
    """A picture file as a digit, [1, 1, 28, 28] in [-1, 1]; of an animation the first picture.

    DataError if there is no such file, or none that can be read; ValueError as in `as_digit`.
    """
    if Path(path).is_dir():
        raise DataError(f"{path} is a folder: name a picture file.")
    try:
        return digit_from_bytes(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"There is no picture {path}: {error.strerror}.") from None


def digit_from_bytes(content: bytes, name: str = "The file") -> Tensor:
    """The bytes of a picture file as `load_digit` has them; an error calls it by `name`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_size(*image.size)  # known from the header: nothing is decoded yet
                return as_digit(_pixels(ImageOps.exif_transpose(image)))  # telephones store which way is up
    except Image.DecompressionBombError:
        raise ValueError(f"{TOO_LARGE}.") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{name} is no picture of a known kind: use {', '.join(FORMATS)}.") from None
    except (OSError, SyntaxError, EOFError, struct.error):  # Pillow's words for a broken file
        raise DataError(f"The picture {name} is damaged or cut short.") from None


def as_digit(pixels: np.ndarray) -> Tensor:
    """Pixels as a digit, [1, 1, 28, 28] in [-1, 1]; ValueError for other arrays and without strokes.

    [H, W] grey, [H, W, 3] colour or [H, W, 4] with transparency in [0, 1], sides at most 4,096, in any range.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,), (4,)) or 0 in pixels.shape:
        raise ValueError(f"A picture must be [H, W], [H, W, 3] or [H, W, 4], got {list(pixels.shape)}.")
    _check_size(pixels.shape[1], pixels.shape[0])
    if pixels.dtype.kind not in "biuf" or not np.isfinite(pixels).all():
        raise ValueError("A picture must hold finite numbers.")
    ink = _ink(_opaque(pixels))
    strokes = ink[_extent(ink, axis=1), _extent(ink, axis=0)]
    return to_signed(torch.from_numpy(_framed(strokes)))[None, None]


def sharpened(images: Tensor) -> Tensor:
    """Soft digits with the hard edges of a pen, as MNIST's are: the embedded ones were scanned in 8×8 pixels.

    A denoiser of MNIST does not know soft edges: inversion brings such digits back off by 0.09, and sharpened
    ones by 0.008, as it does MNIST's. [N, 1, H, W] in [-1, 1] -> [N, 1, 28, 28] in [-1, 1].
    """
    large = F.interpolate((images + 1) / 2, scale_factor=8, mode="bicubic", align_corners=False)
    ink = torch.sigmoid(40 * (large - 0.5))  # a threshold, but for the pixels along the edge
    return torch.cat([as_digit(image[0].numpy()) for image in ink])


def one_of_each(count: int = 1) -> tuple[Tensor, Tensor]:
    """The first `count` test digits of each class, by class: MNIST's, or the embedded ones sharpened.

    Images [10 * count, 1, 28, 28] in [-1, 1] and labels [10 * count] int64.
    """
    test = load("mnist", "test")
    chosen = [(test.labels == k).nonzero().flatten()[:count] for k in range(len(test.class_names))]
    images, labels = test.batch(torch.cat(chosen))
    return (sharpened(images) if test.source == "digits" else images), labels


def _check_size(width: int, height: int) -> None:
    refuse({f"{TOO_LARGE}, and it is {width:,} × {height:,}.": max(width, height) > MAX_SIDE})


def _pixels(image: Image.Image) -> np.ndarray:
    """A Pillow image of any mode -> [H, W], [H, W, 3] or [H, W, 4]."""
    if image.mode.startswith(("I", "F")):  # 16 bits or floats: "RGB" would cut them off at 255
        return np.asarray(image)
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((2 * _WORK, 2 * _WORK))  # as bytes, not yet as floats: a photograph needs 16 times less
    return np.asarray(image)


def _border(image: np.ndarray) -> np.ndarray:
    """The pixels along the four edges, [P, …]: a ring of a fiftieth of the shorter side."""
    ring = np.ones(image.shape[:2], dtype=bool)
    w = max(1, min(ring.shape) // 50)
    ring[w:-w, w:-w] = False
    return image[ring]


def _opaque(pixels: np.ndarray) -> np.ndarray:
    """Pixels as colour [H, W, 1 or 3] float32 with full contrast about 1.

    What is transparent becomes like the border, or, if the border is transparent, unlike the strokes.
    """
    largest = float(np.abs(pixels).max())
    guess = 1 if largest <= 1 else max(255, largest)
    full = {"bool": 1, "uint8": 255, "uint16": 65535}.get(pixels.dtype.name, guess)
    scaled = np.atleast_3d(pixels.astype(np.float32) / full)
    colour = scaled[..., :3]
    if scaled.shape[2] < 4:
        return colour
    alpha = scaled[..., 3].clip(0, 1)
    refuse({EMPTY: alpha.max() < _FAINTEST})
    edge = _border(alpha)
    if np.median(edge) >= 0.5:
        paper = np.median(_border(colour)[edge >= 0.5], axis=0)
    else:
        grey = (colour @ _GREY * alpha).sum() / alpha.sum()
        paper = 0.0 if grey > 0.5 else 1.0
    alpha = alpha[..., None]
    return colour * alpha + paper * (1 - alpha)


def _ink(colour: np.ndarray) -> np.ndarray:
    """Colour [H, W, C] -> [H, W] in [0, 1], 0 for the background and 1 for strokes, whatever their colours.

    The background is the border's median. Ink is how far a pixel goes from there towards the strokes' colour,
    so that dark on light, light on dark and yellow on white are all the same. Contrast is stretched between
    the paper's noise and the strokes' median.
    """
    factor = math.ceil(max(colour.shape[:2]) / _WORK)
    if factor > 1:
        x = torch.from_numpy(np.ascontiguousarray(colour)).permute(2, 0, 1)
        colour = F.avg_pool2d(x, factor, ceil_mode=True).permute(1, 2, 0).numpy()
    offset = colour - np.median(_border(colour), axis=0)
    length = np.abs(offset).max(axis=2)
    peak = max(float(np.quantile(length, 0.999)), float(length.max()) / 2)
    refuse({EMPTY: peak < _FAINTEST})
    towards = offset[length > peak / 2].mean(axis=0)
    ink = offset @ (towards / max(float(np.linalg.norm(towards)), 1e-6))
    edge = _border(ink)
    noise = 3 * 1.4826 * float(np.median(np.abs(edge - np.median(edge))))  # three standard deviations
    strokes = ink[ink > float(ink.max()) / 2]
    full = float(np.median(strokes)) if strokes.size else 0.0
    refuse({EMPTY: full - noise < _FAINTEST})
    return ((ink - noise) / (full - noise)).clip(0, 1)


def _extent(ink: np.ndarray, axis: int) -> slice:
    """Where the sums of solid ink along an axis begin and end; specks of less than 1/500 do not count."""
    mass = np.where(ink > 0.25, ink, 0).sum(axis=axis)
    first, last = np.searchsorted(mass.cumsum() / mass.sum(), (0.002, 0.998))
    return slice(first, last + 1)


def _framed(ink: np.ndarray) -> np.ndarray:
    """[h, w] -> bytes [28, 28]: longer side 20, antialiased, brightest 255, centre of mass in the middle."""
    scale = BOX / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    small = Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    digit = np.asarray(small).clip(0, None)
    digit = (digit / digit.max()).clip(0, 1)
    masses = digit.sum(axis=1), digit.sum(axis=0)
    centres = (float(mass @ np.arange(len(mass)) / mass.sum()) for mass in masses)
    top, left = (round(MIDDLE - centre) for centre in centres)
    top, left = int(np.clip(top, 0, SIZE - height)), int(np.clip(left, 0, SIZE - width))
    image = np.zeros((SIZE, SIZE), dtype=np.uint8)
    image[top : top + height, left : left + width] = (digit * 255).round()
    return image
