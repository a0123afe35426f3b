"""training/: the loop, and that nothing is lost or changed when it is killed, interrupted or run again.

Run as a program, this file trains in children that it kills (see the test with SIGKILL).
"""

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from command_tools import Images
from torch import nn

from lessons_lib import data, training
from lessons_lib.files import WriteError
from lessons_lib.schedules import SCHEDULES, NoiseSchedule
from lessons_lib.training import CHECKPOINT, StepDone, TrainConfig, TrainingError, denoising_loss, train
from lessons_lib.training.denoising import LOG_SNR_MEAN, LOG_SNR_STD, UNIFORM_SHARE, logit_normal_density
from lessons_lib.training.devices import seconds_a_step
from lessons_lib.unet import UNet, UNetConfig

SCHEDULE = NoiseSchedule.linear(50)
LOSS = denoising_loss(SCHEDULE, num_classes=3)

pytestmark = pytest.mark.usefixtures("one_thread")


def build(dropout=0.2, **shape):
    torch.manual_seed(0)
    shape = {"channel_mults": (1,), "embedding_channels": 32} | shape
    return UNet(UNetConfig(image_size=8, base_channels=32, num_classes=3, dropout=dropout, **shape))


def config(**changes):
    usual = {"epochs": 2, "batch_size": 8, "warmup_steps": 2, "device": "cpu", "precision": "float32"}
    return TrainConfig(**(usual | changes))


def run(model=None, loss_fn=LOSS, images=None, stop_after=None, **options):
    """Train and collect the events; stop_after walks away after that many steps, without a word."""
    names = ("val_data", "test_data", "resume", "extend", "settings")
    more = {name: options.pop(name) for name in names if name in options}
    events = train(model or build(), loss_fn, images or Images(), config(**options), **more)
    seen = []
    for event in events:
        seen.append(event)
        if isinstance(event, StepDone) and event.step == stop_after:
            events.close()
            break
    return seen


def trained(**options):
    model = build()
    run(model, **options)
    return model.state_dict()


def steps(events, kind=StepDone):
    return [event for event in events if isinstance(event, kind)]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def plain_loss(model, x_0, y, generator):
    """Without any noise: the batch decides it."""
    return F.mse_loss(model(x_0, torch.zeros_like(y), y), x_0)


# -- what happens ---------------------------------------------------------------------------------------
def test_events_come_in_order_and_tell_the_numbers(tmp_path):
    events = run(val_data=Images(5), test_data=Images(4), output_dir=tmp_path)
    assert [type(event).__name__ for event in events] == (["StepDone"] * 3 + ["EpochDone"]) * 2 + ["Stopped"]
    numbers = [(event.step, event.num_steps, event.epoch) for event in steps(events)]
    assert numbers == [(k, 6, 1 + (k > 3)) for k in range(1, 7)]
    assert all(event.images_per_second > 0 and event.seconds_left >= 0 for event in steps(events))
    assert steps(events)[-1].seconds_left == 0 and not events[-1].ema_model.training
    first, second = steps(events, training.EpochDone)
    assert first.train_loss == pytest.approx(sum(event.loss for event in steps(events)[:3]) / 3)
    assert (events[-1].reason, events[-1].step) == ("finished", 6)
    assert json.loads((tmp_path / "losses.json").read_text()) == {
        "epochs": [1, 2],
        "train_loss": [first.train_loss, second.train_loss],
        "val_loss": [first.val_loss, second.val_loss],
        "test_loss": [first.test_loss, second.test_loss],
    }


def test_every_epoch_sees_each_image_at_most_once_in_another_order_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = Images(26)
    assert steps(run(images=images), training.EpochDone)[0].test_loss is None
    first, second = ([image for batch in images.asked[k : k + 3] for image in batch] for k in (0, 3))
    assert len(set(first)) == len(set(second)) == 24 and first != second
    assert os.listdir(tmp_path) == []


