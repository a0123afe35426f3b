"""The command line: what it writes, and one sentence for whatever a user gets wrong."""

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import command_tools as tools
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_tools import everything, good, refused, report_of, save
from tqdm.auto import tqdm

from lessons_lib import data, evaluation, recipes, weights
from lessons_lib.classifier import EvaluatorConfig, NoisyClassifierConfig
from lessons_lib.cli import app
from lessons_lib.cli import sample as sample_command
from lessons_lib.cli.common import parse_labels
from lessons_lib.evaluation import task
from lessons_lib.images import to_pixels
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNetConfig

ROOT = Path(__file__).resolve().parent.parent


# ---- sample ----
@pytest.fixture
def sample(run, tiny, here):
    def sample(words, *more):
        return good(run(f"sample mnist {words} --weights {tiny}/denoiser.safetensors", *more))

    return sample


def images_in(path):
    with np.load(path) as file:
        return file["images"], file["labels"].tolist()


def test_npz_holds_images_and_labels(sample, here):
    out = sample("--labels 3,0 --num-per-label 2 --guidance cfg --out digits.npz")
    images, labels = images_in("digits.npz")
    assert images.shape == (4, 1, 28, 28) and images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1 and labels == [3, 3, 0, 0]
    assert "w=2, ddim, 3 steps, seed 0" in out, "the card's defaults"
    assert everything(here) == ["digits.npz"]


@pytest.mark.numeric
@pytest.mark.usefixtures("in_float64")
def test_images_do_not_depend_on_the_batch_size(sample):
    drawn = []
    for more in ("--seed 5", "--seed 5 --batch-size 3", "--seed 6"):
        sample(f"--num-per-label 2 --sampler ddpm --steps 4 --out x.npz {more}")
        drawn.append(images_in("x.npz")[0])
    whole, parts, other = drawn
    assert np.abs(whole - parts).max() < 1e-6 and np.abs(whole - other).max() > 0.1  # the file is float32


def test_png_has_a_row_a_label_and_gif_every_step(sample, here):
    sample("--labels all --num-per-label 3 --out grid.png --individual singles")
    grid = iio.imread("grid.png")
    assert grid.shape == (2 * (10 * 28 + 9 * 2), 2 * (3 * 28 + 2 * 2), 3)
    singles = sorted((here / "singles").iterdir())
    assert len(singles) == 30 and singles[4].name == "00004_label_1.png"
    pixels = iio.imread(singles[4])
    assert pixels.shape == (28, 28)
    assert np.array_equal(grid[2 * 30 : 2 * 58 : 2, 2 * 30 : 2 * 58 : 2, 0], pixels), "second row and column"
    sample("--labels 1 --sampler ddpm --steps 40 --out way.gif --batch-size 1 --num-per-label 2")
    assert len(iio.imread("way.gif", index=None)) == 40


SAID = {
    "--guidance classifier --guidance-scale 2.5 --classifier {tiny}/guide.safetensors": "s=2.5, ddim, 3",
    "--guidance classifier-x0 --classifier {tiny}/guide.safetensors": "guide.safetensors, s=1, ddim",
    "--sampler dpmpp_2m": "dpmpp_2m, 3 steps, seed 0",
    "--sampler dpmpp_2m --spacing trailing": "dpmpp_2m, 3 steps, trailing spacing, seed 0",
}


def test_what_is_chosen_is_said_and_draws_other_images(sample, tiny):
    drawn = []
    for words, said in SAID.items():
        assert said in sample(f"--labels 3,4 --out x.npz {words.format(tiny=tiny)}")
        images, labels = images_in("x.npz")
        assert labels == [3, 4], "a classifier hears the labels"
        drawn.append(images.tobytes())
    assert len(set(drawn)) == len(SAID)


def test_full_memory_and_full_disk_are_one_sentence_and_the_librarys_own_faults_are_not(
    run, tiny, here, monkeypatch
):
    full = OSError(28, "No space left on device")
    for target, name, error, said in (
        (np, "savez_compressed", full, "out.npz cannot be written: No space left on device."),
        (sample_command, "draw", torch.OutOfMemoryError("CUDA out of memory."), "The memory is full: use a"),
        (sample_command, "draw", MemoryError(), "The memory is full: use a smaller --batch-size, or"),
        (sample_command, "describe", AttributeError("no such field"), None),
    ):
        words = f"sample mnist --weights {tiny}/denoiser.safetensors --labels 1 --out out.npz"
        with monkeypatch.context() as patch:
            patch.setattr(target, name, Mock(side_effect=error))
            if said is None:
                with pytest.raises(AttributeError):
                    run(words)
            else:
                status, _, err = run(words)
                assert status == 2 and tools.sentence(err).startswith(said) and everything(here) == []


