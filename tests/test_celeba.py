"""data/celeba.py: lists, splits, the cut, one sentence for what is wrong, and memory that does not grow."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_tools import good, write_celeba_lists
from PIL import Image

from lessons_lib import data
from lessons_lib.data import celeba
from lessons_lib.names import place_of
from lessons_lib.weights import load_pretrained

ROOT = Path(__file__).resolve().parent.parent
ATTRIBUTES, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"
SMALL, WHOLE = (89, 109), (178, 218)  # what CelebA's pictures have, halved or not
COUNT = 20  # 12 for training, 4 for validation, 4 for testing

pytestmark = pytest.mark.usefixtures("here")


def split_of(k):
    return 0 if k < 12 else 1 + (k % 2)


def answers(k):
    """The 40 answers of picture k: each differs from those of the others."""
    return [1 if (k + 1) * (place + 3) % 7 < 3 else -1 for place in range(40)]


def write_lists(folder, count=COUNT, **how):
    write_celeba_lists(folder, [answers(k) for k in range(count)], [split_of(k) for k in range(count)], **how)


@pytest.fixture
def faces(here):
    folder = here / "data" / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    for k in range(COUNT):
        colour = 10 * k, 200 - 5 * k, 90
        Image.new("RGB", SMALL, colour).save(folder / f"img_align_celeba/{k:06d}.jpg", quality=95)
    write_lists(folder)
    return folder


def load(split="train", **how):
    return data.load("celeba", split, image_size=how.pop("image_size", 32), **how)


def splits(**how):
    return {split: load(split, **how) for split in data.SPLITS}


def numbers(images):
    """Which picture each image is, by its colour."""
    red = images.images[torch.arange(len(images))][:, 0].float().mean((1, 2))
    return (red / 10).round().int().tolist()


def edit(file, change):
    file.write_text(change(file.read_text()))


def without(name):
    """A list without the row of a picture."""
    return lambda text: "".join(line for line in text.splitlines(True) if name not in line)


def row(name, change):
    def edited(text):
        lines = text.splitlines(True)
        return "".join(change(line.strip()) + "\n" if name in line else line for line in lines)

    return edited


def test_each_split_has_its_pictures_with_their_own_answers(faces, capsys):
    sets = splits()
    for part, images in enumerate(sets.values()):
        expected = [k for k in range(COUNT) if split_of(k) == part]
        assert numbers(images) == expected
        assert images.labels.tolist() == [[int(a > 0) for a in answers(k)] for k in expected]
        assert images.labels.dtype == torch.int64 and images.images.dtype == torch.uint8
        assert images.images.shape == (len(expected), 3, 32, 32) == (len(images), 3, 32, 32)
        assert images.class_names == data.ATTRIBUTES and images.source == "celeba"
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Decoding 20 pictures in" in err, "said once, on stderr"
    note = sets["train"].note
    assert "20 of the 202,599 faces at" in note and "12 for training, 4 for validation and 4" in note
    assert str(faces.parent) not in note, "no path of this machine on a card"


def test_answers_follow_the_columns_names_0_is_no_and_windows_line_ends_are_read(faces):
    expected = load().labels
    write_lists(faces, names=celeba.ATTRIBUTES[::-1])
    edit(faces / ATTRIBUTES, lambda text: text.replace(" -1", " 0"))
    for name in (ATTRIBUTES, PARTITION):
        (faces / name).write_bytes((faces / name).read_bytes().replace(b"\n", b"\r\n"))
    assert torch.equal(load().labels, expected)


@pytest.mark.parametrize("repeated", [False, True])
def test_kaggles_csv_lists_and_doubled_folder_are_the_same_data(faces, repeated):
    expected = splits()
    for file in faces.glob("*.txt"):
        file.unlink()
    write_lists(faces, suffix=".csv")
    if repeated:  # Kaggle's archive holds img_align_celeba/img_align_celeba
        (faces / "img_align_celeba").rename(faces / "inner")
        (faces / "img_align_celeba").mkdir()
        (faces / "inner").rename(faces / "img_align_celeba" / "img_align_celeba")
    for split, images in splits().items():
        assert torch.equal(images.labels, expected[split].labels)
        assert numbers(images) == numbers(expected[split])


@pytest.mark.parametrize("size", [SMALL, WHOLE])
@pytest.mark.parametrize("image_size", [8, 64, 176])
def test_the_cut_is_the_middle_of_the_face(here, size, image_size):
    """A white square where the cut is, black around: 128 of 178×218 pixels, in the middle."""
    half = WHOLE[0] // size[0]
    picture = Image.new("RGB", size)
    picture.paste((255, 255, 255), tuple(edge // half for edge in (25, 45, 153, 173)))
    picture.save(here / "face.png")
    found = data.read_face(here / "face.png", image_size)
    assert found.shape == (3, image_size, image_size) and found.dtype == np.uint8
    rim = max(1, image_size // 32)
    assert (found[:, rim:-rim, rim:-rim] >= 250).all() and found.mean() > 245


MUST = "must have 40 times 1 or -1"
WRONG_LISTS = {
    "no attributes": (ATTRIBUTES, None, "list_attr_celeba.txt is missing: CelebA comes with it"),
    "no partition": (PARTITION, None, "list_eval_partition.txt is missing: CelebA comes with it"),
    "no answers": (ATTRIBUTES, without("000005.jpg"), "attr_celeba has no row for the picture 000005.jpg"),
    "no split": (PARTITION, without("000005.jpg"), "partition has no row for the picture 000005.jpg"),
    "few answers": (ATTRIBUTES, row("000007.jpg", lambda line: line[:-3]), f"row of 000007.jpg {MUST}"),
    "an answer of 2": (ATTRIBUTES, row("000003.jpg", lambda line: line.replace(" 1", " 2", 1)), MUST),
    "no column": (ATTRIBUTES, lambda text: text.replace("Smiling ", ""), "does not name Smiling: it is cut"),
    "a split of 3": (PARTITION, row("000004.jpg", lambda line: line[:-1] + "3"), "must have 0, 1 or 2"),
    "two splits": (PARTITION, row("000004.jpg", lambda line: line + " 1"), "000004.jpg must have 0, 1 or 2"),
    "an empty list": (ATTRIBUTES, lambda text: "\n", "it is cut short"),
    "no text": (PARTITION, lambda text: "\0" * 50, "it is cut short"),
    "no val": (PARTITION, lambda text: text.replace(" 1\n", " 0\n"), "names no picture of the split 'val'"),
}


@pytest.mark.parametrize("case", WRONG_LISTS)
def test_a_wrong_list_is_named(faces, case):
    name, change, message = WRONG_LISTS[case]
    if change is None:
        (faces / name).unlink()
    else:
        edit(faces / name, change)
    with pytest.raises(data.DataError) as caught:
        load("val")
    assert message in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_missing_pictures_are_counted_and_the_first_is_named(faces):
    (faces / "img_align_celeba" / "000009.jpg").unlink()
    with pytest.raises(data.DataError, match=r"There is no picture .*000009.jpg \(missing: 1 of 20\)"):
        load()
    for k in (4, 7):
        (faces / "img_align_celeba" / f"00000{k}.jpg").unlink()
    (faces / "img_align_celeba" / "000007.jpg").symlink_to(faces / "nowhere.jpg")
    with pytest.raises(data.DataError, match=r"000004.jpg \(missing: 3 of 20\)"):
        load("val")


NO_FACES = [
    (b"", "no picture"),
    (b"<html>quota exceeded</html>", "no picture"),
    ("cut", "cut short or damaged"),
    ((640, 480), "it has 640×480 pixels, but an aligned face has 178×218"),
    ((218, 178), "it has 218×178 pixels"),
]


@pytest.mark.parametrize("content, reason", NO_FACES)
def test_a_picture_that_is_no_face_stops_with_its_name(faces, content, reason):
    path = faces / "img_align_celeba" / "000013.jpg"
    if isinstance(content, tuple):
        Image.new("RGB", content).save(path)
    else:
        path.write_bytes(path.read_bytes()[:-100] if content == "cut" else content)
    for _ in range(2):
        with pytest.raises(data.DataError) as caught:
            load()
        assert f"The picture {path} cannot be read: {reason}" in str(caught.value)
    assert not list(faces.parent.rglob("pictures.*")), "nothing half-made is left"
    assert not [file for file in faces.parent.rglob("*") if ".tmp" in file.name]


IMPOSSIBLE = [
    ({"fraction": 0}, "above 0 and at most 1, got 0"),
    ({"fraction": float("nan")}, "above 0 and at most 1, got nan"),
    ({"image_size": 7}, "from 8 to 178 pixels, got 7"),
    ({"image_size": 179}, "from 8 to 178 pixels, got 179"),
    ({"channels": 1}, "channels and strict are for folder:PATH, not for celeba"),
    ({"name": "mnist", "fraction": 0.5}, "fraction is for celeba"),
    ({"split": "validation"}, "Unknown split"),
]


def test_what_cannot_be_loaded_is_refused(faces):
    for how, message in IMPOSSIBLE:
        with pytest.raises(ValueError, match=message):
            data.load(**{"name": "celeba"} | how)


class QuotaError(Exception):
    """Like gdown's own error: of no kind that says network."""


