"""What every test file relies on: no network, no test of real data without it, tiny weights, the commands."""

import functools
import os
from pathlib import Path

import pytest
import torch
from command_tools import noted, report_of, save, tiny_flow_map, tiny_reader, tiny_unet

from lessons_lib import data, evaluation, pipeline, unet, weights
from lessons_lib.cli import app
from lessons_lib.data import image_set
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet

os.environ["LESSONS_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parent.parent
MNIST_FILES = [
    f"MNIST/raw/{split}-{kind}-ubyte"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


def holds(*names: str) -> bool:
    """Whether all of these lie in one of the folders where the library looks for data."""
    folders = [folder for folder in (os.environ.get("LESSONS_DATA"), ROOT / "data") if folder]
    return any(all(Path(folder, name).exists() for name in names) for folder in folders)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cifar10 = holds("cifar10") or holds("cifar-10-batches-py")
    here = {"mnist": ("MNIST", holds(*MNIST_FILES)), "cifar10": ("CIFAR-10", cifar10)}
    for marker, (name, is_here) in here.items():
        skip = pytest.mark.skip(reason=f"needs the real {name} in $LESSONS_DATA or data/")
        for item in items:
            if not is_here and item.get_closest_marker(marker):
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

    monkeypatch.setattr(unet, "timestep_embedding", one_by_one)
    # A memory of its own, since the usual one may hold these weights in float32.
    monkeypatch.setattr(pipeline, "_load_model", functools.lru_cache(pipeline._load_model.__wrapped__))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# ---- the command line ----
@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with untrained weights for digits (T = 40), and a reference "of MNIST" beside the judge."""
    folder, schedule = tmp_path_factory.mktemp("tiny"), NoiseSchedule.linear(40)
    digits, defaults = {"image_size": 28}, {"guidance_scale": 2.0, "sampler": "ddim", "steps": 3}
    for name, num_classes in (("denoiser", 10), ("unlabelled", 0)):
        model = tiny_unet(**digits, channel_mults=(1, 1, 1), num_classes=num_classes)
        save(folder / f"{name}.safetensors", model, schedule, **defaults)
    save(folder / "flow-map.safetensors", tiny_flow_map(**digits), schedule, guidance_scale=2.0, steps=1)
    for name, when in (("guide", schedule), ("other-T", NoiseSchedule.linear(50))):
        save(folder / f"{name}.safetensors", tiny_reader(**digits, num_classes=10), when)
    save(folder / "judge.safetensors", tiny_reader(False, **digits, num_classes=10))
    judge, _, card = weights.load_pretrained(folder / "judge.safetensors")
    digits = data.load("digits", "train").subset(torch.arange(240))
    features = evaluation.features(judge, data.to_signed(digits.images))
    reference = evaluation.Reference.of(features, digits.labels, 10, extractor=card["sha256"], source="mnist")
    reference.save(folder / "judge-reference.npz")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder without a network and without data, which belong into its data/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LESSONS_DATA", raising=False)
    monkeypatch.setattr(data, "_data_roots", lambda: [tmp_path / "data"])
    data.notice.cache_clear()
    yield tmp_path
    data.notice.cache_clear()


@pytest.fixture
def heard(monkeypatch):
    """The labels of each call of a U-Net; where it has none, the size of its batch."""

    def labels(network, x_t, t, y=None):
        return len(x_t) if y is None else y.tolist()

    return noted(monkeypatch, UNet, "forward", labels)


@pytest.fixture
def decoded(monkeypatch):
    """The pictures that are decoded."""
    return noted(monkeypatch, image_set, "decode", lambda path, *how: path)


@pytest.fixture
def run(capsys):
    """Run a command and return (exit status, stdout, stderr)."""

    def run(words, *more):
        capsys.readouterr()
        status = app.main([*words.split(), *map(str, more)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def again(run):
    """Run a command that a report names once more; what it reports."""
    return lambda words: report_of(run(f"{words.removeprefix('python -m lessons_lib ')} --json"))
