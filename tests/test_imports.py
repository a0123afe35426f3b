"""The law of the house: who may import whom, how large it may be, what the import must not pull in."""

import ast
import graphlib
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A reader starts at the top and never has to jump back up; in a row, from left to right.
ORDER = (
    ("files", "memory", "names", "signals"),
    ("schedules", "unet", "classifier", "guidance", "samplers", "flow_map", "counterfactuals", "toy"),
    ("data", "weights", "training"),
    ("pipeline",),
    ("images", "pictures", "evaluation"),
    ("recipes", "export"),
    ("cli",),
    ("__main__",),
)
PLACES = {name: k for k, name in enumerate(itertools.chain.from_iterable(ORDER))}
METHOD = ORDER[1]
SOURCES = sorted(path for name in ("lessons_lib", "classroom") for path in (ROOT / name).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
NAMES = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES}
FILES = {name.removesuffix(".__init__"): path for path, name in NAMES.items()}


def imported(path: Path) -> set[str]:
    """The files of the two packages that a file imports anywhere, in functions too, by dotted name."""
    names = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            assert node.names[0].name != "*", f"{path}: an import with a star"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES else node.module for name in inner}
    return {name for name in names if name in FILES}


def test_a_file_imports_only_what_stands_before_it():
    for path, name in NAMES.items():
        package, place = name.split(".")[0], PLACES.get(name.split(".")[1], -1)
        for other in imported(path):
            library, _, rest = other.partition(".")
            if package == "classroom":
                assert not other.startswith("lessons_lib.cli"), f"{name} imports {other}: nothing imports cli"
            else:
                assert library == "lessons_lib", f"{name} imports {other}"
                part = rest.split(".")[0]
                assert not part or PLACES[part] <= place, f"{name} imports {other}, which comes later"


def test_there_are_no_circles():
    graph = {name.removesuffix(".__init__"): imported(path) for path, name in NAMES.items()}
    # A file may import its own package's __init__ no more than any other file that imports it.
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_no_two_files_have_one_name():
    names = Counter(path.stem for path in SOURCES if not path.stem.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_a_function_fits_on_a_screen():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                text = node.body[0] if ast.get_docstring(node) else None
                docstring = text.end_lineno - text.lineno + 1 if text else 0
                # An option of the command line is a line of its own.
                options = len(node.args.args) if path.parent.name == "cli" else 0
                lines = node.end_lineno - node.lineno + 1 - docstring - options
                assert lines <= 40, f"{path}: {node.name} has {lines} lines"


def test_settings_are_typed():
    assert not [path for path in SOURCES if "locals()" in path.read_text(encoding="utf-8")]


def test_the_library_is_small():
    """pytest -s -k small prints the lines of each package, and without docstrings and comments."""

    def lines(paths):
        texts = [path.read_text(encoding="utf-8") for path in paths]
        # What ast gives back has neither; one statement stands on one line.
        bare = [ast.unparse(without_docstrings(ast.parse(text))) for text in texts]
        return tuple(sum(len(text.splitlines()) for text in parts) for parts in (texts, bare))

    parts = {name: [path for path in SOURCES if name in path.parts] for name in ("lessons_lib", "classroom")}
    method = [path for path in parts["lessons_lib"] if len(path.relative_to(ROOT).parts) == 2]
    parts = {"the method": [path for path in method if path.stem in METHOD], **parts}
    for name, paths in parts.items():
        print(name, "{:,} lines, {:,} statements".format(*lines(paths)))
    assert {path.stem for path in parts["the method"]} >= set(ORDER[1]), "each part is one flat file"
    assert lines(parts["the method"])[0] <= 2000
    # 7,143 of 7,200; flow map 460, moving world 36, export 118, trust 477
    assert lines(parts["lessons_lib"])[0] <= 8243
    panels = ROOT / "classroom" / "panels"
    pages = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in panels.glob("*.js"))
    pages += lines(panels.glob("*.py"))[0]
    print(f"panels {pages:,} lines")
    assert pages <= 3575  # 2,900; moving world 497, live slider 93, a training 97


def test_the_tests_are_small():
    """pytest -s -k small prints their lines."""
    paths = [path for kind in ("py", "json", "toml") for path in (ROOT / "tests").rglob(f"*.{kind}")]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
    print(f"tests {lines:,} lines")
    assert lines <= 12_759  # 11,000 to be; book 330, faults 505, lesson 14 700


def without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(out.stdout.split())


def test_the_bare_import_is_free():
    assert "torch" not in loaded_by("import lessons_lib")


def test_drawing_needs_none_of_the_slow_packages():
    slow = {"accelerate", "torchvision", "diffusers", "torchmetrics", "sklearn", "matplotlib", "transformers"}
    assert not loaded_by("import lessons_lib.pipeline") & (slow | {"pandas"})