@pytest.mark.numeric
def test_it_learns():
    model, images = build(dropout=0.0), Images(8)
    losses = [event.loss for event in steps(run(model, plain_loss, images, epochs=50, lr=3e-3))]
    assert losses[-1] < 0.3 * losses[0]


def test_the_seed_decides_and_neither_the_callers_generator_nor_gradients_that_were_left():
    results = []
    for noise, seed in ((11, 0), (22, 0), (11, 1)):
        model = build()
        if noise == 22:
            model(torch.randn(1, 1, 8, 8), torch.tensor([1])).sum().backward()
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        run(model, seed=seed)
        assert torch.equal(torch.get_rng_state(), before), "no number is drawn from it"
        results.append(model.state_dict())
    assert same(*results[:2]) and not same(*results[1:])


# -- the loss -------------------------------------------------------------------------------------------
class Listener(nn.Module):
    """Notes what it is told, and answers a share of x_t."""

    def __init__(self, share=0.0):
        super().__init__()
        self.share = share

    def forward(self, x_t, t, y=None):
        self.x_t, self.t, self.y = x_t, t, y
        return self.share * x_t


@pytest.mark.parametrize("p_uncond", [0.0, 0.1, 1.0])
def test_labels_are_dropped_in_training_at_the_asked_rate_and_never_outside(p_uncond):
    model, y, x_0 = Listener().train(), torch.arange(20_000) % 10, torch.zeros(20_000, 1, 1, 1)
    loss_fn = denoising_loss(SCHEDULE, p_uncond, num_classes=10)
    loss_fn(model, x_0, y, torch.Generator().manual_seed(0))
    assert (model.y == 10).float().mean().item() == pytest.approx(p_uncond, abs=0.01)
    assert torch.equal(model.y[model.y != 10], y[model.y != 10])
    loss_fn(model.eval(), x_0, y, torch.Generator())
    assert torch.equal(model.y, y)
    denoising_loss(SCHEDULE)(model, x_0, y, torch.Generator())
    assert model.y is None, "without classes no label is passed"


