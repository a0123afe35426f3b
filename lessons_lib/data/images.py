"""Images held in memory, and the one conversion between their bytes and [-1, 1]."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.utils.data import Dataset


class DataError(RuntimeError):
    """Data that is missing, cut short or of the wrong kind; the message is one sentence for the user."""


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset):
    """Images held in memory as bytes and handed out in [-1, 1].

    Args:
        images: [N, C, H, W] uint8: a tensor, or a RowFile, which reads what is asked for.
        labels: [N] int64, or [N, K] of 0 and 1, where a name in class_names is an attribute, yes or no.
        class_names: K names; none for pictures without classes, whose labels are all 0.
        source: where the images come from: "mnist", "digits", "cifar10", "celeba" or "folder".
        note: what a card must say of these files besides their source, in a sentence; or nothing.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    source: str
    note: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        """One image [C, H, W] float32 in [-1, 1] and its label, or its attributes [K]."""
        label = self.labels[index]
        return to_signed(self.images[index]), int(label) if label.ndim == 0 else label

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images [B, C, H, W] float32 in [-1, 1] and labels, [B] or [B, K], at indices [B]."""
        return to_signed(self.images[indices]), self.labels[indices]

    def subset(self, indices: Tensor) -> ImageSet:
        """The images at indices, in that order."""
        pick = getattr(self.images, "pick", self.images.__getitem__)  # a RowFile reads nothing yet
        return dataclasses.replace(self, images=pick(indices), labels=self.labels[indices])

    def of_attributes(self, places: Sequence[int]) -> ImageSet:
        """The same images with these of their attributes, in that order."""
        names = tuple(self.class_names[place] for place in places)
        return dataclasses.replace(self, labels=self.labels[:, list(places)], class_names=names)

    def of_class(self, label: int) -> ImageSet:
        """The images with that label."""
        return self.subset((self.labels == label).nonzero().flatten())


def to_signed(images: Tensor) -> Tensor:
    """uint8 0 … 255 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_unit(images: Tensor) -> Tensor:
    """float in [-1, 1] -> float in [0, 1], clipped; for showing and writing only."""
    return ((images + 1) / 2).clamp(0, 1)