# ---- CIFAR-10 ----
@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """A folder with an untrained denoiser and evaluator of colour images of 8×8 pixels."""
    folder = tmp_path_factory.mktemp("colour")
    defaults = {"guidance_scale": 2.0, "sampler": "ddim", "steps": 3}
    save(
        folder / "denoiser.safetensors", tools.tiny_unet(in_channels=3), NoiseSchedule.cosine(40), **defaults
    )
    save(
        folder / "evaluator.safetensors",
        tools.tiny_reader(False, in_channels=3, num_classes=10, body="resnet9"),
    )
    return folder


def test_labels_are_names_or_numbers(run, colour, here):
    words = f"sample cifar10 --weights {colour}/denoiser.safetensors --out {{}} --labels"
    good(run(words.format("x.npz"), "cat, dog,3"))
    images, labels = images_in("x.npz")
    assert labels == [3, 5, 3] and images.shape == (3, 3, 8, 8)
    good(run(words.format("y.npz"), "3,5,cat"))  # only the label and its place decide
    assert np.array_equal(images_in("y.npz")[0], images)
    names = ", ".join(data.CLASS_NAMES["cifar10"])
    for label in ("cow", "10", "Cat", ""):
        said = f"Unknown label {label!r}: choose {names}; or a number from 0 to 9, or all."
        refused(run(words.format("z.npz"), f"cat,{label}"), said)
    own = ("7", "8", "ape")  # of a card; a name counts before a number
    assert parse_labels("7,ape,0,1", 3, own) == [0, 2, 0, 1] and parse_labels("all", 3, own) == [0, 1, 2]
    with pytest.raises(ValueError, match="choose 7, 8, ape; or a number from 0 to 2, or all"):
        parse_labels("cat", 3, own)


