"""Images as bytes, in memory or in a file, handed out in [-1, 1]; and how picture files become such a file.

Pictures are decoded one by one and read row by row: memory holds no more of them than a batch.
"""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
import math
import os
import statistics
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, PngImagePlugin
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from lessons_lib.files import WriteError, atomic_write, remove_leftovers, write_whole

SPLITS = ("train", "val", "test")
MANY = 2000  # pictures whose decoding takes long enough to be said
SMALLEST, LARGEST, MULTIPLE = 16, 64, 4  # of the inferred size, in pixels: it can be halved twice
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # a long comment is no reason to skip a picture
REASONS = {Image.UnidentifiedImageError: "no picture", Image.DecompressionBombError: "too large"}


class DataError(RuntimeError):
    """Data that is missing, cut short or of the wrong kind; the message is one sentence for the user."""


class UnreadableError(Exception):
    """A picture that cannot be read; the message is the reason in a few words."""


@functools.cache
def notice(text: str) -> None:
    """Say something once, on stderr so that it never mixes with results."""
    if (os.environ.get("LOCAL_RANK") or "0") == "0":  # of several processes one says it
        print(text, file=sys.stderr)


def to_signed(images: Tensor) -> Tensor:
    """uint8 0 … 255 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_unit(images: Tensor) -> Tensor:
    """float in [-1, 1] -> float in [0, 1], clipped; for showing and writing only."""
    return ((images + 1) / 2).clamp(0, 1)


class RowFile:
    """The rows of a .npy file, [N, C, H, W] uint8, as if they were a tensor: indexing reads from the disk.

    Mapped for each reading anew: in a lasting map, each page that was touched counts as memory. Reading
    raises a DataError if the file is gone, cut short, or another one by now.
    """

    dtype = torch.uint8

    def __init__(self, path: Path, checks: Sequence[int] = ()) -> None:
        self.path, self.written = path, path.stat().st_mtime_ns
        self.checks = np.array(checks, np.uint32)  # the CRC-32 of each row; older files have none
        count, *self.row_shape = np.lib.format.open_memmap(path, mode="r").shape
        self.rows = torch.arange(count)  # of the file, in their order here

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.row_shape))

    def __len__(self) -> int:
        return len(self.rows)

    def pick(self, indices: Tensor) -> Self:
        """The rows at these indices, in that order, without reading them."""
        picked = copy.copy(self)
        picked.rows = self.rows[indices]
        return picked

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """uint8 [C, H, W] for a number, [M, C, H, W] for a slice or indices [M]."""
        rows = self.rows[index].numpy()
        try:
            if self.path.stat().st_mtime_ns == self.written:
                whole = np.lib.format.open_memmap(self.path, mode="r")
                taken = np.take(whole, rows, axis=0)
                self._check(np.atleast_1d(rows), taken)
                return torch.from_numpy(taken)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        except DataError:
            raise
        except Exception:  # numpy has many words for a file that is cut short
            pass
        raise DataError(f"{self.path} is cut short or was replaced: load the data again.")

    def _check(self, rows: np.ndarray, taken: np.ndarray) -> None:
        for row, pixels in zip(rows, taken.reshape(len(rows), *self.row_shape), strict=True):
            if len(self.checks) and zlib.crc32(pixels.data) != self.checks[row]:
                raise DataError(f"{self.path} is damaged: delete it, and the pictures are decoded anew.")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet(Dataset):
    """Images that are kept as bytes and handed out in [-1, 1]."""

    images: Tensor | RowFile  # [N, C, H, W] uint8
    labels: Tensor  # [N] int64; or [N, K] of 0 and 1, where class_names are attributes, yes or no
    class_names: tuple[str, ...]  # K; none for pictures without classes, whose labels are all 0
    source: str  # "mnist", "digits", "cifar10", "celeba" or "folder"
    note: str = ""  # what a card must say of these files besides their source, in a sentence

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        """One image [C, H, W] float32 in [-1, 1] and its label, or its attributes [K]."""
        image, label = self.batch(index)
        return image, int(label) if label.ndim == 0 else label

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images [B, C, H, W] float32 in [-1, 1] and labels, [B] or [B, K], at indices [B]."""
        return to_signed(self.images[indices]), self.labels[indices]

    def fingerprint(self) -> str:
        """SHA-256 of the labels and up to 1,000 images, evenly spread: whether a training sees others by now."""
        some = torch.linspace(0, len(self) - 1, min(len(self), 1000)).long()
        content = (self.images[some], self.labels)
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in content)).hexdigest()

    def subset(self, indices: Tensor) -> Self:
        pick = self.images.pick if isinstance(self.images, RowFile) else self.images.__getitem__
        return dataclasses.replace(self, images=pick(indices), labels=self.labels[indices])

    def of_attributes(self, places: Sequence[int]) -> Self:
        """The same images with these of their attributes, in that order."""
        names = tuple(self.class_names[place] for place in places)
        return dataclasses.replace(self, labels=self.labels[:, list(places)], class_names=names)

    def of_class(self, label: int) -> Self:
        return self.subset((self.labels == label).nonzero().flatten())


