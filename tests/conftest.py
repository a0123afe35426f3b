"""What every test file relies on: no network, and the tests that need real data skipped without it."""

import functools
import os
from pathlib import Path

import pytest
import torch

from lessons_lib import classifier, pipeline, unet

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


def cifar10_folder() -> Path | None:
    """The folder with CIFAR-10 in one of its layouts, looked for where the library looks."""
    for folder in (os.environ.get("LESSONS_DATA"), ROOT / "data"):
        if folder and any(Path(folder, name).is_dir() for name in ("cifar10", "cifar-10-batches-py")):
            return Path(folder)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {
        "mnist": ("MNIST", mnist_folder() is None),
        "cifar10": ("CIFAR-10", cifar10_folder() is None),
    }
    for marker, (name, is_missing) in missing.items():
        skip = pytest.mark.skip(reason=f"needs the real {name} in $LESSONS_DATA or data/")
        for item in items:
            if is_missing and item.get_closest_marker(marker):
                item.add_marker(skip)


@pytest.fixture(scope="module")
def one_thread():
    """For networks this small more threads only wait for each other, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_float64(monkeypatch):
    """What the test builds, loads and draws is float64: there rounding is too small to hide an error.

    The embedding of t is float32 whatever the network: each t is embedded alone, so that no batch rounds it
    in its own way.
    """
    embed = unet.timestep_embedding

    def one_by_one(t, *more):
        return torch.cat([embed(one, *more) for one in t.split(1)])

    for module in (unet, classifier):
        monkeypatch.setattr(module, "timestep_embedding", one_by_one)
    # A memory of its own, since the usual one may hold these weights in float32.
    monkeypatch.setattr(pipeline, "_load_model", functools.lru_cache(pipeline._load_model.__wrapped__))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
