"""python -m lessons_lib export: a network as an ONNX file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument

from lessons_lib import export
from lessons_lib.cli import options as o
from lessons_lib.files import check_writable
from lessons_lib.names import refuse


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be typed after export."""

    weights: Annotated[str, Argument(help="Name, or path of a .safetensors.", metavar="WEIGHTS")]
    out: Path | None = o.option("FILE.onnx. [default: WEIGHTS.onnx here]")


def to_onnx(options: Options) -> None:
    """Write a network for programs without torch; its weights in half precision."""
    out = options.out or Path(f"{Path(options.weights).stem}.onnx")
    refuse({f"The output must end in .onnx, got '{out}'.": out.suffix != ".onnx"})
    check_writable(out)
    facts = export.export(options.weights, out)
    print(f"{facts['name']} (SHA-256 {facts['sha256']:.12}…) is in {out}: {out.stat().st_size / 1e6:.1f} MB.")
