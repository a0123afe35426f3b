"""MNIST (LeCun et al. 1998) from its four files, and scikit-learn's handwritten digits in the same frame.

MNIST has no validation images of its own: of its 10,000 test images, "val" is every even and "test" every odd
one; "train" is all 60,000 training images.
"""

import functools
import math
import struct
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
FILES = tuple(Path("MNIST", "raw", name) for name in SHAPES)
ROWS = {"train": slice(None), "val": slice(0, None, 2), "test": slice(1, None, 2)}  # of a split's files


def read(root: Path, split: str) -> ImageSet:
    """A split of the MNIST below root; DataError for a file that is missing, cut short or of another kind."""
    images, labels = (_read_idx(root / file) for file in (FILES[:2] if split == "train" else FILES[2:]))
    return ImageSet(images[ROWS[split], None], labels[ROWS[split]].long(), CLASS_NAMES, "mnist")


@functools.lru_cache(maxsize=len(FILES))
def _read_idx(path: Path) -> Tensor:
    # torchvision reads this format too, but takes what a broken download left.
    if not path.exists():
        raise DataError(f"{path} is missing: delete the folder {path.parent} and load the data again.")
    shape, content = SHAPES[path.name], path.read_bytes()
    header = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)  # 8: bytes
    advice, expected = "delete it and load it again", len(header) + math.prod(shape)
    if len(content) != expected:
        raise DataError(f"{path} has {len(content)} bytes where {expected} are expected: {advice}.")
    if not content.startswith(header):
        raise DataError(f"{path} is no MNIST file of shape {shape}: {advice}.")
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
