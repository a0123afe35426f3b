"""CelebA (Liu et al. 2015): aligned faces with 40 attributes that annotators answered with yes or no.

Expected is the folder that torchvision makes, or the two lists and the pictures as others pass them on:

    celeba/img_align_celeba/000001.jpg …      faces of 178×218 pixels, or smaller ones of the same shape
    celeba/list_attr_celeba.txt (or .csv)     40 times 1 or -1 for each picture
    celeba/list_eval_partition.txt (or .csv)  0, 1 or 2 for each picture: train, val or test

CelebA may be used for non-commercial research only.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lessons_lib.data.image_set import (
    SPLITS, DataError, ImageSet, UnreadableError, decode, decode_all, digest
)  # fmt: skip
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
LISTS = [f"{name}{suffix}" for name in (ATTRIBUTE_LIST, SPLIT_LIST) for suffix in SUFFIXES]
# A place that has one of these holds CelebA, whole or not: a download that failed left none of them.
PARTS = [f"{FOLDER}/{name}" for name in (PICTURES, *LISTS)]
ADVICE = (
    f"put its aligned faces and its two lists into {{root}}/{FOLDER} (see lessons_lib/data/celeba.py); "
    "torchvision can fetch it where gdown is installed and the network allows it."
)
SIZE = 64
WIDTH, HEIGHT = 178, 218
CROP = 128 / WIDTH  # of the width: the face from the chin to the hair, little background
SMALLEST = 32  # pixels of a square picture that may be a face


def attribute_index(name: str) -> int:
    """The place of an attribute among the 40; ValueError for an unknown one, with the names most like it."""
    return place_of(name, ATTRIBUTES, "attribute")


def read(root: Path, split: str, image_size: int, fraction: float, cache: Path) -> ImageSet:
    """A split, or always the same fraction of it, with labels [N, 40] of 0 and 1; kept in the folder `cache`.

    DataError names the list, row or picture that is missing or wrong.
    """
    names, labels, parts = _read_lists(root / FOLDER)
    chosen = _chosen(parts, fraction)
    folder = root / FOLDER / PICTURES
    folder = folder / PICTURES if (folder / PICTURES).is_dir() else folder  # some archives hold it twice
    paths = [folder / names[place] for place in chosen.tolist()]
    key = digest(repr((str(folder.resolve()), image_size, CROP, fraction)))[:16]
    kept = cache / f"celeba-{key}" / "pictures.npy"
    images, _ = decode_all(paths, kept, image_size, 3, strict=True, crop=_crop)
    rows = (parts[chosen] == SPLITS.index(split)).nonzero().flatten()
    if not len(rows):
        raise DataError(f"{root / FOLDER / SPLIT_LIST} names no picture of the split {split!r}.")
    train, val, test = parts[chosen].bincount(minlength=len(SPLITS)).tolist()
    which = "all faces" if len(names) > 200_000 else f"{len(names):,} of the 202,599 faces"
    with Image.open(paths[0]) as picture:
        size = f"{picture.width}×{picture.height} pixels"
    used = f"{train:,} for training, {val:,} for validation and {test:,} for testing"
    note = f"{which} at {size}, split by {SPLIT_LIST}; used {used}."
    return ImageSet(images, labels[chosen].long(), ATTRIBUTES, "celeba", note).subset(rows)


def read_face(path: Path, size: int = SIZE) -> np.ndarray:
    """A face in a file as bytes [3, size, size]: CelebA's shape is cut, a square is taken as cut."""
    try:
        return decode(path, size, 3, functools.partial(_crop, or_square=True))
    except UnreadableError as error:
        raise DataError(f"The picture {path} cannot be used: {error}.") from error


def _crop(size: tuple[int, int], or_square: bool = False) -> float:
    """For `decode`: faces of CelebA's shape only, cut as in training; a square may be a face that is cut."""
    width, height = size
    if or_square and width == height >= SMALLEST:
        return 1.0
    if abs(width / height - WIDTH / HEIGHT) <= 0.01:
        return CROP
    face = f"an aligned face has {WIDTH}×{HEIGHT} or a smaller size of the same shape"
    if or_square:
        face += f"; a square of at least {SMALLEST} pixels, cut from the chin to the hair, is taken as it is"
    raise UnreadableError(f"it has {width}×{height} pixels, but {face}")


def _chosen(parts: Tensor, fraction: float) -> Tensor:
    """The places of the share of each split, in the lists' order."""
    chosen = []
    for part in range(len(SPLITS)):
        places = (parts == part).nonzero().flatten()
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(part))
        chosen.append(places[order[: math.ceil(fraction * len(places))]])
    return torch.cat(chosen).sort().values


def _read_lists(folder: Path) -> tuple[list[str], Tensor, Tensor]:
    """Picture names [N]; their attributes [N, 40], 0 or 1; their splits [N], 0, 1 or 2."""
    answers = _read_list(folder, ATTRIBUTE_LIST, ATTRIBUTES, {"1", "-1", "0"}, "40 times 1 or -1")
    splits = _read_list(folder, SPLIT_LIST, ("partition",), {"0", "1", "2"}, "0, 1 or 2")
    if alone := answers.keys() ^ splits.keys():
        name = min(alone)
        file = SPLIT_LIST if name in answers else ATTRIBUTE_LIST
        raise DataError(f"{folder / file} has no row for the picture {name}.")
    labels = np.array([[word == "1" for word in answers[name]] for name in splits], np.uint8)
    return [*splits], torch.from_numpy(labels), torch.tensor([int(part) for [part] in splits.values()])


def _read_list(folder: Path, name: str, known: Sequence[str], words: set, rule: str) -> dict[str, list[str]]:
    """The words in each picture's row, in the order of the known columns."""
    files = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise DataError(f"{files[0]} is missing: CelebA comes with it, beside the folder of pictures.")
    try:
        lines = file.read_text(encoding="utf-8-sig").replace('"', "").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    rows = [line.replace(",", " ").split() for line in lines if line.strip(" ,")]
    # Tables that pandas wrote have a number first, under "Unnamed: 0".
    rows = [row[1:] if row[0].isdecimal() and "." in "".join(row[1:2]) else row for row in rows]
    # A .txt of attributes begins with the number of pictures. Only the name of a picture has a dot.
    heads = [row for row in rows[:2] if "." not in row[0]]
    columns = [name for name in (heads or [["partition"]])[-1] if name not in ("image_id", "Unnamed:", "0")]
    if missing := [column for column in known if column not in columns]:
        raise DataError(f"{file} does not name {missing[0]}: it is cut short, or not CelebA's list.")
    order = [columns.index(column) for column in known]
    table = {}
    for picture, *values in rows[len(heads) :]:
        if len(values) != len(columns) or not words.issuperset(values):
            raise DataError(f"{file}: the row of {picture} must have {rule}.")
        kept = [values[place] for place in order]
        if table.setdefault(picture, kept) != kept:
            raise DataError(f"{file} has two rows of {picture} that say different things.")
    return table
