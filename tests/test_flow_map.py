"""The flow map: before training its teacher's DDIM step, after it the whole path in one jump."""

import dataclasses
import math

import imageio.v3 as iio
import pytest
import torch
from command_tools import copy_weights, good, report_of, rows_of
from numeric import assert_close_by_scale, seeded

from lessons_lib.evaluation import jumps, task
from lessons_lib.evaluation.judge import Judge
from lessons_lib.evaluation.task import Classes
from lessons_lib.flow_map import IMAGE, FlowMap, FlowMapConfig, jump_weights, sample_flow_map
from lessons_lib.guidance import conditional, unconditional, with_cfg
from lessons_lib.pipeline import GenerationRequest, generate, generate_images
from lessons_lib.samplers import SampleNoise, sample_ddim
from lessons_lib.schedules import NoiseSchedule, spaced_timesteps, spaced_timesteps_logsnr
from lessons_lib.toy import GaussianMixture, ToyFlowMap, two_clouds
from lessons_lib.training import Stopped, TrainConfig, train
from lessons_lib.training.distillation import FlowMapLoss
from lessons_lib.unet import UNet, UNetConfig
from lessons_lib.weights import load_pretrained, read_card, write_card

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("one_thread")]

SCHEDULE = NoiseSchedule.linear()
TINY = {"image_size": 8, "channel_mults": (1, 1), "num_classes": 3, "embedding_channels": 16}
X_T = torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
Y = torch.arange(400) % 2


def tiny_teacher() -> UNet:
    teacher = UNet(UNetConfig(**TINY, v_schedule="linear"))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=seeded(parameter.numel())))
    return teacher.double().eval()


def untrained(teacher: UNet) -> FlowMap:
    return FlowMap(FlowMapConfig(**TINY)).double().start_from(teacher).eval()


def filled(value, count=4):
    return torch.full((count,), value)


# -- before training -------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "s"), [(999, 499), (500, 499), (700, IMAGE), (0, IMAGE)])
def test_before_training_a_jump_is_the_teachers_ddim_step(t, s):
    teacher, y = tiny_teacher(), torch.tensor([0, 1, 2, 0])
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=seeded())
    timesteps = torch.tensor([t] if s == IMAGE else [t, s])
    for w in (0.0, 1.0, 5.0):
        eps_fn = conditional(teacher, y) if w else unconditional(teacher)
        expected = next(sample_ddim(eps_fn, SCHEDULE, x, timesteps)).x_t
        found = untrained(teacher)(x, filled(t), filled(s), y, filled(w))
        assert_close_by_scale(found, expected)


def test_steps_are_those_of_ddim_before_training():
    teacher, y = tiny_teacher(), torch.tensor([0, 1, 2, 0])
    x_T = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=seeded())
    timesteps = spaced_timesteps(1000, 4)
    expected = sample_ddim(conditional(teacher, y), SCHEDULE, x_T, timesteps)
    for found, step in zip(
        sample_flow_map(untrained(teacher), x_T, y, 1.0, timesteps), expected, strict=True
    ):
        assert found.t == step.t
        assert_close_by_scale(found.x_t, step.x_t)
        assert_close_by_scale(found.x_0, step.x_0)


def test_a_jump_of_no_length_stays_and_one_to_the_image_keeps_no_noise():
    kept, moved = jump_weights(
        SCHEDULE, torch.tensor([500, 500]), torch.tensor([500, IMAGE]), torch.zeros(2, 3)
    )
    assert kept.tolist() == [[1.0], [0.0]]
    assert moved.tolist() == [[0.0], [1.0]]


def test_the_short_targets_are_the_guided_teachers():
    teacher, y = tiny_teacher(), torch.tensor([0, 1, 2, 0])
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=seeded())
    loss = FlowMapLoss(untrained(teacher), teacher)
    timesteps = torch.tensor([500, 400])
    expected = next(sample_ddim(with_cfg(teacher, y, 3.0), SCHEDULE, x, timesteps)).x_t
    found = loss._teacher_step(x, filled(500), filled(400), y, filled(3.0).double())
    assert_close_by_scale(found, expected)


