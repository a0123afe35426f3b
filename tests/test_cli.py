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

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tqdm.auto import tqdm

from lessons_lib import data, evaluation, recipes, weights
from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.cli import app, train
from lessons_lib.cli import sample as sample_command
from lessons_lib.cli.common import parse_labels
from lessons_lib.cli.options import settings
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet, UNetConfig
from lessons_lib.weights import save_pretrained

ROOT = Path(__file__).resolve().parent.parent
TINY = UNetConfig(channel_mults=(1, 1, 1), embedding_channels=16)
TINY_EVALUATOR = EvaluatorConfig(widths=(32, 32))
TINY_CLASSIFIER = NoisyClassifierConfig(widths=(32, 32), embedding_channels=16)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with an untrained denoiser (T = 40), evaluator and classifier of noisy images."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    model = UNet(TINY)
    torch.nn.init.normal_(model.conv_out.weight, std=0.1)  # a new U-Net's last layer is zero: nothing to see
    defaults = {"guidance_scale": 2.0, "sampler": "ddim", "steps": 3}
    save_pretrained(folder / "denoiser.safetensors", model, NoiseSchedule.linear(40), {"defaults": defaults})
    save_pretrained(folder / "evaluator.safetensors", Evaluator(TINY_EVALUATOR), None, {})
    for name, num_timesteps in (("classifier", 40), ("other-T", 50)):
        classifier = NoisyClassifier(NoisyClassifierConfig(widths=(32, 32), embedding_channels=16))
        save_pretrained(folder / f"{name}.safetensors", classifier, NoiseSchedule.linear(num_timesteps), {})
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder on a machine without MNIST and without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LESSONS_OFFLINE", "1")
    monkeypatch.setattr(data, "_data_roots", lambda: [tmp_path / "nowhere"])
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command and return (exit status, stdout, stderr)."""

    def run(command, *more):
        capsys.readouterr()
        status = app.main([*command.split(), *map(str, more)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def sample(run, tiny, here):
    def sample(words, *more):
        status, out, err = run(f"sample mnist {words} --weights {tiny / 'denoiser.safetensors'}", *more)
        assert status == 0, err
        return out

    return sample


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def sentence(err):
    """What a user reads last; a progress bar may stand before it on its line."""
    *_, last = err.strip().splitlines()
    return last.split("\r")[-1].strip()


# ---- sample ----


def test_npz_holds_images_and_labels(sample, here):
    out = sample("--labels 3,0 --num-per-label 2 --guidance cfg --out digits.npz")
    with np.load(here / "digits.npz") as file:
        images, labels = file["images"], file["labels"]
    assert images.shape == (4, 1, 28, 28) and images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    assert labels.tolist() == [3, 3, 0, 0]
    assert "w=2, ddim, 3 steps, seed 0" in out, "the card's defaults"
    assert everything(here) == ["digits.npz"]


@pytest.mark.numeric
@pytest.mark.usefixtures("in_float64")
def test_images_do_not_depend_on_the_batch_size(sample, here):
    sample("--num-per-label 2 --sampler ddpm --steps 4 --seed 5 --out whole.npz")
    sample("--num-per-label 2 --sampler ddpm --steps 4 --seed 5 --batch-size 3 --out parts.npz")
    sample("--num-per-label 2 --sampler ddpm --steps 4 --seed 6 --out other.npz")
    whole, parts, other = (np.load(here / f"{name}.npz")["images"] for name in ("whole", "parts", "other"))
    assert np.abs(whole - parts).max() < 1e-6  # the file is float32
    assert np.abs(whole - other).max() > 0.1


def test_png_has_a_row_a_label(sample, here):
    sample("--labels all --num-per-label 3 --out grid.png --individual singles")
    grid = iio.imread(here / "grid.png")
    assert grid.shape == (2 * (10 * 28 + 9 * 2), 2 * (3 * 28 + 2 * 2), 3)
    singles = sorted((here / "singles").iterdir())
    assert len(singles) == 30 and singles[4].name == "00004_label_1.png"
    pixels = iio.imread(singles[4])
    assert pixels.shape == (28, 28)
    cell = grid[2 * 30 : 2 * 58 : 2, 2 * 30 : 2 * 58 : 2, 0]  # second row, second column
    assert np.array_equal(cell, pixels)


def test_gif_shows_every_step_up_to_a_limit(sample, here):
    sample("--labels 1,2 --steps 5 --out few.gif")
    assert len(iio.imread(here / "few.gif", index=None)) == 5
    sample("--labels 1 --sampler ddpm --steps 40 --out more.gif --batch-size 1 --num-per-label 2")
    assert len(iio.imread(here / "more.gif", index=None)) == 40


def test_unconditional_ignores_the_labels_and_says_so(sample, here):
    out = sample("--labels 1,2 --guidance none --out a.npz")
    assert "ignores the labels" in out.splitlines()[0]
    sample("--labels 8,9 --guidance none --out b.npz")
    a, b = (np.load(here / f"{name}.npz") for name in "ab")
    assert np.array_equal(a["images"], b["images"])
    assert a["labels"].tolist() == [-1, -1]


def test_a_classifier_guides_and_the_line_says_which(sample, tiny, here):
    guide = tiny / "classifier.safetensors"
    out = sample("--labels 3,4 --guidance classifier --guidance-scale 2.5 --out a.npz", "--classifier", guide)
    assert f"classifier {guide}, s=2.5, ddim, 3 steps, seed 0" in out
    out = sample("--labels 3,4 --guidance classifier-x0 --out b.npz", "--classifier", guide)
    assert f"classifier-x0 {guide}, s=1, ddim" in out
    assert np.load(here / "a.npz")["labels"].tolist() == [3, 4], "the classifier hears the labels"


def test_sampler_and_spacing_are_chosen_and_said(sample, here):
    out = sample("--labels 1 --sampler dpmpp_2m --out a.npz")
    assert "dpmpp_2m, 3 steps, seed 0" in out, "with its own spacing"
    out = sample("--labels 1 --sampler dpmpp_2m --spacing trailing --out b.npz")
    assert "dpmpp_2m, 3 steps, trailing spacing, seed 0" in out
    assert not np.array_equal(np.load(here / "a.npz")["images"], np.load(here / "b.npz")["images"])


BAD_SAMPLES = {
    "--labels 3,x": "Unknown label 'x': choose from 0 to 9, or all.",
    "--labels 10": "Unknown label '10'",
    "--labels -1": "Unknown label '-1'",
    "--labels 1,,2": "Unknown label ''",
    "--guidance-scale abc": "'abc' is not a number",
    "--guidance-scale nan": "must be a finite number",
    "--guidance-scale inf": "must be a finite number",
    "--guidance maybe": "Unknown guidance 'maybe': choose one of none, cfg, classifier, classifier-x0.",
    "--sampler euler": "Unknown sampler 'euler': choose one of ddpm, ddim, dpmpp_2m.",
    "--spacing karras": "Unknown spacing 'karras': choose one of trailing, leading, linspace, logsnr.",
    "--guidance classifier --classifier nobody": "There are no weights 'nobody'",
    "--guidance classifier --classifier {tiny}/denoiser.safetensors": "are no classifier: they cannot steer.",
    "--guidance classifier --classifier {tiny}/evaluator.safetensors": "reads clean images only",
    "--guidance classifier --classifier {tiny}/other-T.safetensors": "another schedule (linear, T=50; not",
    "--guidance classifier --classifier {tiny}/classifier.safetensors --guidance-scale -1": "at least 0",
    "--classifier {tiny}/classifier.safetensors": "The guidance 'cfg' asks no classifier",
    "--steps 0": "at least 1, got 0",
    "--steps -3": "at least 1, got -3",
    "--steps 41": "between 1 and 40 (T), got 41",
    "--steps 2.5": "--steps",
    "--num-per-label 0": "at least 1, got 0",
    "--batch-size 0": "at least 1, got 0",
    "--device quantum": "Unknown device 'quantum'",
    "--precision fp4": "Unknown precision 'fp4'",
    "--colour red": "--colour",
    "--weights no-such": "There are no weights 'no-such'",
    "--weights nowhere/x.safetensors": "There are no weights",
    "--out x.jpg": "must end in .png, .gif or .npz, got 'x.jpg'",
    "--out x": "must end in",
    "--out full.png/x.png": "cannot be written",
    "--out folder.png": "it is a folder",
    "--individual full.png": "it is a file",
}


@pytest.mark.parametrize("words", BAD_SAMPLES)
def test_bad_sample_is_one_sentence_and_writes_nothing(run, tiny, here, words):
    (here / "full.png").write_text("a file")
    (here / "folder.png").mkdir()
    before = everything(here)
    # A later option wins over an earlier one.
    good = f"sample mnist --weights {tiny / 'denoiser.safetensors'} --out out.png"
    status, out, err = run(f"{good} {words.format(tiny=tiny)}")
    assert status == 2
    assert BAD_SAMPLES[words] in err and out == ""
    assert len(err.strip().splitlines()) == 1
    assert everything(here) == before


def test_an_unknown_thing_to_measure(run, here):
    status, out, err = run("evaluate cats")
    assert (status, out, err) == (2, "", "No such command 'cats'.\n")


@pytest.mark.parametrize(
    "command", ["sample cats --out x.png", "train cats", "evaluate evaluator cats", "sample"]
)
def test_unknown_data_set(run, here, command):
    status, out, err = run(command)
    assert status == 2 and out == "" and len(err.strip().splitlines()) == 1
    assert "Unknown data set 'cats': choose mnist, cifar10 or celeba." in err or command == "sample"
    assert everything(here) == []


# ---- CIFAR-10 ----


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """A folder with an untrained denoiser and evaluator of colour images of 8×8 pixels."""
    folder = tmp_path_factory.mktemp("colour")
    unet = UNet(UNetConfig(image_size=8, in_channels=3, channel_mults=(1,), embedding_channels=16))
    save_pretrained(
        folder / "denoiser.safetensors",
        unet,
        NoiseSchedule.cosine(40),
        {"defaults": {"guidance_scale": 2.0, "sampler": "ddim", "steps": 3}},
    )
    judge = Evaluator(EvaluatorConfig(8, 3, widths=(8, 16), body="resnet9"))
    save_pretrained(folder / "evaluator.safetensors", judge, None, {})
    return folder


def test_labels_are_names_or_numbers(run, colour, here):
    words = f"sample cifar10 --weights {colour}/denoiser.safetensors --out x.npz --labels"
    status, _, err = run(words, "cat, dog,3")
    assert status == 0, err
    found = np.load(here / "x.npz")
    assert found["labels"].tolist() == [3, 5, 3] and found["images"].shape == (3, 3, 8, 8)
    # The same noise index by index: only the label and its place decide.
    run(words.replace("x.npz", "y.npz"), "3,5,cat")
    assert np.array_equal(np.load(here / "y.npz")["images"], found["images"])


def test_an_unknown_class_lists_the_names(run, colour, here):
    words = f"sample cifar10 --weights {colour}/denoiser.safetensors --out x.png --labels"
    for label in ("cow", "10", "Cat", ""):
        status, out, err = run(words, f"cat,{label}")
        assert status == 2 and out == "" and everything(here) == []
        names = ", ".join(data.CLASS_NAMES["cifar10"])
        assert sentence(err) == f"Unknown label {label!r}: choose {names}; or a number from 0 to 9, or all."


def test_a_cards_own_class_names_count_and_a_name_before_a_number():
    names = ("7", "8", "ape")
    assert parse_labels("7,ape,0,1", 3, names) == [0, 2, 0, 1]
    assert parse_labels("all", 3, names) == [0, 1, 2]
    with pytest.raises(ValueError, match="choose 7, 8, ape; or a number from 0 to 2, or all"):
        parse_labels("cat", 3, names)


def test_cifar10_that_is_nowhere_is_one_sentence(run, colour, here):
    evaluator = f"--evaluator-weights {colour}/evaluator.safetensors"
    for command in ("train cifar10 --model denoiser", f"evaluate evaluator cifar10 {evaluator}"):
        status, out, err = run(command)
        assert status == 2 and out == "" and everything(here) == []
        assert "CIFAR-10 is not here and cannot be downloaded" in sentence(err)


def test_evaluate_measures_colour_images_against_its_own_45_000(run, colour, here, monkeypatch):
    pixels = torch.randint(256, (600, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = data.ImageSet(pixels, torch.arange(600) % 10, data.CLASS_NAMES["cifar10"], "cifar10")
    monkeypatch.setattr(data, "load", lambda name, split: images)
    judge = f"--evaluator-weights {colour}/evaluator.safetensors --json"
    status, out, err = run(
        f"evaluate cifar10 --weights {colour}/denoiser.safetensors --num-samples 20 --steps 2 {judge}"
    )
    assert status == 0, err
    found = json.loads(out)
    assert found["accuracy"]["total"] == 20 and found["fid"]["reference"] == "500 training images of CIFAR-10"
    status, out, err = run(f"evaluate evaluator cifar10 {judge}")
    assert json.loads(out)["images"] == "600 test images of CIFAR-10"  # validation images are no test images


def test_cifar10_has_a_denoiser_and_an_evaluator(run, here):
    status, _, err = run("train cifar10 --model classifier")
    assert status == 2
    assert sentence(err) == (
        "Unknown model 'classifier': choose one of denoiser, evaluator, denoiser-v, second-judge, all."
    )
    assert everything(here) == []


def test_a_schedule_that_is_not_named_is_the_recipes():
    def schedule_of(name, **typed):
        options = train.Options(dataset=name, timesteps=500, **typed)
        changes = settings(options, recipes.DiffusionOptions)
        return dataclasses.replace(recipes.RECIPES[name, "denoiser"].options, **changes).schedule

    assert [schedule_of(name) for name in ("mnist", "cifar10")] == ["linear", "cosine"]
    assert schedule_of("cifar10", schedule="sigmoid") == "sigmoid"


def spoil_bytes(path):
    path.write_bytes(path.read_bytes()[:-100])


def spoil_card(path):
    path.with_suffix(".json").write_text("{")


def lose_card(path):
    path.with_suffix(".json").unlink()


def other_shape(path):
    card = weights.read_card(path)
    weights.write_card(path, card | {"config": card["config"] | {"channel_mults": [1, 2, 1]}})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(spoil_bytes, "damaged"), (spoil_card, "damaged"), (lose_card, "missing"), (other_shape, "shapes")],
)
def test_bad_weights_are_one_sentence(run, tiny, here, spoil, said):
    for suffix in (".safetensors", ".json"):
        (here / f"mine{suffix}").write_bytes((tiny / f"denoiser{suffix}").read_bytes())
    spoil(here / "mine.safetensors")
    before = everything(here)
    status, out, err = run("sample mnist --weights ./mine.safetensors --out x.npz")
    assert status == 2 and out == "" and said in err and len(err.strip().splitlines()) == 1
    assert everything(here) == before


def test_an_evaluator_cannot_draw_and_a_denoiser_cannot_judge(run, tiny, here):
    status, _, err = run(f"sample mnist --out x.png --weights {tiny / 'evaluator.safetensors'}")
    assert status == 2 and "no denoiser" in err
    status, _, err = run(f"evaluate mnist --evaluator-weights {tiny / 'denoiser.safetensors'}")
    assert status == 2 and "no evaluator" in err


def test_full_memory_and_full_disk_are_one_sentence(run, tiny, here, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    good = f"sample mnist --weights {tiny / 'denoiser.safetensors'} --labels 1 --out out.npz"
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", full_disk)
        status, _, err = run(good)
    assert (status, sentence(err)) == (2, "out.npz cannot be written: No space left on device.")
    for error in (torch.OutOfMemoryError("CUDA out of memory."), MemoryError()):
        with monkeypatch.context() as patch:
            patch.setattr(sample_command, "draw", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
            status, _, err = run(good)
        assert (status, sentence(err)) == (2, "The memory is full: use a smaller --batch-size.")
    assert everything(here) == []


def test_the_librarys_own_faults_are_not_hidden(run, tiny, here, monkeypatch):
    monkeypatch.setattr(sample_command, "describe", lambda request: request.no_such_field)
    with pytest.raises(AttributeError):
        run(f"sample mnist --weights {tiny / 'denoiser.safetensors'} --labels 1 --out out.npz")


# ---- evaluate ----


@pytest.fixture
def evaluate(run, tiny, here):
    """Evaluate the tiny denoiser with a copy of the tiny evaluator as the judge."""
    for suffix in (".safetensors", ".json"):
        (here / f"judge{suffix}").write_bytes((tiny / f"evaluator{suffix}").read_bytes())

    def evaluate(words):
        names = f"--weights {tiny / 'denoiser.safetensors'} --evaluator-weights ./judge.safetensors"
        return run(f"evaluate mnist {names} {words}")

    return evaluate


def give_reference(here, count=240):
    """Put a reference "of MNIST" beside the judge."""
    model, _, card = weights.load_pretrained("./judge.safetensors")
    digits = data.load("digits", "train").subset(torch.arange(count))
    images = data.to_signed(digits.images)
    features = evaluation.features(model, images)
    reference = evaluation.Reference.of(features, digits.labels, 10, extractor=card["sha256"], source="mnist")
    reference.save(here / "judge-reference.npz")
    return reference


def test_json_is_all_that_is_printed(evaluate, here):
    reference = give_reference(here)
    status, out, err = evaluate("--num-samples 40 --guidance-scale 1 --steps 2 --json")
    assert status == 0, err
    result = json.loads(out)
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


def test_the_report_says_what_json_says(evaluate, here):
    give_reference(here)
    status, out, err = evaluate("--num-samples 20")
    assert status == 0, err
    for words in (
        "read right",
        "as 7",
        "95% interval",
        "feature FID",
        "times the floor",
        "200 training images",
    ):
        assert words in out
    for words in ("the other 40 training images", "SHA-256", "diversity", "seconds an image"):
        assert words in out


def test_unconditional_has_no_accuracy(evaluate, here):
    give_reference(here)
    status, out, err = evaluate("--guidance none --num-samples 20 --json")
    assert status == 0, err
    result = json.loads(out)
    assert result["accuracy"] is None and result["fid"]["value"] > 0
    status, out, _ = evaluate("--guidance none --num-samples 1 --json")
    result = json.loads(out)
    assert status == 0 and result["fid"] is None and result["diversity"] is None


def test_guidance_by_a_classifier_is_measured_and_its_command_measures_it_again(run, evaluate, here, tiny):
    give_reference(here)
    guide = tiny / "classifier.safetensors"
    status, out, err = evaluate(
        f"--guidance classifier --classifier {guide} --sampler dpmpp_2m --spacing leading --num-samples 12 "
        "--steps 2 --json"
    )
    assert status == 0, err
    result = json.loads(out)
    assert result["classifier_sha256"] == weights.read_card(guide)["sha256"]
    for words in (f"--classifier {guide}", "--guidance-scale 1", "--spacing leading", "--sampler dpmpp_2m"):
        assert words in result["command"]
    again = json.loads(run(f"{result['command'].removeprefix('python -m lessons_lib ')} --json")[1])
    assert {**again, "seconds_per_image": 0} == {**result, "seconds_per_image": 0}


def test_a_judge_that_guided_is_called_circular(evaluate, here):
    give_reference(here)
    words = "--guidance classifier-x0 --num-samples 4 --steps 1 --json --classifier"
    status, out, err = evaluate(f"{words} ./judge.safetensors")
    assert status == 0 and json.loads(out)["num_samples"] == 4
    assert "./judge.safetensors judges images that it guided: its accuracy is circular." in err


def test_without_mnist_the_embedded_digits_are_the_reference_and_that_is_said(evaluate, here):
    status, out, err = evaluate("--num-samples 12 --json")
    assert status == 0, err
    assert json.loads(out)["fid"]["reference"] == "1,164 training images of scikit-learn's digits"
    assert "scikit-learn's digits" in err


@pytest.fixture
def evaluate_judge(run, evaluate):
    """Evaluate that judge itself."""
    return lambda words="": run(f"evaluate evaluator mnist --evaluator-weights ./judge.safetensors {words}")


def test_the_evaluator_itself(evaluate_judge):
    status, out, err = evaluate_judge("--json")
    assert status == 0, err
    result = json.loads(out)
    assert result["images"] == "400 test images of scikit-learn's digits"
    assert result["accuracy"]["total"] == 400
    status, out, _ = evaluate_judge()
    assert status == 0 and "read right" in out and "400 images" in out


def test_card_needs_mnist(evaluate, evaluate_judge, here):
    before = {path: path.read_bytes() for path in here.iterdir()}
    for command in (evaluate, evaluate_judge):
        status, out, err = command("--card")
        assert status == 2 and out == "" and sentence(err).startswith("A card needs the real MNIST")
    assert {path: path.read_bytes() for path in here.iterdir()} == before


def test_card_gets_every_standard_evaluation_with_its_command(run, evaluate, here, tiny, monkeypatch):
    from lessons_lib.evaluation import task

    drawn = {(scale, steps): count for scale, _, steps, count in task.STANDARD["mnist"]}
    assert all(drawn[setting] >= 2_000 for setting in ((1.0, 50), (2.0, 25), (2.0, 10)))
    assert max(count for (scale, _), count in drawn.items() if scale == 1) >= 10_000, "the FID's samples"
    monkeypatch.setitem(task.STANDARD, "mnist", ((1.0, "ddim", 3, 11), (2.0, "ddim", 2, 10)))
    give_reference(here)
    for suffix in (".safetensors", ".json"):
        (here / f"mine{suffix}").write_bytes((tiny / f"denoiser{suffix}").read_bytes())
    mine = here / "mine.safetensors"
    weights.write_card(mine, weights.read_card(mine) | {"metrics": {"tried": ["a table"]}})
    status, _, err = evaluate("--card --weights ./mine.safetensors")
    assert status == 0, err
    found = weights.read_card(mine)["metrics"]
    assert found["tried"] == ["a table"], "what else the card says stays"
    assert [r["num_samples"] for r in found["evaluations"]] == [11, 10]
    first = found["evaluations"][0]
    again = json.loads(run(f"{first['command'].removeprefix('python -m lessons_lib ')} --json")[1])
    timing = ("seconds_per_image",)
    assert {k: v for k, v in again.items() if k not in timing} == {
        k: v for k, v in first.items() if k not in timing
    }


def test_bad_evaluate_is_one_sentence_before_any_work(evaluate, here):
    before = everything(here)
    for words, said in {
        "--num-samples 0": "at least 1, got 0",
        "--steps 0": "at least 1",
        "--steps 41": "between 1 and 40",
        "--guidance-scale w": "'w' is not a number",
        "--evaluator-weights nobody": "no weights 'nobody'",
    }.items():
        status, out, err = evaluate(words)
        assert status == 2 and out == "" and said in err and len(err.strip().splitlines()) == 1
    (here / "judge-reference.npz").write_bytes(b"broken")
    status, _, err = evaluate("--num-samples 5")
    assert status == 2 and "judge-reference.npz are damaged" in err
    (here / "judge-reference.npz").unlink()
    assert everything(here) == before


# ---- train ----


@pytest.fixture
def tiny_recipes(here, monkeypatch):
    known = {
        ("mnist", "denoiser"): TINY,
        ("mnist", "classifier"): TINY_CLASSIFIER,
        ("mnist", "clean-classifier"): TINY_CLASSIFIER,
        ("mnist", "evaluator"): TINY_EVALUATOR,
    }
    small = {
        key: dataclasses.replace(recipes.RECIPES[key], network=network) for key, network in known.items()
    }
    monkeypatch.setattr(recipes, "RECIPES", small)
    monkeypatch.setattr(sys, "argv", ["x", "train", "mnist", "--epochs", "1"])
    return here


def test_train_then_resume_then_sample(run, tiny_recipes):
    status, out, err = run(
        "train mnist --model denoiser --epochs 1 --batch-size 512 --timesteps 50 --schedule cosine"
        " --lr-decay 0.5"
    )
    assert status == 0, err
    folder = tiny_recipes / "runs/mnist-denoiser"
    assert everything(folder) == [
        "before_decay.pt",
        "checkpoint.pt",
        "losses.json",
        "mnist-denoiser.json",
        "mnist-denoiser.safetensors",
        "samples_epoch_001.png",
    ]
    assert "epoch 1: loss train" in out and "Finished after step 2" in out
    card = weights.read_card(folder / "mnist-denoiser.safetensors")
    assert card["training"]["command"] == "python -m lessons_lib train mnist --epochs 1"
    assert card["training"]["settings"]["batch_size"] == 512
    assert card["schedule"] == {"name": "cosine", "num_timesteps": 50}

    words = "train mnist --model denoiser --epochs 2 --batch-size 512 --timesteps 50 --schedule cosine"
    words += " --lr-decay 0.5"
    before = (folder / "checkpoint.pt").read_bytes()
    status, out, err = run(words)
    assert status == 2 and out == "" and "--resume" in err and len(err.strip().splitlines()) == 1
    assert (folder / "checkpoint.pt").read_bytes() == before
    status, out, err = run(f"{words} --resume")
    assert status == 2 and "was made with epochs 1, this training has 2" in err
    assert (folder / "checkpoint.pt").read_bytes() == before
    status, out, err = run(f"{words} --extend --sample-every 0")
    assert status == 0, err
    assert "epoch 2" in out
    assert json.loads((folder / "losses.json").read_text())["epochs"] == [1, 2]

    (hint,) = [line.strip() for line in out.splitlines() if " sample mnist " in line]
    status, _, err = run(hint.removeprefix("python -m lessons_lib "))
    assert status == 0, err
    assert (tiny_recipes / "mnist.png").exists()


def test_train_all_makes_a_folder_for_each(run, tiny_recipes):
    status, out, err = run(
        "train mnist --epochs 1 --batch-size 512 --sample-every 0 --output-dir both --seed 3"
    )
    assert status == 0, err
    names = [
        f"both/{n}/{n}.safetensors" for n in ("mnist-denoiser", "mnist-evaluator", "mnist-clean-classifier")
    ]
    names.append("both/mnist-classifier/mnist-noisy-classifier.safetensors")
    assert all(Path(name).exists() and name in out.replace("\\", "/") for name in names)
    assert not list(tiny_recipes.rglob("*.png"))
    assert "scikit-learn" in weights.read_card(names[0])["training"]["data"], "what it was really trained on"


def test_train_stops_by_the_clock(run, tiny_recipes):
    status, out, err = run("train mnist --model evaluator --epochs 1000 --max-seconds 1 --output-dir quick")
    assert status == 0, err
    assert "Stopped by the clock" in out and Path("quick/mnist-evaluator.safetensors").exists()


def test_ctrl_c_keeps_the_model_and_says_so(run, tiny_recipes, monkeypatch):
    monkeypatch.setattr(tqdm, "set_postfix_str", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    status, out, err = run("train mnist --epochs 5 --output-dir kept")
    assert status == 130, err
    assert "Stopped by Ctrl-C after step 1" in out and "--resume" in out
    assert Path("kept/mnist-denoiser/mnist-denoiser.safetensors").exists()
    assert not Path("kept/mnist-evaluator").exists(), "the next model is not started"


BAD_TRAININGS = {
    "--model gan": "choose one of denoiser, classifier, clean-classifier, evaluator, all.",
    "--t-density square": "Unknown t_density 'square'",
    "--loss-weight heavy": "Unknown loss_weight 'heavy'",
    "--told-augment": "--told-augment mirrors images, which digits may not be.",
    "--lr-decay 0": "lr_decay must be in (0, 1]",
    "--ema-sigma-rel 1": "ema_sigma_rel must be in (0, 0.288)",
    "--ema-sigma-rel 0.1 --ema-decay 0.9": "are two averages: choose one.",
    "--extend": "--extend goes on to more --epochs: name them.",
    "--extend --epochs 9": "There is nothing to extend in runs/mnist-denoiser.",
    "--dropout 2": "dropout must be in [0, 1)",
    "--loss v-mse": "The loss v-mse is for a network that answers v",
    "--device cpu --precision fp16": "The precision fp16 needs a GPU",
    "--model evaluator --loss-weight learned": "--loss-weight belongs to a denoiser",
    "--epochs 0": "epochs must be at least 1",
    "--batch-size 0": "batch_size must be at least 1",
    "--batch-size 5000": "only 1397 training images",
    "--lr 0": "lr must be above 0",
    "--lr nan": "lr must be above 0",
    "--lr fast": "'fast' is not a number",
    "--schedule quadratic": "Unknown schedule 'quadratic'",
    "--timesteps 1": "at least 2 timesteps",
    "--loss huber": "Unknown loss 'huber'",
    "--p-uncond 1.5": "p_uncond must be in [0, 1]",
    "--ema-decay 1": "ema_decay must be in [0, 1)",
    "--precision int8": "Unknown precision 'int8'",
    "--device quantum": "Unknown device 'quantum'",
    "--max-seconds 0": "max_seconds must be above 0",
    "--output-dir full.txt": "it is a file",
    "--output-dir full.txt/below": "cannot be written",
}


@pytest.mark.parametrize("words", BAD_TRAININGS)
def test_bad_train_is_one_sentence_and_writes_nothing(run, tiny_recipes, words):
    (tiny_recipes / "full.txt").write_text("a file")
    status, out, err = run(f"train mnist --model denoiser {words}")
    assert status == 2 and out == ""
    assert BAD_TRAININGS[words] in sentence(err)
    assert everything(tiny_recipes) == ["full.txt"]


def test_truncated_data_is_named(run, tiny_recipes, monkeypatch):
    raw = tiny_recipes / "nowhere/MNIST/raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{split}-{kind}-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(1000))
    before = everything(tiny_recipes)
    for command in ("train mnist --model denoiser", "evaluate evaluator mnist"):
        status, out, err = run(command)
        assert status == 2 and out == "" and "-ubyte has 1004 bytes where" in sentence(err)
    assert everything(tiny_recipes) == before


def test_diverged_training_is_one_sentence(run, tiny_recipes):
    status, _, err = run("train mnist --model denoiser --lr 1e30 --epochs 3 --output-dir wild")
    assert status == 2 and "try a smaller learning rate" in sentence(err)
    assert not list(Path("wild").glob("*.safetensors"))


# ---- the program itself ----


def program(*words, cwd, **variables):
    env = os.environ | {"PYTHONPATH": str(ROOT), "LESSONS_OFFLINE": "1"} | variables
    return subprocess.run([sys.executable, "-m", *words], cwd=cwd, env=env, capture_output=True, text=True)


def test_a_users_error_is_no_traceback(tmp_path):
    done = program("lessons_lib", "sample", "mnist", "--labels", "x", "--out", "x.png", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "Unknown label 'x': choose from 0 to 9, or all.\n"
    assert everything(tmp_path) == []


def test_help_needs_no_torch():
    code = """if True:
        import sys
        from lessons_lib.cli import app
        app.main(["--help"])
        app.main(["tarin"])
        assert "torch" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("train", "sample", "evaluate", "check-machine"):
        assert command in done.stdout


