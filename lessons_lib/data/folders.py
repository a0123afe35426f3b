"""A folder of the user's own pictures as a data set: `folder:PATH`.

PATH holds one folder a class with pictures in it, or pictures and no folders: then there are no classes.
Or it holds the folders "train" and "test", or "val", or both, each laid out so, which are then the splits. A
split that is missing is cut from the training pictures: about 5% of them, by a hash of a picture's name, so
that a new picture moves no other. (In a folder of a few dozen pictures it may move one.)
"""

from __future__ import annotations

import hashlib
import os
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lessons_lib.data.decoding import SUFFIXES, Decoded, UnreadableError, decode_all, look, read_kept
from lessons_lib.data.images import DataError, ImageSet

PREFIX = "folder"
SPLITS = ("train", "val", "test")
SHARE = 0.05  # of "val", and of "test"
FEWEST = 10  # pictures
# The inferred size is at least and at most so many pixels, and can be halved twice.
SMALLEST, LARGEST, MULTIPLE = 16, 64, 4
ALLOWED = (8, 512)
KINDS = "png, jpg, bmp, webp, gif or tif"
SHOWN = 5  # names of broken pictures


def is_folder(name: str) -> bool:
    """Whether this names a folder of pictures: folder:PATH."""
    return name.startswith(f"{PREFIX}:")


def path_of(name: str) -> Path:
    """The PATH of folder:PATH, `~` expanded; it need not exist.

    Raises:
        ValueError: if there is none.
    """
    text = name.partition(":")[2]  # the first colon only: Windows has another in C:\\pictures
    if not text.strip():
        raise ValueError("folder: needs a path, such as folder:my/pictures.")
    return Path(text).expanduser()


def short_name(name: str) -> str:
    """What the weights of folder:PATH are called: the folder's own name, without what a file cannot have."""
    safe = re.sub(r"[^\w.-]+", "-", path_of(name).resolve().name).strip("-.") or PREFIX
    # A folder called "mnist" must not lead to the weights of MNIST.
    return f"{PREFIX}-{safe}" if safe.lower() in ("mnist", "digits", "cifar10", "celeba") else safe


@dataclass(frozen=True)
class Picture:
    """A file: its name below the folder, with "/" between; its label; its split."""

    name: str
    label: int
    split: str


@dataclass(frozen=True)
class Listing:
    """What a folder holds. `stamp` changes with every change of the files."""

    root: Path
    class_names: tuple[str, ...]
    pictures: tuple[Picture, ...]  # by split
    stamp: str


def load_folder(
    name: str,
    split: str,
    image_size: int | None,
    channels: int | None,
    strict: bool,
    cache: Path,
    notice: Callable[[str], None],
) -> ImageSet:
    """A split of folder:PATH; see `data.load`.

    Args:
        cache: the folder that the decoded pictures are kept in.
        notice: takes a line for the user, once.

    Raises:
        ValueError: for a size or channels that cannot be.
        DataError: one sentence, if the folder cannot be used; if strict, for a picture that cannot be read.
    """
    low, high = ALLOWED
    if image_size is not None and not low <= image_size <= high:
        raise ValueError(f"The image size must be from {low} to {high} pixels, got {image_size}.")
    if channels not in (None, 1, 3):
        raise ValueError(f"The channels must be 1 (grey) or 3 (colour), got {channels}.")
    listing = _list(path_of(name))
    decoded = _decoded(listing, image_size, channels, strict, cache, notice)
    if decoded.broken:
        _tell_broken(listing, decoded, strict, notice)
    pictures = [listing.pictures[place] for place in decoded.good]
    notice(_summary(listing, pictures, decoded))
    places = [place for place, picture in enumerate(pictures) if picture.split == split]
    start, stop = (places[0], places[-1] + 1) if places else (0, 0)  # a split's pictures stand together
    labels = torch.tensor([picture.label for picture in pictures[start:stop]], dtype=torch.int64)
    note = _note(listing, pictures, decoded)
    return ImageSet(decoded.images[start:stop], labels, listing.class_names, PREFIX, note)


