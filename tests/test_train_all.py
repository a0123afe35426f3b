"""benchmarks/train_all.py: what it starts, what it leaves alone, what it keeps."""

import subprocess
import sys

import pytest
import torch
from command_tools import tiny_unet

from benchmarks import train_all
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.weights import load_pretrained, save_pretrained

NAME = "mnist-denoiser-v"


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A training that was stopped: a checkpoint whose raw weights are all 1, averaged ones, their card."""
    monkeypatch.setattr(train_all, "KEPT", tmp_path / "kept")
    network = tiny_unet(channel_mults=(1,))
    facts = {"ended": "interrupted", "images_seen": 5, "hours": 0.1}
    facts["command"] = "train mnist --output-dir my/runs --start my/a.safetensors"
    path = tmp_path / NAME / f"{NAME}.safetensors"
    save_pretrained(path, network, NoiseSchedule.linear(20), {"training": facts})
    ones = {name: torch.ones_like(tensor) for name, tensor in network.state_dict().items()}
    state = {"step": 7, "seconds": 7200.0, "settings": {"batch_size": 64}}
    torch.save({"model": ones, "state": state}, tmp_path / NAME / "checkpoint.pt")
    return tmp_path


def test_a_training_starts_anew_from_what_is_kept_or_goes_on(begun):
    assert not {"--resume", "--start"} & set(train_all.command("celeba-denoiser-v", begun))
    assert train_all.command(NAME, begun)[-1] == "--resume"
    train_all.export(NAME, begun)
    (begun / NAME / "checkpoint.pt").unlink()
    start = begun / "kept" / f"{NAME}-averaged.safetensors"
    assert train_all.command(NAME, begun)[-2:] == ["--start", str(start)]


def test_what_runs_already_is_not_started_twice(begun, monkeypatch, capsys):
    words = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", NAME]
    monkeypatch.setattr(train_all, "start", None)
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
        other.stdout.readline()  # for a moment after its start a process has no command line yet
        (begun / f"{NAME}.pid").write_text(str(other.pid))
        train_all.run([NAME], begun, jobs=1, minutes=0.01)
        other.kill()
    assert "is being trained already" in capsys.readouterr().out and not train_all.is_running(NAME, begun)


def test_the_export_holds_raw_and_averaged_weights(begun):
    train_all.export(NAME, begun)
    kept = (begun / "kept" / f"{NAME}-{kind}.safetensors" for kind in ("raw", "averaged"))
    raw, averaged = map(load_pretrained, kept)
    assert all((tensor == 1).all() for tensor in raw[0].state_dict().values())
    stopped = load_pretrained(begun / NAME / f"{NAME}.safetensors")[0].state_dict()
    assert all(torch.equal(stopped[name], tensor) for name, tensor in averaged[0].state_dict().items())
    training = averaged[2]["training"]
    assert (training["images_seen"], training["command"]) == (5, "train mnist"), "no folder of this machine"
