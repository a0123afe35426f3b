"""Who may import whom, how long a function may be, and what the import of the library must not pull in."""

import ast
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The design: a reader starts at the top and never has to jump back up. In a row, from left to right.
ORDER = (
    ("files", "memory", "names"),
    ("schedules", "unet", "classifier", "guidance", "samplers", "counterfactuals", "toy"),
    ("data", "weights", "training"),
    ("pipeline",),
    ("images", "pictures", "evaluation"),
    ("recipes",),
    ("cli",),
    ("__main__",),
)
PLACES = {name: k for k, name in enumerate(itertools.chain.from_iterable(ORDER))} | {"__init__": -1}
METHOD = (*ORDER[1], "flow_map")
SOURCES = sorted(path for name in ("lessons_lib", "classroom") for path in (ROOT / name).rglob("*.py"))


def module_of(path: Path) -> str:
    """The name in the table; a module that became a folder keeps its name."""
    return path.relative_to(ROOT).with_suffix("").parts[1]


def imported(path: Path) -> set[str]:
    """What a file imports anywhere of the two packages, in functions too: "lessons_lib.data"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names = node.module in ("lessons_lib", "classroom")
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if names else {node.module}
    return {".".join(name.split(".")[:2]) for name in found if name.startswith(("lessons_lib", "classroom"))}


each_source = pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(ROOT)) for p in SOURCES])


@each_source
def test_a_module_imports_only_what_stands_before_it(path):
    names = imported(path)
    if "classroom" in path.parts:
        assert not any(name.startswith("lessons_lib.cli") for name in names), "nothing imports cli"
        return
    module = module_of(path)
    assert not any(name.startswith("classroom") for name in names)
    others = {name.split(".")[1] for name in names if "." in name} & PLACES.keys() - {module}
    surplus = {name for name in others if PLACES[name] > PLACES[module]}
    assert not surplus, f"{path.name} imports {surplus}"


@each_source
def test_nothing_is_imported_with_a_star(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*")


@each_source
def test_a_function_fits_on_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
            # An option of the command line is a line of its own.
            options = len(node.args.args) if path.parent.name == "cli" else 0
            lines = node.end_lineno - node.lineno + 1 - docstring - options
            assert lines <= 40, f"{node.name} has {lines} lines"


def test_the_method_can_be_read_in_an_afternoon():
    files = [path for path in SOURCES if path.parent.name == "lessons_lib" and path.stem in METHOD]
    assert {path.stem for path in files} >= set(ORDER[1]), "each part of the method is one flat file"
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= 2000


# Names of before the two packages; none may join them, and the last one that goes takes this set with it.
TWICE = {"attributes", "axioms", "counterfactual", "faces", "folders", "images", "machine"}


def test_no_two_files_have_one_name():
    names = Counter(path.stem for path in SOURCES if not path.stem.startswith("__"))
    assert {name for name, count in names.items() if count > 1} <= TWICE


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(out.stdout.split())


def test_the_bare_import_is_free():
    assert "torch" not in loaded_by("import lessons_lib")


def test_drawing_needs_none_of_the_slow_packages():
    slow = {
        "accelerate",
        "torchvision",
        "diffusers",
        "torchmetrics",
        "sklearn",
        "matplotlib",
        "transformers",
        "pandas",
    }
    assert not loaded_by("import lessons_lib.pipeline") & slow
