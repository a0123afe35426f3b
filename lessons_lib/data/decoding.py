"""Picture files as bytes of one size: decoded once, and kept in a file that is read as if it were memory.

Ten thousand pictures of 64×64 pixels take 123 MB. They are written one by one and the file is mapped, so that
a program holds no more of them than the batch that it looks at.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lessons_lib.data.images import DataError
from lessons_lib.files import WriteError, atomic_write, remove_leftovers

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
# What Pillow calls a picture without colour; the numbers are 16 or 32 bits a pixel.
GREY_MODES = ("1", "L", "LA", "La", "F", "I", "I;16", "I;16B", "I;16L", "I;16N")
SLOW = 2000  # from so many pictures on, a bar shows how far the decoding is


class UnreadableError(Exception):
    """A picture that cannot be read; the message is the reason in a few words."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pictures of one size.

    Args:
        images: [G, C, S, S] uint8, the good ones in the order of their files.
        broken: the place of each file that could not be read, in the list of files, and why.
        count: how many files there were.
        is_kept: they are mapped from the file that they are kept in, not held in memory.
    """

    images: Tensor
    broken: dict[int, str]
    count: int
    is_kept: bool = False

    @property
    def good(self) -> list[int]:
        """The places of the others, one for each image."""
        return [place for place in range(self.count) if place not in self.broken]


def decode_all(
    paths: Sequence[Path],
    size: int,
    channels: int,
    kept: Path,
    stamp: str,
    *,
    strict: bool = False,
    notice: Callable[[str], None] = lambda text: None,
    reader: Callable[[Path, int, int], np.ndarray] | None = None,
) -> Decoded:
    """Decode picture files into the file `kept`, one at a time, and map it.

    Args:
        paths: the picture files.
        size, channels: as in `decode`.
        kept: NAME.npy gets the pictures; NAME.json beside it says what they are.
        stamp: what the files were at this time; `read_kept` asks for it.
        strict: stop at the first file that cannot be read.
        notice: takes a line for the user, if `kept` cannot be written; the pictures are then held in memory.
        reader: decodes one file in place of `decode`, with its arguments and errors.

    Raises:
        DataError: if strict, naming the first file that cannot be read.
    """
    broken: dict[int, str] = {}
    each = functools.partial(_each, paths, size, channels, strict, broken, reader or decode)
    try:
        remove_leftovers(kept.parent)
        with atomic_write(kept) as temporary, open(temporary, "wb") as file:
            # An older one must not describe the new pictures.
            kept.with_suffix(".json").unlink(missing_ok=True)
            shape = (len(paths), channels, size, size)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            # Written, not mapped: on a full disk a write is an error, but a mapped page kills the process.
            for pixels in each():
                file.write(pixels.tobytes())
            for _ in broken:  # the good ones stand together, and the header counts all
                file.write(bytes(channels * size * size))
        facts = {"stamp": stamp, "count": len(paths), "broken": broken}
        with atomic_write(kept.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(facts), encoding="utf-8")
        if (found := read_kept(kept, stamp)) is not None:
            return found
    except (WriteError, OSError) as error:
        notice(f"The decoded pictures are not kept for the next time, but held in memory: {error}")
    broken.clear()
    rows = list(each())
    images = np.stack(rows) if rows else np.zeros((0, channels, size, size), np.uint8)
    return Decoded(torch.from_numpy(images), broken, len(paths))


def read_kept(kept: Path, stamp: str) -> Decoded | None:
    """What `decode_all` left there; None if that is nothing, damaged, or made of other files."""
    with contextlib.suppress(OSError, ValueError, EOFError, KeyError, TypeError, AttributeError):
        facts = json.loads(kept.with_suffix(".json").read_text(encoding="utf-8"))
        if facts["stamp"] == stamp:
            broken = {int(place): str(reason) for place, reason in facts["broken"].items()}
            # "c": mapped, and what a caller writes there stays its own.
            found = np.load(kept, mmap_mode="c", allow_pickle=False)
            if found.dtype == np.uint8 and found.ndim == 4 and len(found) == facts["count"]:
                good = torch.from_numpy(found[: len(found) - len(broken)])
                return Decoded(good, broken, len(found), is_kept=True)
    return None


def _each(
    paths: Sequence[Path],
    size: int,
    channels: int,
    strict: bool,
    broken: dict[int, str],
    reader: Callable[[Path, int, int], np.ndarray],
) -> Iterator[np.ndarray]:
    """The pictures that can be read; the others go into `broken`."""
    pause = 0.2 if sys.stderr.isatty() else 10
    bar = tqdm(
        paths,
        "decoding pictures",
        file=sys.stderr,
        leave=False,
        mininterval=pause,
        disable=len(paths) <= SLOW,
    )
    for place, path in enumerate(bar):
        try:
            pixels = reader(path, size, channels)
        except UnreadableError as error:
            if strict:
                bar.close()
                raise DataError(f"The picture {path} cannot be read: {error}.") from error
            broken[place] = str(error)
        else:
            yield pixels


def decode(path: Path, size: int, channels: int) -> np.ndarray:
    """A picture file as bytes [channels, size, size]: its middle square, resized without aliasing.

    The camera's note which way is up is followed; what is transparent becomes white; of an animation comes
    the first picture.

    Raises:
        UnreadableError: if the file is no picture, is damaged, or is not there.
    """
    from PIL import Image

    with explained(), Image.open(path) as image:
        return square(image, size, channels)


def square(image, size: int, channels: int, crop: float = 1.0) -> np.ndarray:
    """A picture's middle square as bytes [channels, size, size]; crop: its share of the shorter side."""
    from PIL import Image, ImageOps

    wanted = math.ceil(2 * size / crop)
    image.draft(None, (wanted, wanted))  # a JPEG from a camera can be read at an eighth of its size
    image = _plain(ImageOps.exif_transpose(image))
    image = image.convert("L" if channels == 1 else "RGB")
    side = round(min(image.size) * crop)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    found = image.crop((left, top, left + side, top + side))
    if side != size:
        found = found.resize((size, size), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(found).reshape(size, size, channels).transpose(2, 0, 1))