def test_evaluate_measures_colour_images_against_its_own_45_000(run, colour, here, monkeypatch):
    pixels = torch.randint(256, (600, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = data.ImageSet(pixels, torch.arange(600) % 10, data.CLASS_NAMES["cifar10"], "cifar10")
    monkeypatch.setattr(data, "load", lambda name, split: images)
    judge = f"--evaluator-weights {colour}/evaluator.safetensors --json"
    words = f"--weights {colour}/denoiser.safetensors --num-samples 20 --steps 2 {judge}"
    report = report_of(run(f"evaluate cifar10 {words}"))
    assert report["accuracy"]["total"] == 20
    assert report["fid"]["reference"] == "500 training images of CIFAR-10"
    report = report_of(run(f"evaluate evaluator cifar10 {judge}"))
    assert report["images"] == "600 test images of CIFAR-10"  # validation images are no test images


# ---- evaluate ----
@pytest.fixture
def evaluate(run, tiny, here):
    """Evaluate the tiny denoiser with a copy of the tiny judge, which has no reference yet."""
    tools.copy_weights(tiny / "judge", here / "judge")
    fixed = f"evaluate mnist --weights {tiny}/denoiser.safetensors --evaluator-weights ./judge.safetensors"
    return lambda words: run(f"{fixed} {words.format(tiny=tiny)}")


@pytest.fixture
def reference(evaluate, tiny, here):
    (here / "judge-reference.npz").write_bytes((tiny / "judge-reference.npz").read_bytes())
    return evaluation.Reference.load(here / "judge-reference.npz")


def test_json_is_all_that_is_printed_and_the_report_says_the_same(evaluate, reference):
    result = report_of(evaluate("--num-samples 40 --guidance-scale 1 --steps 2 --json"))
    assert result["num_samples"] == 40 and "w=1, ddim, 2 steps" in result["settings"]
    counts = [result["accuracy"]["by_class"][str(k)]["total"] for k in range(10)]
    assert counts == evaluation.labels_by_frequency(reference.class_counts, 40).bincount().tolist()
    low, high = result["accuracy"]["interval_95"]
    assert low <= result["accuracy"]["value"] <= high
    fid = result["fid"]
    assert fid["floor"] == pytest.approx(reference.floor, abs=1e-4) and fid["num_samples"] == 40
    assert fid["extractor"] == "./judge.safetensors" and fid["reference"] == "200 training images of MNIST"
    assert fid["value"] > 0 and result["diversity"] > 0 and result["seconds_per_image"] > 0
    assert "--guidance cfg --guidance-scale 1 --sampler ddim --steps 2 --num-samples 40" in result["command"]
    out = good(evaluate("--num-samples 20"))
    for words in (
        "read right", "as 7", "95% interval", "feature FID", "times the floor", "200 training images",
        "the other 40 training images", "SHA-256", "diversity", "seconds an image",
    ):  # fmt: skip
        assert words in out


def test_unconditional_has_no_accuracy_and_one_image_no_fid(evaluate, reference):
    result = report_of(evaluate("--guidance none --num-samples 20 --json"))
    assert result["accuracy"] is None and result["fid"]["value"] > 0
    result = report_of(evaluate("--guidance none --num-samples 1 --json"))
    assert result["fid"] is None and result["diversity"] is None


def test_a_judge_that_guided_is_called_circular_and_a_missing_reference_measured(evaluate, here):
    words = "--guidance classifier-x0 --num-samples 4 --steps 1 --json --classifier ./judge.safetensors"
    status, out, err = evaluate(words)
    assert status == 0 and json.loads(out)["num_samples"] == 4
    assert "./judge.safetensors judges images that it guided: its accuracy is circular." in err
    assert json.loads(out)["fid"]["reference"] == "1,164 training images of scikit-learn's digits"
    assert "scikit-learn's digits" in err


def test_the_evaluator_itself_and_a_card_needs_mnist(run, evaluate, here):
    words = "evaluate evaluator mnist --evaluator-weights ./judge.safetensors"
    result = report_of(run(f"{words} --json"))
    assert result["images"] == "400 test images of scikit-learn's digits"
    assert result["accuracy"]["total"] == 400
    out = good(run(words))
    assert "read right" in out and "400 images" in out
    before = {path: path.read_bytes() for path in here.iterdir()}
    for status, out, err in (evaluate("--card"), run(f"{words} --card")):
        assert status == 2 and out == "" and tools.sentence(err).startswith("A card needs the real MNIST")
    assert {path: path.read_bytes() for path in here.iterdir()} == before


@pytest.mark.usefixtures("reference")
def test_card_gets_every_standard_evaluation_with_its_command(evaluate, again, here, tiny, monkeypatch):
    drawn = {(scale, steps): count for scale, _, steps, count in task.STANDARD["mnist"]}
    assert all(drawn[setting] >= 2_000 for setting in ((1.0, 50), (2.0, 25), (2.0, 10)))
    assert max(count for (scale, _), count in drawn.items() if scale == 1) >= 10_000, "the FID's samples"
    monkeypatch.setitem(task.STANDARD, "mnist", ((1.0, "ddim", 3, 11), (2.0, "ddim", 2, 10)))
    tools.copy_weights(tiny / "denoiser", here / "mine")
    mine = here / "mine.safetensors"
    weights.write_card(mine, weights.read_card(mine) | {"metrics": {"tried": ["a table"]}})
    good(evaluate("--card --weights ./mine.safetensors"))
    metrics = weights.read_card(mine)["metrics"]
    assert metrics["tried"] == ["a table"], "what else the card says stays"
    assert [report["num_samples"] for report in metrics["evaluations"]] == [11, 10]
    first = metrics["evaluations"][0]
    assert tools.without_time(again(first["command"])) == tools.without_time(first)


def test_bad_evaluate_is_one_sentence_before_any_work(evaluate, here):
    before = everything(here)
    refused(evaluate("--num-samples 0"), "at least 1, got 0")
    refused(evaluate("--steps 41"), "between 1 and 40")
    refused(evaluate("--evaluator-weights nobody"), "no weights 'nobody'")
    assert everything(here) == before
    (here / "judge-reference.npz").write_bytes(b"broken")
    refused(evaluate("--num-samples 5"), "judge-reference.npz are damaged")


def test_reading_by_timestep(run, here, tiny, monkeypatch):
    few, images = torch.arange(40), data.test_images
    monkeypatch.setattr(data, "test_images", lambda name: images(name).subset(few))
    words = f"evaluate timesteps mnist --classifier {tiny}/guide.safetensors"
    rows = report_of(run(f"{words} --json"))["by_timestep"]
    assert len(rows) >= 10 and rows[0]["t"] == 0 and rows[-1]["t"] == 39
    quarter = max(t for t, snr in enumerate(NoiseSchedule.linear(40).snr) if snr >= 0.25)
    assert quarter in [row["t"] for row in rows], "the timestep at which signal-to-noise is 1 to 4"
    assert all(row["accuracy"]["total"] == 40 for row in rows)
    out = good(run(words))
    assert "t =   39" in out and len(out.strip().splitlines()) == len(rows) + 1


# ---- counterfactual ----
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


# ---- train ----
@pytest.fixture
def tiny_recipes(here, monkeypatch):
    reader = NoisyClassifierConfig(widths=(32, 32), embedding_channels=16)
    networks = {
        "denoiser": UNetConfig(base_channels=32, channel_mults=(1, 1, 1), embedding_channels=16),
        "classifier": reader, "clean-classifier": reader, "evaluator": EvaluatorConfig(widths=(32, 32)),
    }  # fmt: skip
    small = dict(recipes.RECIPES) | {
        ("mnist", name): dataclasses.replace(recipes.RECIPES["mnist", name], network=network)
        for name, network in networks.items()
    }
    monkeypatch.setattr(recipes, "RECIPES", small)
    few, load = torch.arange(144), data.load
    monkeypatch.setattr(data, "load", lambda name, split, **how: load(name, split, **how).subset(few))
    monkeypatch.setattr(sys, "argv", ["x", "train", "mnist", "--epochs", "1"])
    return here


def test_train_then_resume_then_sample(run, tiny_recipes):
    words = "train mnist --model denoiser --batch-size 72 --timesteps 50 --schedule cosine --lr-decay 0.5"
    out = good(run(f"{words} --epochs 1"))
    folder = tiny_recipes / "runs/mnist-denoiser"
    files = "before_decay.pt checkpoint.pt losses.json mnist-denoiser.json mnist-denoiser.safetensors"
    assert everything(folder) == [*files.split(), "samples_epoch_001.png"]
    assert "epoch 1: loss train" in out and "Finished after step 2" in out
    card = weights.read_card(folder / "mnist-denoiser.safetensors")
    assert card["training"]["command"] == "python -m lessons_lib train mnist --epochs 1"
    assert card["training"]["settings"]["batch_size"] == 72
    assert card["schedule"] == {"name": "cosine", "num_timesteps": 50}

    before = (folder / "checkpoint.pt").read_bytes()
    refused(run(f"{words} --epochs 2"), "--resume")
    refused(run(f"{words} --epochs 2 --resume"), "was made with epochs 1, this training has 2")
    assert (folder / "checkpoint.pt").read_bytes() == before
    out = good(run(f"{words} --epochs 2 --extend --sample-every 0"))
    assert "epoch 2" in out and json.loads((folder / "losses.json").read_text())["epochs"] == [1, 2]
    (hint,) = [line.strip() for line in out.splitlines() if " sample mnist " in line]
    good(run(hint.removeprefix("python -m lessons_lib ")))
    assert (tiny_recipes / "mnist.png").exists()


def test_train_all_makes_a_folder_for_each(run, tiny_recipes):
    out = good(run("train mnist --epochs 1 --batch-size 72 --sample-every 0 --output-dir both --seed 3"))
    names = ("mnist-denoiser", "mnist-evaluator", "mnist-clean-classifier")
    paths = [f"both/{name}/{name}.safetensors" for name in names]
    paths.append("both/mnist-classifier/mnist-noisy-classifier.safetensors")
    assert all(Path(path).exists() and path in out.replace("\\", "/") for path in paths)
    assert not list(tiny_recipes.rglob("*.png"))
    assert "scikit-learn" in weights.read_card(paths[0])["training"]["data"], "what it was really trained on"


def test_ctrl_c_keeps_the_model_and_says_so(run, tiny_recipes, monkeypatch):
    monkeypatch.setattr(tqdm, "set_postfix_str", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    status, out, err = run("train mnist --epochs 5 --output-dir kept")
    assert status == 130, err
    assert "Stopped by Ctrl-C after step 1" in out and "--resume" in out
    assert Path("kept/mnist-denoiser/mnist-denoiser.safetensors").exists()
    assert not Path("kept/mnist-evaluator").exists(), "the next model is not started"


def test_damaged_data_and_a_diverged_training_are_one_sentence(run, tiny_recipes):
    status, _, err = run("train mnist --model denoiser --lr 1e30 --epochs 3 --output-dir wild")
    assert status == 2 and "try a smaller learning rate" in tools.sentence(err)
    assert not list(Path("wild").glob("*.safetensors"))
    raw = tiny_recipes / "data/MNIST/raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(1000))
    for command in ("train mnist --model denoiser", "evaluate evaluator mnist"):
        refused(run(command), "-ubyte has 1004 bytes where")


# ---- the program itself ----
def test_the_program_says_a_users_error_without_a_traceback_and_help_without_torch(tmp_path):
    code = """if True:
        import sys
        from lessons_lib.cli import app
        app.main(["--help"])
        app.main(["tarin"])
        assert "torch" not in sys.modules
        sys.exit(app.main(["sample", "mnist", "--labels", "x", "--out", "x.png"]))
    """
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    for name in ("train", "sample", "evaluate", "check-machine"):
        assert name in done.stdout
    assert done.stderr.endswith("\nUnknown label 'x': choose from 0 to 9, or all.\n")
    assert done.stderr.count("\n") == 2 and everything(tmp_path) == []


def test_check_machine_says_ten_lines_and_what_to_do(run, here, monkeypatch):
    out = good(run("check-machine"))
    assert len(out.strip().splitlines()) == 10
    for word in ("Python", "torch", "device", "cores", "data", "weights", "ms"):
        assert word in out
    monkeypatch.setattr(weights, "WEIGHTS_DIR", here)
    status, out, _ = run("check-machine")
    assert status == 1 and "no MNIST" in out and "the embedded digits" in out
    assert "python -m lessons_lib train mnist" in out


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc only")
def test_freed_memory_is_kept():
    # The first rounds find the places that the next ones use again.
    code = """if True:
        import resource, torch, lessons_lib.memory
        {call}
        for k in range(30):
            if k == 20:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(12_000_000)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    faults = [
        int(subprocess.check_output([sys.executable, "-c", code.format(call=call)], cwd=ROOT))
        for call in ("pass", "lessons_lib.memory.keep_freed_memory()")
    ]
    if faults[0] < 1000:
        pytest.skip("this system does not count page faults, or its C library keeps memory anyway")
    assert faults[1] < faults[0] / 20


# ---- the shipped weights ----
def test_shipped_weights_draw_what_was_asked(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("evaluate mnist --num-samples 40 --json")
    result = report_of((status, out, err))
    assert result["accuracy"]["value"] >= 0.9 and 0.3 < result["diversity"] < 2
    assert result["fid"]["reference"] == "50,000 training images of MNIST"
    assert result["fid"]["extractor_sha256"] == weights.read_card("mnist-evaluator")["sha256"]
    assert "Measuring" not in err, "the reference belongs to these weights"


@pytest.mark.mnist
def test_shipped_evaluator_reads_mnist():
    evaluator, _, _ = weights.load_pretrained("mnist-evaluator")
    test = data.load("mnist", "test").subset(torch.arange(1000))
    reading = evaluation.accuracy(evaluator, data.to_signed(test.images), test.labels)
    assert reading.overall.value >= 0.985


def documented_commands():
    """The commands that stand on lines of their own in the pages, and those that cards quote."""
    for name in ("README.md", "lessons_lib/README.md", "benchmarks/README.md"):
        text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", "")
        yield from re.findall(r"(?m)^    .*-m lessons_lib (.*)$", text)
    for path in sorted((ROOT / "assets" / "weights").rglob("*.json")):
        card = path.read_text(encoding="utf-8")
        yield from re.findall(r'"command": "python -m lessons_lib ([^"(]*)', card)


def test_documented_commands_parse():
    commands = list(documented_commands())
    assert len(commands) > 40
    for words in map(shlex.split, commands):
        command, context = app.program, app.program.context_class(app.program)
        while hasattr(command, "resolve_command"):
            name, command, words = command.resolve_command(context, words)
        command.make_context(name, list(words))  # raises for what the command does not know
