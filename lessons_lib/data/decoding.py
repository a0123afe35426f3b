"""Picture files as bytes of one size: decoded once, and kept in a file that is read row by row.

They are written one by one, so that a program never holds more of them than the batch that it looks at.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm.auto import tqdm

from lessons_lib.data.image_set import DataError, RowFile, notice
from lessons_lib.files import WriteError, atomic_write, remove_leftovers

# The number of a white pixel, in modes of more than 8 bits: the first that suits; 65535 in the others.
WHITES = {"F": (1, 255, 65535), "I": (255, 65535)}
# The inferred size is at least and at most so many pixels, and can be halved twice.
SMALLEST, LARGEST, MULTIPLE = 16, 64, 4
REASONS = {Image.UnidentifiedImageError: "no picture", Image.DecompressionBombError: "too large"}
SLOW = 2000  # from so many pictures on, a bar shows how far the decoding is

Crop = Callable[[Image.Image], float] | None  # the square's share of the shorter side; may refuse the picture
# [N, C, S, S] uint8, black where a file cannot be read; and why, by the place of the file.
Pictures = tuple[Tensor | RowFile, dict[int, str]]
_IN_MEMORY: dict[tuple[Path, str], Pictures] = {}  # the last ones that could not be kept in a file


class UnreadableError(Exception):
    """A picture that cannot be read; the message is the reason in a few words."""


def decode(path: Path, size: int, channels: int, crop: Crop = None) -> np.ndarray:
    """A picture file as bytes [channels, size, size]: its middle square, resized without aliasing.

    The camera's note which way is up is followed; what is transparent becomes white; of an animation comes
    the first picture. UnreadableError if the file is no picture, is damaged, or is not there.
    """
    with _opened(path) as image:
        share = crop(image) if crop else 1.0
        enough = math.ceil(2 * size / share)
        image.draft(None, (enough, enough))  # a JPEG from a camera can be read at an eighth of its size
        image = _plain(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
        side = round(min(image.size) * share)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if side != size:
            image = image.resize((size, size), Image.Resampling.LANCZOS)
        return np.ascontiguousarray(np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1))


def decode_all(
    paths: Sequence[Path], kept: Path, size: int | None, channels: int | None, strict: bool, crop: Crop = None
) -> Pictures:
    """Picture files, decoded now, or as an earlier call kept them if no file has changed since.

    Args:
        kept: a .npy file for the pictures, and beside it a .json that says what they are. Where these cannot
            be written, which is said, the pictures are held in memory.
        size, channels: if None, the median of the shorter sides, within limits; 1 if no picture has colours.
        strict: a DataError for the first file that cannot be read.
    """
    states = [*map(_state, paths)]
    if strict and (gone := [path for path, state in zip(paths, states, strict=True) if not state]):
        raise DataError(f"There is no picture {gone[0]} (missing: {len(gone):,} of {len(paths):,}).")
    stamp = digest(repr((paths, states)))
    pictures = _read_kept(kept, stamp)
    if pictures and not (strict and pictures[1]):
        return pictures
    notice(f"Decoding {len(paths):,} pictures in {os.path.commonpath(paths)}; this is done once.")
    if size is None or channels is None:
        size, channels = _inferred(paths, size, channels)
    broken: dict[int, str] = {}
    rows = functools.partial(_rows, paths, size, channels, crop, strict, broken)
    try:
        remove_leftovers(kept.parent)
        with atomic_write(kept) as temporary, open(temporary, "wb") as file:
            # An older one must not describe the new pictures.
            kept.with_suffix(".json").unlink(missing_ok=True)
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), channels, size, size)}
            np.lib.format.write_array_header_1_0(file, header)
            # Written, not mapped: on a full disk a write is an error, but a mapped page kills the process.
            file.writelines(row.data for row in rows())
        with atomic_write(kept.with_suffix(".json")) as temporary:
            facts = {"stamp": stamp, "count": len(paths), "broken": broken}
            temporary.write_text(json.dumps(facts), encoding="utf-8")
        return RowFile(kept), broken
    except (WriteError, OSError) as error:
        notice(f"The decoded pictures are not kept for the next time, but held in memory: {error}")
    _IN_MEMORY.clear()
    _IN_MEMORY[kept, stamp] = torch.from_numpy(np.stack([*rows()])), broken
    return _IN_MEMORY[kept, stamp]


def _state(path: Path) -> str:
    """Changes with every change of the file; empty if it is not there, or a link to nowhere."""
    with contextlib.suppress(OSError):
        stat = path.stat()
        # The last changes when a file may be read at last, whose content is as before.
        return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
    return ""


def _read_kept(kept: Path, stamp: str) -> Pictures | None:
    """None if there is nothing, or it is damaged, or made of other files."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        facts = json.loads(kept.with_suffix(".json").read_text(encoding="utf-8"))
        images = RowFile(kept)
        if facts["stamp"] == stamp and facts["count"] == len(images):
            return images, {int(place): reason for place, reason in facts["broken"].items()}
    return _IN_MEMORY.get((kept, stamp))


def _inferred(paths: Sequence[Path], size: int | None, channels: int | None) -> tuple[int, int]:
    heads = []
    for path in paths:
        with contextlib.suppress(UnreadableError), _opened(path) as image:  # reads the file's head only
            heads.append((min(image.size), Image.getmodebase(image.mode) == "L"))
    median = int(statistics.median([side for side, _ in heads] or [SMALLEST]))
    size = size or max(SMALLEST, min(LARGEST, median) // MULTIPLE * MULTIPLE)
    return size, channels or (1 if all(is_grey for _, is_grey in heads) else 3)


def _rows(paths, size, channels, crop, strict, broken) -> Iterator[np.ndarray]:
    """The pictures one by one; the reason why one cannot be read goes into `broken`."""
    pause = 0.2 if sys.stderr.isatty() else 10
    how = {"leave": False, "file": sys.stderr, "mininterval": pause, "disable": len(paths) <= SLOW}
    with tqdm(paths, "decoding pictures", **how) as bar:
        for place, path in enumerate(bar):
            try:
                yield decode(path, size, channels, crop)
            except UnreadableError as error:
                if strict:
                    raise DataError(f"The picture {path} cannot be read: {error}.") from error
                broken[place] = str(error)
                yield np.zeros((channels, size, size), np.uint8)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture file; whatever Pillow says of one that it cannot read becomes an UnreadableError."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            yield image
    except UnreadableError:
        raise
    except Exception as error:  # Pillow's decoders have many words: SyntaxError, struct.error, IndexError …
        reason = REASONS.get(type(error)) or getattr(error, "strerror", None) or "cut short or damaged"
        raise UnreadableError(reason) from error


def _plain(image: Image.Image) -> Image.Image:
    """Without transparency, and with 8 bits a channel."""
    if image.mode == "F" or image.mode[0] == "I":
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all() or values.min() < 0:
            raise UnreadableError("its numbers are negative or not finite")
        whites = WHITES.get(image.mode, (65535,))
        white = next((white for white in whites if values.max() <= white), values.max())
        return Image.fromarray((values * (255 / white)).round().astype(np.uint8))
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def digest(text: str) -> str:
    """64 hexadecimal digits; the names of files may hold bytes that are no text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
