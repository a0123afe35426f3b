"""celeba on the command line: faces are drawn, changed and measured; one sentence for whatever is wrong."""

import json

import command_tools as tools
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_tools import everything, good, refused, report_of, save

from lessons_lib import data, pipeline, weights
from lessons_lib.classifier import Evaluator, EvaluatorConfig
from lessons_lib.evaluation.task import Faces
from lessons_lib.schedules import NoiseSchedule

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, NAMES = 32, list(data.ATTRIBUTES)
SMILING, FEW = NAMES.index("Smiling"), ("Male", "Eyeglasses", "Wearing_Hat")
COUNTS = 24, 4, 12  # for training, validation, testing
MEASURE = "--steps 3 --num-samples 6 --num-counterfactuals 5"


def evaluator(names=NAMES, size=SIZE):
    """Reads every attribute by chance; but Smiling, if it is there, is the brightness of the picture."""
    model = Evaluator(EvaluatorConfig(size, 3, (32, 32), len(names), patch=2, multi_label=True)).eval()
    torch.nn.init.normal_(model.head[1].weight, std=3.0)
    if "Smiling" in names:
        dark, bright = model.features(torch.tensor([-0.8, 0.7]).view(2, 1, 1, 1).expand(2, 3, size, size))
        direction = 6 * (bright - dark) / (bright - dark).square().sum()  # from logit -3 to 3
        with torch.no_grad():
            model.head[1].weight[names.index("Smiling")] = direction
            model.head[1].bias[names.index("Smiling")] = -direction @ (bright + dark) / 2
    return model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Untrained networks (T = 40); dark and bright faces: the bright ones smile, other answers are chance."""
    folder, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    pictures = folder / "data/celeba/img_align_celeba"
    pictures.mkdir(parents=True)
    parts = [part for part, count in enumerate(COUNTS) for _ in range(count)]
    answers = rng.choice([1, -1], (len(parts), len(NAMES)))
    for k in range(len(parts)):
        pixels = rng.integers(0, 60, (109, 89, 3)) + 190 * (k % 2)
        iio.imwrite(pictures / f"{k:06d}.jpg", pixels.astype(np.uint8))
        answers[k, SMILING] = 1 if k % 2 else -1
    tools.write_celeba_lists(pictures.parent, answers, parts)

    colour = {"image_size": SIZE, "in_channels": 3, "patch": 2}
    shape = colour | {"channel_mults": (1, 1), "v_schedule": "linear", "v_timesteps": 40}
    schedule, reader = NoiseSchedule.linear(40), colour | {"num_classes": 40, "multi_label": True}
    defaults = {"sampler": "ddim", "steps": 3, "classifier": str(folder / "guide.safetensors")}
    plain, told = (
        tools.tiny_unet(**shape, num_classes=0),
        tools.tiny_unet(**shape, num_classes=2, multi_label=True),
    )
    save(folder / "denoiser.safetensors", plain, schedule, **defaults)
    save(folder / "told.safetensors", told, schedule, ("Male", "Smiling"), **defaults)
    scales = {"guidance_scale": 5.0, "counterfactual": {"guidance_scale": 6.0, "depth": 30}}
    save(folder / "guide.safetensors", tools.tiny_reader(**reader), schedule, NAMES, **scales)
    for name, judge, names in (
        ("judge", evaluator(), NAMES),
        ("few", evaluator(FEW), FEW),
        ("small", evaluator(size=16), NAMES),
        ("nameless", evaluator(), ()),
        ("class-judge", tools.tiny_reader(False, **colour, num_classes=10), ()),
    ):
        save(folder / f"{name}.safetensors", judge, None, names)
    return folder


@pytest.fixture
def here(here, tiny, monkeypatch):
    """As ever, on a machine with that CelebA."""
    monkeypatch.setattr(data, "_data_roots", lambda: [tiny / "data"])
    data.notice.cache_clear()
    return here


@pytest.fixture
def ask(run, tiny, here):

    def run_of_faces(command, words=""):
        judged = "" if command == "sample" else f"--evaluator-weights {tiny}/judge.safetensors"
        drawn = "" if command == "evaluate evaluator" else f"--weights {tiny}/denoiser.safetensors"
        return run(f"{command} celeba {drawn} {judged} {words.format(tiny=tiny)}")

    return run_of_faces


def test_a_grid_and_a_file_for_each_face(ask, here):
    words = "--attribute Smiling --target 1 --num-samples 5 --out grid.png --individual faces"
    out = good(ask("sample", words))
    assert iio.imread("grid.png").shape == (2 * (2 * SIZE + 2), 2 * (3 * SIZE + 2 * 2), 3), "3 columns"
    names = [f"faces/0000{k}_label_1.png" for k in range(5)]
    assert everything(here) == ["faces", *names, "grid.png"]
    assert iio.imread(names[0]).shape == (SIZE, SIZE, 3)
    assert out.startswith("5 images in grid.png: ") and "Smiling = yes, ddim, 3 steps, seed 0; " in out
    assert "s=5," in out, "the scale of the classifier's card"


def test_every_answer_and_its_label(ask):
    for words, label in {"1": 1, "yes": 1, "Yes": 1, "0": 0, "no": 0, "none": -1, None: 1}.items():
        target = "" if words is None else f"--target {words}"
        good(ask("sample", f"--attribute smiling {target} --num-samples 2 --out x.npz"))
        with np.load("x.npz") as found:
            assert found["labels"].tolist() == [label] * 2
            assert found["images"].shape == (2, 3, SIZE, SIZE)
            assert found["images"].min() >= 0 and found["images"].max() <= 1


def images_of(ask, words):
    good(ask("sample", f"--num-samples 3 --out x.npz {words}"))
    with np.load("x.npz") as found:
        return found["images"]


def test_a_denoiser_that_is_told_attributes_needs_no_classifier(ask):
    told = "--weights {tiny}/told.safetensors"
    plain = images_of(ask, told)
    wish = f"{told} --attribute smiling --guidance-scale 20"
    steered = [images_of(ask, f"{wish} --target {k} --guidance cfg") for k in (0, 1)]
    assert np.abs(steered[0] - steered[1]).max() > 1e-3 < np.abs(steered[1] - plain).max()
    assert np.array_equal(images_of(ask, wish), steered[1]), "cfg is what is meant of such weights"
    assert np.abs(images_of(ask, f"{wish} --guidance classifier") - steered[1]).max() > 1e-3
    out = good(ask("sample", f"{told} --attribute Eyeglasses --guidance classifier --out x.npz"))
    assert "classifier" in out and "Eyeglasses = yes" in out, "the classifier reads more than the denoiser"


def changed(ask, words):
    return report_of(ask("counterfactual", f"--steps 3 --attribute Smiling --json {words}"))


def test_a_folder_gets_everything_and_json_is_one_object(ask, here):
    found = changed(ask, "--index 3 --target 1 --guidance-scale 7 --depth 30 --seed 2 --output-dir results")
    names = ["counterfactual.gif", "counterfactual.npz", "counterfactual.png", "measures.json"]
    assert everything(here / "results") == names
    assert json.loads((here / "results/measures.json").read_text()) == found
    assert (found["index"], found["attribute"], found["target"]) == (3, "Smiling", 1)
    settings = {"method": "ddim", "guidance_scale": 7.0, "depth": 30, "steps": 3, "seed": 2}
    assert settings.items() <= found.items()
    for name, file in {"classifier": "guide", "weights": "denoiser", "evaluator": "judge"}.items():
        assert found[name].endswith(f"{file}.safetensors")
    assert len(found["evaluator_sha256"]) == 64
    assert found["flipped"] == (found["read_after"] >= 0.5)
    moves = [abs(after - before) for before, after in found["others"].values()]
    assert moves == sorted(moves, reverse=True) and {*found["others"]} == {*NAMES} - {"Smiling"}
    with np.load("results/counterfactual.npz") as file:
        image, source = file["images"], file["source"]
    assert abs(found["l1"] - np.abs((image * 255).round() / 255 - source).mean()) < 1e-4
    expected = data.to_unit(data.load("celeba", "test", image_size=SIZE)[3][0]).numpy()
    assert np.abs(expected - source).max() < 1e-6


def test_a_report_for_people(ask):
    out = good(ask("counterfactual", "--steps 3 --attribute smiling --target yes --index 1 --out row.png"))
    assert out.startswith("Smiling to yes: read ") and "s=6, depth 30, 3 steps; " in out
    assert "also changed: " in out and "in row.png" in out
    assert iio.imread("row.png").shape[2] == 3


def test_evaluate_reports_everything_and_can_be_run_again(ask, again, tiny):
    found = report_of(ask("evaluate", f"{MEASURE} --json --guidance-scale 9 --seed 1 --depth 25"))
    assert found["attribute"] == "Smiling"
    assert len(found["weights_sha256"]) == len(found["evaluator_sha256"]) == 64
    assert list(found["drawn"]) == ["unguided", "yes", "no"]
    for asked, one in found["drawn"].items():
        assert one["read_as_yes"]["total"] == 6 == one["fid"]["num_samples"]
        assert one["fid"]["floor"] > 0 and one["fid"]["reference"] == "20 training faces"
        assert one["fid"]["floor_images"] == "the other 4 training faces" and one["diversity"] > 0
        assert one["fid"]["unseen"] > 0
        assert ("no guidance" in one["settings"]) == (asked == "unguided") == ("drift" not in one)
    for asked in ("yes", "no"):
        assert {*found["drawn"][asked]["drift"]} == {*NAMES} - {"Smiling"}
        assert f"s=9, Smiling = {asked}, ddim, 3 steps, seed 1" in found["drawn"][asked]["settings"]
    faces = found["counterfactuals"]
    assert (
        faces["num_faces"] == 5 and {"guidance_scale": 9.0, "depth": 25}.items() <= faces["settings"].items()
    )
    for what in ("guided", "inversion_alone"):
        one = faces[what]
        assert one["flipped"]["total"] == 5 == one["l1"]["total"] and 0 < one["l1"]["value"] < 1
        sides = [one[side] for side in ("to_yes", "to_no") if side in one]
        assert sum(side["flipped"]["right"] for side in sides) == one["flipped"]["right"]
        for side in sides:
            assert {*side["drift"]} == {*NAMES} - {"Smiling"}
    assert again(found["command"]) == found


@pytest.fixture
def copied(tiny, here, ask):
    """Weights whose cards may be written; copied(words) measures the denoiser, or the evaluator."""
    for name in ("denoiser", "judge"):
        tools.copy_weights(tiny / name, here / name)
    mine = "--weights ./denoiser.safetensors", "--evaluator-weights ./judge.safetensors"
    drawn = " ".join((*mine, MEASURE, "--card --json"))
    return lambda words=None: (
        ask("evaluate", drawn) if words is None else ask("evaluate evaluator", f"{mine[1]} {words}")
    )


def test_the_card_gets_the_evaluation_and_keeps_the_rest(copied):
    card = weights.read_card("./denoiser.safetensors")
    metrics = {"loss": 0.5, "evaluations": [{"attribute": "Smiling"}, {"attribute": "Bald"}]}
    weights.write_card("./denoiser.safetensors", card | {"metrics": metrics})
    found = report_of(copied())
    after = weights.read_card("./denoiser.safetensors")
    assert after["metrics"] == {"loss": 0.5, "evaluations": [{"attribute": "Bald"}, found]}
    assert {**after, "metrics": 0} == {**card, "metrics": 0}


def test_the_evaluator_is_measured_and_its_reference_kept(copied, here):
    told = good(copied(""))
    assert "./judge.safetensors on 12 test faces: " in told and "Wearing_Lipstick" in told
    found = report_of(copied("--json"))
    assert not (here / "judge-reference.npz").exists()
    assert found["images"] == "12 test faces" and list(found["by_attribute"]) == NAMES
    test = data.load("celeba", "test", image_size=SIZE)
    model = weights.load_pretrained("./judge.safetensors")[0]
    right = (model.probabilities(test.batch(torch.arange(12))[0]) >= 0.5) == (test.labels == 1)
    assert found["mean_accuracy"] == round(float(right.float().mean()), 5)
    assert found["by_attribute"]["Smiling"]["right"] == int(right[:, SMILING].sum())
    assert found["by_attribute"]["Smiling"]["commonest_answer"] == 0.5
    assert report_of(copied("--card --json")) == found
    assert weights.read_card("./judge.safetensors")["metrics"] == {"test": found}
    assert (here / "judge-reference.npz").exists()


REFUSED = {
    "sample --out out.png": {
        "--attribute Smilng": "Unknown attribute 'Smilng': did you mean Smiling",
        "--attribute Smiling --target 2": "Unknown target '2': choose 1, 0 or none.",
        "--weights {tiny}/told.safetensors --attribute Eyeglasses": "Unknown attribute 'Eyeglasses'",
        "--target 1": "--target 1 needs an --attribute, such as Smiling.",
        "--guidance classifier": "--guidance classifier needs an --attribute, such as Smiling.",
        "--guidance-scale 3": "--guidance-scale needs an --attribute and a --target.",
        "--classifier {tiny}/guide.safetensors": "--classifier needs an --attribute",
        "--attribute Smiling --guidance none --target 1": "asks for nothing: leave out --target.",
        "--num-samples 0": "at least 1, got 0",
        "--labels 3": "--labels is for data sets with classes: of celeba name an --attribute and a --target.",
    },
    "counterfactual --steps 3 --out x.png": {
        "--index 1": "Name an --attribute, such as Smiling.",
        "--attribute Smiling": "Name one face: a picture with --image FILE, or a test face with --index N.",
        "--attribute Smiling --index 12": "--index must be between 0 and 11, got 12.",
        "--attribute Smiling --image wide.png": "it has 640×480 pixels, but an aligned face has 178×218",
        "--attribute Smiling --image text.png": "text.png cannot be used: no picture",
    },
    "counterfactual --steps 3 --out x.png --attribute Smiling --index 1": {
        "--image wide.png": "Name one face",
        "--target none": "Unknown target 'none': choose 1 or 0.",
        "--target-class 3": "--target-class is for data sets with classes",
        "--evaluator-weights {tiny}/guide.safetensors": "are no evaluator",
    },
    f"evaluate {MEASURE}": {
        "--attribute Smilng": "Unknown attribute 'Smilng': did you mean Smiling",
        "--num-counterfactuals 0": "--num-counterfactuals must be at least 1, got 0.",
        "--num-counterfactuals 500": "test faces are read right: ask for fewer --num-counterfactuals.",
        "--guidance none": "No such option: --guidance",
        "--evaluator-weights {tiny}/denoiser.safetensors": "are no evaluator: they cannot judge.",
        "--evaluator-weights {tiny}/few.safetensors": "Unknown attribute 'Smiling'",
        "--evaluator-weights {tiny}/class-judge.safetensors": "reads classes, not attributes.",
        "--evaluator-weights {tiny}/nameless.safetensors": "does not name all attributes",
        "--evaluator-weights {tiny}/small.safetensors": "draws 32 pixels a side but",
    },
    "sweep --steps 3 --num-counterfactuals 5": {
        "--out x.csv --depths 20,40": "The depth must be between 0 and 39, got 40."
    },
}
CASES = {f"{command} {words}": said for command, table in REFUSED.items() for words, said in table.items()}


@pytest.fixture
def ask_in_vain(ask, here, monkeypatch):
    """Nothing may be drawn, and nothing written."""
    (here / "text.png").write_text("no picture")
    iio.imwrite("wide.png", np.zeros((480, 640, 3), dtype=np.uint8))
    for work in ("lessons_lib.cli.common.generate", "lessons_lib.pipeline.counterfactual_images"):
        monkeypatch.setattr(work, lambda *_: pytest.fail("it works"))

    def ask_in_vain(words, said):
        command, _, more = words.partition(" ")
        refused(ask(command, more), said)
        assert everything(here) == ["text.png", "wide.png"]

    return ask_in_vain


@pytest.mark.parametrize("words", CASES)
def test_what_is_wrong_is_one_sentence_before_any_work(ask_in_vain, words):
    data.load("celeba", "test", image_size=SIZE)  # whose decoding would say a line
    ask_in_vain(words, CASES[words])


def test_without_celeba_nothing_is_drawn(ask, ask_in_vain, here, monkeypatch):
    refused(ask("counterfactual", "--attribute Smiling --index 1"), "Say where the result goes")
    monkeypatch.setattr(data, "_data_roots", lambda: [here / "nowhere"])
    refused(ask("evaluate evaluator"), "CelebA")
    for words in (
        f"evaluate {MEASURE}",
        "sweep --steps 3 --num-counterfactuals 5 --out x.csv --depths 20",
        "counterfactual --attribute Smiling --index 1 --steps 3 --out x.png",
    ):
        ask_in_vain(words, "CelebA")


SWEEP = "--steps 3 --num-counterfactuals 4 --scales 0,5 --depths 20,35 --out sweep.csv"


def test_a_row_for_each_depth_and_scale_and_a_picture(ask, again, monkeypatch):
    drawn = tools.noted(monkeypatch, pipeline, "counterfactual_images", lambda request, *how: request)
    out = good(ask("sweep", SWEEP))
    rows = tools.rows_of("sweep.csv")
    assert tuple(rows[0]) == (*Faces.COLUMNS, "command", "weights_sha256")
    asked = [(request.depth, request.guidance_scale) for request in drawn]
    assert asked == [(20, 0.0), (20, 5.0), (35, 0.0), (35, 5.0)]
    assert [(int(row["depth"]), float(row["guidance_scale"])) for row in rows] == asked
    for row in rows:
        assert float(row["flipped_low"]) <= float(row["flipped"]) <= float(row["flipped_high"])
        assert 0 < float(row["l1"]) < 1 and float(row["mean_drift"]) <= abs(float(row["largest_drift"]))
    assert "4 of 4: s=5, depth 35: flipped " in out and iio.imread("sweep.png").ndim == 3
    guided = again(f"{rows[3]['command']} --num-samples 1")["counterfactuals"]["guided"]
    assert [str(guided[name]["value"]) for name in ("l1", "flipped")] == [rows[3]["l1"], rows[3]["flipped"]]