@pytest.mark.numeric
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("loss, more", [("mse", 0), ("v-mse", 1)])
def test_each_loss_is_the_error_of_x_0_with_its_weight(loss, more, schedule):
    schedule, model = NoiseSchedule.by_name(schedule, 100), Listener(0.5).train()
    x_0 = 0.5 * torch.randn(256, 3, 4, 5, generator=torch.Generator().manual_seed(7))
    found = denoising_loss(schedule, loss=loss)(model, x_0, None, torch.Generator().manual_seed(0))
    signal, noise = schedule.signal_and_noise(model.t, x_0.double())
    estimate = (1 - 0.5 * noise) * model.x_t.double() / signal
    snr = schedule.snr[model.t]
    expected = ((snr + more) * ((estimate - x_0) ** 2).mean(dim=(1, 2, 3))).mean()
    assert (snr < 1).any() and (snr > 5).any()
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.numeric
def test_every_timestep_is_drawn_and_noised_as_it_says():
    model, x_0 = Listener(), torch.full((5000, 1, 4, 4), 0.7)
    loss = denoising_loss(SCHEDULE)(model, x_0, None, torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(1, rel=0.02), "it says 0: the noise's variance is left"
    assert model.t.unique().tolist() == list(range(50))
    abar, noisiest = SCHEDULE.alphas_cumprod[49].item(), model.x_t[model.t == 49]
    assert noisiest.mean().item() == pytest.approx(math.sqrt(abar) * 0.7, abs=0.1)
    assert noisiest.var().item() == pytest.approx(1 - abar, rel=0.1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_logit_normal_timesteps_are_normal_in_log_snr_under_every_schedule(name):
    schedule, model, batch = NoiseSchedule.by_name(name, 1000), Listener().train(), 4000
    density = logit_normal_density(schedule)
    assert density.sum().item() == pytest.approx(1, abs=1e-12) and density.min() > 0.9 * UNIFORM_SHARE / 1000
    loss_fn = denoising_loss(schedule, t_density="logit-normal")
    loss_fn(model, torch.zeros(batch, 1, 1, 1), None, torch.Generator().manual_seed(0))
    counts = model.t.bincount(minlength=1000).double() / batch
    # One offset for the batch: no set of timesteps is seen more or less often than its chance allows.
    assert (counts.cumsum(0) - density.cumsum(0)).abs().max() <= 1.001 / batch
    normal = (density - UNIFORM_SHARE / 1000) / (1 - UNIFORM_SHARE)
    log_snr = schedule.snr.log()
    mean = (normal * log_snr).sum()
    std = (normal * (log_snr - mean) ** 2).sum().sqrt()
    assert mean.item() == pytest.approx(LOG_SNR_MEAN, abs=0.1)
    assert std.item() == pytest.approx(LOG_SNR_STD, rel=0.06)


def test_attributes_are_untold_all_at_once_or_each_at_the_samples_own_rate():
    model, batch = Listener().train(), 20_000
    y = torch.randint(2, (batch, 8), generator=torch.Generator().manual_seed(1))
    loss_fn = denoising_loss(SCHEDULE, 0.2, num_classes=8)
    loss_fn(model, torch.zeros(batch, 1, 1, 1), y, torch.Generator().manual_seed(0))
    heard = model.y != -1
    assert torch.equal(model.y[heard], y[heard]) and model.y.dtype == torch.int64
    counts = heard.sum(dim=1).bincount(minlength=9) / batch
    # A rate that is uniform makes every number of heard attributes equally likely.
    expected = torch.full((9,), 0.8 / 9)
    expected[0] += 0.2
    torch.testing.assert_close(counts, expected, rtol=0, atol=0.012)
    loss_fn(model.eval(), torch.zeros(4, 1, 1, 1), y[:4], torch.Generator())
    assert torch.equal(model.y, y[:4])


# -- EMA and learning rate ------------------------------------------------------------------------------
@pytest.mark.numeric
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_moving_average_in_closed_form(decay):
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).double()
    nn.init.zeros_(model[0].weight)
    average, expected = training.EMA(model, decay), 0.0
    for n in range(30):
        model[0].weight.data.fill_(n + 1.0)
        model(torch.randn(4, 1).double())
        average.update(model)
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * (n + 1)
    assert average.model[0].weight.item() == pytest.approx(expected, rel=1e-12)
    assert not average.model.training and not average.model[0].weight.requires_grad
    assert torch.equal(average.model[1].running_mean, model[1].running_mean), "buffers are copied"


@pytest.mark.parametrize("sigma_rel", [0.05, 0.25])
def test_the_power_law_average_in_closed_form(sigma_rel):
    """Its weights n^gamma, and their standard deviation as a share of the training."""
    model, count = nn.Linear(1, 1).double(), 2000
    average, profile = training.EMA(model, 0.999, sigma_rel), torch.zeros(count, dtype=torch.float64)
    for n in range(count):
        decay = average.current_decay()
        profile = profile * decay
        profile[n] += 1 - decay
        model.weight.data.fill_(n + 1.0)
        average.update(model)
    places = torch.arange(1, count + 1, dtype=torch.float64)
    mean = (profile * places).sum()
    std = (profile * (places - mean) ** 2).sum().sqrt().item()
    assert profile.sum().item() == pytest.approx(1, abs=1e-12)
    assert average.model.weight.item() == pytest.approx(mean.item(), rel=1e-12)
    assert (std / count, average.length()) == pytest.approx((sigma_rel, std), rel=0.01)


def test_the_result_is_the_average_and_not_the_last_weights():
    for decay, is_last in ((0.999, False), (0.0, True)):
        model = build()
        end = run(model, ema_decay=decay)[-1]
        assert same(end.ema_model.state_dict(), model.state_dict()) == is_last


def test_the_learning_rate_warms_up_ends_at_zero_and_reaches_the_optimizer():
    rate, cfg = training.learning_rate, config(lr=2.0, warmup_steps=4)
    assert [rate(cfg, step, 0.0) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert rate(cfg, 99, 0.5) == pytest.approx(1.0)
    assert rate(cfg, 99, 1.0) == rate(cfg, 99, 3.0) == 0.0
    assert rate(config(warmup_steps=0, lr=2.0), 0, 0.0) == 2.0
    late = config(lr=2.0, warmup_steps=4, lr_decay=0.25)
    assert [rate(late, 99, p) for p in (0.0, 0.75, 0.875, 1.0)] == pytest.approx([2, 2, 1, 0])
    model, before = build(), build().state_dict()
    events = run(model, lr=1e-12)
    assert all(torch.allclose(before[name], tensor, atol=1e-9) for name, tensor in model.state_dict().items())
    assert [e.lr for e in steps(events)] == [rate(config(lr=1e-12), k, k / 6) for k in range(6)]


@pytest.mark.numeric
def test_accumulated_micro_batches_equal_one_big_batch():
    results = []
    for accumulation_steps in (1, 2, 4):
        model = build(dropout=0.0).double()
        events = run(model, plain_loss, Images(dtype=torch.float64), accumulation_steps=accumulation_steps)
        results.append((model.state_dict(), [event.loss for event in steps(events)]))
    for weights, losses in results[1:]:
        assert losses == pytest.approx(results[0][1], abs=1e-6)
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, results[0][0][name], rtol=0, atol=1e-6)


@pytest.mark.numeric
def test_the_gradient_is_clipped(tmp_path):
    """Adam hides the gradient's size in its update, but keeps it in its second moment."""
    seen = {}
    for clip in (1e-3, 1e9):
        run(loss_fn=lambda *args: 1e4 * plain_loss(*args), grad_clip=clip, epochs=1, output_dir=tmp_path)
        moments = torch.load(tmp_path / CHECKPOINT, weights_only=True)["optimizer"]["state"].values()
        seen[clip] = sum(m["exp_avg_sq"].sum().item() for m in moments)
    assert seen[1e-3] < 3 * 1e-3**2 < 1 < seen[1e9]


# -- stopping -------------------------------------------------------------------------------------------
def test_the_clock_stops_it_with_the_learning_rate_at_its_end(monkeypatch):
    seconds = itertools.count(step=0.1)  # a clock that a busy machine cannot disturb
    monkeypatch.setattr("lessons_lib.training.clock", lambda: next(seconds))
    events = run(epochs=100_000, max_seconds=10.0)
    assert events[-1].reason == "time" and 9.5 < events[-1].seconds < 10.5
    rates = [event.lr for event in steps(events)]
    assert rates[-1] < 0.01 * max(rates) and rates[len(rates) // 2] == pytest.approx(max(rates) / 2, rel=0.1)
    assert all(event.seconds_left <= 10 for event in steps(events)) and steps(events)[-1].seconds_left < 0.5


@pytest.mark.parametrize("where", ["in a step", "between steps"])
def test_ctrl_c_ends_after_the_step_keeps_the_model_and_says_so(where, tmp_path):
    before, calls, seen = signal.getsignal(signal.SIGINT), [], []

    def loss_fn(*args):
        calls.append(1)
        if len(calls) == 2 and where == "in a step":
            os.kill(os.getpid(), signal.SIGINT)
        return LOSS(*args)

    for event in train(build(), loss_fn, Images(), config(epochs=3, output_dir=tmp_path)):
        seen.append(event)
        if isinstance(event, StepDone) and event.step == 2 and where == "between steps":
            os.kill(os.getpid(), signal.SIGINT)
    assert isinstance(seen[-1], training.Stopped) and (seen[-1].reason, seen[-1].step) == ("interrupted", 2)
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]["step"] == 2
    assert same(trained(epochs=3), trained(epochs=3, output_dir=tmp_path, resume=True))


def test_a_second_ctrl_c_and_walking_away_leave_handler_and_model_as_they_were():
    before = signal.getsignal(signal.SIGINT)

    def loss_fn(*args):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return LOSS(*args)

    model = build()
    with pytest.raises(KeyboardInterrupt):
        run(model, loss_fn, precision="bf16")
    assert signal.getsignal(signal.SIGINT) is before and "forward" not in model.__dict__
    run(model, precision="bf16", stop_after=2)
    assert signal.getsignal(signal.SIGINT) is before
    assert "forward" not in model.__dict__ and "_original_forward" not in model.__dict__


def test_it_runs_outside_the_main_thread_and_again_in_the_same_cell():
    seen = []
    (thread := threading.Thread(target=lambda: seen.extend(run()))).start()
    thread.join()
    assert seen[-1].reason == "finished"
    model = build()
    abandoned = train(model, LOSS, Images(), config(precision="bf16"))
    next(abandoned)  # still suspended when the next one begins, as after an error in the cell
    assert run(model, precision="float32")[-1].reason == "finished"
    abandoned.close()
    assert "forward" not in model.__dict__
    assert run(model, precision="bf16")[-1].reason == "finished"


DIVERGED = {
    "The loss became nan": lambda loss: loss * math.nan,
    "The loss became inf": lambda loss: loss * math.inf,
    "The gradient became infinite": lambda loss: loss + (loss * 0).sqrt(),
}


@pytest.mark.parametrize("what", DIVERGED)
def test_divergence_stops_with_the_last_good_checkpoint_kept(tmp_path, what):
    calls = itertools.count(1)

    def loss_fn(model, *args):
        loss = LOSS(model, *args)
        return DIVERGED[what](loss) if next(calls) % 6 == 5 else loss

    with pytest.raises(
        TrainingError, match=f"{what} at step 5: try a smaller learning .*last good checkpoint"
    ):
        run(loss_fn=loss_fn, output_dir=tmp_path, checkpoint_every=2)
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert kept["state"]["step"] == 4 and all(tensor.isfinite().all() for tensor in kept["model"].values())
    assert same(trained(), trained(output_dir=tmp_path, resume=True))
    calls = itertools.count(1)
    with pytest.raises(TrainingError, match=r"try a smaller learning rate\.$"):
        run(loss_fn=loss_fn)


@pytest.mark.numeric
def test_trainings_with_different_precisions_follow_each_other():
    """Trap 20: accelerate's state outlives a training, and a notebook's cell is run again."""
    results, x, t = {}, torch.randn(1, 1, 8, 8), torch.tensor([1])
    for precision in ("float32", "bf16", "auto", "float32"):
        model = build()
        assert run(model, precision=precision)[-1].reason == "finished"
        results.setdefault(precision, []).append(model.state_dict())
        assert "forward" not in model.__dict__ and model(x, t).dtype == torch.float32
        model.eval()
        torch.testing.assert_close(model(x, t), UNet.forward(model, x, t), rtol=0, atol=0)
    assert same(*results["float32"])
    assert not same(results["float32"][0], results["bf16"][0])


# -- checkpoints ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def uninterrupted():
    model = build()
    return model, run(model, epochs=3, val_data=Images(5))


@pytest.mark.parametrize("every, stop_after", [(1, 4), (2, 1), (2, 5), (100, 3), (100, 7), (1, 9)])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, uninterrupted, stop_after, every):
    options = {"epochs": 3, "output_dir": tmp_path, "checkpoint_every": every, "val_data": Images(5)}
    run(stop_after=stop_after, **options)
    model, (reference, expected) = build(), uninterrupted
    events = run(model, resume=True, **options)
    assert same(model.state_dict(), reference.state_dict())
    assert same(events[-1].ema_model.state_dict(), expected[-1].ema_model.state_dict())
    losses = {event.step: event.loss for event in steps(expected)}
    assert all(event.loss == losses[event.step] for event in steps(events))
    history = json.loads((tmp_path / "losses.json").read_text())
    assert history["train_loss"] == [event.train_loss for event in steps(expected, training.EpochDone)]
    assert history["val_loss"] == [event.val_loss for event in steps(expected, training.EpochDone)]


