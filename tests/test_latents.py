"""benchmarks/latents.py: the autoencoder of faces, and the bake-off's candidate that needs it."""

import dataclasses

import pytest
import torch

from benchmarks import latents, recipe_bakeoff
from lessons_lib.data import ATTRIBUTES, ImageSet, to_signed
from lessons_lib.pipeline import GenerationRequest
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet
from lessons_lib.weights import WeightsError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def coded():
    """Two faces of noise; a fresh autoencoder ends in zeros, which this one's last layers do not."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    faces = ImageSet(pixels, torch.randint(0, 2, (2, 40)), ATTRIBUTES, "celeba")
    network = latents.Autoencoder().eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return faces, network


def test_encoding_normalizes_and_decoding_undoes_it(coded):
    faces, network = coded
    x_0 = to_signed(faces.images)
    before, code = network(x_0), latents.encoded(network, faces).float()
    std, mean = torch.std_mean(code, dim=(0, 2, 3))
    assert mean.abs().max() < 1e-3 and (std - 1).abs().max() < 1e-3
    torch.testing.assert_close(network(x_0), before, atol=1e-4, rtol=1e-3)
    # Faces, then mirror images; in bfloat16 there, in float32 here.
    assert (code - network.encode(torch.cat([x_0, x_0.flip(3)]))).abs().mean() < 0.05


def test_latents_go_to_the_trainer_and_unclipped_to_the_decoder(coded, monkeypatch):
    faces, network = coded
    seen, decode = [], network.decode
    monkeypatch.setattr(network, "decode", lambda code: seen.append(code) or decode(code))
    kept = latents.Coded(network, torch.zeros(4, 8, 16, 16).half(), faces.labels.repeat(2, 1).byte(), {}, "")
    x_0, y = kept.batch(torch.tensor([1, 3]))
    assert x_0.dtype == torch.float32 and torch.equal(y, faces.labels[[1, 1]])
    told, small = tuple(map(tuple, y.tolist())), {"channel_mults": (1,), "attention_levels": ()}
    denoiser = UNet(dataclasses.replace(latents.NETWORK, **small)).eval()
    for sampler in ("ddim", "ddpm"):
        request = GenerationRequest(told, guidance_scale=1.0, sampler=sampler, steps=10)
        images = kept.draw(denoiser, NoiseSchedule.linear(1000), request)
        assert images.shape == (2, 3, 64, 64) and images.abs().max() <= 1 < seen[-1].abs().max()


def test_without_its_autoencoder_the_candidate_is_refused_before_work_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe_bakeoff.Ruler, "of", lambda *_: pytest.fail("work had begun"))
    words = ["bakeoff", "--dataset", "celeba", "--candidates", "v-latent", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        recipe_bakeoff.main()
    said = capsys.readouterr().err.split("error: ")
    assert len(said) == 2 and said[1].endswith("train it first: python -m benchmarks.latents\n")
    (tmp_path / latents.FOLDER).mkdir()
    (tmp_path / latents.FOLDER / latents.CARD).write_text('{"minutes": 10}')
    with pytest.raises(WeightsError, match="nothing is left"):
        latents.load(tmp_path / latents.FOLDER, 10)
