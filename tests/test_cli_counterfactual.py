"""counterfactual: the row, the way, the archive and the measures; one sentence for whatever is wrong."""

import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from lessons_lib import data
from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.cli import app
from lessons_lib.images import to_pixels
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet, UNetConfig
from lessons_lib.weights import save_pretrained

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with an untrained denoiser (T = 40), evaluator and classifier of noisy images."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    model = UNet(UNetConfig(channel_mults=(1, 1, 1), embedding_channels=16))
    torch.nn.init.normal_(model.conv_out.weight, std=0.1)
    card = {"defaults": {"guidance_scale": 2.0, "sampler": "ddim", "steps": 3}}
    save_pretrained(folder / "denoiser.safetensors", model, NoiseSchedule.linear(40), card)
    save_pretrained(folder / "judge.safetensors", Evaluator(EvaluatorConfig(widths=(32, 32))), None, {})
    guide = NoisyClassifier(NoisyClassifierConfig(widths=(32, 32), embedding_channels=16))
    save_pretrained(folder / "guide.safetensors", guide, NoiseSchedule.linear(40), {})
    return folder


@pytest.fixture
def run(capsys, tiny, tmp_path, monkeypatch):
    """Run the command in an empty folder without MNIST; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "_data_roots", lambda: [tmp_path / "nowhere"])
    data.notice("MNIST is not here and there is no network: using scikit-learn's 1,797 handwritten digits.")

    def run(words):
        capsys.readouterr()
        weights = (
            f"--weights {tiny}/denoiser.safetensors --evaluator-weights {tiny}/judge.safetensors --steps 3"
        )
        status = app.main(f"counterfactual mnist {weights} {words.format(tiny=tiny)}".split())
        return status, *capsys.readouterr()

    return run


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_png_shows_the_source_its_counterfactuals_and_what_changed(run, tmp_path):
    status, out, err = run("--index 3 --target-class 3,8 --out row.png")
    assert status == 0, err
    pixels = iio.imread(tmp_path / "row.png")
    assert pixels.shape == (2 * (2 * 28 + 2), 2 * (3 * 28 + 2 * 2), 3)
    source, label = data.load("digits", "test")[3]
    difference = pixels[:56, :56].astype(int) - to_pixels(source, 2)
    assert np.abs(difference).max() <= 8, "16 shades"
    assert (pixels[60:, :56] == 255).all(), "the source does not differ from itself"
    assert (pixels[60:, 60:116] != 255).any()
    assert out.startswith(f"source {label}, read as") and "to 3: read as" in out and "in row.png" in out
    assert everything(tmp_path) == ["row.png"]


def test_npz_holds_images_targets_and_the_source(run, tmp_path):
    status, _, err = run("--index 3 --target-class all --out all.npz")
    assert status == 0, err
    with np.load(tmp_path / "all.npz") as file:
        images, labels, source = file["images"], file["labels"], file["source"]
    assert images.shape == (10, 1, 28, 28) and images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    assert labels.tolist() == list(range(10)) and labels.dtype == np.int64
    expected = data.to_unit(data.load("digits", "test")[3][0]).numpy()
    assert source.dtype == np.float32 and np.abs(source - expected).max() < 1e-6


@pytest.mark.parametrize("words, frames", [("", 3), ("--depth 30", 2), ("--method same-noise", 3)])
def test_gif_shows_the_way(run, tmp_path, words, frames):
    status, _, err = run(f"--index 0 --target-class 1,2 --out way.gif {words}")
    assert status == 0, err
    film = iio.imread(tmp_path / "way.gif", index=None)
    assert film.shape[:3] == (frames, 56, 2 * (3 * 28 + 2 * 2))


def test_a_folder_gets_everything_and_json_is_one_object(run, tmp_path):
    status, out, err = run(
        "--index 5 --source-class 8 --target-class 8,3 --method ddpm --guidance-scale 3 --depth 30 --seed 2 "
        "--output-dir results --json"
    )
    assert status == 0, err
    found = json.loads(out)
    assert len(out.strip().splitlines()) == 1
    names = ["counterfactual.gif", "counterfactual.npz", "counterfactual.png", "measures.json"]
    assert everything(tmp_path / "results") == names
    assert json.loads((tmp_path / "results/measures.json").read_text()) == found
    assert found["source_class"] == 8 and found["index"] == 5
    assert (found["method"], found["guidance_scale"], found["depth"]) == ("ddpm", 3.0, 30)
    with np.load(tmp_path / "results/counterfactual.npz") as file:
        l1 = np.abs(file["images"] - file["source"]).mean(axis=(1, 2, 3))
    for row, target, distance in zip(found["counterfactuals"], (8, 3), l1, strict=True):
        assert row["target"] == target and 0 <= row["read_as"] <= 9 and abs(row["l1"] - distance) < 1e-4
    assert found["l1"] == found["counterfactuals"][1]["l1"], "the source's own label counts for nothing"


def test_the_same_seed_gives_the_same_images(run, tmp_path):
    for name, words in (("a", "--seed 1"), ("b", "--seed 1"), ("c", "--seed 2")):
        assert run(f"--index 1 --target-class 4 --method sdedit {words} --out {name}.npz")[0] == 0
    a, b, c = (np.load(tmp_path / f"{name}.npz")["images"] for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_a_classifier_guides(run):
    status, out, err = run(
        "--index 1 --target-class 4 --guidance classifier --classifier {tiny}/guide.safetensors "
        "--guidance-scale 1.5 --json"
    )
    assert status == 0, err
    found = json.loads(out)
    assert found["guidance"] == "classifier" and found["classifier"].endswith("guide.safetensors")
    assert found["guidance_scale"] == 1.5


def test_a_users_own_picture(run, tmp_path):
    drawn = np.full((90, 60, 3), 250, dtype=np.uint8)
    drawn[10:80, 26:34] = (20, 20, 120)  # a blue one on white paper
    iio.imwrite(tmp_path / "mine.png", drawn)
    status, out, err = run("--image mine.png --source-class 1 --target-class 7 --json --out x.npz")
    assert status == 0, err
    assert json.loads(out)["image"] == "mine.png" and json.loads(out)["source_class"] == 1
    source = np.load(tmp_path / "x.npz")["source"]
    assert source.shape == (1, 28, 28) and source[0, 14, 13:15].max() > 0.9 and source[0, :2].max() == 0
    status, out, _ = run("--image mine.png --target-class 7 --json")
    assert json.loads(out)["source_class"] == json.loads(out)["source_read"]["read_as"]


BAD = {
    "--out x.png": "Name one image: a picture with --image FILE, or a test image with --index N.",
    "--out x.png --index 1 --image mine.png": "Name one image",
    "--out x.png --index -1": "--index must be between 0 and 199, got -1.",
    "--out x.png --index 200": "--index must be between 0 and 199, got 200.",
    "--out x.png --index one": "--index",
    "--out x.png --image none.png": "none.png",
    "--out x.png --image text.png": "text.png",
    "--out x.png --index 1 --source-class 10": "Unknown source class '10': choose from 0 to 9.",
    "--out x.png --index 1 --source-class all": "Unknown source class 'all'",
    "--out x.png --index 1 --target-class x": "Unknown label 'x': choose from 0 to 9, or all.",
    "--out x.png --index 1 --target-class 3,10": "Unknown label '10'",
    "--out x.png --index 1 --method magic": "Unknown method 'magic': choose one of ddim, ddpm, sdedit, same-",
    "--out x.png --index 1 --guidance none": "Unknown guidance 'none': choose one of cfg, classifier.",
    "--out x.png --index 1 --guidance-scale nan": "must be a finite number",
    "--out x.png --index 1 --depth 40": "The depth must be between 0 and 39, got 40.",
    "--out x.png --index 1 --depth -1": "The depth must be at least 0, got -1.",
    "--out x.png --index 1 --depth 5": "No timestep is left at depth 5",
    "--out x.png --index 1 --depth 20 --method same-noise": "takes no depth",
    "--out x.png --index 1 --steps 0": "at least 1, got 0",
    "--out x.png --index 1 --steps 41": "between 1 and 40 (T), got 41",
    "--out x.png --index 1 --weights nobody": "There are no weights 'nobody'",
    "--out x.png --index 1 --evaluator-weights {tiny}/guide.safetensors": "are no evaluator",
    "--out x.png --index 1 --device quantum": "Unknown device 'quantum'",
    "--out x.jpg --index 1": "must end in .png, .gif or .npz, got 'x.jpg'",
    "--out text.png/x.png --index 1": "cannot be written",
    "--output-dir text.png --index 1": "it is a file",
    "--index 1": "Say where the result goes",
}


@pytest.mark.parametrize("words", BAD)
def test_what_is_wrong_is_one_sentence_and_writes_nothing(run, tmp_path, words):
    (tmp_path / "text.png").write_text("no picture")
    before = everything(tmp_path)
    status, out, err = run(words)
    assert status == 2 and out == "" and BAD[words] in err
    assert len(err.strip().splitlines()) == 1
    assert everything(tmp_path) == before


def test_unknown_data_set(capsys):
    assert app.main(["counterfactual", "cifar10", "--index", "1", "--out", "x.png"]) == 2
    assert "Unknown data set 'cifar10': choose mnist or celeba." in capsys.readouterr().err