def test_resuming_what_is_finished_what_was_not_saved_and_what_another_training_left(tmp_path):
    plain = trained()
    assert same(plain, trained(output_dir=tmp_path / "new", resume=True)), "from the beginning"
    again = build()
    assert [type(e) for e in run(again, output_dir=tmp_path / "new", resume=True)] == [training.Stopped]
    assert same(plain, again.state_dict())
    run(output_dir=tmp_path, lr=0.1)
    run(output_dir=tmp_path, stop_after=1)  # killed before its first own checkpoint
    assert same(plain, trained(output_dir=tmp_path, resume=True))
    with pytest.raises(TrainingError, match="output_dir must name the folder"):
        run(resume=True)


@pytest.mark.parametrize("damage", [lambda raw: raw[:1000], lambda raw: b"", lambda raw: b"junk" * 99, None])
def test_a_corrupt_checkpoint_or_one_that_could_run_code_is_one_sentence(tmp_path, damage):
    path = tmp_path / CHECKPOINT
    run(output_dir=tmp_path)
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        torch.save({"seed": 0, "steps_per_epoch": 3, "state": print}, path)
    with pytest.raises(TrainingError, match=r"checkpoint.pt is damaged: delete it to start anew \(\w+\).$"):
        run(output_dir=tmp_path, resume=True)


