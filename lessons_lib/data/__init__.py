"""Data sets as tensors in [-1, 1]: MNIST, CIFAR-10, CelebA, scikit-learn's digits, your own pictures.

`load` looks in $LESSONS_DATA, then in data/, then downloads with torchvision; for MNIST it falls back, where
there is no network, to the embedded digits and says so. Splits: "train", "val" and "test". MNIST and CIFAR-10
have no validation images of their own. MNIST: "val" is every even and "test" every odd one of its 10,000 test
images, "train" all 60,000 training images. CIFAR-10: "val" is the last 500 training images of each class,
"train" the other 45,000, "test" all 10,000 test images. CelebA's own list says which faces are which, see
celeba.py. Your own pictures: see folders.py.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lessons_lib.data import celeba, cifar10, folders
from lessons_lib.data.celeba import attribute_index, read_face
from lessons_lib.data.folders import is_folder, short_name
from lessons_lib.data.images import DataError, ImageSet, to_signed, to_unit

__all__ = [
    "ATTRIBUTES",
    "CLASS_NAMES",
    "DIGIT_NAMES",
    "NAMES",
    "RUNNING_EXAMPLE",
    "SPLITS",
    "DataError",
    "ImageSet",
    "attribute_index",
    "find_mnist",
    "is_folder",
    "load",
    "read_face",
    "running_example",
    "short_name",
    "test_images",
    "to_signed",
    "to_unit",
]

SPLITS = ("train", "val", "test")
NAMES = ("mnist", "digits", "cifar10", "celeba")
DIGIT_NAMES = tuple("0123456789")
CLASS_NAMES = {"mnist": DIGIT_NAMES, "digits": DIGIT_NAMES, "cifar10": cifar10.CLASS_NAMES}
ATTRIBUTES = celeba.ATTRIBUTES
RUNNING_EXAMPLE = 77  # among the embedded training digits
_NOTICES: set[str] = set()
# The disk's refusals, not the network's.
_CANNOT_WRITE = (errno.EACCES, errno.EEXIST, errno.ENOTDIR, errno.ENOSPC, errno.EROFS)


def load(
    name: str = "mnist",
    split: str = "train",
    *,
    image_size: int | None = None,
    channels: int | None = None,
    strict: bool = False,
    fraction: float = 1.0,
) -> ImageSet:
    """A split of a data set.

    Args:
        name: "mnist", "cifar10", "celeba", or "digits" for the embedded ones; "folder:PATH" for your own
            pictures, with a folder for each class in PATH, or without classes.
        split: "train", "val" or "test".
        image_size: of faces, in pixels, 64 if not given; of your own pictures, if not given, the median of
            their shorter sides, at most 64.
        channels: of your own pictures, 1 or 3; if not given, 1 if all are grey.
        strict: refuse your own pictures if one cannot be read, which is otherwise named and skipped.
        fraction: of CelebA, the share of each split that is used.

    Raises:
        ValueError: for an unknown name or split, or an impossible size.
        DataError: if a file is cut short or is not what its name says; if CIFAR-10 or CelebA is nowhere to be
            had; or if a folder has no pictures, an empty class, or pictures beside folders.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: choose one of {', '.join(SPLITS)}.")
    if is_folder(name):
        # Beside the library: the user's folder may be read-only, and is nobody's to litter.
        kept = _data_roots()[-1] / "folders"
        if fraction != 1:
            raise ValueError("fraction is for celeba: leave pictures out of your folder instead.")
        return folders.load_folder(name, split, image_size, channels, strict, kept, _notice)
    if name not in NAMES:
        raise ValueError(f"Unknown data set {name!r}: choose one of {', '.join(NAMES)}, or folder:PATH.")
    if name == "celeba" and channels is None and not strict:
        return _celeba(split, celeba.SIZE if image_size is None else image_size, fraction)
    if name == "celeba":
        raise ValueError("channels and strict are for folder:PATH, not for celeba.")
    if fraction != 1:
        raise ValueError(f"fraction is for celeba, not for {name}.")
    if (image_size, channels, strict) != (None, None, False):
        raise ValueError(f"image_size, channels and strict are for folder:PATH, not for {name}.")
    if name == "cifar10":
        return cifar10.read(_find_cifar10(), split, _notice)
    if name == "mnist":
        root = find_mnist() or _download_mnist() or _incomplete_mnist()
        if root is not None:
            return _read_mnist(root, split)
        _notice("MNIST is not here and there is no network: using scikit-learn's 1,797 handwritten digits.")
    return _embedded_digits(split)


def test_images(name: str) -> ImageSet:
    """All the images that were made for testing: of the digits, "val" is a part of them too."""
    test = load(name, "test")
    if name in ("cifar10", "celeba"):
        return test
    val = load(name, "val")
    images, labels = torch.cat([val.images, test.images]), torch.cat([val.labels, test.labels])
    return ImageSet(images, labels, test.class_names, test.source, test.note)


def find_mnist() -> Path | None:
    """The folder with a whole MNIST/raw: $LESSONS_DATA, or data/ here, or data/ beside the library."""
    return next((root for root in _data_roots() if all(file.exists() for file in _mnist_files(root))), None)


def _incomplete_mnist() -> Path | None:
    # Reading it names the file that is missing: better than going on with other digits and saying nothing.
    return next((root for root in _data_roots() if any(file.exists() for file in _mnist_files(root))), None)


def running_example() -> Tensor:
    """The handwritten seven that every lesson uses, [1, 1, 28, 28] in [-1, 1]; the same on every machine."""
    # Of all the sevens the one most like MNIST's average seven: plain, no bar, easy to recognize under noise.
    return to_signed(_embedded_digits("train").images[RUNNING_EXAMPLE : RUNNING_EXAMPLE + 1])