def test_a_download_that_fails_is_a_sentence_and_what_it_left_is_no_celeba(here, monkeypatch):
    errors = [QuotaError("too many users"), ConnectionError(), RuntimeError("File not found or corrupted.")]

    def refuse(root, download):
        (Path(root) / "celeba").mkdir(parents=True, exist_ok=True)
        (Path(root) / "celeba" / "img_align_celeba.zip").write_bytes(b"<html>")
        raise errors.pop()

    monkeypatch.setattr("torchvision.datasets.CelebA", refuse)
    for online in (False, *[True] * len(errors)):
        if online:
            monkeypatch.delenv("LESSONS_OFFLINE", raising=False)
        with pytest.raises(data.DataError, match="CelebA is not here and cannot be downloaded") as caught:
            load()
        assert str(here / "data" / "celeba") in str(caught.value) and "gdown" in str(caught.value)


def test_pictures_are_decoded_once_for_each_size_and_share(faces, decoded):
    first = load().images[:]
    assert len(decoded) == COUNT
    assert torch.equal(load().images[:], first) and len(load("test")) == 4
    assert len(decoded) == COUNT
    for _ in range(2):
        load(image_size=16)
        load(fraction=0.5)
        assert len(decoded) == 2 * COUNT + COUNT // 2, "the two are kept beside the whole"


