"""Data sets as tensors in [-1, 1]: MNIST, CIFAR-10, CelebA, scikit-learn's digits, your own pictures.

`load` looks in $LESSONS_DATA, then in data/, then downloads with torchvision; for MNIST it falls back, where
there is no network and $LESSONS_DATA names no place (or /dev/null), to the embedded digits and says so. The
file of a data set says what its splits are.
"""

import dataclasses
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from lessons_lib.data import celeba, cifar10, image_folder, mnist
from lessons_lib.data.celeba import ATTRIBUTES, attribute_index, read_face
from lessons_lib.data.image_folder import is_folder, path_of, short_name
from lessons_lib.data.image_set import SPLITS, DataError, ImageSet, notice, to_signed, to_unit
from lessons_lib.names import check_choice, refuse

NAMES = ("mnist", "digits", "cifar10", "celeba", "folder:PATH")
CLASS_NAMES = {"mnist": mnist.CLASS_NAMES, "digits": mnist.CLASS_NAMES, "cifar10": cifar10.CLASS_NAMES}
SIZES = {"celeba": (8, celeba.WIDTH), "folder:PATH": (8, 512)}  # the fewest and the most pixels
BESIDE = Path(__file__).resolve().parents[2] / "data"  # the library
# The disk's refusals, not the network's.
CANNOT_WRITE = (errno.EACCES, errno.EEXIST, errno.ENOTDIR, errno.ENOSPC, errno.EROFS)


def load(
    name: str = "mnist", split: str = "train", *,
    image_size: int | None = None, channels: int | None = None, strict: bool = False, fraction: float = 1.0,
) -> ImageSet:  # fmt: skip
    """A split of a data set.

    Args:
        name: one of NAMES; folder:PATH are your own pictures.
        image_size: of faces (None: 64); of your own pictures (None: the median of their shorter sides, ≤ 64).
        channels: of your own pictures, 1 or 3; if None 1 where all are grey.
        strict: refuse your own pictures if one cannot be read, which is otherwise named and skipped.
        fraction: of CelebA, the share of each split that is used.

    ValueError for what the data set does not have; DataError if data, or a file, are missing or damaged.
    """
    _check(name, split, image_size, channels, strict, fraction)
    cache = _data_roots()[-1]  # the user's folder may be read-only, and is nobody's to litter
    if is_folder(name):
        return image_folder.read(name, split, image_size, channels, strict, cache / "folders")
    if name == "celeba":
        root = _find(celeba.PARTS) or _download("CelebA", celeba.ADVICE)
        return celeba.read(root, split, image_size or celeba.SIZE, fraction, cache / "faces")
    if name == "cifar10":
        root = _find(cifar10.PARTS)
        if root is None or cifar10.broken_batch(root):
            root = _download("CIFAR-10", "" if root else cifar10.ADVICE) or root
        return cifar10.read(root, split)
    if name == "mnist":
        # A part of it is read, too, for the name of the file that is missing: better than other digits.
        if root := find_mnist() or _download("MNIST") or _find_mnist(any):
            return mnist.read(root, split)
        named = os.environ.get("LESSONS_DATA", "")
        if named and not named.startswith(os.devnull):  # other digits are not what was meant
            held = f"holds {', '.join(found)}" if (found := _some_of(_data_roots()[0])) else "is empty or missing"
            raise DataError(f"LESSONS_DATA names {named}, which has no MNIST (it {held}), and none can be fetched.")
        notice("MNIST is not here and there is no network: using scikit-learn's 1,797 handwritten digits.")
    return mnist.embedded(split)


def _check(name, split, image_size, channels, strict, fraction) -> None:
    own = is_folder(name)
    kind = "folder:PATH" if own else name
    check_choice("split", split, SPLITS)
    check_choice("data set", kind, NAMES)
    low, high = SIZES.get(kind, (0, 0))
    size = low if image_size is None else image_size
    is_sized = image_size is not None and kind not in SIZES
    refuse({
        f"channels and strict are for folder:PATH, not for {name}.": not own and (channels or strict),
        f"image_size is for celeba and folder:PATH, not for {name}.": is_sized,
        f"fraction is for celeba, not for {name}.": kind != "celeba" and fraction != 1,
        f"The fraction must be above 0 and at most 1, got {fraction}.": not 0 < fraction <= 1,
        f"The channels must be 1 (grey) or 3 (colour), got {channels}.": channels not in (None, 1, 3),
        f"The image size must be from {low} to {high} pixels, got {size}.": not low <= size <= high,
    })  # fmt: skip


def test_images(name: str) -> ImageSet:
    """All the images that were made for testing: of the digits, "val" is a part of them too."""
    test = load(name, "test")
    if name in ("cifar10", "celeba"):
        return test
    val = load(name, "val")
    images, labels = torch.cat([val.images, test.images]), torch.cat([val.labels, test.labels])
    return dataclasses.replace(test, images=images, labels=labels)


def running_example() -> Tensor:
    """The handwritten seven that every lesson uses, [1, 1, 28, 28] in [-1, 1]; the same on every machine."""
    # The one most like MNIST's average seven: plain, no bar, easy to recognize under noise.
    return mnist.embedded("train")[77][0][None]


def find_mnist() -> Path | None:
    """The folder with a whole MNIST/raw: $LESSONS_DATA, or data/ here, or data/ beside the library."""
    return _find_mnist(all)


def _find_mnist(enough: Callable[[Iterable], bool]) -> Path | None:
    """The first of the places that has any, or all, of the four files."""
    places = _data_roots()
    return next((root for root in places if enough(mnist.path_of(root, name) for name in mnist.SHAPES)), None)


def _some_of(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())[:5] if root.is_dir() else []


def _find(parts: Iterable[str]) -> Path | None:
    """The first of the places for data that holds any of these parts."""
    return next((root for root in _data_roots() if any((root / part).exists() for part in parts)), None)


def _data_roots() -> list[Path]:
    places = (os.environ.get("LESSONS_DATA"), "data", BESIDE)
    return [Path(os.path.expanduser(place)).absolute() for place in places if place]


def _download(title: str, advice: str = "") -> Path | None:
    """Fetch a data set; where it is now, or None. DataError on a full disk, or else with advice, if any."""
    root = _data_roots()[0 if os.environ.get("LESSONS_DATA") else -1]
    if os.environ.get("LESSONS_OFFLINE") != "1":
        from torchvision import datasets

        try:
            getattr(datasets, title.replace("-", ""))(str(root), download=True)
            return root
        except Exception as error:  # from no network over a cut file to gdown, which is missing or refuses
            if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
                raise DataError(f"{title} cannot be written to {root}: {error.strerror}.") from None
    if advice:
        named = os.environ.get("LESSONS_DATA") and ", ".join(_some_of(root))
        there = f" ({root} holds {named})" if named else ""
        raise DataError(f"{title} is not here{there} and cannot be downloaded: {advice.format(root=root)}")
    return None