NAMES = {"class_names": ["a", "b", "c"]}
OTHER_SETTINGS = [
    ({"seed": 1}, "seed 0, this training has 1"),
    ({"epochs": 3}, "epochs 2, this training has 3"),
    ({"ema_sigma_rel": 0.1}, "ema_sigma_rel None, this training has 0.1"),
    ({"settings": {"class_names": ["a", "c", "b"]}}, "'b' in place 1, this training has 'c' in"),
    ({"settings": {"data": "mnist"}}, "data None, this training has 'mnist'"),
    ({"model": {"channel_mults": (1, 2)}}, "belongs to another network"),
]


def test_a_checkpoint_of_other_settings_is_refused_by_name(tmp_path):
    run(output_dir=tmp_path, settings=NAMES)
    before = (tmp_path / CHECKPOINT).read_bytes()
    for changes, named in OTHER_SETTINGS:
        options = {"settings": NAMES} | changes
        model = build(**options.pop("model", {}))
        with pytest.raises(TrainingError, match=named):
            run(model, output_dir=tmp_path, resume=True, **options)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("stop_after", [4, 10, None], ids=["before the fall", "in the fall", "finished"])
def test_an_extended_training_equals_a_longer_one_bit_for_bit(tmp_path, stop_after):
    options = {"lr_decay": 0.25, "checkpoint_every": 1, "output_dir": tmp_path, "ema_sigma_rel": 0.1}
    run(epochs=4, stop_after=stop_after, **options)
    longer, extended = build(), build()
    expected = run(longer, epochs=7, lr_decay=0.25, ema_sigma_rel=0.1)
    events = run(extended, epochs=7, extend=True, **options)
    assert same(longer.state_dict(), extended.state_dict())
    assert same(expected[-1].ema_model.state_dict(), events[-1].ema_model.state_dict())
    losses = {event.step: (event.loss, event.lr) for event in steps(expected)}
    assert all((event.loss, event.lr) == losses[event.step] for event in steps(events))
    assert steps(events)[0].step == {4: 4, 10: 10, None: 10}[stop_after]  # 4 was shown, not kept


