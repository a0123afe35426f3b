"""The page that draws: its files, the networks, and the runtime that runs them in a browser."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

from lessons_lib.export import export

HERE = Path(__file__).resolve().parent
ASSETS = HERE.parent / "assets" / "figures"
NETWORKS = ("mnist-flow-map", "mnist-denoiser-v", "mnist-evaluator")
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs")
WASM = "ort-wasm-simd-threaded.wasm"


def build(target: Path, modules: Path) -> None:
    """Write the page into a new folder; `modules` is a node_modules with onnxruntime-web."""
    shutil.copytree(HERE / "play", target)
    shutil.copy(HERE.parent / "classroom" / "panels" / "pad.js", target)
    shutil.copy(ASSETS / "ten_digits.gif", target)
    runtime, networks, sizes = target / "ort", target / "models", {}
    runtime.mkdir()
    networks.mkdir()
    for name in RUNTIME:
        shutil.copy(modules / "onnxruntime-web" / "dist" / name, runtime)
    shutil.copy(modules / "onnxruntime-web" / "dist" / WASM, runtime)
    for name in NETWORKS:
        export(name, networks / f"{name}.onnx")
    for path in [runtime / WASM, *networks.glob("*.onnx")]:
        packed = path.with_name(f"{path.name}.gz")
        packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()
        sizes[packed.relative_to(target).as_posix()] = packed.stat().st_size
    (target / "sizes.json").write_text(json.dumps(sizes))