@pytest.mark.parametrize("words", ["", "smaple", "--nothing"])
def test_no_command_or_an_unknown_one(run, words):
    status, _, err = run(words)
    assert status == 2 and err.strip()


def test_check_machine_says_ten_lines(run):
    status, out, _ = run("check-machine")
    assert status == 0
    assert len(out.strip().splitlines()) == 10
    for word in ("Python", "torch", "device", "cores", "data", "weights", "ms"):
        assert word in out


def test_check_machine_says_what_to_do(run, here, monkeypatch):
    monkeypatch.setattr(weights, "WEIGHTS_DIR", here)
    status, out, _ = run("check-machine")
    assert status == 1
    assert "no MNIST" in out and "the embedded digits" in out
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
    assert status == 0, err
    result = json.loads(out)
    assert result["accuracy"]["value"] >= 0.9
    assert result["fid"]["reference"] == "50,000 training images of MNIST"
    assert result["fid"]["extractor_sha256"] == weights.read_card("mnist-evaluator")["sha256"]
    assert "Measuring" not in err, "the reference belongs to these weights"
    assert 0.3 < result["diversity"] < 2


@pytest.mark.mnist
def test_shipped_evaluator_reads_mnist():
    evaluator, _, _ = weights.load_pretrained("mnist-evaluator")
    test = data.load("mnist", "test").subset(torch.arange(1000))
    found = evaluation.accuracy(evaluator, data.to_signed(test.images), test.labels)
    assert found.overall.value >= 0.985