def test_what_cannot_be_extended_is_refused(tmp_path):
    run(output_dir=tmp_path / "cosine")
    options = {"lr_decay": 0.5, "output_dir": tmp_path / "constant"}
    run(**options)
    for changes, message in (
        ({"output_dir": tmp_path / "cosine", "lr_decay": 1.0}, "fell from the start"),
        ({"epochs": 1}, "is of 2 epochs: name more to extend it, not 1"),
        ({"lr": 0.1}, r"was made with lr 0\.001, this training has 0.1"),
        ({}, r"before_decay.pt is missing"),
    ):
        if not changes:
            (tmp_path / "constant" / training.BEFORE_DECAY).unlink()
        with pytest.raises(TrainingError, match=message):
            run(extend=True, **{"epochs": 4} | options | changes)


# -- automatic precision --------------------------------------------------------------------------------
@pytest.mark.parametrize("seconds, chosen", [((1.0, 0.5), "bf16"), ((1.0, 0.95), "float32")])
def test_auto_takes_what_was_measured_faster_says_so_and_keeps_it(tmp_path, monkeypatch, seconds, chosen):
    measured = dict(zip(("float32", "bf16"), seconds, strict=True))
    monkeypatch.setattr("lessons_lib.training.devices.MEASURE_FROM_STEPS", 6)
    monkeypatch.setattr("lessons_lib.training.seconds_a_step", lambda *a: measured)
    events = run(precision="auto", output_dir=tmp_path)
    assert events[0] == training.PrecisionChosen(chosen, measured) and events[-1].precision == chosen
    monkeypatch.setattr("lessons_lib.training.seconds_a_step", None)  # not asked again
    assert [event.precision for event in run(precision="auto", output_dir=tmp_path, resume=True)] == [chosen]


