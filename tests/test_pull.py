"""The pull of a classifier without a browser: the numbers, the colours, the panel."""

import re

import pytest
import torch
from panel_tools import done, text_of

from classroom.panels import GradientOverlay
from classroom.panels.pull import CLASSIFIERS, Pull, overlay, pull_line, pull_on_estimate
from lessons_lib import data, weights
from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.guidance import class_log_prob, unconditional, with_classifier
from lessons_lib.pipeline import GenerationRequest, generate_images, load_model
from lessons_lib.samplers import SampleNoise, timesteps_for
from lessons_lib.schedules import NoiseSchedule, predict_x0, q_sample
from lessons_lib.unet import UNet, UNetConfig

TINY = UNetConfig(
    image_size=8, in_channels=1, base_channels=32, channel_mults=(1,), attention_levels=(), num_classes=10
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Tiny random weights, as keywords of the panel."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    schedule = NoiseSchedule.linear(50)
    weights.save_pretrained(folder / "denoiser.safetensors", UNet(TINY), schedule, {})
    paths = {}
    for name in ("one", "<two>"):
        paths[name] = folder / f"classifier{len(paths)}.safetensors"
        config = NoisyClassifierConfig(image_size=8, widths=(32, 32))
        weights.save_pretrained(paths[name], NoisyClassifier(config), schedule, {})
    reader = Evaluator(EvaluatorConfig(image_size=8, widths=(32, 32)))
    weights.save_pretrained(folder / "evaluator.safetensors", reader, None, {})
    return {
        "classifiers": paths,
        "weights": folder / "denoiser.safetensors",
        "evaluator": folder / "evaluator.safetensors",
        "steps": 6,
    }


# -- numbers and colours ---------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_pull_is_what_guidance_changes_in_the_estimate(names, scale):
    network, schedule, _ = load_model(names["weights"])
    classifier = load_model(names["classifiers"]["one"])[0]
    x_t, t, y = (
        SampleNoise([(0, 0), (0, 1)])(torch.empty(2, 1, 8, 8)),
        torch.tensor([49, 7]),
        torch.tensor([3, 4]),
    )
    eps_fn, log_prob_fn = unconditional(network), class_log_prob(classifier, y)
    with torch.no_grad():
        eps = eps_fn(x_t, t)
        guided = with_classifier(eps_fn, log_prob_fn, schedule, scale)(x_t, t)
    pull = pull_on_estimate(log_prob_fn, schedule, scale, x_t, t)
    signal, noise = schedule.signal_and_noise(t, x_t)
    torch.testing.assert_close(pull * signal / noise, eps - guided, rtol=0, atol=1e-5)
    moved = predict_x0(schedule, x_t, t, guided) - predict_x0(schedule, x_t, t, eps)
    torch.testing.assert_close(pull, moved, rtol=1e-3, atol=1e-3)
    assert (pull.abs().amax() > 1e-4) == (scale > 0)


def test_pull_has_the_factor_of_the_formula():
    """log p = -|x - 1|²/2 has the gradient 1 - x."""
    schedule, t = NoiseSchedule.cosine(100), torch.tensor([30, 70])
    x_t = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    abar = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    pull = pull_on_estimate(lambda x, t: -(x - 1).square().flatten(1).sum(dim=1) / 2, schedule, 2.5, x_t, t)
    torch.testing.assert_close(pull, 2.5 * (1 - abar) / abar.sqrt() * (1 - x_t))


def test_overlay_is_red_where_brighter_and_blue_where_darker():
    x_0 = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3).repeat(2, 1, 2, 1)
    pull = torch.zeros(2, 1, 2, 3)
    pull[0, 0, 0], pull[0, 0, 1] = 0.02, -0.01
    red, green, blue = overlay(x_0, pull)[0]
    assert (red[0] > blue[0]).all() and (red[0] > green[0]).all(), "brighter"
    assert (blue[1] > red[1]).all() and (blue[1] > green[1]).all(), "darker"
    coloured = overlay(x_0, pull)
    assert coloured.shape == (2, 3, 2, 3) and coloured.abs().max() <= 1
    torch.testing.assert_close(red[0], red[0, :1].expand(3)), "the largest pull covers the grey"
    assert (red[0] - blue[0]).min() > (blue[1] - red[1]).max(), "a weaker pull is paler"
    assert torch.equal(coloured[1], x_0[1].expand(3, -1, -1)), "no pull, no colour"


def test_overlay_scales_by_the_largest_pull_of_its_sample():
    x_0, pull = torch.zeros(1, 1, 4, 4), torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(overlay(x_0, pull), overlay(x_0, 1000 * pull))


@pytest.mark.parametrize(
    ("largest", "text"),
    [
        (340.0, "Largest pull: 170, "),
        (1.0, "Largest pull: 0.5, "),
        (0.0, "less than one shade of grey"),
    ],
)
def test_numbers_of_a_step_in_words(largest, text):
    line = pull_line(Pull(7, None, None, torch.tensor([[-largest]]), 0.125), "clean", 3)
    assert line.startswith("t = 7: the clean classifier gives the 3 12.5% here. ") and text in line


# -- the panel -------------------------------------------------------------------------------------