def test_what_it_refuses():
    flow_map, x = untrained(tiny_teacher()), torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    one = torch.tensor([1])
    for w in (-0.5, 8.5):
        with pytest.raises(ValueError, match="0 … 8"):
            flow_map(x, one, one - 1, one, torch.tensor([w]))
    for timesteps in ([], [3, 3], [1000], [5, -1]):
        with pytest.raises(ValueError, match="999 … 0"):
            next(sample_flow_map(flow_map, x, one, 1.0, torch.tensor(timesteps)))
    with pytest.raises(ValueError, match="num_classes"):
        flow_map.start_from(UNet(dataclasses.replace(UNetConfig(**TINY, v_schedule="linear"), num_classes=2)))
    with pytest.raises(ValueError, match="needs a v_schedule"):
        FlowMapConfig(v_schedule="")
    with pytest.raises(ValueError, match=r"2, 4, 8 … of them, got 5"):
        FlowMapLoss(flow_map, tiny_teacher(), timesteps=spaced_timesteps(1000, 5))


# -- as a request ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_sample_is_the_same_in_any_batch_and_its_steps_are_jumps(tiny, steps):
    asked = {"weights": tiny / "flow-map.safetensors", "steps": steps, "guidance_scale": 3.0}
    plan = GenerationRequest((0, 7, 2), **asked).plan()
    together = list(plan.steps())
    assert [step.t for step in together] == spaced_timesteps(40, steps).tolist()
    for k, label in enumerate((0, 7, 2)):
        *_, alone = generate(GenerationRequest((label,), sample_indices=(k,), **asked))
        assert_close_by_scale(together[-1].x_t[k : k + 1], alone.x_t)
    y, w = torch.tensor((0, 7, 2)), filled(3.0, 3)
    x_T = SampleNoise([(0, k) for k in range(3)])(torch.zeros(3, 1, 28, 28))
    assert torch.equal(plan.x_T, x_T)
    s = together[1].t if steps > 1 else IMAGE
    assert torch.equal(together[0].x_t, plan.network(x_T, filled(39, 3), filled(s, 3), y, w))


def test_a_request_that_it_was_never_told_is_refused(tiny):
    asked = {"labels": (0,), "weights": tiny / "flow-map.safetensors"}
    filled_in = GenerationRequest(**asked).plan().request
    assert (filled_in.steps, filled_in.guidance_scale, filled_in.sampler) == (1, 2.0, None)
    assert filled_in.plan().request == filled_in, "what was filled in is taken again"
    for wrong, words in (
        ({"eta": 0.5}, "adds no noise on its way: eta must be 0"),
        ({"guidance": "classifier-x0"}, "no other, not 'classifier-x0'"),
        ({"attribute": 3}, "told no attributes"),
        ({"labels": (10,)}, "choose from 0 to 9"),
    ):
        with pytest.raises(ValueError, match=words):
            GenerationRequest(**asked | wrong).plan().steps()


def test_commands_take_it_like_any_other_weights(run, tiny, here):
    weights = f"--weights {tiny}/flow-map.safetensors"
    for steps in (1, 4):
        good(run(f"sample mnist --labels 3,5 --steps {steps} --out way.gif {weights}"))
        assert len(iio.imread("way.gif", index=None)) == steps
    measure = f"mnist {weights} --evaluator-weights {tiny}/judge.safetensors --num-samples 12"
    report = report_of(run(f"evaluate {measure} --steps 2 --json"))
    assert report["settings"] == f"{tiny}/flow-map.safetensors, cfg, w=2, 2 steps, seed 0"
    assert "--guidance-scale 2 --steps 2 --num-samples 12" in report["command"]
    good(run(f"sweep {measure} --scales 0,1 --step-counts 1,2 --out sweep.csv"))
    assert [(row["method"], row["sampler"], row["steps"]) for row in rows_of("sweep.csv")] == [
        ("cfg", "", n) for n in "1122"
    ]