# -- what is there ---------------------------------------------------------------------------------


def _list(root: Path) -> Listing:
    if not root.exists():
        raise DataError(f"There is no folder {root}.")
    if not root.is_dir():
        raise DataError(f"{root} is a file: name the folder that holds the pictures.")
    root = root.resolve()
    (folders, loose), stamps = _scan(root), []
    if "train" in folders and not set(SPLITS[1:]).isdisjoint(folders):
        if other := [name for name in folders if name not in SPLITS] + [*loose]:
            raise DataError(f"{root} holds splits (train) and other things ({other[0]}): move these away.")
        parts = {part: _pictures_below(root / part, stamps) for part in SPLITS if part in folders}
        for part, (names, _) in parts.items():
            if names != parts["train"][0]:
                raise DataError(
                    f"{root / part} and {root / 'train'} must have the same class folders, but one has "
                    f"{', '.join(names) or 'none'} and the other {', '.join(parts['train'][0]) or 'none'}."
                )
    else:
        parts = {"train": _pictures_below(root, stamps)}
    pictures = []
    for part, (_, found) in parts.items():
        prefix = "" if len(parts) == 1 else f"{part}/"
        pictures += [Picture(prefix + name, label, part) for name, label in found]
    if len(pictures) < FEWEST:
        raise DataError(f"{root} holds {len(pictures)} pictures, but at least {FEWEST} are needed.")
    stamp = hashlib.sha256("\n".join(stamps).encode("utf-8", "surrogateescape")).hexdigest()
    return Listing(root, parts["train"][0], _cut(pictures, set(parts)), stamp)


