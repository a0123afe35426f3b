"""A folder of the user's own pictures as a data set: `folder:PATH`.

PATH holds one folder a class with pictures in it, or pictures and no folders: then there are no classes.
Or it holds the splits "train" and "test", or "val", or both, or "train" alone, each laid out so. A split that
is missing is cut from the training pictures: about 5% of them, by a hash of a picture's name, so that a new
picture moves no other (but in a folder of a few dozen). What is left out is counted and named.
"""

import mimetypes
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from lessons_lib.data.image_set import SPLITS, DataError, ImageSet, decode_all, digest, notice

PREFIX = "folder"
SHARE = 0.05  # of "val", and of "test"
FEWEST = 10  # pictures
# What Pillow reads of what people keep pictures in; others, such as .heic, are named as left out.
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff", ".avif",
            ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga", ".ico", ".qoi", ".apng")  # fmt: skip
PHOTOS = (".heic", ".heif", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw")  # that Pillow does not read
ALIASES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


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


def read(
    name: str, split: str, image_size: int | None, channels: int | None, strict: bool, cache: Path
) -> ImageSet:
    """A split of folder:PATH; see `data.load`. The decoded pictures are kept in the folder `cache`."""
    root = path_of(name)
    if root.is_file():
        raise DataError(f"{root} is a file: name the folder that holds the pictures.")
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    root = root.resolve()
    class_names, splits = list_pictures(root)
    _tell_left_out(root, {path for part in splits.values() for path, _ in part}, strict)
    pictures = [(path, label, part) for part in SPLITS for path, label in splits[part]]
    paths, labels, parts = zip(*pictures, strict=True)
    # One file for a folder and size, so that a changed folder replaces its old pictures.
    kept = cache / digest(repr((str(root), image_size, channels)))[:16] / "pictures.npy"
    images, broken = decode_all(paths, kept, image_size, channels, strict)
    good = [row for row in range(len(paths)) if row not in broken]
    reasons = sorted(f"{paths[row].relative_to(root).as_posix()} ({why})" for row, why in broken.items())
    if len(good) < FEWEST:
        few = f"Only {len(good)} of the {len(paths):,} pictures in {root} can be read"
        need = f"at least {FEWEST} are needed; the first that cannot is {reasons[0]}"
        raise DataError(f"{few}, but {need}.")
    if broken:
        bad = f"{len(broken):,} of {len(paths):,} pictures"
        notice(f"{bad} cannot be read and are skipped: {_some(reasons, 5)}.")
    note = _tell(root, class_names, Counter(parts[row] for row in good), images.shape)
    rows = torch.tensor([row for row in good if parts[row] == split], dtype=torch.int64)
    return ImageSet(images, torch.tensor(labels), class_names, PREFIX, note).subset(rows)


def list_pictures(root: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """The class names, and the pictures of each split with their labels; DataError for a bad folder."""
    folders, loose = _scan(root)
    named = {path: ALIASES.get(path.name.lower(), path.name.lower()) for path in folders + loose}
    parts = {named[folder]: folder for folder in folders}
    if parts and parts.keys() <= {*SPLITS[1:]}:
        raise DataError(f"{root} holds {' and '.join(parts)} but no train: its pictures are to learn from.")
    if "train" not in parts or parts.keys().isdisjoint(SPLITS[1:]) and len(named) > 1:
        parts = {"train": root}
    elif others := [path.name for path in folders + loose if named[path] not in SPLITS]:
        raise DataError(f"{root} holds splits (train) and other things ({others[0]}): move these away.")
    classes = {part: _classes(folder) for part, folder in parts.items()}
    names = [*classes["train"]]
    for part, inside in classes.items():
        if [*inside] != names:
            have = f"one has {', '.join(inside) or 'none'} and the other {', '.join(names) or 'none'}"
            both = f"{parts[part]} and {parts['train']} must have the same class folders"
            raise DataError(f"{both}, but {have}.")
    splits = {
        part: [(path, label) for label, paths in enumerate(inside.values()) for path in paths]
        for part, inside in classes.items()
    }
    if (count := sum(map(len, splits.values()))) < FEWEST:
        raise DataError(f"{root} holds {count} pictures, but at least {FEWEST} are needed.")
    _cut(splits, root)
    return tuple(filter(None, names)), splits


def _scan(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders in a folder, and its pictures, both sorted."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}.") from error
    entries = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    files = [Path(entry) for entry in entries if entry.is_file()]
    folders = [Path(entry) for entry in entries if entry.is_dir()]
    return folders, [file for file in files if file.suffix.lower() in SUFFIXES]


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class folder; those of "" if there are no classes."""
    folders, loose = _scan(folder)
    inside = {below.name: _scan(below)[1] for below in folders}
    filled = [name for name, pictures in inside.items() if pictures]
    if loose and filled:
        both = f"{folder} holds pictures ({loose[0].name}) and folders of pictures ({filled[0]})"
        advice = "put every picture into the folder of its class, or all into one folder without classes"
        raise DataError(f"{both}: {advice}.")
    if loose:
        return {"": loose}
    if not filled:
        kinds = "png, jpg, bmp, webp, gif, tif, avif or ppm"
        raise DataError(f"{folder} holds no pictures ({kinds}), nor do the folders in it.")
    if empty := [name for name in inside if name not in filled]:
        raise DataError(f"The class folder {folder / empty[0]} holds no picture: fill it or move it away.")
    return inside


def _tell_left_out(root: Path, read: set[Path], strict: bool) -> None:
    """Count and name the files that are not read: of other kinds, or in folders within a class."""
    below = (Path(at, name) for at, _, names in os.walk(root) for name in names)
    paths = sorted(path.relative_to(root) for path in below if path not in read)
    shown = [path.as_posix() for path in paths if not any(part[0] == "." for part in path.parts)]
    pictures = [name for name in shown if "image" in (mimetypes.guess_type(name)[0] or "")]
    pictures += [name for name in shown if name.lower().endswith(PHOTOS)]
    if strict and pictures:
        raise DataError(f"{root} holds files that are not read, the first {pictures[0]}: move them away.")
    if shown:
        notice(f"Left out of {root.name}, being of another kind or too deep: {len(shown):,} files: {_some(shown, 5)}.")


def _cut(splits: dict[str, list[tuple[Path, int]]], root: Path) -> None:
    """Cut the splits that there are not from "train"; each gets the order of a hash of the names."""

    def place(picture: tuple[Path, int]) -> float:  # in [0, 1)
        return int(digest(picture[0].relative_to(root).as_posix())[:16], 16) / 2**64

    for pictures in splits.values():
        pictures.sort(key=place)
    for k, split in enumerate([split for split in SPLITS if split not in splits], start=1):
        train = splits["train"]
        size = sum(place(picture) < k * SHARE for picture in train) or 1  # none must be empty
        splits[split], splits["train"] = train[:size], train[size:]


def _some(names: Sequence[str], count: int) -> str:
    more = f" and {len(names) - count:,} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _tell(root: Path, names: tuple[str, ...], counts: Counter, shape: torch.Size) -> str:
    """Say what is used; returns the note for a card, without a path of the user's machine."""
    splits = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS)
    look = f"{shape[2]}×{shape[3]} pixels, {'grey' if shape[1] == 1 else 'colour'}"
    classes = f"{len(names)} class{'es' * (len(names) > 1)}: {_some(names, 10)}" if names else "no classes"
    notice(f"Folder {root.name}: {counts.total():,} pictures ({splits}), {look}, {classes}.")
    return f"folder {root.name}, {counts.total():,} images ({splits}); the middle square of each: {look}."
