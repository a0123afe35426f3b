"""What every test file relies on: no network, and the tests that need the real MNIST skipped without it."""

import os
from pathlib import Path

import pytest

os.environ["LESSONS_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parent.parent
MNIST_FILES = [
    f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
]


def mnist_folder() -> Path | None:
    """The folder whose MNIST/raw holds all four files, looked for where the library looks."""
    for folder in (os.environ.get("LESSONS_DATA"), ROOT / "data"):
        if folder and all(Path(folder, "MNIST/raw", name).is_file() for name in MNIST_FILES):
            return Path(folder)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if mnist_folder() is not None:
        return
    reason = "needs the real MNIST in $LESSONS_DATA or data/"
    for item in items:
        if item.get_closest_marker("mnist"):
            item.add_marker(pytest.mark.skip(reason=reason))