def _scan(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The names of the folders in a folder, and of its pictures with their size and time, both sorted."""
    folders, pictures = [], {}
    try:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(SUFFIXES):
                pictures[entry.name] = _stamp(entry)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}.") from error
    return folders, pictures


def _stamp(entry: os.DirEntry) -> str:
    try:
        found = entry.stat()
    except OSError:  # a link to nowhere; it is named when it is decoded
        return "gone"
    # The last changes when a file may be read at last, whose content is as before.
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _pictures_below(folder: Path, stamps: list[str]) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """The class names, none if there are no classes, and (name, label) of each picture."""
    folders, loose = _scan(folder)
    inside = {name: _scan(folder / name)[1] for name in folders}
    if loose and any(inside.values()):
        beside = next(name for name, found in inside.items() if found)
        raise DataError(
            f"{folder} holds pictures ({next(iter(loose))}) and folders of pictures ({beside}): put every "
            f"picture into the folder of its class, or all into one folder without classes."
        )
    if not loose and not any(inside.values()):
        raise DataError(f"{folder} holds no pictures ({KINDS}), nor do the folders in it.")
    if loose:
        inside = {"": loose}
    elif empty := [name for name, found in inside.items() if not found]:
        raise DataError(f"The class folder {folder / empty[0]} holds no picture: fill it or move it away.")
    found = []
    for label, (name, pictures) in enumerate(inside.items()):
        paths = [f"{name}/{file}" if name else file for file in pictures]
        stamps += [f"{folder}/{path} {stamp}" for path, stamp in zip(paths, pictures.values(), strict=True)]
        found += [(path, label) for path in paths]
    return (() if loose else tuple(inside)), found


def _cut(pictures: list[Picture], given: set[str]) -> tuple[Picture, ...]:
    """Cut the splits that are not given from "train"; then by split, each in the order of a hash."""
    place = {picture.name: _hash(picture.name) for picture in pictures}
    splits = {split: [p for p in pictures if p.split == split] for split in SPLITS}
    train = sorted(splits["train"], key=lambda picture: place[picture.name])
    for k, split in enumerate(split for split in SPLITS if split not in given):
        within = [p for p in train if place[p.name] < (k + 1) * SHARE] or train[:1]  # none must be empty
        splits[split], train = within, train[len(within) :]
    splits["train"] = train
    return tuple(
        Picture(picture.name, picture.label, split)
        for split, found in splits.items()
        for picture in sorted(found, key=lambda picture: place[picture.name])
    )


def _hash(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# -- decoded ---------------------------------------------------------------------------------------

_MEMORY: dict[tuple, Decoded] = {}  # of the last folder, for its next split


def _decoded(
    listing: Listing, size: int | None, channels: int | None, strict: bool, cache: Path, notice
) -> Decoded:
    key = (listing.root, size, channels)
    if (key, listing.stamp) not in _MEMORY:
        # One file for a folder and size, so that a changed folder replaces its old pictures.
        name = hashlib.sha256(repr((str(listing.root), size, channels)).encode()).hexdigest()[:16]
        kept = cache / name / "pictures.npy"
        _MEMORY.clear()  # Windows replaces no file that is mapped
        found = read_kept(kept, listing.stamp)
        if found is None:
            paths = [listing.root / picture.name for picture in listing.pictures]
            size, channels = _inferred(paths, size, channels)
            found = decode_all(paths, size, channels, kept, listing.stamp, strict=strict, notice=notice)
        _MEMORY[key, listing.stamp] = found
    return _MEMORY[key, listing.stamp]


def _inferred(paths: list[Path], size: int | None, channels: int | None) -> tuple[int, int]:
    """Where not given: the median of the shorter sides, within limits; and 1 if no picture has colours."""
    if size is not None and channels is not None:
        return size, channels
    heads = []
    for path in paths:
        try:
            heads.append(look(path))
        except UnreadableError:
            continue  # it is named when it is decoded
    if size is None:
        median = int(statistics.median([side for side, _ in heads] or [SMALLEST]))
        size = max(SMALLEST, min(LARGEST, median) // MULTIPLE * MULTIPLE)
    return size, channels or (1 if all(is_grey for _, is_grey in heads) else 3)


# -- what is said ----------------------------------------------------------------------------------


def _tell_broken(listing: Listing, decoded: Decoded, strict: bool, notice: Callable[[str], None]) -> None:
    names = {listing.pictures[place].name: reason for place, reason in decoded.broken.items()}
    first = next(iter(names))
    good, total = len(decoded.images), decoded.count
    if strict:
        raise DataError(f"The picture {listing.root / first} cannot be read: {names[first]}.")
    if good == 0:
        raise DataError(
            f"None of the {total:,} pictures in {listing.root} can be read, beginning with {first} "
            f"({names[first]})."
        )
    if good < FEWEST:
        raise DataError(
            f"Only {good} of the {total:,} pictures in {listing.root} can be read, but at least {FEWEST} "
            f"are needed; {first} is the first that cannot ({names[first]})."
        )
    shown = [f"{name} ({reason})" for name, reason in sorted(names.items())[:SHOWN]]
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    notice(f"{len(names):,} of {total:,} pictures cannot be read and are skipped: {', '.join(shown)}{more}.")


def _summary(listing: Listing, pictures: list[Picture], decoded: Decoded) -> str:
    counts = ", ".join(f"{sum(p.split == split for p in pictures):,} {split}" for split in SPLITS)
    _, channels, size, _ = decoded.images.shape
    names = listing.class_names
    classes = "no classes"
    if names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        classes = f"{len(names)} {'class' if len(names) == 1 else 'classes'}: {', '.join(names[:10])}{more}"
    colour = "grey" if channels == 1 else "colour"
    return (
        f"Folder {listing.root.name}: {len(pictures):,} pictures ({counts}), "
        f"{size}×{size} pixels, {colour}, {classes}."
    )


def _note(listing: Listing, pictures: list[Picture], decoded: Decoded) -> str:
    """For the card: no path, which would tell about the user's machine."""
    train = sum(picture.split == "train" for picture in pictures)
    _, channels, size, _ = decoded.images.shape
    return (
        f"folder {listing.root.name}, {len(pictures):,} images, {train:,} of them for training; "
        f"the middle square of each at {size}×{size} pixels in {'grey' if channels == 1 else 'colour'}."
    )
