"""CelebA (Liu et al. 2015): aligned faces with 40 attributes that annotators answered with yes or no.

Expected is the folder that torchvision makes, or the two lists and the pictures as others pass them on:

    celeba/img_align_celeba/000001.jpg …      faces of 178×218 pixels, or smaller ones of the same shape
    celeba/list_attr_celeba.txt (or .csv)     40 times 1 or -1 for each picture
    celeba/list_eval_partition.txt (or .csv)  0, 1 or 2 for each picture: train, val or test

CelebA may be used for non-commercial research only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from lessons_lib.data.decoding import UnreadableError, decode_all, explained, read_kept, square
from lessons_lib.data.images import DataError, ImageSet
from lessons_lib.data.rows import RowFile
from lessons_lib.names import place_of

# As in the file, which is the order of the classifiers' logits.
ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips",
    "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby",
    "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male",
    "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose",
    "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair",
    "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
FOLDER, PICTURES = "celeba", "img_align_celeba"
ATTRIBUTE_LIST, SPLIT_LIST, SUFFIXES = "list_attr_celeba", "list_eval_partition", (".txt", ".csv")
SPLITS = ("train", "val", "test")  # 0, 1 and 2 in the list
SIZE = 64
WIDTH, HEIGHT = 178, 218
CROP = 128 / WIDTH  # of the width: the face from the chin to the hair, little background
SMALLEST = 32  # pixels of a square picture that may be a face


def attribute_index(name: str) -> int:
    """The place of an attribute among the 40; case, spaces and "-" for "_" do not matter.

    Raises:
        ValueError: for an unknown attribute, with the names that are most like it.
    """
    return place_of(name, ATTRIBUTES, "attribute")


def find(roots: Sequence[Path]) -> Path | None:
    """The first folder that holds a folder celeba with something of it: a download that failed left none."""
    lists = [f"{name}{suffix}" for name in (ATTRIBUTE_LIST, SPLIT_LIST) for suffix in SUFFIXES]
    parts = (PICTURES, *lists)
    return next((root for root in roots if any((root / FOLDER / part).exists() for part in parts)), None)


def download(root: Path) -> None:
    """Fetch torchvision's copy into root.

    Raises:
        OSError, RuntimeError: what torchvision raises, without gdown or where Google refuses, too.
    """
    from torchvision.datasets import CelebA

    try:
        CelebA(str(root), download=True)
    except (OSError, RuntimeError):
        raise
    except Exception as error:  # gdown's own, as a rule: too many people asked for the file today
        raise RuntimeError(str(error)) from error


def read(
    root: Path, split: str, image_size: int, fraction: float, cache: Path, notice: Callable[[str], None]
) -> ImageSet:
    """A split, with labels [N, 40] of 0 and 1. Pictures are decoded once, and read from the disk as needed.

    Args:
        root: as found by `find`.
        fraction: the share of each split that is used, in (0, 1]; always the same pictures.
        cache: the folder that the decoded pictures are kept in.
        notice: takes a line for the user before a slow step.

    Raises:
        DataError: one sentence that names the list, row or picture that is missing or wrong.
    """
    lists, folder = _lists(root / FOLDER), _picture_folder(root / FOLDER)
    names, attributes, splits = lists
    places = _chosen(splits, fraction)
    stamp = _stamp(folder, [names[place] for place in places])
    key = hashlib.sha256(repr((str(folder.resolve()), image_size, CROP, fraction)).encode()).hexdigest()[:16]
    kept = cache / f"celeba-{key}" / "pictures.npy"
    found = read_kept(kept, stamp)
    if found is None:
        notice(f"Decoding {len(places):,} faces in {folder}; this is done once.")
        paths = [folder / names[place] for place in places]
        found = decode_all(
            paths, image_size, 3, kept, stamp, strict=True, notice=notice, reader=read_celeba_face
        )
    rows = torch.tensor([row for row, place in enumerate(places) if splits[place] == SPLITS.index(split)])
    if not len(rows):
        raise DataError(f"{root / FOLDER / SPLIT_LIST} names no picture of the split {split!r}.")
    labels = torch.from_numpy(attributes[[places[row] for row in rows]])
    images = RowFile(kept, rows) if found.is_kept else found.images[rows]
    note = _note(_size_of(folder / names[0]), splits, fraction)
    return ImageSet(images, labels.long(), ATTRIBUTES, "celeba", note)


def read_celeba_face(path: Path, size: int, channels: int = 3) -> np.ndarray:
    """An aligned face of CelebA's shape as bytes [3, size, size], cut as in training.

    Raises:
        UnreadableError: if the file is no picture, or a picture of another shape.
    """
    from PIL import Image

    with explained(), Image.open(path) as image:
        if abs(image.width / image.height - WIDTH / HEIGHT) > 0.01:
            raise UnreadableError(
                f"it has {image.width}×{image.height} pixels, but an aligned face has {WIDTH}×{HEIGHT} "
                f"or a smaller size of the same shape"
            )
        return square(image, size, channels, CROP)


def read_face(path: Path, size: int = SIZE) -> np.ndarray:
    """A face in a picture file as bytes [3, size, size]: CelebA's shape is cut, a square is taken as cut.

    Raises:
        DataError: one sentence, if the file is no picture, or has neither shape.
    """
    from PIL import Image

    try:
        with explained(), Image.open(path) as image:
            if image.width == image.height >= SMALLEST:
                return square(image, size, 3)
        return read_celeba_face(path, size)
    except UnreadableError as error:
        square_too = (
            f"a square of at least {SMALLEST} pixels, cut from the chin to the hair, is taken as it is"
        )
        hint = f"; {square_too}" if "pixels" in str(error) else ""  # of use only for a picture
        raise DataError(f"The picture {path} cannot be used: {error}{hint}.") from error


# -- the lists -------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _lists_at(folder: Path, stamps: tuple) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    attributes, splits = (_rows(_list_file(folder, name)) for name in (ATTRIBUTE_LIST, SPLIT_LIST))
    header, attributes = _header(attributes, _list_file(folder, ATTRIBUTE_LIST))
    if not splits[0][-1].lstrip("-").isdigit():  # a .csv begins with its column names
        splits = splits[1:]
    given, where = (_by_name(rows) for rows in (attributes, splits))
    for name in where:
        if name not in given:
            raise DataError(f"{_list_file(folder, ATTRIBUTE_LIST)} has no row for the picture {name}.")
    for name in given:
        if name not in where:
            raise DataError(f"{_list_file(folder, SPLIT_LIST)} has no row for the picture {name}.")
    names = tuple(where)
    order = [header.index(name) for name in ATTRIBUTES]
    values = np.stack([_values(folder, name, given[name], len(header)) for name in names])[:, order]
    return names, (values > 0).astype(np.uint8), np.array([_split(folder, n, where[n]) for n in names])


def _lists(folder: Path) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Picture names [N]; their attributes [N, 40], 0 or 1; their splits [N], 0, 1 or 2."""
    files = [_list_file(folder, name) for name in (ATTRIBUTE_LIST, SPLIT_LIST)]
    return _lists_at(folder, tuple((str(file), file.stat().st_mtime_ns) for file in files))


