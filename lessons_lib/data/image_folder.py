"""A folder of the user's own pictures as a data set: `folder:PATH`.

PATH holds one folder a class with pictures in it, or pictures and no folders: then there are no classes.
Or it holds the folders "train" and "test", or "val", or both, each laid out so, which are then the splits. A
split that is missing is cut from the training pictures: about 5% of them, by a hash of a picture's name, so
that a new picture moves no other. (In a folder of a few dozen pictures it may move one.)
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import torch

from lessons_lib.data.decoding import SUFFIXES, decode_all, digest
from lessons_lib.data.image_set import SPLITS, DataError, ImageSet, notice

PREFIX = "folder"
SHARE = 0.05  # of "val", and of "test"
FEWEST = 10  # pictures
KINDS = "png, jpg, bmp, webp, gif or tif"
SHOWN = 5  # names of broken pictures


def is_folder(name: str) -> bool:
    """Whether this names a folder of pictures: folder:PATH."""
    return name.startswith(f"{PREFIX}:")


def path_of(name: str) -> Path:
    """The PATH of folder:PATH, `~` expanded; it need not exist. ValueError if there is none."""
    text = name.partition(":")[2]  # the first colon only: Windows has another in C:\\pictures
    if not text.strip():
        raise ValueError("folder: needs a path, such as folder:my/pictures.")
    return Path(text).expanduser()


def short_name(name: str) -> str:
    """What the weights of folder:PATH are called: the folder's own name, without what a file cannot have."""
    safe = re.sub(r"[^\w.-]+", "-", path_of(name).resolve().name).strip("-.") or PREFIX
    # A folder called "mnist" must not lead to the weights of MNIST.
    return f"{PREFIX}-{safe}" if safe.lower() in ("mnist", "digits", "cifar10", "celeba") else safe


class Picture(NamedTuple):
    """A file: its name below the folder, with "/" between; its label; its split."""

    name: str
    label: int
    split: str


def read(
    name: str, split: str, image_size: int | None, channels: int | None, strict: bool, cache: Path
) -> ImageSet:
    """A split of folder:PATH; see `data.load`. The decoded pictures are kept in the folder `cache`."""
    root = path_of(name)
    if not root.exists():
        raise DataError(f"There is no folder {root}.")
    if not root.is_dir():
        raise DataError(f"{root} is a file: name the folder that holds the pictures.")
    root = root.resolve()
    class_names, pictures = list_pictures(root)
    # One file for a folder and size, so that a changed folder replaces its old pictures.
    kept = cache / digest(repr((str(root), image_size, channels)))[:16] / "pictures.npy"
    paths = [root / picture.name for picture in pictures]
    images, broken = decode_all(paths, kept, image_size, channels, strict)
    if broken:
        _tell_broken(root, [f"{pictures[row].name} ({broken[row]})" for row in broken], len(pictures))
    rows = {part: [] for part in SPLITS}
    for row, picture in enumerate(pictures):
        if row not in broken:
            rows[picture.split].append(row)
    note = _tell(root, class_names, {part: len(rows[part]) for part in SPLITS}, images.shape)
    labels = torch.tensor([picture.label for picture in pictures])
    images = ImageSet(images, labels, class_names, PREFIX, note)
    return images.subset(torch.tensor(rows[split], dtype=torch.int64))


# -- what is there ---------------------------------------------------------------------------------