# ---- evaluate timesteps ----


def test_reading_by_timestep(run, here, tiny):
    path = tiny / "classifier.safetensors"
    status, out, err = run("evaluate timesteps mnist --json --classifier", path)
    assert status == 0, err
    rows = json.loads(out)["by_timestep"]
    assert len(rows) >= 10 and rows[0]["t"] == 0 and rows[-1]["t"] == 39
    snr = NoiseSchedule.linear(40).snr
    quarter = max(t for t in range(40) if snr[t] >= 0.25)
    assert quarter in [row["t"] for row in rows], "the timestep at which signal-to-noise is 1 to 4"
    assert all(row["accuracy"]["total"] == 400 for row in rows), "val and test of the embedded digits"
    status, out, _ = run("evaluate timesteps mnist --classifier", path)
    assert status == 0 and "t =   39" in out and len(out.strip().splitlines()) == len(rows) + 1


def test_reading_is_refused_in_one_sentence(run, here, tiny):
    for name, words in (("evaluator", "no classifier of noisy images"), ("none", "There are no weights")):
        status, out, err = run("evaluate timesteps mnist --classifier", tiny / f"{name}.safetensors")
        assert status == 2 and not out and words in err and len(err.strip().splitlines()) == 1
    before = (tiny / "classifier.json").read_bytes()
    status, _, err = run("evaluate timesteps mnist --card --classifier", tiny / "classifier.safetensors")
    assert status == 2 and "needs the real MNIST" in err
    assert (tiny / "classifier.json").read_bytes() == before


def documented_commands():
    """The commands that stand on lines of their own in the pages, and those that cards quote."""
    root = Path(__file__).resolve().parent.parent
    for name in ("README.md", "lessons_lib/README.md", "benchmarks/README.md"):
        text = (root / name).read_text(encoding="utf-8").replace("\\\n", "")
        yield from re.findall(r"(?m)^    .*-m lessons_lib (.*)$", text)
    for path in sorted((root / "assets" / "weights").rglob("*.json")):
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
