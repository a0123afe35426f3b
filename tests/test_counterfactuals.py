"""counterfactuals.py: abduction gives the image back; another label moves it, and keeps its noise."""

import dataclasses
import itertools

import pytest
import torch
from command_tools import save, tiny_reader, tiny_unet
from numeric import assert_close_by_scale, seeded
from test_oracles import final

from lessons_lib import counterfactuals as cf
from lessons_lib.guidance import with_cfg
from lessons_lib.pipeline import CounterfactualRequest, counterfactual_images, counterfactuals, load_model
from lessons_lib.samplers import SampleNoise, ddim_invert, sample_ddim
from lessons_lib.schedules import NoiseSchedule, spaced_timesteps
from lessons_lib.toy import GaussianMixture
from lessons_lib.weights import WeightsError

pytestmark = pytest.mark.numeric

SCHEDULE = NoiseSchedule.linear()
CLOUDS = GaussianMixture(torch.tensor([[-0.6, -0.3], [0.6, 0.3]], dtype=torch.float64), std=0.12)
SOURCE = torch.zeros(8, dtype=torch.int64)
TARGET = 1 - SOURCE


def cloud(y):
    return CLOUDS.eps_fn(SCHEDULE, y)


def points():
    noise = torch.randn(8, 2, dtype=torch.float64, generator=seeded())
    return CLOUDS.means[0] + CLOUDS.std * noise


def noise(batch=8):
    return SampleNoise([(7, k) for k in range(batch)])


def moved(method, ts, target, targets_each=1, k=slice(8)):
    """Abduction told the source, prediction told the target, of the points k."""
    if isinstance(ts, int):
        ts = spaced_timesteps(1000, ts)
    seeds = SampleNoise([(7, i) for i in range(8)[k]])
    found = cf.abduct(method, cloud(SOURCE[k]), SCHEDULE, points()[k], ts, seeds, clip_x0=False)
    return final(cf.predict(cloud(target), SCHEDULE, found.repeated(targets_each), clip_x0=False))


def errors(target, expected):
    return [float((moved("ddim", steps, target) - expected).abs().max()) for steps in (20, 40, 80, 160, 320)]


def test_a_counterfactual_is_the_same_point_of_the_other_cloud():
    """Of equal widths: x - m_a + m_b, exact for infinitely many steps, and first order before."""
    found = errors(TARGET, points() - CLOUDS.means[0] + CLOUDS.means[1])
    assert all(after < 0.7 * before for before, after in itertools.pairwise(found)), found
    assert found[-1] < 0.02


def test_inversion_undoes_the_samplers_step_and_asks_where_it_moves_to():
    """With an eps that does not depend on x there is nothing left to err: the same list, reversed."""

    def fixed(x_t, t):
        return torch.full_like(x_t, 0.3) * (1 + t.view(-1, 1) / 1000)

    ts = torch.tensor([700, 333, 20])
    steps = list(ddim_invert(fixed, SCHEDULE, points(), ts))
    assert [step.t for step in steps] == [20, 333, 700]
    back = final(sample_ddim(fixed, SCHEDULE, steps[-1].x_t, ts, clip_x0=False))
    torch.testing.assert_close(back, points(), rtol=0, atol=1e-12)
    asked = []

    def eps_fn(x_t, t):
        asked.append((t.tolist(), torch.is_grad_enabled()))
        return 0.1 * x_t

    for step in ddim_invert(eps_fn, SCHEDULE, points()[:2].requires_grad_(), torch.tensor([500, 9])):
        assert torch.is_grad_enabled() and not step.x_t.requires_grad
    assert asked == [([9, 9], False), ([500, 500], False)]
    assert step.x_t.dtype == torch.float64
    with pytest.raises(ValueError, match="timesteps must"):
        next(ddim_invert(eps_fn, SCHEDULE, points(), torch.tensor([3, 5])))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("ts", [[999, 700, 300, 20], [400, 100], [60]])