def test_its_card_gets_its_own_evaluations_and_what_it_promises(run, tiny, here, monkeypatch):
    monkeypatch.setitem(task.STANDARD, "flow-map", ((2.0, None, 1, 12), (1.0, None, 2, 11)))
    monkeypatch.setattr(jumps, "DIGITS", 20)
    copy_weights(tiny / "flow-map", here / "mine")
    mine = here / "mine.safetensors"
    teacher = {"teacher": {"weights": f"{tiny}/denoiser.safetensors"}}
    write_card(mine, read_card(mine) | {"training": teacher})
    judge = f"--evaluator-weights {tiny}/judge.safetensors"
    good(run(f"evaluate mnist --weights ./mine.safetensors {judge} --card"))
    metrics = read_card(mine)["metrics"]
    commands = [report["command"] for report in metrics["evaluations"]]
    assert all("--sampler" not in command for command in commands)
    assert ["--guidance-scale 2 --steps 1 --num-samples 12" in commands[0], len(commands)] == [True, 2]
    assert 0 < metrics["composition"]["rms"] < metrics["composition"]["percentile_99"]
    for scale in (1, 2):
        found = metrics[f"agreement_at_w_{scale}"]
        assert f"denoiser.safetensors, cfg, w={scale}, ddim, 32 steps, seed 0" in found["with"]
        assert abs(found["correlation"]) < 1 and len(found["diversity_of_both"]) == 2
    assert not Classes(judge=Judge.load("mnist", f"{tiny}/judge.safetensors")).promises(
        GenerationRequest((0,), weights=tiny / "denoiser.safetensors")
    )


def test_the_shipped_flow_map_keeps_what_its_card_promises():
    """On a few digits, whose figures are near the card's of 500; hence the margins."""
    metrics, flow_map = read_card("mnist-flow-map")["metrics"], load_pretrained("mnist-flow-map")[0]
    found, promised = jumps.composition(flow_map, 40), metrics["composition"]
    print(found, promised)
    assert all(found[name] < 1.3 * promised[name] for name in ("rms", "percentile_99"))
    request = GenerationRequest([k % 10 for k in range(20)], "mnist-flow-map", guidance_scale=1.0, steps=1)
    teacher = dataclasses.replace(request, weights="mnist-denoiser-v", sampler="ddim", steps=32)
    centred = [
        x.flatten(1) - x.mean(dim=(1, 2, 3))[:, None] for x in map(generate_images, (request, teacher))
    ]
    correlation, promised = float(torch.cosine_similarity(*centred).mean()), metrics["agreement_at_w_1"]
    print(correlation, promised)
    assert correlation > promised["correlation"] - 0.05
    assert min(report["accuracy"]["value"] for report in metrics["evaluations"]) > 0.97


# -- trained on points -----------------------------------------------------------------------------