def look(path: Path) -> tuple[int, bool]:
    """The shorter side in pixels, and whether the picture has no colour; only the file's head is read.

    Raises:
        UnreadableError: as decode.
    """
    from PIL import Image

    with explained(), Image.open(path) as image:
        return min(image.size), image.mode in GREY_MODES


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Say what Pillow says of a file that it cannot read as an UnreadableError, in a few words."""
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large or sloppy files, which are read nevertheless
            yield
    except UnreadableError:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableError("no picture") from None
    except Image.DecompressionBombError:
        raise UnreadableError("too large") from None
    except OSError as error:
        raise UnreadableError(error.strerror or "cut short or damaged") from None
    # Pillow's decoders have many more words for a damaged file: SyntaxError, struct.error, IndexError …
    except Exception as error:
        raise UnreadableError(f"damaged ({type(error).__name__})") from error


def _plain(image):
    """Without transparency, and with 8 bits a channel."""
    from PIL import Image

    if image.mode == "F" or image.mode[0] == "I":
        return Image.fromarray(_to_bytes(np.asarray(image).astype(np.float64), image.mode))
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _to_bytes(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey of 16 or 32 bits a pixel, or of floats, as bytes: the smallest usual range that fits."""
    if not np.isfinite(values).all() or values.min() < 0:
        raise UnreadableError("its numbers are negative or not finite")
    ranges = [65535] if mode.startswith("I;16") else ([1] if mode == "F" else []) + [255, 65535]
    top = next((top for top in ranges if values.max() <= top), values.max())
    return (values * (255 / top)).round().astype(np.uint8)