def test_the_measurement_leaves_no_trace_and_a_short_training_does_not_measure(monkeypatch):
    plain, measured = trained(), build()
    seconds = seconds_a_step(measured, LOSS, Images().batch(torch.arange(8)))
    assert set(seconds) == {"float32", "bf16"} and all(s > 0 for s in seconds.values())
    run(measured)
    assert same(plain, measured.state_dict())
    for least, limit in ((7, 600), (6, 60)):
        monkeypatch.setattr("lessons_lib.training.devices.MEASURE_FROM_STEPS", least)
        events = run(precision="auto", max_seconds=limit)
        assert events[-1].precision == "float32" and not isinstance(events[0], training.PrecisionChosen)


# -- what cannot be -------------------------------------------------------------------------------------
@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there")
def test_a_disk_that_takes_no_more_bytes_is_one_sentence_and_keeps_the_old_checkpoint(tmp_path):
    """The real thing: torch.save itself reports a failed write as many lines about an archive."""
    import resource

    run(output_dir=tmp_path, stop_after=3, checkpoint_every=2)
    before = (tmp_path / CHECKPOINT).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(WriteError, match=r"checkpoint.pt cannot be written: [\w ]+\.$"):
            run(output_dir=tmp_path, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == [CHECKPOINT, "losses.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        run(loss_fn=lambda *_: pytest.fail("it shows before the first step"), output_dir=tmp_path / "file")


REFUSED = [
    ({"epochs": 0}, "epochs must be at least 1"),
    ({"batch_size": 0}, "batch_size must be at least 1"),
    ({"accumulation_steps": 0}, "accumulation_steps must be at least 1"),
    ({"lr": float("nan")}, "lr must be above 0"),
    ({"grad_clip": -1.0}, "grad_clip must be above 0"),
    ({"max_seconds": 0}, "max_seconds must be above 0"),
    ({"ema_decay": 1.0}, "ema_decay must be in"),
    ({"ema_sigma_rel": 0.3}, "ema_sigma_rel must be in"),
    ({"lr_decay": 0.0}, "lr_decay must be in"),
    ({"precision": "fp8"}, "choose one of auto, float32, bf16, fp16"),
    ({"device": "tpu"}, "choose one of auto, cpu, cuda, mps"),
    ({"images": Images(5)}, "batch size is 8 but there are only 5 training images"),
    ({"accumulation_steps": 3}, "batch size 8 must be a multiple of 3"),
    ({"model": build().requires_grad_(False)}, "frozen"),
]
if not torch.cuda.is_available():
    REFUSED += [({"device": "cuda"}, r"GPU.*: use "), ({"precision": "fp16"}, r"GPU.*: use ")]


@pytest.mark.parametrize("wrong, message", REFUSED)
def test_what_cannot_train_is_refused(wrong, message):
    with pytest.raises((ValueError, TrainingError), match=message):
        run(**wrong)


def test_a_wrong_loss_is_refused():
    shares = {"p_uncond": 1.5}, {"p_uncond": math.nan}
    for options in ({"loss": "huber"}, *shares, {"t_density": "square"}):
        with pytest.raises(ValueError, match=r"Unknown \w+ '\w+': choose one of|must be in"):
            denoising_loss(SCHEDULE, **options)


# -- kill -9 --------------------------------------------------------------------------------------------
def train_digits(folder: str) -> None:
    """A small training on the embedded digits: 72 steps, a checkpoint every 2."""
    torch.manual_seed(0)
    model = UNet(UNetConfig(channel_mults=(1,), embedding_channels=32, dropout=0.1, v_schedule="linear"))
    images = data.load("digits", "train").subset(torch.arange(36))
    val = data.load("digits", "val").subset(torch.arange(8))
    options = TrainConfig(
        epochs=8, batch_size=4, warmup_steps=5, device="cpu", precision="float32", checkpoint_every=2,
        lr_decay=0.5, ema_sigma_rel=0.1, output_dir=folder,
    )  # fmt: skip
    loss_fn = denoising_loss(NoiseSchedule.linear(), loss="v-mse", num_classes=10, t_density="logit-normal")
    for _ in train(model, loss_fn, images, options, val_data=val, resume=True):
        pass


def in_a_child(folder: Path) -> int:
    """Fork: the child has everything imported already, and dies alone."""
    pid = os.fork()
    if pid == 0:
        try:
            train_digits(str(folder))
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return pid


def kill_after_some_checkpoints(pid: int, path: Path, moments: random.Random) -> bool:
    """SIGKILL at a random moment, one or two checkpoints later; False if the child ended before."""

    def inode() -> int:
        return path.stat().st_ino if path.exists() else 0

    for _ in range(moments.randint(1, 2)):
        last = inode()
        while inode() == last:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return False
            time.sleep(0.001)
    time.sleep(moments.uniform(0, 0.05))
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def main(root: Path, seed: int) -> None:
    import accelerate  # noqa: F401  imported once, for all the children

    torch.set_num_threads(1)  # a thread pool does not survive a fork
    os.fsync = lambda handle: None  # what a killed process has written is not lost; only a power cut loses it
    data.load("digits")  # read once; it stays in memory
    whole = in_a_child(root / "whole")
    moments, killed = random.Random(seed), root / "killed"
    hits = [kill_after_some_checkpoints(in_a_child(killed), killed / CHECKPOINT, moments) for _ in range(10)]
    last = in_a_child(killed)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in (last, whole)]
    print(json.dumps({"hits": sum(hits), "codes": codes}))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_ten_random_moments_and_resumed_equals_uninterrupted(tmp_path):
    seed, root = random.randrange(10**6), Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": str(root), "LESSONS_OFFLINE": "1"}
    command = [sys.executable, __file__, str(tmp_path), str(seed)]
    out = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout) == {"hits": 10, "codes": [0, 0]}, (seed, out.stderr)
    paths = (tmp_path / name / CHECKPOINT for name in ("whole", "killed"))
    whole, killed = (torch.load(path, weights_only=True) for path in paths)
    assert whole["state"]["step"] == killed["state"]["step"] == 72
    assert same(whole["model"], killed["model"]), seed
    assert same(whole["ema"]["weights"], killed["ema"]["weights"]), seed
    assert whole["state"]["losses"] == killed["state"]["losses"]
    left = sorted(os.listdir(tmp_path / "killed"))
    assert left == [training.BEFORE_DECAY, CHECKPOINT, "losses.json"]  # and no temporary files


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
