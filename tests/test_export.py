"""Networks as ONNX files: the numbers of torch's, whatever the batch; sizes, and what is refused."""

import hashlib

import numpy as np
import pytest
import torch

from lessons_lib import weights
from lessons_lib.cli import app
from lessons_lib.export import inputs_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["mnist-flow-map", "mnist-denoiser-v", "mnist-evaluator"])
def test_the_file_answers_as_torch_does(name, tmp_path, capsys):
    path = tmp_path / "network.onnx"
    assert app.main(["export", name, "--out", str(path)]) == 0
    assert f"{name} (SHA-256 " in capsys.readouterr().out
    network, _, card = weights.load_pretrained(name)
    stored = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert stored == {"name": name, "sha256": card["sha256"]}
    shipped = weights.weights_path(name)
    assert hashlib.sha256(shipped.read_bytes()).hexdigest() == card["sha256"]
    assert path.stat().st_size < 1.2 * shipped.stat().st_size, "half precision, and one file"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        given = inputs_of(network, batch)
        given = {key: torch.randn(x.shape) if x.ndim == 4 else x for key, x in given.items()}
        if "s" in given:
            given |= {"t": torch.full((batch,), 999), "s": torch.full((batch,), -1)}
            given |= {"guidance_scale": torch.linspace(0, 4, batch), "y": torch.arange(batch) + 3}
        with torch.no_grad():
            expected = network(*given.values()).numpy()
        (answer,) = session.run(None, {key: x.numpy() for key, x in given.items()})
        assert np.abs(answer - expected).max() < 1e-4


def test_what_cannot_be_exported_is_one_sentence(tmp_path, capsys, monkeypatch):
    assert app.main(["export", "mnist-evaluator", "--out", str(tmp_path / "x.pt")]) == 2
    assert "must end in .onnx" in capsys.readouterr().err
    assert app.main(["export", "nothing", "--out", str(tmp_path / "x.onnx")]) == 2
    assert "There are no weights 'nothing'" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert app.main(["export", "mnist-evaluator", "--out", str(tmp_path / "x.onnx")]) == 2
    assert "pip install onnx onnxscript" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
