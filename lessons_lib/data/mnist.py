"""MNIST (LeCun et al. 1998) from its four files, and scikit-learn's handwritten digits in the same frame.

MNIST has no validation images of its own: of its 10,000 test images, "val" is every even and "test" every odd
one; "train" is all 60,000 training images.
"""

import functools
import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lessons_lib.data.image_set import DataError, ImageSet

CLASS_NAMES = tuple("0123456789")
SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28), "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28), "t10k-labels-idx1-ubyte": (10_000,),
}  # fmt: skip
CHECKSUMS = dict(zip(SHAPES, (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
), strict=True))  # fmt: skip
FOLDERS = ("MNIST/raw", "MNIST", "raw", ".")  # torchvision's, and where people put the files
ROWS = {"train": slice(None), "val": slice(0, None, 2), "test": slice(1, None, 2)}  # of a split's files


def read(root: Path, split: str) -> ImageSet:
    """A split of the MNIST below root; DataError for a file that is missing, cut short or of another kind."""
    names = [*SHAPES][:2] if split == "train" else [*SHAPES][2:]
    images, labels = (_read_idx(path_of(root, name) or root / FOLDERS[0] / name) for name in names)
    return ImageSet(images[ROWS[split], None], labels[ROWS[split]].long(), CLASS_NAMES, "mnist")


def path_of(root: Path, name: str) -> Path | None:
    """Where one of the four files lies, as it is or as .gz, under its name or the one with a dot."""
    names = (name, f"{name}.gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz")
    return next((path for f in FOLDERS for n in names if (path := root / f / n).is_file()), None)


@functools.lru_cache(maxsize=len(SHAPES))
def _read_idx(path: Path) -> Tensor:
    # torchvision reads this format too, but takes what a broken download left.
    if not path.exists():
        raise DataError(f"{path} is missing: delete the folder {path.parent} and load the data again.")
    name, advice = path.name.removesuffix(".gz").replace(".idx", "-idx"), "delete it and load it again"
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): {advice}.") from error
    shape = SHAPES[name]
    header = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)  # 8: bytes
    expected = len(header) + math.prod(shape)
    if len(content) != expected:
        raise DataError(f"{path} has {len(content)} bytes where {expected} are expected: {advice}.")
    if not content.startswith(header) or hashlib.sha256(content).hexdigest() != CHECKSUMS[name]:
        raise DataError(f"{path} is no MNIST file of shape {shape}, or a damaged one: {advice}.")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy())


@functools.lru_cache(maxsize=3)
def embedded(split: str) -> ImageSet:
    """A split of scikit-learn's 1,797 handwritten digits: 1,397 for training, 200 and 200."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float()[:, None] / 16  # [1797, 1, 8, 8] in [0, 1]
    # MNIST's digits fill a 20×20 box in a 28×28 image: the same frame, so that one model reads both.
    large = F.interpolate(small, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1)
    images = (F.pad(large, (4, 4, 4, 4)) * 255).round().to(torch.uint8)
    # A fixed shuffle: the file is ordered by writer.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = {"train": order[:1397], "val": order[1397:1597], "test": order[1597:]}
    whole = ImageSet(images, torch.from_numpy(bunch.target).long(), CLASS_NAMES, "digits")
    return whole.subset(parts[split])
