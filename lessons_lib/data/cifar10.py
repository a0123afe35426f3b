"""CIFAR-10 (Krizhevsky 2009): 60,000 colour pictures of 32×32 pixels in ten classes.

Of its 5,000 training images of a class the last 500 are "val". Two layouts are read, and brought into one
order: torchvision's `cifar-10-batches-py`, and an image folder `cifar10/{train,test}/CLASS/`.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lessons_lib.data.image_set import DataError, ImageSet, RowFile, UnreadableError, decode_all

CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
SIZE = 32
PER_CLASS = {"train": 5000, "test": 1000}  # images of each class in the files
VAL_PER_CLASS = 500  # of each class's training images, the last ones
SUFFIXES = (".png", ".jpg", ".jpeg")
PARTS = BATCHES, FOLDER = "cifar-10-batches-py", "cifar10"
ADVICE = f"go online without LESSONS_OFFLINE=1, or put its folder {BATCHES} into {{root}}."
LOSSY = "The pictures were re-encoded as JPEG, so they are slightly lossy."


def read(root: Path, split: str) -> ImageSet:
    """A split, in a fixed shuffle; DataError for a file that is missing, damaged or of another size."""
    part = "test" if split == "test" else "train"
    count = PER_CLASS[part]
    within = {"train": slice(-VAL_PER_CLASS), "val": slice(-VAL_PER_CLASS, None), "test": slice(None)}[split]
    places = torch.arange(len(CLASS_NAMES) * count).view(-1, count)[:, within].flatten()
    # Shuffled once and for all: the first so many images are a fair mix of the classes.
    places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]
    is_folder = (root / FOLDER).is_dir()
    images, note = _read_folder(root / FOLDER / part, count) if is_folder else (_read_batches(root, part), "")
    return ImageSet(images[places], places // count, CLASS_NAMES, "cifar10", note)


def _read_batches(root: Path, part: str) -> Tensor:
    """[10·N, 3, 32, 32], class by class, of torchvision's layout."""
    from torchvision.datasets import CIFAR10

    if broken := broken_batch(root):
        raise DataError(f"{broken} is missing or damaged: delete {root / BATCHES} and load it again.")
    # These files are pickled. torchvision opens them only if their checksums are those of the original.
    original = CIFAR10(str(root), train=part == "train", download=False)
    order = np.argsort(original.targets, kind="stable")
    return torch.from_numpy(np.ascontiguousarray(original.data[order].transpose(0, 3, 1, 2)))


def broken_batch(root: Path) -> Path | None:
    """The first file that is missing or not the original, if torchvision's layout is the one that is read."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    if (root / FOLDER).is_dir():
        return None
    listed = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
    files = [(root / BATCHES / name, checksum) for name, checksum in listed]
    return next((file for file, checksum in files if not check_integrity(file, checksum)), None)


def _read_folder(folder: Path, count: int) -> tuple[Tensor | RowFile, str]:
    """[10·count, 3, 32, 32], class by class, kept beside the pictures; and what a card must say of them."""
    paths = []
    for name in CLASS_NAMES:
        files = sorted(path for path in (folder / name).glob("[!.]*") if path.suffix.lower() in SUFFIXES)
        if len(files) != count:
            expected = f"{len(files):,} pictures where {count:,} are expected"
            raise DataError(f"{folder / name} has {expected}: unpack CIFAR-10 anew.")
        paths += files
    kept = folder.parent / "decoded" / f"{folder.name}.npy"
    images, _ = decode_all(paths, kept, SIZE, 3, strict=True, crop=_whole)
    return images, LOSSY if paths[0].suffix.lower() != ".png" else ""


def _whole(size: tuple[int, int]) -> float:
    if size != (SIZE, SIZE):
        raise UnreadableError(f"it has {size[0]}×{size[1]} pixels where 32×32 are expected")
    return 1.0