def test_rows_hold_the_guided_drawing_and_each_steps_pull(names):
    panel = done(GradientOverlay(digit=4, guidance_scale=3.0, seed=2, **names))
    assert list(panel.shown) == ["one", "<two>"]
    schedule = NoiseSchedule.linear(50)
    for name, (drawing, pulls) in panel.shown.items():
        asked = GenerationRequest(
            (4,), names["weights"], guidance="classifier", classifier=names["classifiers"][name],
            guidance_scale=3.0, seed=2, sampler="ddim", steps=6, spacing="logsnr",
        )  # fmt: skip
        torch.testing.assert_close(drawing.images, generate_images(asked))
        assert [one.t for one in pulls] == timesteps_for(schedule, 6, "logsnr").tolist()
        for k, one in enumerate(pulls):
            assert torch.equal(one.x_t, drawing.states[k]) and 0 < one.probability < 1
            assert one.pull.shape == one.x_0.shape == (1, 1, 8, 8)
    one, two = panel.shown.values()
    assert torch.equal(one.pulls[0].x_t, two.pulls[0].x_t), "the same noise"
    assert not torch.equal(one.pulls[0].pull, two.pulls[0].pull)


def test_unguided_estimate_and_pull_make_the_samplers_estimate(names):
    for drawing, pulls in done(GradientOverlay(**names)).shown.values():
        network, schedule, _ = load_model(names["weights"])
        for one, estimate in zip(pulls, drawing.estimates, strict=True):
            t = torch.tensor([one.t])
            with torch.no_grad():
                unclipped = predict_x0(schedule, one.x_t, t, network(one.x_t, t))
            torch.testing.assert_close((unclipped + one.pull).clamp(-1, 1), estimate, rtol=0, atol=1e-3)


def test_scrubber_shows_each_step(names):
    panel = done(GradientOverlay(**names))
    assert (panel.scrubber.min, panel.scrubber.max) == (1, 6)
    seen = set()
    for k, one in enumerate(panel.shown["one"].pulls, start=1):
        panel.scrubber.value = k
        assert (
            f"t = {one.t}: the one classifier gives the 3 {one.probability:.1%} here."
            in panel.notes["one"].value
        )
        seen.add(tuple(picture.value for picture in panel.pictures["one"]))
        for picture in (*panel.pictures["one"], *panel.pictures["<two>"]):
            assert re.search(r'alt="[^"]+"', picture.value)
    assert len(seen) == 6
    assert "&lt;two&gt;" in panel.notes["<two>"].value and "<two>" not in panel.notes["<two>"].value


def test_controls_draw_anew_and_keep_the_step(names):
    panel = done(GradientOverlay(**names))
    for control in (panel.digit, panel.guidance_scale, panel.seed, panel.scrubber):
        assert control.description and control.tooltip
    panel.scrubber.value = 5
    before = panel.shown
    panel.digit.value = 8
    after = done(panel).shown
    assert after is not before and panel.scrubber.value == 5 and "gives the 8" in panel.notes["one"].value
    assert "Asked for was 8" in text_of(panel)
    panel.guidance_scale.value = 0
    assert not any(one.pull.any() for one in done(panel).shown["one"].pulls)
    noise = panel.shown["one"].pulls[0].x_t
    panel.seed.value = 77
    assert not torch.equal(done(panel).shown["one"].pulls[0].x_t, noise)


def test_what_is_wrong_is_a_sentence(names, tmp_path):
    with pytest.raises(ValueError, match="At least one classifier"):
        GradientOverlay({})
    panel = done(GradientOverlay(**names | {"classifiers": {"gone": tmp_path / "none.safetensors"}}))
    assert "There are no weights" in text_of(panel) and panel.still() is None
    panel = done(GradientOverlay(**names | {"classifiers": {"reader": names["evaluator"]}}))
    assert "reads clean images only" in text_of(panel)


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_still(names, steps):
    content, alt = done(GradientOverlay(**names | {"steps": steps})).still()
    assert content.startswith(b"\x89PNG") and "The pull towards 3" in alt and "rows: one, <two>" in alt
    assert alt.count("t = ") == min(steps, 4)


def test_shipped_noise_aware_pull_is_a_stroke_and_the_clean_ones_is_speckle():
    """How alike neighbouring pixels are pulled, for ten noises: measured 0.93 … 0.96 and 0.56 … 0.74."""
    seven, t = data.running_example().expand(10, -1, -1, -1), torch.full((10,), 757)
    alike = {}
    for name, source in CLASSIFIERS.items():
        classifier, schedule, _ = load_model(source)
        x_t = q_sample(schedule, seven, t, SampleNoise([(0, k) for k in range(10)])(seven))
        pull = pull_on_estimate(class_log_prob(classifier, torch.full((10,), 3)), schedule, 4.0, x_t, t)
        products = (pull[..., 1:] * pull[..., :-1]).mean(dim=(1, 2, 3))
        alike[name] = products / pull.square().mean(dim=(1, 2, 3))
    assert alike["noise-aware"].min() > 0.85 > alike["clean"].max()


def test_panel_of_the_shipped_classifiers():
    panel = done(GradientOverlay(steps=2))
    assert list(panel.shown) == ["noise-aware", "clean"] and "The evaluator reads" in text_of(panel)