def test_edit_friendly_inversion_gives_the_input_back(ts, clip):
    def wrong(x_t, t):  # exactness owes nothing to a good network
        return torch.sin(3 * x_t) + t.view(-1, 1) / 1000

    abducted = cf.abduct_ddpm(wrong, SCHEDULE, points(), torch.tensor(ts), noise(), clip_x0=clip)
    assert abducted.noises.shape == (len(ts), 8, 2)
    steps = list(cf.predict(wrong, SCHEDULE, abducted, clip_x0=clip))
    assert [step.t for step in steps] == ts
    torch.testing.assert_close(steps[-1].x_t, points(), rtol=0, atol=1e-10)


def test_what_each_method_keeps():
    """How far the result is from the same point of the other cloud: little if the noise was abducted."""
    same = points() - CLOUDS.means[0] + CLOUDS.means[1]
    far = {method: float((moved(method, 100, TARGET) - same).norm(dim=1).mean()) for method in cf.METHODS}
    assert far["ddim"] < 0.05 and far["ddpm"] < 1e-4, far
    assert far["sdedit"] > 0.1 and far["same-noise"] > 0.1, far


def test_depth_leaves_out_what_lies_above_and_keeps_more_of_the_image():
    ts = spaced_timesteps(1000, 25)
    assert cf.to_depth(ts, 999).tolist() == ts.tolist()
    assert cf.to_depth(ts, 119).tolist() == [119, 79, 39]
    assert cf.to_depth(ts, 118).tolist() == [79, 39]
    ways = [cf.to_depth(ts, depth) for depth in (999, 500, 250, 100)]
    far = [float((moved("ddim", way, TARGET) - points()).abs().mean()) for way in ways]
    assert far == sorted(far, reverse=True) and far[-1] < 0.8 * far[0]