def test_a_kept_file_that_is_cut_or_lost_while_in_use_is_a_sentence(here, faces):
    images, (file,) = load(), (here / "data" / "faces").rglob("pictures.npy")
    os.truncate(file, file.stat().st_size - 3 * 32 * 32 * 10)
    with pytest.raises(data.DataError, match=r"pictures.npy is cut short or was replaced: load the data"):
        images.batch(torch.tensor([2]))
    file.unlink()
    with pytest.raises(data.DataError, match=r"pictures.npy cannot be read: No such file"):
        images.batch(torch.tensor([2]))


def test_names_are_found_however_they_are_written_and_others_are_told_what_is_near():
    for name in ("Smiling", " SMILING ", "wearing hat", "Wearing-Hat", "5 o clock shadow"):
        plain = "".join(c for c in name.lower() if c.isalnum())
        assert data.ATTRIBUTES[data.attribute_index(name)].replace("_", "").lower() == plain
    for name, near in {"smilng": "Smiling", "glasses": "Eyeglasses", "wearing a hat": "Wearing_Hat"}.items():
        with pytest.raises(ValueError, match=f"Unknown attribute '{name}': did you mean .*{near}"):
            data.attribute_index(name)
    with pytest.raises(ValueError, match=r"choose one of 5_o_Clock_Shadow, .*, Young"):
        data.attribute_index("qqq")
    with pytest.raises(ValueError, match="Unknown animal '': choose one of cat, dog"):
        place_of("", ("cat", "dog"), "animal")


def test_a_face_of_celebas_shape_is_cut_and_a_square_is_taken_whole(faces):
    path = faces / "img_align_celeba" / "000008.jpg"
    assert np.array_equal(data.read_face(path, 32), load().images[8].numpy()), "cut as in training"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("x.png")
    assert np.array_equal(data.read_face("x.png"), pixels.transpose(2, 0, 1))
    assert data.read_face("x.png", 48).shape == (3, 48, 48)
    Image.new("L", (40, 40), 77).save("x.png")
    assert (data.read_face("x.png", 64) == 77).all(), "grey is shown in all channels"
    for size in ((640, 480), (20, 20), (218, 178)):
        Image.new("RGB", size).save("x.png")
        with pytest.raises(data.DataError, match=f"{size[0]}×{size[1]} pixels, but .*square of at least 32"):
            data.read_face("x.png")
    Path("text.jpg").write_text("no picture")
    Path("cut.jpg").write_bytes(path.read_bytes()[:-200])
    for name in ("text.jpg", "cut.jpg", "data", "nowhere.jpg"):
        with pytest.raises(data.DataError, match=f"The picture {name} cannot be used: "):
            data.read_face(name)


SHORT = "--image-size 32 --epochs 1 --batch-size 6 --timesteps 10 --device cpu --precision float32"


@pytest.mark.parametrize("model", ["denoiser", "classifier", "evaluator"])
def test_each_model_is_trained_and_its_card_says_on_what(faces, run, here, model):
    good(run(f"train celeba --model {model} {SHORT} --sample-every 1"))
    drawn = list((here / "runs").rglob("samples_epoch_001.png"))
    assert len(drawn) == (model == "denoiser"), "drawn without labels"
    network, _, card = load_pretrained(here / "runs" / f"celeba-{model}" / f"celeba-{model}.safetensors")
    assert network.config.image_size == 32
    assert network.config.num_classes == 40
    assert card["class_names"] == list(data.ATTRIBUTES)
    told = card["training"]["data"]
    assert "non-commercial research only: 20 of the 202,599 faces" in told and str(here) not in told


MEASURE = """
import pathlib, resource, torch
from lessons_lib import data
data._data_roots = lambda: [pathlib.Path("data")]
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
peaks = []
for share in (0.1, 1.0):
    images = data.load("celeba", "train", image_size=64, fraction=share)
    for start in range(0, len(images), 64):
        images.batch(torch.arange(start, min(start + 64, len(images))))
    peaks.append(peak())
print(len(images), peaks[1] - peaks[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process's peak has another unit")
def test_ten_thousand_faces_take_no_more_memory_than_one_thousand():
    folder = Path("data/celeba")
    (folder / "img_align_celeba").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (11, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(SMALL).save("one.jpg")
    for k in range(10_000):
        shutil.copy("one.jpg", folder / f"img_align_celeba/{k:06d}.jpg")
    write_lists(folder, 10_000)
    edit(folder / PARTITION, lambda text: text.replace(".jpg 1", ".jpg 0").replace(".jpg 2", ".jpg 0"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    told = subprocess.check_output([sys.executable, "-c", MEASURE], env=environment, text=True).split()
    assert told[0] == "10000" and float(told[1]) < 60, told  # MB; in memory they would be 123