# -- picture files ----------------------------------------------------------------------------------
# Of (width, height) as it is shown the square's share of the shorter side; may refuse the picture.
Crop = Callable[[tuple[int, int]], float] | None
# [N, C, S, S] uint8, black where a file cannot be read; and why, by the place of the file.
Pictures = tuple[Tensor | RowFile, dict[int, str]]


def decode(path: Path, size: int, channels: int, crop: Crop = None) -> np.ndarray:
    """A picture file as bytes [channels, size, size]: its middle square, resized without aliasing.

    Turned as the camera noted; transparency becomes white; of an animation the first picture. UnreadableError
    if the file is no picture, is damaged, or is not there.
    """
    with _opened(path) as image:
        turn = _turn(image)
        share = crop(image.size[:: -1 if turn >= 5 else 1]) if crop else 1.0  # 5 to 8 lie on their side
        enough = math.ceil(2 * size / share)
        image.draft(None, (enough, enough))  # a JPEG from a camera can be read at an eighth of its size
        image = _plain(ImageOps.exif_transpose(image) if turn > 1 else image).convert("L" if channels == 1 else "RGB")
        side = round(min(image.size) * share)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if side != size:
            image = image.resize((size, size), Image.Resampling.LANCZOS)
        return np.ascontiguousarray(np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1))


def _turn(image: Image.Image) -> int:
    """The orientation that the camera noted, 1 to 8; 1 if the note is damaged."""
    with contextlib.suppress(Exception):
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
        return turn if turn in range(1, 9) else 1
    return 1


def decode_all(
    paths: Sequence[Path], kept: Path, size: int | None, channels: int | None, strict: bool, crop: Crop = None
) -> Pictures:
    """Picture files, decoded now, or as an earlier call kept them if no file has changed since.

    `kept` is a .npy file, beside which a .json says what it holds; where it cannot be written, the pictures
    are held in memory. A size of None: the median of the shorter sides, within limits; channels: 1 if no
    picture has colours. `strict`: DataError for the first file that is unreadable.
    """
    states = [*map(_state, paths)]
    if strict and (gone := [path for path, state in zip(paths, states, strict=True) if not state]):
        raise DataError(f"There is no picture {gone[0]} (missing: {len(gone):,} of {len(paths):,}).")
    stamp = digest(repr((paths, states)))
    pictures = _read_kept(kept, stamp)
    if pictures and not (strict and pictures[1]):
        return pictures
    if strict or len(paths) >= MANY:  # of few own pictures their folder says enough
        notice(f"Decoding {len(paths):,} pictures in {os.path.commonpath(paths)}; this is done once.")
    if size is None or channels is None:
        size, channels = _inferred(paths, size, channels)
    broken, checks = {}, []
    rows = functools.partial(_rows, paths, size, channels, crop, strict, broken)
    about = kept.with_suffix(".json")
    try:
        remove_leftovers(kept.parent)
        with atomic_write(kept) as temporary, open(temporary, "wb") as file:
            about.unlink(missing_ok=True)  # an older one must not describe the new pictures
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), channels, size, size)}
            np.lib.format.write_array_header_1_0(file, header)
            # Written, not mapped: on a full disk a write is an error, but a mapped page kills the process.
            file.writelines(checks.append(zlib.crc32(row.data)) or row.data for row in rows())
        facts = {"stamp": stamp, "count": len(paths), "broken": broken, "crc32": checks}
        write_whole(about, json.dumps(facts))
        return RowFile(kept, checks), broken
    except (WriteError, OSError) as error:
        notice(f"The decoded pictures are not kept for the next time, but held in memory: {error}")
    return torch.from_numpy(np.stack([*rows()])), broken


def _state(path: Path) -> str:
    """Changes with every change of the file; empty if it is not there, or a link to nowhere."""
    with contextlib.suppress(OSError):
        stat = path.stat()
        # The last changes when a file may be read at last, whose content is as before.
        return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
    return ""


def _read_kept(kept: Path, stamp: str) -> Pictures | None:
    """None if there is nothing, or it is damaged, or made of other files."""
    with contextlib.suppress(Exception):  # numpy has many words
        facts = json.loads(kept.with_suffix(".json").read_text(encoding="utf-8"))
        images = RowFile(kept, facts.get("crc32", ()))
        if facts["stamp"] == stamp and facts["count"] == len(images):
            return images, {int(place): reason for place, reason in facts["broken"].items()}
    return None


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
    bar = tqdm(paths, "decoding pictures", leave=False, mininterval=pause, delay=2)
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
        if os.path.exists(path) and not os.path.isfile(path):  # a named pipe would be waited for
            raise UnreadableError("no ordinary file")
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
        # White is the first of these numbers that suits: a file does not say it.
        whites = (*{"F": (1, 255), "I": (255,)}.get(image.mode, ()), 4095, 65535, values.max())
        white = next(white for white in whites if values.max() <= white)
        return Image.fromarray((values * (255 / white)).round().astype(np.uint8))
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def digest(text: str) -> str:
    """64 hexadecimal digits; the names of files may hold bytes that are no text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