def test_a_row_of_the_grid_shares_its_noise():
    x_T = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    asked = []

    def guide(y):
        asked.append(y.tolist())
        return cloud(y)

    ts = spaced_timesteps(1000, 100)
    grid = cf.same_noise_grid(guide, SCHEDULE, x_T, 2, ts)
    assert grid.shape == (3, 2, 2) and asked == [[0, 1] * 3], "one batch"
    # Clouds of one width: the same noise lands on the same point of each.
    residuals = grid - CLOUDS.means
    torch.testing.assert_close(residuals[:, 0], residuals[:, 1], rtol=0, atol=0.01)
    alone = cf.same_noise_grid(guide, SCHEDULE, x_T[1:2], 2, ts)
    torch.testing.assert_close(alone[0], grid[1], rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with an untrained denoiser of 8×8 images and 3 classes, and a classifier."""
    folder, defaults = tmp_path_factory.mktemp("tiny"), {"guidance_scale": 3.0, "sampler": "ddpm", "steps": 4}
    save(folder / "denoiser.safetensors", tiny_unet(num_classes=3), NoiseSchedule.linear(100), **defaults)
    save(folder / "classifier.safetensors", tiny_reader(), NoiseSchedule.linear(100))
    return folder


def request(tiny, sources=(0, 1), targets=(1, 2), **options):
    options = {"weights": tiny / "denoiser.safetensors", "steps": 4} | options
    return CounterfactualRequest(sources, targets, **options)


def images(count=2):
    return torch.rand(count, 1, 8, 8, generator=seeded()) * 2 - 1


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("method", cf.METHODS)
def test_a_request_is_the_library_by_hand(tiny, method):
    asked = request(tiny, method=method, guidance_scale=2.0, seed=5)
    steps = list(counterfactuals(asked, images()))
    model, schedule, _ = load_model(tiny / "denoiser.safetensors")
    ts = spaced_timesteps(100, 4)
    assert [step.t for step in steps] == ts.tolist()
    own, other = with_cfg(model, torch.tensor([0, 1]), 1.0), with_cfg(model, torch.tensor([1, 2]), 2.0)
    seeds = SampleNoise([(5, 0), (5, 1)])
    found = cf.abduct(method, own, schedule, cf.in_8_bits(images()), ts, seeds)
    assert_close_by_scale(steps[-1].x_t, final(cf.predict(other, schedule, found)))


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("method", cf.METHODS)
def test_batches_do_not_change_the_result(tiny, method):
    asked = request(tiny, (0, 1, 2), (1, 2, 0, 2, 0, 1), method=method)
    whole = counterfactual_images(asked, images(3))
    assert whole.shape == (6, 1, 8, 8) and whole.abs().max() <= 1
    for size in (1, 2):
        assert_close_by_scale(counterfactual_images(asked, images(3), size), whole)


def test_interventions_start_from_8_bits_and_defaults_are_the_cards(tiny):
    asked = request(tiny)
    hidden = images() + 1e-4 * torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    same = cf.in_8_bits(hidden) == cf.in_8_bits(images())
    hidden = torch.where(same, hidden, images())  # a message below the pixels
    a, b = (counterfactual_images(asked, x) for x in (hidden, images()))
    assert torch.equal(a, b)
    filled = request(tiny).plan().request
    assert (filled.guidance_scale, filled.depth, filled.steps) == (3.0, 99, 4)
    assert filled.plan().request == filled
    assert request(tiny, method="same-noise").plan().request.depth is None
    assert dataclasses.replace(request(tiny), seed=3).targets_each == 1


REFUSED_AT_ONCE = [
    ({"method": "magic"}, "Unknown method 'magic'"),
    ({"guidance": "classifier-x0"}, "Unknown guidance 'classifier-x0': choose one of cfg, classifier."),
    ({"sources": ()}, "At least one label is needed."),
    ({"targets": ()}, "At least one label is needed."),
    ({"targets": (1, "x")}, "Labels must be whole numbers"),
    ({"targets": (1, 2, 0)}, "There are 3 targets for 2 sources: as many for each are needed."),
    ({"sample_indices": (1,)}, "There are 1 sample indices for 2 sources."),
    ({"depth": -1}, "The depth must be at least 0, got -1."),
    ({"depth": 0.5}, "The depth must be a whole number, got 0.5."),
    ({"depth": 5, "method": "same-noise"}, "takes no depth"),
    ({"guidance_scale": float("nan")}, "must be a finite number"),
    ({"guidance": "classifier", "guidance_scale": -1.0}, "must be at least 0"),
    ({"classifier": "x"}, "asks no classifier"),
    ({"steps": 0}, "at least 1, got 0"),
    ({"precision": "fp4"}, "Unknown precision"),
]
REFUSED_BY_THE_WEIGHTS = [
    ({"targets": (3, 0)}, "Unknown label 3: choose from 0 to 2."),
    ({"sources": (0, 3)}, "Unknown label 3: choose from 0 to 2."),
    ({"depth": 100}, "The depth must be between 0 and 99, got 100."),
    ({"depth": 3}, "No timestep is left at depth 3"),
    ({"steps": 101}, "between 1 and 100 (T), got 101"),
]


def refused(error, words, ask, *given):
    with pytest.raises(error) as caught:
        ask(*given)
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_what_cannot_be_is_one_sentence_beforehand(tiny):
    for wrong, words in REFUSED_AT_ONCE:
        refused(ValueError, words, lambda wrong: request(tiny, **wrong), wrong)
    for wrong, words in REFUSED_BY_THE_WEIGHTS:
        asked = request(tiny, **wrong)
        refused(ValueError, words, asked.plan)
        refused(ValueError, words, next, counterfactuals(asked, images()))
    one = next, counterfactuals(request(tiny), images(1))
    refused(ValueError, "must have shape [2, 1, 8, 8], got [1, 1, 8, 8]", *one)
    refused(ValueError, "1 images for 2 sources", counterfactual_images, request(tiny), images(1))
    refused(ValueError, "batch size must be at least 1", counterfactual_images, request(tiny), images(), 0)
    refused(WeightsError, "are no denoiser", request(tiny, weights=tiny / "classifier.safetensors").plan)