def list_pictures(root: Path) -> tuple[tuple[str, ...], list[Picture]]:
    """The class names, and the pictures by split; DataError, one sentence, if the folder cannot be used."""
    (folders, loose), parts = _scan(root), [""]
    if "train" in folders and not {*folders}.isdisjoint(SPLITS[1:]):
        if others := [name for name in folders if name not in SPLITS] + loose:
            raise DataError(f"{root} holds splits (train) and other things ({others[0]}): move these away.")
        parts = [part for part in SPLITS if part in folders]
    classes = {part: _classes(root / part) for part in parts}
    names = [*classes[parts[0]]]
    for part, inside in classes.items():
        if [*inside] != names:
            raise DataError(
                f"{root / part} and {root / parts[0]} must have the same class folders, but one has "
                f"{', '.join(inside) or 'none'} and the other {', '.join(names) or 'none'}."
            )
    pictures = [
        Picture("/".join(filter(None, (part, name, file))), label, part or "train")
        for part, inside in classes.items()
        for label, (name, files) in enumerate(inside.items())
        for file in files
    ]
    if len(pictures) < FEWEST:
        raise DataError(f"{root} holds {len(pictures)} pictures, but at least {FEWEST} are needed.")
    return tuple(filter(None, names)), _cut(pictures)


def _scan(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the folders in a folder, and of its pictures, both sorted."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        entries = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
        folders = [entry.name for entry in entries if entry.is_dir()]
        files = [entry.name for entry in entries if not entry.is_dir()]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}.") from error
    return folders, [name for name in files if name.lower().endswith(SUFFIXES)]


def _classes(folder: Path) -> dict[str, list[str]]:
    """The pictures of each class folder; those of "" if there are no classes."""
    folders, loose = _scan(folder)
    inside = {name: _scan(folder / name)[1] for name in folders}
    filled = [name for name, pictures in inside.items() if pictures]
    if loose and filled:
        raise DataError(
            f"{folder} holds pictures ({loose[0]}) and folders of pictures ({filled[0]}): put every "
            f"picture into the folder of its class, or all into one folder without classes."
        )
    if loose:
        return {"": loose}
    if not filled:
        raise DataError(f"{folder} holds no pictures ({KINDS}), nor do the folders in it.")
    if empty := [name for name in inside if name not in filled]:
        raise DataError(f"The class folder {folder / empty[0]} holds no picture: fill it or move it away.")
    return inside


def _cut(pictures: list[Picture]) -> list[Picture]:
    """By split, each in the order of a hash of the names; a split without pictures is cut from "train"."""
    place = {picture: int(digest(picture.name)[:16], 16) / 2**64 for picture in pictures}  # in [0, 1)
    in_order = sorted(pictures, key=place.__getitem__)
    splits = {split: [picture for picture in in_order if picture.split == split] for split in SPLITS}
    for k, split in enumerate([split for split in SPLITS if not splits[split]], start=1):
        train = splits["train"]
        size = sum(place[picture] < k * SHARE for picture in train) or 1  # none must be empty
        splits[split], splits["train"] = train[:size], train[size:]
    return [picture._replace(split=split) for split in SPLITS for picture in splits[split]]


# -- what is said ----------------------------------------------------------------------------------


def _tell_broken(root: Path, broken: list[str], total: int) -> None:
    if (good := total - len(broken)) < FEWEST:
        raise DataError(
            f"Only {good} of the {total:,} pictures in {root} can be read, but at least {FEWEST} are needed; "
            f"the first that cannot is {broken[0]}."
        )
    more = f" and {len(broken) - SHOWN:,} more" if len(broken) > SHOWN else ""
    shown = ", ".join(sorted(broken)[:SHOWN])
    notice(f"{len(broken):,} of {total:,} pictures cannot be read and are skipped: {shown}{more}.")


def _tell(root: Path, names: tuple[str, ...], counts: dict[str, int], shape: torch.Size) -> str:
    """Say what is used; returns the note for a card: no path, which would tell about the user's machine."""
    size, colour = f"{shape[2]}×{shape[3]} pixels", "grey" if shape[1] == 1 else "colour"
    total = f"{sum(counts.values()):,}"
    splits = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    classes = f"{len(names)} {'class' if len(names) == 1 else 'classes'}: {', '.join(names[:10])}{more}"
    classes = classes if names else "no classes"
    notice(f"Folder {root.name}: {total} pictures ({splits}), {size}, {colour}, {classes}.")
    return (
        f"folder {root.name}, {total} images, {counts['train']:,} of them for training; "
        f"the middle square of each at {size} in {colour}."
    )
