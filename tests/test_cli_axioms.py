"""evaluate counterfactuals: the measures as JSON and in words, the sweep and its picture, what is refused."""

import imageio.v3 as iio
import pytest
import torch
from command_tools import good, noted, report_of, rows_of, without_time

from lessons_lib import data, weights
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation import task
from lessons_lib.evaluation.task import Counterfactuals
from lessons_lib.pipeline import CounterfactualRequest, counterfactual_images

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def here(here, monkeypatch):
    """As ever, with few real images; what is asked of MNIST comes from the embedded digits."""
    monkeypatch.setattr(task, "REAL_IMAGES", 120)
    monkeypatch.setattr(data, "load", lambda name, split="train", load=data.load: load("digits", split))
    return here


@pytest.fixture
def evaluate(run, tiny, here):

    def evaluate(words, few="--num-samples 6 --steps 3", denoiser="denoiser", command="evaluate"):
        names = f"--weights {tiny}/{denoiser}.safetensors --evaluator-weights {tiny}/judge.safetensors"
        return run(f"{command} counterfactuals {names} {few} {words.format(tiny=tiny)}")

    return evaluate


def test_json_is_complete_and_its_command_measures_it_again(evaluate, again):
    report = report_of(evaluate("--json --depth 30 --null-images 4 --seed 1"))
    settings = [report[name] for name in ("method", "guidance", "guidance_scale", "depth", "steps", "seed")]
    assert settings == ["ddim", "cfg", 3.0, 30, 3, 1] and report["null_guidance_scale"] == 1
    assert report["starts_from"] == "8-bit pixels" and report["classifier"] is None
    assert report["images"] == "the first 6 test images of scikit-learn's digits"
    assert report["real_images"] == "the first 120 training images of scikit-learn's digits"
    for name in ("weights", "evaluator"):
        assert report[f"{name}_sha256"] == weights.read_card(report[name])["sha256"]
    assert list(report["composition"]) == ["1", "10"] and report["composition"]["10"]["total"] == 4
    assert sum(map(sum, report["effectiveness"]["counts"])) == 6 == report["num_images"]
    assert all(report["effectiveness"]["counts"][k][k] == 0 for k in range(10)), "the target is another label"
    assert report["with_stored_latents"]["num_images"] == 6 and report["with_stored_latents"]["error"] >= 0
    assert report["feature_fid"] > 0 and report["feature_fid_floor"] > 0 and report["minimality"]
    assert report["seconds"] > 0 and report["seconds_per_image"] > 0
    assert without_time(again(report["command"])) == without_time(report)


def test_the_measures_are_those_of_the_request(evaluate, tiny):
    report = report_of(evaluate("--json --method sdedit --depth 30 --guidance-scale 2 --null-images 0"))
    assert report["composition"] == {} and report["with_stored_latents"] is None
    x_0, source = data.load("mnist", "test").batch(torch.arange(6))
    jump = torch.randint(1, 10, (6,), generator=torch.Generator().manual_seed(0))
    request = CounterfactualRequest(
        source.tolist(), ((source + jump) % 10).tolist(), weights=tiny / "denoiser.safetensors",
        method="sdedit", depth=30, guidance_scale=2.0, steps=3,
    )  # fmt: skip
    drawn = in_8_bits(counterfactual_images(request, x_0))
    l1 = float((drawn - in_8_bits(x_0)).abs().mean() / 2)
    assert report["proximity"]["l1"]["value"] == pytest.approx(l1, abs=1e-4)


def test_the_report_says_what_json_says(evaluate):
    words = "--null-images 2 --method ddpm --depth 30"
    out, report = good(evaluate(words)), report_of(evaluate(f"{words} --json"))
    assert out.startswith("ddpm, cfg, w=3, depth 30, 3 steps, seed 0; the first 6 test images of scikit")
    assert f"L1 to the source      {report['proximity']['l1']['value']:.4f}" in out
    assert f"off by {report['composition']['10']['value']:.4f} after 10, 2 images" in out
    matrix = out.split("from row to column\n")[1].splitlines()
    assert matrix[0].split() == [str(k) for k in range(10)] and len(matrix) == 11
    assert matrix[1].split()[:2] == ["0", "–"]


SWEEP = "--out sweep.csv --methods sdedit,same-noise --scales 1,2.5 --depths 20,39 --null-images 2"
FEW = "--num-samples 4 --steps 2"


def test_one_row_a_combination_and_a_picture(evaluate, again, monkeypatch):
    requests = noted(monkeypatch, Counterfactuals, "measure", lambda task, plan: plan.request)
    out = good(evaluate(SWEEP, FEW, command="sweep"))
    rows = rows_of("sweep.csv")
    assert tuple(rows[0]) == (*Counterfactuals.COLUMNS, "command", "weights_sha256")
    measured = [(one.method, one.guidance_scale, one.depth) for one in requests]
    assert len(rows) == 6 == len(measured)
    assert measured[:3] == [("sdedit", 1.0, 20), ("sdedit", 2.5, 20), ("sdedit", 1.0, 39)]
    assert [row["depth"] for row in rows] == ["20", "20", "39", "39", "", ""]
    for row in rows:
        low, share, high = (float(row[f"effectiveness{end}"]) for end in ("_low", "", "_high"))
        assert low <= share <= high and float(row["l1_low"]) < float(row["l1"]) < float(row["l1_high"])
        assert min(float(row[name]) for name in ("features", "fid", "seconds_per_image", "null_1")) > 0
    assert iio.imread("sweep.png").shape[2] >= 3
    assert "6 of 6: same-noise, cfg, w=2.5, 2 steps; read as the target" in out
    report = again(rows[1]["command"])
    assert str(report["proximity"]["l1"]["value"]) == rows[1]["l1"], "a row says how to measure it again"