def _list_file(folder: Path, name: str) -> Path:
    found = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    file = next((file for file in found if file.is_file()), None)
    if file is None:
        raise DataError(f"{found[0]} is missing: CelebA comes with it, beside the folder of pictures.")
    return file


def _rows(file: Path) -> list[list[str]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    rows = [line.replace(",", " ").split() for line in lines if line.strip()]
    if len(rows) < 2:
        raise DataError(f"{file} is empty or cut short: unpack CelebA anew.")
    return rows


def _header(rows: list[list[str]], file: Path) -> tuple[list[str], list[list[str]]]:
    """The attribute names, without the number of pictures before and the picture's column in a .csv."""
    rows = rows[1:] if len(rows[0]) == 1 else rows
    header = [name for name in rows[0] if name != "image_id"]
    if missing := [name for name in ATTRIBUTES if name not in header]:
        raise DataError(f"{file} does not name the attribute {missing[0]}: it is not CelebA's list.")
    return header, rows[1:]


def _by_name(rows: list[list[str]]) -> dict[str, list[str]]:
    return {name: values for name, *values in rows}


def _values(folder: Path, name: str, values: list[str], count: int) -> np.ndarray:
    if len(values) != count or not {*values} <= {"1", "-1", "0"}:
        raise DataError(
            f"{_list_file(folder, ATTRIBUTE_LIST)}: the row of {name} must have {count} times 1 or -1."
        )
    return np.array(values, dtype=np.int8)


def _split(folder: Path, name: str, values: list[str]) -> int:
    if len(values) != 1 or values[0] not in ("0", "1", "2"):
        raise DataError(f"{_list_file(folder, SPLIT_LIST)}: the row of {name} must have 0, 1 or 2.")
    return int(values[0])


# -- the pictures ----------------------------------------------------------------------------------


def _picture_folder(folder: Path) -> Path:
    found = folder / PICTURES
    # Some archives hold the folder twice, one in the other.
    found = found / PICTURES if (found / PICTURES).is_dir() else found
    if not found.is_dir():
        raise DataError(f"The folder {found} is missing: it holds CelebA's aligned faces.")
    return found


def _stamp(folder: Path, names: list[str]) -> str:
    """Changes with every change of these files; DataError if one is missing."""
    wanted, there = {*names}, {}
    for entry in os.scandir(folder):
        if entry.name in wanted:
            with contextlib.suppress(FileNotFoundError):  # a link that leads nowhere
                found = entry.stat()
                there[entry.name] = f"{entry.name} {found.st_size} {found.st_mtime_ns}"
    if missing := [name for name in names if name not in there]:
        more = f", and {len(missing) - 1:,} more are" if len(missing) > 1 else " is"
        raise DataError(f"The picture {folder / missing[0]}{more} missing, but named in the lists.")
    facts = "\n".join(there[name] for name in names)
    return hashlib.sha256(facts.encode()).hexdigest()


def _chosen(splits: np.ndarray, fraction: float) -> list[int]:
    """The places of the share of each split, in the lists' order."""
    if not 0 < fraction <= 1:
        raise ValueError(f"The fraction must be above 0 and at most 1, got {fraction}.")
    places = []
    for part in range(len(SPLITS)):
        found = torch.from_numpy(np.flatnonzero(splits == part))
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(part))
        places += found[order[: math.ceil(fraction * len(found))]].tolist()
    return sorted(places)


def _size_of(path: Path) -> str:
    """ "178×218", of the picture as it is."""
    from PIL import Image

    with Image.open(path) as image:
        return f"{image.width}×{image.height}"


def _note(size: str, splits: np.ndarray, fraction: float) -> str:
    train, val, test = (math.ceil(fraction * int((splits == part).sum())) for part in range(len(SPLITS)))
    which = "all faces" if len(splits) > 200_000 else f"{len(splits):,} of the 202,599 faces"
    return (
        f"{which} at {size} pixels, split by {SPLIT_LIST}; used {train:,} for training, {val:,} for "
        f"validation and {test:,} for testing."
    )
