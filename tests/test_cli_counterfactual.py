"""counterfactual: the row, the way, the archive and the measures; one sentence for whatever is wrong."""

import json

import imageio.v3 as iio
import numpy as np
import pytest
from command_tools import everything, good, refused, report_of

from lessons_lib import data
from lessons_lib.images import to_pixels

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def intervene(run, tiny, here):
    fixed = f"counterfactual mnist --weights {tiny}/denoiser.safetensors --steps 3"
    fixed += f" --evaluator-weights {tiny}/judge.safetensors"
    return lambda words: run(f"{fixed} {words.format(tiny=tiny)}")


def test_png_shows_the_source_its_counterfactuals_and_what_changed(intervene, here):
    out = good(intervene("--index 3 --target-class 3,8 --out row.png"))
    pixels = iio.imread("row.png")
    assert pixels.shape == (2 * (2 * 28 + 2), 2 * (3 * 28 + 2 * 2), 3)
    source, label = data.load("digits", "test")[3]
    assert np.abs(pixels[:56, :56].astype(int) - to_pixels(source, 2)).max() <= 8, "16 shades"
    assert (pixels[60:, :56] == 255).all(), "the source does not differ from itself"
    assert (pixels[60:, 60:116] != 255).any()
    assert out.startswith(f"source {label}, read as") and "to 3: read as" in out and "in row.png" in out
    assert everything(here) == ["row.png"]


def test_npz_holds_images_targets_and_the_source_and_gif_the_way(intervene):
    good(intervene("--index 3 --target-class all --out all.npz"))
    with np.load("all.npz") as file:
        images, labels, source = file["images"], file["labels"], file["source"]
    assert images.shape == (10, 1, 28, 28) and images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    assert labels.tolist() == list(range(10)) and labels.dtype == np.int64
    expected = data.to_unit(data.load("digits", "test")[3][0]).numpy()
    assert source.dtype == np.float32 and np.abs(source - expected).max() < 1e-6
    for words, frames in (("", 3), ("--depth 30", 2), ("--method same-noise", 3)):
        good(intervene(f"--index 0 --target-class 1,2 --out way.gif {words}"))
        assert iio.imread("way.gif", index=None).shape[:3] == (frames, 56, 2 * (3 * 28 + 2 * 2))


def test_a_folder_gets_everything_and_json_is_one_object(intervene, here):
    out = good(intervene(
        "--index 5 --source-class 8 --target-class 8,3 --method ddpm --guidance-scale 3 --depth 30 --seed 2 "
        "--output-dir results --json"
    ))  # fmt: skip
    report = json.loads(out)
    assert len(out.strip().splitlines()) == 1
    names = ["counterfactual.gif", "counterfactual.npz", "counterfactual.png", "measures.json"]
    assert everything(here / "results") == names
    assert json.loads((here / "results/measures.json").read_text()) == report
    assert report["source_class"] == 8 and report["index"] == 5
    assert (report["method"], report["guidance_scale"], report["depth"]) == ("ddpm", 3.0, 30)
    with np.load("results/counterfactual.npz") as file:
        l1 = np.abs(file["images"] - file["source"]).mean(axis=(1, 2, 3))
    for row, target, distance in zip(report["counterfactuals"], (8, 3), l1, strict=True):
        assert row["target"] == target and 0 <= row["read_as"] <= 9 and abs(row["l1"] - distance) < 1e-4
    assert report["l1"] == report["counterfactuals"][1]["l1"], "the source's own label counts for nothing"


def test_a_users_own_picture(intervene):
    drawn = np.full((90, 60, 3), 250, dtype=np.uint8)
    drawn[10:80, 26:34] = (20, 20, 120)  # a blue one on white paper
    iio.imwrite("mine.png", drawn)
    words = "--image mine.png --target-class 7 --json"
    report = report_of(intervene(f"{words} --source-class 1 --out x.npz"))
    assert report["image"] == "mine.png" and report["source_class"] == 1
    source = np.load("x.npz")["source"]
    assert source.shape == (1, 28, 28) and source[0, 14, 13:15].max() > 0.9 and source[0, :2].max() == 0
    report = report_of(intervene(words))
    assert report["source_class"] == report["source_read"]["read_as"]


def test_a_result_must_go_somewhere_and_the_data_set_be_known(intervene, run):
    refused(intervene("--index 1"), "Say where the result goes")
    refused(run("counterfactual cifar10 --index 1 --out x.png"), "'cifar10': choose mnist or celeba.")
