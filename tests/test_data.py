"""data/: where MNIST and CIFAR-10 are looked for, what happens without, and that a broken file is named."""

import errno
import hashlib
import math
import os
import pickle
import struct
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from lessons_lib import data
from lessons_lib.data import cifar10, image_set, mnist

FILES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


def idx_header(shape, magic=None):
    return struct.pack(f">{1 + len(shape)}I", magic or 0x800 + len(shape), *shape)


@pytest.fixture
def fake_mnist(here, monkeypatch):
    """Black images and labels 0 … 9 over and over; the images are sparse files, made in no time."""
    raw = here / "data/MNIST/raw"
    raw.mkdir(parents=True)
    for name, shape in FILES.items():
        labels = bytes(range(10)) * (shape[0] // 10) if len(shape) == 1 else b""
        (raw / name).write_bytes(idx_header(shape) + labels)
        os.truncate(raw / name, 4 + 4 * len(shape) + math.prod(shape))
    known = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in raw.iterdir()}
    monkeypatch.setattr(mnist, "CHECKSUMS", known)
    return raw


def test_embedded_digits_are_split_without_overlap_into_all_1797():
    sets = {split: data.load("digits", split) for split in data.SPLITS}
    assert sum(map(len, sets.values())) == 1797
    for images in sets.values():
        assert images.images.shape[1:] == (1, 28, 28) and images.images.dtype == torch.uint8
        assert images.source == "digits" and images.class_names == tuple("0123456789")
        assert images.labels.bincount(minlength=10).min() >= 9
    everything = torch.cat([images.images for images in sets.values()]).flatten(1)
    assert len(everything.unique(dim=0)) == 1797


def test_offline_falls_back_to_the_digits_and_says_so_once_on_stderr(here, capsys):
    assert data.load("mnist", "train").source == "digits"
    assert data.load("mnist", "test").source == "digits"
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "1,797 handwritten digits" in err
    assert not (here / "data").exists()


FAILURES = [
    RuntimeError("Error downloading train-images-idx3-ubyte.gz"),
    URLError("name resolution"),
    TimeoutError("slow"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    EOFError("Compressed file ended before the end-of-stream marker was reached"),
]


def test_a_download_that_fails_falls_back_and_a_folder_that_cannot_be_written_is_named(here, monkeypatch):
    monkeypatch.delenv("LESSONS_OFFLINE")
    for failure in FAILURES:
        monkeypatch.setattr("torchvision.datasets.MNIST", Mock(side_effect=failure))
        assert data.load("mnist", "train").source == "digits"
    for number in (errno.EACCES, errno.ENOSPC, errno.EROFS):
        monkeypatch.setattr("torchvision.datasets.MNIST", Mock(side_effect=OSError(number, "reason")))
        with pytest.raises(data.DataError, match=f"MNIST cannot be written to {here / 'data'}: reason."):
            data.load("mnist", "train")


def test_mnists_splits(fake_mnist):
    train, val, test = (data.load("mnist", split) for split in data.SPLITS)
    assert (len(train), len(val), len(test)) == (60_000, 5_000, 5_000)
    assert train.source == "mnist" and train.images.shape == (60_000, 1, 28, 28)
    # The fake labels count 0 … 9: even ones are validation, odd ones test.
    assert set(val.labels.tolist()) == {0, 2, 4, 6, 8} and set(test.labels.tolist()) == {1, 3, 5, 7, 9}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [-1, -5000, 1])
def test_a_cut_file_is_named_and_never_half_read(fake_mnist, name, change):
    path = fake_mnist / name
    os.truncate(path, path.stat().st_size + change)
    with pytest.raises(data.DataError, match=rf"{name} has \d+ bytes where \d+ are expected"):
        data.load("mnist", "train" if name.startswith("train") else "test")


def test_a_file_of_the_right_size_and_wrong_kind_is_named(fake_mnist):
    path = fake_mnist / "train-labels-idx1-ubyte"
    magics = idx_header((60_000,), 0x803), idx_header((60_000,), 0xD01)  # of images, of floats
    for content in (*magics, idx_header((59_999,)), b"<!DOCTYPE"):
        path.write_bytes(content)
        os.truncate(path, 60_008)
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


COUNTS = {"train": 5, "test": 2}  # images of each class in the fakes; the last one of five is for validation


def fake_pixels(part, label, index):
    """One colour a picture, so that it can be recognized."""
    return (20 * label + index, 100 if part == "train" else 200, 250 - 10 * index)


@pytest.fixture
def small_cifar10(here, monkeypatch):
    monkeypatch.setattr(cifar10, "PER_CLASS", COUNTS)
    monkeypatch.setattr(cifar10, "VAL_PER_CLASS", 1)
    return here / "data"


@pytest.fixture
def cifar10_folder(small_cifar10):
    for part, count in COUNTS.items():
        for label, name in enumerate(cifar10.CLASS_NAMES):
            folder = small_cifar10 / "cifar10" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (32, 32), fake_pixels(part, label, index)).save(folder / f"{index:04}.png")
    return small_cifar10 / "cifar10"