class Points:
    """Points of a mixture as training data."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.x_0, self.y = mixture.sample(256 * 100, torch.Generator().manual_seed(2))

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, indices):
        return self.x_0[indices], self.y[indices]


def distilled(mixture: GaussianMixture, steps: int, max_scale: float) -> ToyFlowMap:
    torch.manual_seed(0)
    flow_map = ToyFlowMap(SCHEDULE, 2, len(mixture.means))
    loss = FlowMapLoss(
        flow_map, mixture.teacher(SCHEDULE), timesteps=spaced_timesteps_logsnr(SCHEDULE, 16),
        doubling_steps=steps // 10, max_guidance_scale=max_scale,
    )  # fmt: skip
    config = TrainConfig(
        epochs=steps // 100, batch_size=256, lr=8e-3, warmup_steps=50, ema_sigma_rel=0.05,
        precision="float32", device="cpu",
    )  # fmt: skip
    *_, end = train(flow_map, loss, Points(mixture), config)
    assert isinstance(end, Stopped)
    return end.ema_model


@pytest.fixture(scope="module")
def of_clouds(one_thread) -> ToyFlowMap:
    return distilled(two_clouds(), 1200, max_scale=4.0)


def rms(difference) -> float:
    return float(difference.square().sum(dim=1).mean().sqrt())


def image_of(flow_map, w, timesteps=(999,), y=Y):
    *_, last = sample_flow_map(flow_map, X_T, y, w, torch.tensor(timesteps))
    return last.x_t


def test_one_jump_meets_the_closed_form_of_a_gaussian():
    """The ODE's end point m + (x_T / sqrt(abar_T) - m) s / sqrt(s² + sigma_T²)."""
    gaussian = GaussianMixture(torch.tensor([[0.4, -0.2]]), std=0.3)
    abar = float(SCHEDULE.alphas_cumprod[-1])
    shrink = gaussian.std / math.sqrt(gaussian.std**2 + (1 - abar) / abar)
    expected = gaussian.means + (X_T / math.sqrt(abar) - gaussian.means) * shrink
    flow_map = distilled(gaussian, 500, max_scale=0.0)
    error = rms(image_of(flow_map, 0.0, y=Y * 0) - expected)
    print(f"closed form: {error:.3f}")
    assert error < 0.1  # of points 0.42 from their mean


@pytest.mark.parametrize("w", [1.0, 2.0])
def test_one_jump_meets_a_thousand_ddim_steps(of_clouds, w):
    mixture = two_clouds()

    def guided(x_t, t):
        uncond = mixture.eps_fn(SCHEDULE)(x_t, t)
        return uncond + w * (mixture.eps_fn(SCHEDULE, Y)(x_t, t) - uncond)

    *_, last = sample_ddim(guided, SCHEDULE, X_T, torch.arange(999, -1, -1), clip_x0=False)
    error = rms(image_of(of_clouds, w) - last.x_t)
    print(f"w = {w}: {error:.3f}")
    assert error < 0.08  # of clouds 0.17 wide and 1.3 apart


def test_training_makes_two_jumps_agree_with_one(of_clouds):
    torch.manual_seed(0)
    middle = int(spaced_timesteps_logsnr(SCHEDULE, 16)[8])
    for w in (0.0, 1.0, 2.0):
        before, after = (
            rms(image_of(flow_map, w) - image_of(flow_map, w, (999, middle)))
            for flow_map in (ToyFlowMap(SCHEDULE, 2, 2), of_clouds)
        )
        print(f"w = {w}: {before:.3f} -> {after:.3f}")
        assert after < 0.05 < before


def test_at_scale_zero_the_label_does_not_count(of_clouds):
    assert torch.equal(image_of(of_clouds, 0.0), image_of(of_clouds, 0.0, y=1 - Y))
    assert not torch.allclose(image_of(of_clouds, 0.5), image_of(of_clouds, 0.5, y=1 - Y), atol=0.1)


def test_a_learner_is_taught_and_a_teacher_is_not():
    teacher = tiny_teacher().float().requires_grad_(False)
    flow_map = untrained(teacher.double()).float().train()
    teacher.float()
    loss = FlowMapLoss(flow_map, teacher, doubling_steps=1)
    x_0, y = torch.rand(64, 1, 8, 8, generator=seeded()) * 2 - 1, torch.arange(64) % 3
    for _ in range(4):
        loss(flow_map, x_0, y, seeded()).backward()
    assert int(loss.updates) == 4
    assert all(parameter.grad is None for parameter in loss.parameters())
    assert float(flow_map.jump_mlp[2].weight.grad.abs().max()) > 0
    assert torch.equal(loss(flow_map.eval(), x_0, y, seeded(1)), loss(flow_map.eval(), x_0, y, seeded(1)))
