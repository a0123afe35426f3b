"""CelebA (Liu et al. 2015): aligned faces with 40 attributes that annotators answered with yes or no.

Expected is the folder that torchvision makes, or the two lists and the pictures as others pass them on:

    celeba/img_align_celeba/000001.jpg …      faces of 178×218 pixels, or smaller ones of the same shape
    celeba/list_attr_celeba.txt (or .csv)     40 times 1 or -1 for each picture
    celeba/list_eval_partition.txt (or .csv)  0, 1 or 2 for each picture: train, val or test

CelebA may be used for non-commercial research only.
"""

import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lessons_lib.data.decoding import UnreadableError, decode, decode_all, digest
from lessons_lib.data.image_set import SPLITS, DataError, ImageSet
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
# A place that has one of these holds CelebA, whole or not: a download that failed left none of them.
LISTS = [f"{name}{suffix}" for name in (ATTRIBUTE_LIST, SPLIT_LIST) for suffix in SUFFIXES]
PARTS = [Path(FOLDER, name) for name in (PICTURES, *LISTS)]
ADVICE = (
    f"put its aligned faces and its two lists into {{root}}/{FOLDER} (see lessons_lib/data/celeba.py); torchvision "
    "can fetch it where gdown is installed and the network allows it."
)
SIZE = 64
WIDTH, HEIGHT = 178, 218
CROP = 128 / WIDTH  # of the width: the face from the chin to the hair, little background
SMALLEST = 32  # pixels of a square picture that may be a face


def attribute_index(name: str) -> int:
    """The place of an attribute among the 40; ValueError for an unknown one, with the names most like it."""
    return place_of(name, ATTRIBUTES, "attribute")


def read(root: Path, split: str, image_size: int, fraction: float, cache: Path) -> ImageSet:
    """A split, with labels [N, 40] of 0 and 1. Pictures are decoded once, and read from the disk as needed.

    Args:
        fraction: the share of each split that is used, in (0, 1]; always the same pictures.
        cache: the folder that the decoded pictures are kept in.

    Raises:
        DataError: one sentence that names the list, row or picture that is missing or wrong.
    """
    files = [_list_file(root / FOLDER, name) for name in (ATTRIBUTE_LIST, SPLIT_LIST)]
    names, labels, parts = _lists(*files, tuple(file.stat().st_mtime_ns for file in files))
    folder, chosen = root / FOLDER / PICTURES, _chosen(parts, fraction)
    folder = folder / PICTURES if (folder / PICTURES).is_dir() else folder  # some archives hold it twice
    paths = [folder / names[place] for place in chosen.tolist()]
    _check_all_there(folder, paths)
    key = digest(repr((str(folder.resolve()), image_size, CROP, fraction)))[:16]
    kept = cache / f"celeba-{key}" / "pictures.npy"
    images, _ = decode_all(paths, kept, image_size, 3, strict=True, crop=_crop)
    rows = (parts[chosen] == SPLITS.index(split)).nonzero().flatten()
    if not len(rows):
        raise DataError(f"{root / FOLDER / SPLIT_LIST} names no picture of the split {split!r}.")
    note = _note(paths[0], len(names), parts[chosen].bincount(minlength=len(SPLITS)).tolist())
    return ImageSet(images, labels[chosen].long(), ATTRIBUTES, "celeba", note).subset(rows)


def _note(picture: Path, count: int, used: list[int]) -> str:
    which = "all faces" if count > 200_000 else f"{count:,} of the 202,599 faces"
    train, val, test = used
    with Image.open(picture) as image:
        return (
            f"{which} at {image.width}×{image.height} pixels, split by {SPLIT_LIST}; used {train:,} for "
            f"training, {val:,} for validation and {test:,} for testing."
        )


