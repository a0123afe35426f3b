"""The meter of counterfactuals without a browser: numbers, the way back, null interventions, the plane."""

import re
import threading

import imageio.v3 as iio
import pytest
import torch
from panel_tools import done, text_of

from classroom.panels import InterventionMeter
from classroom.panels.measured import NAMES, Setting, batch_of, row_html, side_for, with_targets
from classroom.panels.plane import Dot, plane_svg, plane_text
from lessons_lib import weights as store
from lessons_lib.classifier import Evaluator, EvaluatorConfig
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation import Share, composition, effectiveness, proximity, reversibility
from lessons_lib.pipeline import CounterfactualRequest, counterfactual_images
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet, UNetConfig
from lessons_lib.weights import load_pretrained

pytestmark = pytest.mark.usefixtures("one_thread")

T, STEPS, COUNT = 50, 5, 3


def save(network, path, schedule, seed):
    """Write random weights; layers that start at zero would make every picture the same."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.3)
    store.save_pretrained(path, network, schedule, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    denoiser = UNet(UNetConfig(8, 1, 32, channel_mults=(1,), attention_levels=(), num_classes=10))
    save(denoiser, folder / "denoiser.safetensors", NoiseSchedule.linear(T), 1)
    evaluator = Evaluator(EvaluatorConfig(image_size=8, widths=(32, 32)))
    save(evaluator, folder / "evaluator.safetensors", None, 4)
    return folder


@pytest.fixture(scope="module")
def batch():
    x = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return x, [7, 0, 4], [3, 5, 9]


@pytest.fixture
def make(folder, batch):
    def make(*chosen, **options):
        places = {"weights": folder / "denoiser.safetensors", "evaluator": folder / "evaluator.safetensors"}
        return done(InterventionMeter(*(chosen or batch), **places | {"steps": STEPS} | options))

    return make


def drawn(folder, batch, method="ddim", scale=3.0, depth=49):
    """What the library draws with these settings."""
    labels, place = map(tuple, batch[1:]), folder / "denoiser.safetensors"
    request = CounterfactualRequest(*labels, place, method, guidance_scale=scale, depth=depth, steps=STEPS)
    return in_8_bits(counterfactual_images(request, batch[0]))


def darker(x, source, target):
    """An intervention of a learner: every pixel a little darker, whatever is asked for."""
    return (x - 0.1).clamp(-1, 1)


def is_in_8_bits(x):
    return torch.equal(x, in_8_bits(x))


# -- the first state -------------------------------------------------------------------------------


def test_first_state_is_what_the_library_measures(make, folder, batch):
    panel, images = make(), drawn(folder, batch)
    evaluator, (x, _, target) = load_pretrained(folder / "evaluator.safetensors")[0], batch
    assert torch.equal(panel.found.there.images, images)
    share = effectiveness(evaluator, images, torch.tensor(target))
    l1 = proximity(evaluator, in_8_bits(x), images).l1
    assert panel.found.there.share.successes == share.successes and panel.found.there.l1 == pytest.approx(l1)
    low, high = share.interval
    assert f"{share.successes} of 3 flipped (95% interval {low:.0%} to {high:.0%})" in text_of(panel)
    assert f"mean L1 {l1:.3f}" in text_of(panel) and text_of(panel).startswith(
        "DDIM inversion, w = 3, t₀ = 49:"
    )
    assert f"{share.successes} of 3" in panel.meters.value and f"{l1:.3f}" in panel.meters.value
    assert [dot.setting for dot in panel.dots] == [Setting("ddim", 3.0, 49)]


def test_rows_say_what_is_asked_and_what_is_read(make):
    panel = make()
    there = panel.found.there
    assert re.findall(r"\d→\d(?=</div>)", panel.rows["source"].value) == ["7→3", "0→5", "4→9"]
    shown = panel.rows["counterfactual"].value
    assert [int(y) for y in re.findall(r"read (\d)</div>", shown)] == list(there.labels)
    assert shown.count("box-shadow") == sum(a != b for a, b in zip(there.labels, (3, 5, 9), strict=True))
    assert f'alt="counterfactual 7→3: read {there.labels[0]}"' in shown
    assert panel.rows["difference"].value.count("<img") == 3
    for key in ("again", "again difference"):
        assert "<img" not in panel.rows[key].value and panel.rows[key].value.count("dashed") == 3


def test_every_control_has_a_description_and_waits_for_the_hand(make):
    panel = make()
    for each in (panel.method, panel.guidance_scale, panel.depth):
        assert each.description and each.tooltip and getattr(each, "continuous_update", False) is False
    for button in (panel.there_and_back, panel.nothing, panel.clear):
        assert button.description and button.tooltip
    assert panel.depth.options == (9, 19, 29, 39, 49) and panel.depth.value == 49
    assert [name for name, _ in panel.method.options] == [*NAMES.values()][:4], "no method of one's own"


def test_a_network_in_hand_draws_the_same(make, folder):
    model = load_pretrained(folder / "denoiser.safetensors")[:2]
    for method in ("ddim", "ddpm", "sdedit", "same-noise"):
        mine, theirs = (make(method=method, **given) for given in ({"model": model}, {}))
        assert torch.equal(mine.found.there.images, theirs.found.there.images)


def test_digits_and_targets_by_chance():
    x, source, target = batch_of(None, None, None, 8, seed=0)
    assert x.shape == (8, 1, 28, 28) and is_in_8_bits(x) and source.shape == target.shape == (8,)
    assert (source != target).all() and set(target.tolist()) <= set(range(10))
    assert not torch.equal(batch_of(None, None, None, 8, seed=1)[0], x)
    assert set(with_targets(torch.full((500,), 4), 0).tolist()) == {0, 1, 2, 3, 5, 6, 7, 8, 9}


# -- sliders ---------------------------------------------------------------------------------------


def test_sliders_change_the_numbers(make, folder, batch):
    panel = make()
    panel.guidance_scale.value = 1.5
    assert torch.equal(done(panel).found.there.images, drawn(folder, batch, scale=1.5))
    panel.depth.value = 19
    assert torch.equal(done(panel).found.there.images, drawn(folder, batch, scale=1.5, depth=19))
    panel.method.value = "sdedit"
    images = drawn(folder, batch, "sdedit", 1.5, 19)
    assert torch.equal(done(panel).found.there.images, images) and "SDEdit, w = 1.5, t₀ = 19" in text_of(
        panel
    )
    l1 = float((images - in_8_bits(batch[0])).abs().mean()) / 2
    assert panel.dots[-1].l1 == pytest.approx(l1) and f"{l1:.3f}" in panel.meters.value


def test_same_noise_takes_no_depth(make, folder, batch):
    panel = make(method="same-noise")
    assert panel.depth.disabled and not panel.guidance_scale.disabled
    before = panel.found.there
    panel.depth.value = 9
    assert done(panel).found.there is before and "t₀" not in text_of(panel) and len(panel.dots) == 1
    assert torch.equal(before.images, drawn(folder, batch, "same-noise", depth=None))
    panel.method.value = "ddim"
    assert done(panel).setting() == Setting("ddim", 3.0, 9) and not panel.depth.disabled


def test_where_the_sliders_start(make):
    panel = make(depth=33, guidance_scale=12.0)
    assert panel.depth.value == 29, "the timestep that is taken"
    assert panel.guidance_scale.value == panel.guidance_scale.max == 12


def test_twenty_quick_moves_end_with_the_last(make, folder, batch):
    panel = make()
    for k in range(20):
        panel.guidance_scale.value = k / 4
    assert torch.equal(done(panel).found.there.images, drawn(folder, batch, scale=4.75))
    assert panel.dots[-1].setting.guidance_scale == 4.75 and len(panel.dots) < 20


def test_what_is_stale_is_not_shown(make):
    entered, free, panel = threading.Event(), threading.Event(), None

    def slow(x, source, target):
        entered.set()
        assert free.wait(60)
        return darker(x, source, target)

    panel = make(intervene_fn=slow, method="ddim")
    panel.method.value = "yours"
    assert entered.wait(60)
    panel.method.value = "sdedit"
    free.set()
    assert [dot.setting.method for dot in done(panel).dots] == ["ddim", "sdedit"]


# -- there and back --------------------------------------------------------------------------------


def test_there_and_back_is_what_the_library_measures(make, folder, batch):
    panel = make()
    panel.there_and_back.click()
    done(panel)
    intervene = library_intervention(folder)
    evaluator, (x, source, target) = load_pretrained(folder / "evaluator.safetensors")[0], batch
    expected = reversibility(intervene, evaluator, x, torch.tensor(source), torch.tensor(target))
    back, share = panel.found.back, expected.read_as_source
    assert back.share.successes == share.successes and back.l1 == pytest.approx(expected.error)
    line = f"{share.successes} of 3 read as the source again, off by {expected.error:.3f}."
    assert panel.back_words.value == line
    assert "back again" in panel.rows["again"].value and panel.rows["again"].value.count("<img") == 3
    assert panel.rows["again difference"].value.count("<img") == 3


def library_intervention(folder, scale=3.0):
    def intervene(x, source, target):
        labels, place = (tuple(source.tolist()), tuple(target.tolist())), folder / "denoiser.safetensors"
        return counterfactual_images(
            CounterfactualRequest(*labels, place, guidance_scale=scale, depth=49, steps=STEPS), x
        )

    return intervene


def test_the_way_back_has_8_bit_pixels_only(make, batch):
    asked = []

    def hiding(x, source, target):
        """Hides the sources in the last decimals, and in an attribute."""
        asked.append((x, source.tolist(), target.tolist()))
        out = darker(x, source, target) + 1e-4
        out.source = x
        return out

    panel = make(intervene_fn=hiding)
    panel.there_and_back.click()
    done(panel)
    (first, *labels), (second, *turned) = asked
    assert labels == [batch[1], batch[2]] and turned == labels[::-1]
    assert is_in_8_bits(first) and is_in_8_bits(second) and not hasattr(second, "source")
    assert torch.equal(second, panel.found.there.images) and second is not panel.found.there.images


def test_the_way_back_waits_for_the_way_there(make, folder, batch):
    panel = make()
    panel.guidance_scale.value = 2.0
    panel.there_and_back.click()  # at once: this takes the place of what the slider has asked for
    done(panel)
    assert torch.equal(panel.found.there.images, drawn(folder, batch, scale=2.0))
    assert "again, off by" in panel.back_words.value and panel.dots[-1].setting.guidance_scale == 2.0


# -- null interventions ----------------------------------------------------------------------------


def test_null_interventions_add_up_and_are_decoded_at_1(make, folder, batch):
    panel = make(guidance_scale=5.0)
    x, source = batch[0], torch.tensor(batch[1])
    expected = composition(library_intervention(folder, 1.0), x, source, (1, 2, 4))
    for n in (1, 2):
        panel.nothing.click()
        count = f"{n} null intervention{'s' if n > 1 else ''}"
        assert done(panel).null_words.value == f"After {count}: off by {expected[n]:.3f}."
    panel.nothing.click()
    panel.nothing.click()  # quicker than the first is done
    assert done(panel).null_words.value == f"After 4 null interventions: off by {expected[4]:.3f}."
    assert "after 4 nulls" in panel.rows["again"].value and len(panel.dots) == 1


def test_a_moved_slider_starts_again(make):
    panel = make()
    panel.nothing.click()
    panel.there_and_back.click()
    assert "After 1" in done(panel).null_words.value and "back again" in panel.rows["again"].value
    panel.depth.value = 39
    assert done(panel).null_words.value.startswith("Make each") and panel.found.nulls == []
    assert panel.back_words.value.startswith("Each counterfactual") and panel.found.back is None
    assert "<img" not in panel.rows["again"].value
    panel.nothing.click()
    assert "After 1 null intervention:" in done(panel).null_words.value


def test_both_buttons_at_once(make):
    panel = make()
    panel.nothing.click()
    panel.nothing.click()
    panel.there_and_back.click()
    done(panel)
    assert "After 2" in panel.null_words.value and "again, off by" in panel.back_words.value
    assert "back again" in panel.rows["again"].value, "the images of the button pressed last"


# -- the plane -------------------------------------------------------------------------------------


def test_dots_stay_and_are_cleared(make):
    panel = make()
    for scale in (0.0, 1.0, 2.0, 3.0):
        panel.guidance_scale.value = scale
        done(panel)
    assert [dot.setting.guidance_scale for dot in panel.dots] == [0, 1, 2, 3], "3 again: no second dot"
    svg = panel.plane.value
    assert svg.count("<g ") == 4 and svg.count("<circle") == 1 and svg.count("<polyline") == 1
    assert "4 settings tried, the newest first: DDIM inversion, w = 3, t₀ = 49:" in svg
    panel.clear.click()
    assert len(panel.dots) == 1 and panel.plane.value.count("<g ") == 1, "where one stands now"
    panel.method.value = "same-noise"
    assert done(panel).plane.value.count("<g ") == 2 and "same noise" in panel.plane.value


def test_plane_places_the_best_at_the_upper_left():
    def place(successes, l1):
        svg = plane_svg([Dot(Setting("ddim", 1.0, 9), Share(successes, 8), l1)])
        return tuple(map(float, re.search(r"<g transform=.translate\((\S+) (\S+)\)", svg).groups()))

    (x, y), (far, _), (_, low) = place(8, 0.05), place(8, 0.1), place(2, 0.05)
    assert far > x and low > y
    assert place(8, 0.35)[0] < 250, "a long way makes the axis longer"
    dots = [Dot(Setting("ddpm", k / 4, 9), Share(k % 8, 8), 0.1) for k in range(9)]
    assert "9 settings" in plane_text(dots) and "And 3 more." in plane_text(dots)
    assert plane_text(dots).index("w = 2,") < plane_text(dots).index("w = 1.75,")
    assert 'role="img" aria-label="The share flipped' in plane_svg([]) and "0 settings tried." in plane_svg(
        []
    )


# -- the learner's own -----------------------------------------------------------------------------


def test_own_intervention_is_used(make, batch):
    panel = make(intervene_fn=darker)
    assert panel.method.value == "yours" and panel.guidance_scale.disabled and panel.depth.disabled
    assert torch.equal(panel.found.there.images, in_8_bits(darker(in_8_bits(batch[0]), None, None)))
    assert text_of(panel).startswith("yours: ") and panel.dots[0].setting == Setting("yours", None, None)
    panel.nothing.click()
    panel.nothing.click()
    assert "After 2" in done(panel).null_words.value and panel.found.nulls[1].l1 > panel.found.nulls[0].l1
    panel.method.value = "ddim"
    assert done(panel).dots[-1].setting == Setting("ddim", 3.0, 49)


def crashing(x, source, target):
    return x + nowhere  # noqa: F821


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (crashing, ["Your intervention stopped in line", "return x + nowhere", "NameError"]),
        (lambda x, source, target: None, ["returned NoneType", "images of shape [3, 1, 8, 8]"]),
        (lambda x, source, target: x[:1], ["must keep the shape [3, 1, 8, 8]", "[1, 1, 8, 8]"]),
        (lambda x, source, target: x / 0, ["not finite"]),
        (lambda x: x, ["Your intervention stopped", "TypeError"]),
    ],
)
def test_a_broken_intervention_is_told(make, broken, words):
    panel = make(intervene_fn=broken)
    assert all(word in panel.status.value for word in words) and 'role="alert"' in panel.status.value
    assert panel.found is None and panel.still() is None
    assert panel.rows["source"].value.count("<img") == 3, "the sources are there all the same"
    panel.method.value = "ddim"
    assert 'role="status"' in done(panel).status.value and len(panel.dots) == 1


def test_a_failing_way_back_leaves_the_other_button(make, batch):
    def one_way(x, source, target):
        if source.tolist() == batch[2]:
            raise RuntimeError("no way back")
        return darker(x, source, target)

    panel = make(intervene_fn=one_way)
    panel.there_and_back.click()
    assert "no way back" in done(panel).status.value
    panel.nothing.click()
    assert "After 1" in done(panel).null_words.value and 'role="status"' in panel.status.value


def test_own_intervention_cannot_reach_the_originals(make, batch):
    def in_place(x, source, target):
        return x.zero_()

    assert torch.equal(make(intervene_fn=in_place).images, in_8_bits(batch[0]))


# -- errors, still ---------------------------------------------------------------------------------


def test_missing_evaluator_still_draws(make, tmp_path):
    for evaluator in (None, tmp_path / "none.safetensors"):
        panel = make(evaluator=evaluator)
        assert "There is no evaluator" in text_of(panel) and "flipped" not in text_of(panel)
        assert panel.dots == [] and "not read" in panel.meters.value
        assert "box-shadow" not in panel.rows["counterfactual"].value
        panel.there_and_back.click()
        assert re.search(r"off by 0\.\d+; there is no evaluator", done(panel).back_words.value)
        assert "7→3" in panel.still()[1]


def test_missing_weights_are_told(make, tmp_path):
    panel = make(weights=tmp_path / "none.safetensors")
    assert text_of(panel).startswith("There are no weights") and panel.still() is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sources": None}, "give sources"),
        ({"sources": [1]}, "one label an image"),
        ({"targets": [1, 2]}, "one label an image"),
        ({"images": torch.zeros(17, 1, 8, 8)}, "1 to 16 images, got 17"),
        ({"images": None, "num_images": 0}, "1 to 16 images, got 0"),
        ({"method": "yours"}, "Unknown method 'yours': choose one of ddim"),
        ({"depth": 70}, "between 0 and 49, got 70"),
    ],
)
def test_what_cannot_be_measured(folder, batch, changed, message):
    given = dict(zip(("images", "sources", "targets"), batch, strict=True))
    given |= {"weights": folder / "denoiser.safetensors", "steps": STEPS}
    with pytest.raises(ValueError, match=message):
        InterventionMeter(**given | changed)


def test_a_row_fits_the_panel():
    assert (side_for(1), side_for(5), side_for(8), side_for(16)) == (84, 84, 56, 28)
    html = row_html("name", torch.zeros(2, 1, 8, 8), 56, ["a", "b"], below=["x", "y"], right=[True, False])
    assert html.count("box-shadow") == 1 and "font-weight: bold" in html


def test_still_says_what_is_seen(make):
    panel = make()
    height = iio.imread(panel.still()[0], extension=".png").shape[0]
    panel.there_and_back.click()
    panel.nothing.click()
    picture, alt = done(panel).still()
    assert iio.imread(picture, extension=".png").shape[0] > height
    assert alt.startswith("DDIM inversion, w = 3, t₀ = 49: ") and "of 3 flipped" in alt
    assert f"7→3 read {panel.found.there.labels[0]}" in alt
    assert panel.back_words.value in alt and panel.null_words.value in alt
    data, metadata = panel._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == alt == data["text/plain"]


def test_nothing_is_printed(make, capfd):
    panel = make()
    panel.guidance_scale.value = 1
    panel.there_and_back.click()
    done(panel)
    assert capfd.readouterr() == ("", "")
