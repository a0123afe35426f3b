"""data.py: where MNIST is looked for, what happens without it, and that a broken file is named."""

import errno
import math
import os
import struct
from urllib.error import URLError

import pytest
import torch

from lessons_lib import data

FILES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


def idx_header(shape, magic=None):
    return struct.pack(f">{1 + len(shape)}I", magic or 0x800 + len(shape), *shape)


def write_fake_mnist(raw):
    """Black images and labels 0 … 9 over and over; the images are sparse files, made in no time."""
    raw.mkdir(parents=True)
    for name, shape in FILES.items():
        (raw / name).write_bytes(
            idx_header(shape) + (bytes(range(10)) * (shape[0] // 10) if len(shape) == 1 else b"")
        )
        os.truncate(raw / name, 4 + 4 * len(shape) + math.prod(shape))


@pytest.fixture
def empty_machine(tmp_path, monkeypatch):
    """A machine without MNIST: only $LESSONS_DATA is looked at, and it is empty."""
    root = tmp_path / "mine"
    monkeypatch.setenv("LESSONS_DATA", str(root))
    monkeypatch.setenv("LESSONS_OFFLINE", "1")
    monkeypatch.setattr(data, "_data_roots", lambda: [root])
    monkeypatch.setattr(data, "_NOTICES", set())
    return root


@pytest.fixture
def fake_mnist(empty_machine):
    raw = empty_machine / "MNIST" / "raw"
    write_fake_mnist(raw)
    yield raw
    data._read_mnist_files.cache_clear()


# -- the embedded digits --------------------------------------------------------------------------------


def test_embedded_digits_are_split_without_overlap_into_all_1797():
    sets = {split: data.load("digits", split) for split in data.SPLITS}
    assert sum(map(len, sets.values())) == 1797
    for images in sets.values():
        assert images.images.shape[1:] == (1, 28, 28) and images.images.dtype == torch.uint8
        assert images.source == "digits" and images.class_names == tuple("0123456789")
        assert images.labels.bincount(minlength=10).min() >= 9
    everything = torch.cat([images.images for images in sets.values()]).flatten(1)
    assert len(everything.unique(dim=0)) == 1797


def test_embedded_digits_have_mnists_frame():
    images = data.load("digits", "train").images
    frame = torch.ones(28, 28, dtype=torch.bool)
    frame[4:-4, 4:-4] = False
    assert images[:, 0, frame].max() == 0 and images.max() > 240


def test_images_are_handed_out_in_minus_one_to_one():
    images = data.load("digits", "test")
    x_0, y = images.batch(torch.tensor([3, 0]))
    assert x_0.shape == (2, 1, 28, 28) and x_0.dtype == torch.float32 and y.dtype == torch.int64
    assert x_0.min() == -1 and 0.9 < x_0.max() <= 1
    one, label = images[3]
    assert torch.equal(one, x_0[0]) and label == y[0] and isinstance(label, int)


def test_to_unit_undoes_to_signed_and_clips():
    pixels = torch.tensor([0, 127, 255], dtype=torch.uint8)
    assert (data.to_unit(data.to_signed(pixels)) * 255).round().tolist() == [0, 127, 255]
    assert data.to_unit(torch.tensor([-3.0, 3.0])).tolist() == [0, 1]


def test_subset_and_class():
    images = data.load("digits", "test")
    sevens = images.of_class(7)
    assert len(sevens) > 0 and (sevens.labels == 7).all()
    assert torch.equal(images.subset(torch.tensor([5, 2])).images, images.images[[5, 2]])


def test_the_running_example_is_one_seven_and_always_the_same():
    seven = data.running_example()
    assert seven.shape == (1, 1, 28, 28) and torch.equal(seven, data.running_example())
    assert seven.sum().item() == pytest.approx(-547.70, abs=0.5)  # pinned: every lesson's figures show it


@pytest.mark.parametrize("args", [("cats", "train"), ("mnist", "training"), ("", "test")])
def test_unknown_names_and_splits_are_refused(args):
    with pytest.raises(ValueError, match="choose one of"):
        data.load(*args)


# -- without MNIST --------------------------------------------------------------------------------------


def test_offline_falls_back_to_the_digits_and_says_so_once_on_stderr(empty_machine, capsys):
    assert data.load("mnist", "train").source == "digits"
    assert data.load("mnist", "test").source == "digits"
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "1,797 handwritten digits" in err
    assert not empty_machine.exists()


def test_offline_never_asks_the_network(empty_machine, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.MNIST", lambda *a, **k: pytest.fail("asked the network"))
    data.load("mnist", "train")


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("Error downloading train-images-idx3-ubyte.gz"),
        URLError("name resolution"),
        TimeoutError("slow"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        EOFError("Compressed file ended before the end-of-stream marker was reached"),
    ],
)
def test_a_download_that_fails_falls_back_to_the_digits(empty_machine, monkeypatch, failure):
    def download(*args, **kwargs):
        raise failure

    monkeypatch.delenv("LESSONS_OFFLINE")
    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    assert data.load("mnist", "train").source == "digits"


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_no_missing_network(empty_machine, monkeypatch, number):
    def download(*args, **kwargs):
        raise OSError(number, "reason")

    monkeypatch.delenv("LESSONS_OFFLINE")
    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    with pytest.raises(data.DataError, match=f"MNIST cannot be written to {empty_machine}: reason."):
        data.load("mnist", "train")


def test_a_file_in_the_folders_place_is_named(empty_machine, monkeypatch):
    empty_machine.write_text("")  # torchvision itself runs into it, before it asks the network
    monkeypatch.delenv("LESSONS_OFFLINE")
    with pytest.raises(data.DataError, match="MNIST cannot be written"):
        data.load("mnist", "train")


def test_a_download_goes_to_lessons_data_and_is_read(empty_machine, monkeypatch):
    def download(root, download):
        assert root == str(empty_machine) and download
        write_fake_mnist(empty_machine / "MNIST" / "raw")

    monkeypatch.delenv("LESSONS_OFFLINE")
    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    assert data.load("mnist", "test").source == "mnist"
    data._read_mnist_files.cache_clear()


# -- with files -----------------------------------------------------------------------------------------


def test_lessons_data_is_looked_at_first(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    assert data._data_roots()[0] == tmp_path
    monkeypatch.delenv("LESSONS_DATA")
    assert all(root.name == "data" for root in data._data_roots())


def test_mnists_splits(fake_mnist):
    train, val, test = (data.load("mnist", split) for split in data.SPLITS)
    assert (len(train), len(val), len(test)) == (60_000, 5_000, 5_000)
    assert train.source == "mnist" and train.images.shape == (60_000, 1, 28, 28)
    # The fake labels count 0 … 9: even ones are validation, odd ones test.
    assert set(val.labels.tolist()) == {0, 2, 4, 6, 8} and set(test.labels.tolist()) == {1, 3, 5, 7, 9}


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(fake_mnist, name):
    (fake_mnist / name).unlink()
    split = "train" if name.startswith("train") else "val"
    with pytest.raises(data.DataError, match=f"{name} is missing"):
        data.load("mnist", split)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [-1, -5000, 1])
def test_a_cut_file_is_named_and_never_half_read(fake_mnist, name, change):
    path = fake_mnist / name
    os.truncate(path, path.stat().st_size + change)
    with pytest.raises(data.DataError, match=rf"{name} has \d+ bytes where \d+ are expected"):
        data.load("mnist", "train" if name.startswith("train") else "test")


@pytest.mark.parametrize(
    "content",
    [idx_header((60_000,), 0x803), idx_header((60_000,), 0xD01), idx_header((59_999,)), b"<!DOCTYPE"],
    ids=["images' magic", "floats' magic", "another shape", "an error page"],
)
def test_a_file_of_the_right_size_and_wrong_kind_is_named(fake_mnist, content):
    (fake_mnist / "train-labels-idx1-ubyte").write_bytes(content)
    os.truncate(fake_mnist / "train-labels-idx1-ubyte", 60_008)
    with pytest.raises(data.DataError, match="train-labels-idx1-ubyte is no MNIST file"):
        data.load("mnist", "train")


@pytest.mark.mnist
def test_the_real_mnist():
    train, test = data.load("mnist", "train"), data.load("mnist", "test")
    assert train.source == test.source == "mnist"
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.images.float().mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    # The file begins 7 2 1 0 4 1 4 9: even places are validation, odd ones test.
    assert data.load("mnist", "val").labels[:4].tolist() == [7, 1, 4, 4]
    assert test.labels[:4].tolist() == [2, 0, 1, 9]