def read_face(path: Path, size: int = SIZE) -> np.ndarray:
    """A face in a picture file as bytes [3, size, size]: CelebA's shape is cut, a square is taken as cut.

    DataError, one sentence, if the file is no picture, or has neither shape.
    """
    try:
        return decode(path, size, 3, lambda image: 1.0 if _is_square(image) else _crop(image))
    except UnreadableError as error:
        # Of use only for a picture.
        square = f"; a square of at least {SMALLEST} pixels, cut from the chin to the hair, is taken as it is"
        raise DataError(
            f"The picture {path} cannot be used: {error}{square if 'pixels' in str(error) else ''}."
        ) from error


def _is_square(image: Image.Image) -> bool:
    return image.width == image.height >= SMALLEST


def _crop(image: Image.Image) -> float:
    """For `decode`: faces of CelebA's shape only, cut as in training."""
    if abs(image.width / image.height - WIDTH / HEIGHT) > 0.01:
        raise UnreadableError(
            f"it has {image.width}×{image.height} pixels, but an aligned face has {WIDTH}×{HEIGHT} "
            f"or a smaller size of the same shape"
        )
    return CROP


# -- the lists -------------------------------------------------------------------------------------


def _list_file(folder: Path, name: str) -> Path:
    files = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    for file in files:
        if file.is_file():
            return file
    raise DataError(f"{files[0]} is missing: CelebA comes with it, beside the folder of pictures.")


@functools.lru_cache(maxsize=2)
def _lists(attribute_file: Path, split_file: Path, times: tuple) -> tuple[list[str], Tensor, Tensor]:
    """Picture names [N]; their attributes [N, 40] uint8, 0 or 1; their splits [N], 0, 1 or 2."""
    columns, answers = _rows(attribute_file, ATTRIBUTES, {"1", "-1", "0"}, "40 times 1 or -1")
    _, splits = _rows(split_file, (), {"0", "1", "2"}, "0, 1 or 2")
    if alone := answers.keys() ^ splits.keys():
        name = min(alone)
        file = split_file if name in answers else attribute_file
        raise DataError(f"{file} has no row for the picture {name}.")
    order = [columns.index(name) for name in ATTRIBUTES]
    labels = np.array([[answers[name][place] == "1" for place in order] for name in splits], np.uint8)
    return [*splits], torch.from_numpy(labels), torch.tensor([int(part) for [part] in splits.values()])


def _rows(file: Path, names: Sequence[str], words: set[str], rule: str) -> tuple[list[str], dict[str, list]]:
    """The names of a list's columns, `names` among them, and the words in each picture's row."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    rows = [line.replace(",", " ").split() for line in lines if line.strip()]
    if len(rows) < 2:
        raise DataError(f"{file} is empty or cut short: unpack CelebA anew.")
    # A .txt of attributes begins with the number of pictures. Only the name of a picture has a dot.
    heads = [row for row in rows[:2] if "." not in row[0]]
    columns = [name for name in (heads or [["partition"]])[-1] if name != "image_id"]
    if missing := [name for name in names if name not in columns]:
        raise DataError(f"{file} does not name the attribute {missing[0]}: it is not CelebA's list.")
    table = {name: values for name, *values in rows[len(heads) :]}
    for name, values in table.items():
        if len(values) != len(columns) or not words.issuperset(values):
            raise DataError(f"{file}: the row of {name} must have {rule}.")
    return columns, table


# -- the pictures ----------------------------------------------------------------------------------


def _chosen(parts: Tensor, fraction: float) -> Tensor:
    """The places of the share of each split, in the lists' order."""
    chosen = []
    for part in range(len(SPLITS)):
        places = (parts == part).nonzero().flatten()
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(part))
        chosen.append(places[order[: math.ceil(fraction * len(places))]])
    return torch.cat(chosen).sort().values


def _check_all_there(folder: Path, paths: list[Path]) -> None:
    if not folder.is_dir():
        raise DataError(f"The folder {folder} is missing: it holds CelebA's aligned faces.")
    names = {*os.listdir(folder)}
    if missing := [path for path in paths if path.name not in names]:
        more = f", and {len(missing) - 1:,} more are" if len(missing) > 1 else " is"
        raise DataError(f"The picture {missing[0]}{more} missing, but named in the lists.")
