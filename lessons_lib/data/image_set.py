"""Images as bytes, in memory or in a file, handed out in [-1, 1]; and how a data set speaks to its user."""

import contextlib
import copy
import dataclasses
import functools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

SPLITS = ("train", "val", "test")


class DataError(RuntimeError):
    """Data that is missing, cut short or of the wrong kind; the message is one sentence for the user."""


@functools.cache
def notice(text: str) -> None:
    """Say something once, on stderr so that it never mixes with results."""
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes one says it
        print(text, file=sys.stderr)


class RowFile:
    """The rows of a .npy file, [N, C, H, W] uint8, as if they were a tensor: indexing reads from the disk.

    The file is mapped for each reading anew: in a lasting map, each page that was touched counts as memory.
    Reading raises a DataError if the file is gone, cut short, or another one by now.
    """

    dtype = torch.uint8

    def __init__(self, path: Path) -> None:
        self.path, self.written = path, path.stat().st_mtime_ns
        count, *self.row_shape = np.lib.format.open_memmap(path, mode="r").shape
        self.rows = torch.arange(count)  # of the file, in their order here

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]."""
        return torch.Size((len(self.rows), *self.row_shape))

    def __len__(self) -> int:
        return len(self.rows)

    def pick(self, indices: Tensor) -> Self:
        """The rows at these indices, in that order, without reading them."""
        picked = copy.copy(self)
        picked.rows = self.rows[indices]
        return picked

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """uint8 [C, H, W] for a number, [M, C, H, W] for a slice or indices [M]."""
        rows = self.rows[index].numpy()
        try:
            with contextlib.suppress(ValueError):  # what numpy says of a file that is cut short
                if self.path.stat().st_mtime_ns == self.written:
                    whole = np.lib.format.open_memmap(self.path, mode="r")
                    return torch.from_numpy(np.take(whole, rows, axis=0))
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        raise DataError(f"{self.path} is cut short or was replaced: load the data again.")


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset):
    """Images that are kept as bytes and handed out in [-1, 1]."""

    images: Tensor | RowFile  # [N, C, H, W] uint8
    labels: Tensor  # [N] int64; or [N, K] of 0 and 1, where class_names are attributes, yes or no
    class_names: tuple[str, ...]  # K; none for pictures without classes, whose labels are all 0
    source: str  # "mnist", "digits", "cifar10", "celeba" or "folder"
    note: str = ""  # what a card must say of these files besides their source, in a sentence

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        """One image [C, H, W] float32 in [-1, 1] and its label, or its attributes [K]."""
        label = self.labels[index]
        return to_signed(self.images[index]), int(label) if label.ndim == 0 else label

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images [B, C, H, W] float32 in [-1, 1] and labels, [B] or [B, K], at indices [B]."""
        return to_signed(self.images[indices]), self.labels[indices]

    def subset(self, indices: Tensor) -> Self:
        """The images at indices, in that order."""
        pick = self.images.pick if isinstance(self.images, RowFile) else self.images.__getitem__
        return dataclasses.replace(self, images=pick(indices), labels=self.labels[indices])

    def of_attributes(self, places: Sequence[int]) -> Self:
        """The same images with these of their attributes, in that order."""
        names = tuple(self.class_names[place] for place in places)
        return dataclasses.replace(self, labels=self.labels[:, list(places)], class_names=names)

    def of_class(self, label: int) -> Self:
        """The images with that label."""
        return self.subset((self.labels == label).nonzero().flatten())


def to_signed(images: Tensor) -> Tensor:
    """uint8 0 … 255 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_unit(images: Tensor) -> Tensor:
    """float in [-1, 1] -> float in [0, 1], clipped; for showing and writing only."""
    return ((images + 1) / 2).clamp(0, 1)
