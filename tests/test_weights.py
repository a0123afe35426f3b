"""weights.py: a round trip, and one sentence for whatever is wrong with a file."""

import hashlib
import json
import os
from unittest.mock import Mock

import pytest
import torch

from lessons_lib import weights
from lessons_lib.files import WriteError
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet, UNetConfig
from lessons_lib.weights import WeightsError, load_pretrained, read_card, save_pretrained, write_card

pytestmark = pytest.mark.numeric

CONFIG = UNetConfig(image_size=8, channel_mults=(1, 2), attention_levels=(1,), num_classes=3)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return UNet(CONFIG)


@pytest.fixture
def saved(network, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_pretrained(path, network, NoiseSchedule.cosine(500), {"training": {"seed": 3}})
    return path


def test_a_round_trip_rounds_to_half_precision_once_and_the_card_says_what_it_is(network, saved, tmp_path):
    loaded, schedule, card = load_pretrained(saved)
    assert loaded.config == CONFIG and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, network.state_dict()[name].half().float()), name
    assert (schedule.name, schedule.num_timesteps) == ("cosine", 500)
    again = tmp_path / "again.safetensors"
    save_pretrained(again, loaded, schedule, card)
    assert again.read_bytes() == saved.read_bytes()
    card = read_card(saved)
    assert card["name"] == "tiny" and card["training"] == {"seed": 3}
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert card["schedule"] == {"name": "cosine", "num_timesteps": 500}
    assert card["sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert card["config"]["num_classes"] == 3 and card["library_version"]


def test_a_schedule_that_its_name_cannot_rebuild_is_refused(network, tmp_path):
    own = NoiseSchedule.linear(beta_end=0.05), NoiseSchedule.cosine(s=0.1), NoiseSchedule([0.1, 0.2])
    for schedule in own:
        with pytest.raises(ValueError, match="betas of its own"):
            save_pretrained(tmp_path / "a.safetensors", network, schedule, {})
        assert os.listdir(tmp_path) == []


def test_weights_are_found_by_name_and_missing_ones_are_one_sentence(saved, monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "WEIGHTS_DIR", saved.parent)
    assert weights.available() == ["tiny"]
    assert read_card("tiny") == read_card(saved) == read_card(str(saved))
    with pytest.raises(WeightsError, match="There are no weights 'big': choose one of tiny, or a path"):
        load_pretrained("big")
    for path in (tmp_path / "none.safetensors", tmp_path / "folder.safetensors"):
        (tmp_path / "folder.safetensors").mkdir(exist_ok=True)
        with pytest.raises(WeightsError, match="There are no weights"):
            load_pretrained(path)


WEIGHTS = r"tiny.safetensors are damaged \(their SHA-256"
CARD = r"tiny.json of these weights is missing or damaged"
SHAPES = "do not have the shapes that their card says"
SCHEDULE = "noise schedule that cannot be built"
EDITED = "tiny.json was edited"
CUTS = (lambda b: b[:-10], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1]))
OTHERS = {"image_size": 8, "channel_mults": [1, 3]}, {"image_size": 8}, {"color": 3}, {"image_size": 9}
SPOILS = [
    *((WEIGHTS, change) for change in CUTS),
    *((CARD, text) for text in (None, "", "{", "[]", "null", "{}", '{"sha256": 1}', "\udcff")),
    *((SHAPES, {"config": config}) for config in OTHERS),
    *((EDITED, {"config": config}) for config in (None, [1])),
    (SCHEDULE, {"schedule": {"name": "custom", "num_timesteps": 10}}),
    *((SCHEDULE, {"schedule": schedule}) for schedule in ({"name": "linear"}, "linear", {})),
]


@pytest.mark.parametrize("said, spoil", SPOILS)
def test_what_is_wrong_with_a_file_is_one_sentence(saved, said, spoil):
    card = saved.with_suffix(".json")
    if said == WEIGHTS:
        saved.write_bytes(spoil(saved.read_bytes()))
    elif isinstance(spoil, dict):
        edited = read_card(saved) | spoil
        write_card(saved, edited)
        with pytest.raises(WeightsError, match=EDITED):
            load_pretrained(saved)
        del edited["facts_sha256"]  # older cards have none
        write_card(saved, edited)
    else:
        card.unlink() if spoil is None else card.write_bytes(spoil.encode("utf-8", "surrogateescape"))
    with pytest.raises(WeightsError, match=said):
        load_pretrained(saved)


def test_a_failed_save_keeps_the_old_weights(network, saved, monkeypatch):
    before = saved.read_bytes()
    torch.nn.init.ones_(network.conv_out.weight)
    monkeypatch.setattr("pathlib.Path.write_bytes", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(WriteError, match="No space left on device"):
        save_pretrained(saved, network, NoiseSchedule.cosine(500), {})
    monkeypatch.undo()
    assert saved.read_bytes() == before
    load_pretrained(saved)
    assert sorted(os.listdir(saved.parent)) == ["tiny.json", "tiny.safetensors"]


def test_every_shipped_card_is_json_with_its_weights():
    for name in weights.available():
        model, _, card = load_pretrained(name)
        assert card["parameters"] == sum(p.numel() for p in model.parameters())
        assert json.dumps(card)
