"""Images in a file, of which only those that are looked at are in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lessons_lib.data.images import DataError


class RowFile:
    """Rows of a .npy file, [N, C, H, W] uint8, as if they were a tensor: indexing reads from the disk.

    A mapped file would do, but its pages count as the program's memory once they were touched.

    Args:
        path: the file.
        rows: [N] int64, which of the file's rows, in which order.

    Raises:
        DataError: when rows are read, if the file is gone or cut short.
    """

    dtype = torch.uint8

    def __init__(self, path: Path, rows: Tensor) -> None:
        self.path, self.rows = path, rows
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            self.start = file.tell()
        self.row_shape = tuple(shape[1:])
        self.row_bytes = int(np.prod(self.row_shape))

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]."""
        return torch.Size((len(self.rows), *self.row_shape))

    def __len__(self) -> int:
        return len(self.rows)

    def pick(self, indices: Tensor) -> RowFile:
        """The rows at indices [M], in that order, without reading them."""
        return type(self)(self.path, self.rows[indices])

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """uint8 [C, H, W] for a number, [M, C, H, W] for a slice or indices [M]."""
        wanted = self.rows[index]
        found = np.empty((wanted.numel(), *self.row_shape), np.uint8)
        try:
            with open(self.path, "rb", buffering=0) as file:
                for k, row in enumerate(wanted.flatten().tolist()):
                    file.seek(self.start + row * self.row_bytes)
                    if file.readinto(memoryview(found[k]).cast("B")) != self.row_bytes:
                        raise DataError(f"{self.path} is cut short: delete it and load the data again.")
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        return torch.from_numpy(found if wanted.ndim else found[0])
