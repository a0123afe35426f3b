"""Who may import whom, how long a function may be, and what the import of the library must not pull in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parent.parent / "lessons_lib"
BOTTOM = {"files", "names"}  # atomic writes, and what a user may have meant: anybody may import them

# The table of the design: a reader starts at the top and never has to jump back up.
MAY_IMPORT = {
    "files": set(),
    "names": set(),
    "schedules": set(),
    "unet": {"schedules"},  # for the networks that answer v
    "ablation": {"unet"},
    "classifier": {"unet"},
    "guidance": {"schedules"},
    "samplers": {"schedules", "guidance"},  # guidance for the name EpsFn
    "toy": {"schedules", "guidance"},
    "data": set(),
    "pictures": {"data"},  # for to_signed and DataError
    "viz": {"data"},  # for to_unit, so that there is one conversion only
    "weights": {"schedules", "unet", "classifier"},
    "counterfactuals": {"schedules", "guidance", "samplers"},
    "generation": {"schedules", "guidance", "samplers", "counterfactuals", "weights"},
    "training": {"schedules", "unet"},  # the embedding of t, for the learned weight of the loss
    "metrics": set(),
}
MAY_IMPORT["recipes"] = set(MAY_IMPORT)
# The three at the top import what they like, but not each other; nothing imports widgets.
MAY_IMPORT["checks"] = set(MAY_IMPORT) - {"checks"}
MAY_IMPORT["widgets"] = set(MAY_IMPORT) - {"checks"}
MAY_IMPORT["cli"] = set(MAY_IMPORT) - {"widgets"}
MAY_IMPORT["__main__"] = {"cli"}
MAY_IMPORT["__init__"] = set()

SOURCES = sorted(LIBRARY.rglob("*.py"))


def module_of(path: Path) -> str:
    """The name in the table; a module that became a folder keeps its name."""
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The library's modules that a file imports anywhere, in functions too."""
    package = ["lessons_lib", *path.relative_to(LIBRARY).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            names |= (
                {f"{module}.{alias.name}" for alias in node.names} if module == "lessons_lib" else {module}
            )
    modules = {name.split(".")[1] for name in names if name.startswith("lessons_lib.")}
    return {
        module for module in modules if (LIBRARY / f"{module}.py").exists() or (LIBRARY / module).is_dir()
    }


each_source = pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(LIBRARY)) for p in SOURCES])


@each_source
def test_a_module_imports_only_what_the_design_names(path):
    module = module_of(path)
    assert module in MAY_IMPORT, f"{module} is not in the design's table"
    surplus = imported(path) - MAY_IMPORT[module] - BOTTOM - {module}
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


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=LIBRARY.parent
    )
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
    assert not loaded_by("import lessons_lib.generation") & slow