@pytest.fixture
def cifar10_batches(small_cifar10, monkeypatch):
    """torchvision's layout, the classes in turn, with checksums to match."""
    folder = small_cifar10 / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name, content):
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        return [name, hashlib.md5(raw).hexdigest()]

    def batch(part, indices):
        pixels = [fake_pixels(part, label, index) for index in indices for label in range(10)]
        rows = np.array(pixels, dtype=np.uint8).repeat(1024, axis=1)
        return {"data": rows, "labels": [*range(10)] * len(indices)}

    train = [write("data_batch_1", batch("train", range(3))), write("data_batch_2", batch("train", (3, 4)))]
    meta = write("batches.meta", {"label_names": list(cifar10.CLASS_NAMES)})
    theirs, test = torchvision.datasets.CIFAR10, [write("test_batch", batch("test", (0, 1)))]
    monkeypatch.setattr(theirs, "train_list", train)
    monkeypatch.setattr(theirs, "test_list", test)
    monkeypatch.setattr(theirs, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return folder


def check_fakes():
    """The splits hold what they should; returns them."""
    sets = {split: data.load("cifar10", split) for split in data.SPLITS}
    indices = {"train": {0, 1, 2, 3}, "val": {4}, "test": {0, 1}}
    for split, images in sets.items():
        assert images.images.shape[1:] == (3, 32, 32) and images.images.dtype == torch.uint8
        assert images.class_names[3] == "cat" and images.source == "cifar10"
        part = "test" if split == "test" else "train"
        wanted = {(label, *fake_pixels(part, label, i)) for label in range(10) for i in indices[split]}
        corners = images.images[:, :, 0, 0].tolist()
        found = [(label, *pixel) for label, pixel in zip(images.labels.tolist(), corners, strict=True)]
        assert len(found) == len(wanted) and set(found) == wanted
        assert (images.images == images.images[:, :, :1, :1]).all()
    return sets


def test_an_image_folder_of_cifar10(cifar10_folder, capsys):
    first = check_fakes()
    assert capsys.readouterr().err.count("Decoding") == 2  # once for training and once for test images
    assert first["train"].note == "" and len(data.test_images("cifar10")) == 20


def test_decoded_pictures_are_kept_and_made_anew_when_they_do_not_fit(cifar10_folder, monkeypatch):
    data.load("cifar10", "train")
    kept = cifar10_folder / "decoded" / "train.npy"
    whole = kept.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(image_set, "decode", lambda *how: pytest.fail("decoded again"))
        data.load("cifar10", "val")
    for content in (whole[:-100], b"PK nonsense"):
        kept.write_bytes(content)
        check_fakes()
        assert kept.read_bytes() == whole
    Image.new("RGB", (32, 32), (9, 9, 9)).save(cifar10_folder / "train/cat/0000.png")
    os.utime(cifar10_folder / "train/cat/0000.png", (1, 1))
    assert (data.load("cifar10", "train").images == 9).all(dim=3).all(dim=2).all(dim=1).sum() == 1


SPOILS = [
    (lambda f: (f / "train/cat/0001.png").unlink(), "cat has 4 pictures where 5 are expected"),
    (lambda f: (f / "test/dog/x.png").write_bytes(b""), "dog has 3 pictures where 2 are expected"),
    (lambda f: (f / "train/frog").rename(f / "train/toad"), "frog has 0 pictures where 5 are expected"),
    (lambda f: (f / "train/ship/0002.png").write_bytes(b"<!"), "0002.png cannot be read: no picture"),
    (lambda f: os.truncate(f / "train/ship/0003.png", 60), "0003.png cannot be read: cut short"),
    (lambda f: Image.new("L", (40, 32)).save(f / "train/ship/0000.png"), "has 40×32 pixels where 32×32"),
]


@pytest.mark.parametrize("spoil, words", SPOILS)
def test_what_is_wrong_in_the_folder_is_named(cifar10_folder, spoil, words):
    spoil(cifar10_folder)
    with pytest.raises(data.DataError, match=words):
        [data.load("cifar10", split) for split in data.SPLITS]


def test_torchvisions_layout_gives_the_same_splits_in_the_same_order(cifar10_batches, cifar10_folder):
    found = check_fakes()
    cifar10_folder.rename(cifar10_folder.with_name("away"))
    other = check_fakes()
    for split in data.SPLITS:
        assert torch.equal(found[split].images, other[split].images)
        assert torch.equal(found[split].labels, other[split].labels)


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_batch_that_is_not_the_original_is_named_and_never_unpickled(cifar10_batches, name, monkeypatch):
    monkeypatch.setattr("pickle.load", lambda *a, **k: pytest.fail("unpickled"))
    path = cifar10_batches / name
    for spoil in (lambda: path.write_bytes(path.read_bytes() + b"x"), path.unlink):
        spoil()
        with pytest.raises(data.DataError, match=f"{name} is missing or damaged"):
            data.load("cifar10", "val")


def test_without_cifar10_and_network_a_sentence_says_how_to_get_it(here, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", lambda *a, **k: pytest.fail("asked the network"))
    with pytest.raises(data.DataError, match=r"not here .* go online .* cifar-10-batches-py into .*data\."):
        data.load("cifar10", "train")


@pytest.mark.slow
@pytest.mark.cifar10
def test_the_real_cifar10():
    train, val, test = (data.load("cifar10", split) for split in data.SPLITS)
    assert (len(train), len(val), len(test)) == (45_000, 5_000, 10_000)
    for images, count in ((train, 4500), (val, 500), (test, 1000)):
        assert images.labels.bincount().tolist() == [count] * 10
        assert images.labels[:100].unique().numel() == 10  # shuffled: a few are a fair mix
    mean = train.images.float().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=2e-3, rtol=0)