def _data_roots() -> list[Path]:
    here, beside = Path.cwd() / "data", Path(__file__).resolve().parents[2] / "data"
    return [Path(p) for p in (os.environ.get("LESSONS_DATA"),) if p] + [here, beside]


def _download_root() -> Path:
    return _data_roots()[0] if os.environ.get("LESSONS_DATA") else _data_roots()[-1]


def _notice(text: str) -> None:
    """Say something once a machine, on stderr so that it never mixes with results."""
    if text not in _NOTICES and os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes one says it
        _NOTICES.add(text)
        print(text, file=sys.stderr)


def _mnist_file(root: Path, split: str, kind: str) -> Path:
    prefix = "train" if split == "train" else "t10k"
    rank = "idx3" if kind == "images" else "idx1"
    return root / "MNIST" / "raw" / f"{prefix}-{kind}-{rank}-ubyte"


def _mnist_files(root: Path) -> list[Path]:
    return [_mnist_file(root, split, kind) for split in ("train", "test") for kind in ("images", "labels")]


def _download_mnist() -> Path | None:
    from torchvision.datasets import MNIST

    return _download("MNIST", lambda root: MNIST(str(root), download=True))


def _find_cifar10() -> Path:
    """Where CIFAR-10 is, fetched if need be; there is nothing to fall back on."""
    root = cifar10.find(_data_roots())
    if root is None or cifar10.is_repairable(root):
        root = _download("CIFAR-10", cifar10.download) or root
    if root is None:
        raise DataError(
            f"CIFAR-10 is not here and cannot be downloaded: go online without LESSONS_OFFLINE=1, or put its "
            f"folder {cifar10.BATCHES} into {_download_root()}."
        )
    return root


def _celeba(split: str, image_size: int, fraction: float) -> ImageSet:
    if not 8 <= image_size <= celeba.WIDTH:
        raise ValueError(f"The image size must be from 8 to {celeba.WIDTH} pixels, got {image_size}.")
    root = celeba.find(_data_roots()) or _download("CelebA", celeba.download)
    if root is None:
        raise DataError(
            f"CelebA is not here and cannot be downloaded: put its aligned faces and its two lists into "
            f"{_download_root() / celeba.FOLDER} (see lessons_lib/data/celeba.py); torchvision can fetch it "
            f"where gdown is installed and the network allows it."
        )
    return celeba.read(root, split, image_size, fraction, _data_roots()[-1] / "faces", _notice)


def _download(what: str, fetch: Callable[[Path], object]) -> Path | None:
    """Fetch a data set; returns where it is now, or None without a network.

    Raises:
        DataError: if it cannot be written.
    """
    if os.environ.get("LESSONS_OFFLINE") == "1":
        return None
    root = _download_root()
    try:
        fetch(root)
    except OSError as error:
        if error.errno in _CANNOT_WRITE:
            raise DataError(f"{what} cannot be written to {root}: {error.strerror}.") from None
        return None
    # torchvision's "no mirror answered"; a part of it that is not installed; a download that was cut
    except (RuntimeError, ImportError, HTTPException, EOFError):
        return None
    return root


def _read_mnist(root: Path, split: str) -> ImageSet:
    images, labels = _read_mnist_files(root, "train" if split == "train" else "test")
    if split != "train":
        start = SPLITS.index(split) - 1
        images, labels = images[start::2], labels[start::2]
    return ImageSet(images, labels, DIGIT_NAMES, "mnist")


@functools.lru_cache(maxsize=4)
def _read_mnist_files(root: Path, part: str) -> tuple[Tensor, Tensor]:
    count = 60_000 if part == "train" else 10_000
    images = _read_idx(_mnist_file(root, part, "images"), (count, 28, 28))
    labels = _read_idx(_mnist_file(root, part, "labels"), (count,))
    return images[:, None], labels.long()


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    # torchvision reads this format too, but a file that a broken download cut short must be named, not
    # half-read.
    header = 4 + 4 * len(shape)
    expected = header + int(np.prod(shape))
    if not path.exists():
        raise DataError(
            f"{path} is missing: delete the folder {path.parent} and the data will be fetched again."
        )
    size = path.stat().st_size
    if size != expected:
        raise DataError(
            f"{path} has {size} bytes where {expected} are expected: delete it and load it again."
        )
    raw = np.fromfile(path, dtype=np.uint8)
    found = tuple(int.from_bytes(raw[i : i + 4].tobytes(), "big") for i in range(4, header, 4))
    if found != shape or raw[:4].tolist() != [0, 0, 8, len(shape)]:  # 8: bytes
        raise DataError(f"{path} is no MNIST file of shape {shape}: delete it and load it again.")
    return torch.from_numpy(raw[header:].reshape(shape).copy())


@functools.lru_cache(maxsize=4)
def _embedded_digits(split: str) -> ImageSet:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float()[:, None] / 16  # [1797, 1, 8, 8] in [0, 1]
    # MNIST's digits fill a 20×20 box in a 28×28 image: the same frame, so that one model reads both.
    large = F.interpolate(small, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1)
    images = (F.pad(large, (4, 4, 4, 4)) * 255).round().to(torch.uint8)
    labels = torch.from_numpy(bunch.target).long()
    # A fixed shuffle: the file is ordered by writer.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = {"train": order[:1397], "val": order[1397:1597], "test": order[1597:]}
    return ImageSet(images[parts[split]], labels[parts[split]], DIGIT_NAMES, "digits")
