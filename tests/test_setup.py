"""Set-up: the lists of dependencies agree, lab.py refuses and updates as it says, no file names a machine."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import lab

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
LIBRARY = [Requirement(line) for line in PROJECT["dependencies"]]
COURSE = [Requirement(line) for line in PROJECT["optional-dependencies"]["course"]]
DIRECT = LIBRARY + COURSE + [Requirement(line) for line in PROJECT["optional-dependencies"]["test"]]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "windows": {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64"},
    "macos": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
}
# Built so that this file does not hold what it looks for.
REGISTRIES = [".".join(words) for words in (("pypi", "org"), ("pythonhosted", "org"), ("anaconda", "org"))]
REGISTRIES += [".".join(words) for words in (("anaconda", "com"), ("npmjs", "org"), ("npmjs", "com"))]
HOMES = "|".join(("root", "work", r"home/\w+", r"Users/\w+", "private/var"))
MACHINE_PATH = re.compile(rf"(?<![\w.~/])/(?:{HOMES})\b" + r"|[A-Z]:\\{1,2}Users\\{1,2}\w")


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len({canonicalize_name(pin.name) for pin in found}) == len(found), "a package is pinned twice"
    return {canonicalize_name(pin.name): pin for pin in found}


def version_of(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", f"{pin} is not pinned"
    return specifier.version


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, check=True, encoding="utf-8").stdout


def text_files() -> dict[str, str]:
    """Every text file that git tracks or would track."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git clone")
    names = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")[:-1]
    contents = {name: (ROOT / name).read_bytes() for name in names if (ROOT / name).is_file()}
    return {name: data.decode("utf-8", "replace") for name, data in contents.items() if b"\0" not in data}


# ---- the lists of dependencies ----
def test_direct_dependencies_are_pinned_within_their_bounds_at_plain_versions():
    for wanted in DIRECT:
        pin = pins().get(canonicalize_name(wanted.name))
        assert pin is not None, f"{wanted.name} is in pyproject.toml and not in requirements.txt"
        assert pin.marker is None and wanted.specifier.contains(version_of(pin)), wanted
    for pin in pins().values():
        assert "+" not in version_of(pin), f"{pin}: a local build exists on one machine only"
        assert not pin.url and not pin.extras
        assert not re.match(r"nvidia-|cuda-|triton", pin.name), f"{pin}: torch names its own CUDA packages"


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_pins_are_closed(system, python):
    """What a pinned package needs on this system and Python is pinned too, at a version that it accepts."""
    env = default_environment() | SYSTEMS[system] | {"os_name": "nt" if system == "windows" else "posix"}
    env |= {"python_version": python, "python_full_version": python + ".9"}
    here = {name: pin for name, pin in pins().items() if pin.marker is None or pin.marker.evaluate(env)}
    queue = [(canonicalize_name(wanted.name), frozenset(wanted.extras)) for wanted in DIRECT]
    seen, problems = set(), []
    while queue:
        name, extras = queue.pop()
        if (name, extras) in seen or re.match(r"nvidia-|cuda-|triton", name):
            continue
        seen.add((name, extras))
        if name not in here:
            problems.append(f"{name} is missing")
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # belongs to another system
        for need in map(Requirement, needs):
            places = [{**env, "extra": extra} for extra in extras or {""}]
            if need.marker is None or any(need.marker.evaluate(place) for place in places):
                key = canonicalize_name(need.name)
                if key in here and not need.specifier.contains(version_of(here[key]), prereleases=True):
                    problems.append(f"{name} needs {need}, pinned is {here[key]}")
                queue.append((key, frozenset(need.extras)))
    assert not problems
    unused = set(here) - {name for name, _ in seen} - {"setuptools", "ipykernel"}
    assert not unused, f"pinned and used by nothing: {sorted(unused)}"


def modules_of(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


def imported_packages(folder: str) -> set[str]:
    names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py"))
    modules = set().union(*map(modules_of, map(ast.parse, texts)))
    modules -= sys.stdlib_module_names | {"lessons_lib", "classroom"}
    return {canonicalize_name(names.get(module, module)) for module in modules}


def test_each_package_declares_what_it_imports():
    library, course = ({canonicalize_name(need.name) for need in needs} for needs in (LIBRARY, COURSE))
    assert imported_packages("lessons_lib") == library
    assert imported_packages("classroom") <= library | course


LIBRARY_ALONE = """
import importlib, pkgutil, sys

BLOCKED = (
    "IPython anywidget classroom ipywidgets jupyter_client jupyterlab "
    "matplotlib nbclient nbformat torchinfo traitlets voila"
).split()

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import lessons_lib
for module in pkgutil.walk_packages(lessons_lib.__path__, "lessons_lib."):
    importlib.import_module(module.name)
from lessons_lib.pipeline import GenerationRequest, generate
*_, step = generate(GenerationRequest(labels=(7,)))
print(*step.x_t.shape, bool(step.x_t.std() > 0.1))
"""


def test_library_works_without_jupyter():
    done = subprocess.run([sys.executable, "-c", LIBRARY_ALONE], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "1 1 28 28 True\n", done.stderr


def test_python_range_is_the_same_everywhere():
    allowed = SpecifierSet(PROJECT["requires-python"])
    for minor in range(8, 20):
        assert allowed.contains(f"3.{minor}.0") == (lab.OLDEST <= (3, minor) <= lab.NEWEST)
    assert [python for python in PYTHONS if allowed.contains(python)] == list(PYTHONS)
    (python,) = [line for line in CONDA["dependencies"] if str(line).startswith("python=")]
    assert python.removeprefix("python=") in PYTHONS
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert set(matrix["python"]) <= set(PYTHONS)
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}


def test_environment_yml_and_makefile_agree_with_the_rest():
    assert CONDA["name"] == PROJECT["name"] and "conda-forge" in CONDA["channels"]
    (pip_lines,) = [line["pip"] for line in CONDA["dependencies"] if isinstance(line, dict)]
    assert {"-r requirements.txt", "-e ."} <= set(pip_lines)
    assert f"--extra-index-url {lab.CPU_INDEX}" in pip_lines
    named = [Requirement(line) for line in pip_lines if not line.startswith("-")]
    assert {pin.name for pin in named} >= {"torch", "torchvision"}
    for pin in named:
        assert str(pin) == str(pins()[pin.name]), "environment.yml and requirements.txt differ"
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    recipes = [line.strip() for line in lines if line.startswith("\t")]
    assert recipes and all(line.startswith("@$(PYTHON) lab.py ") for line in recipes)
    (targets,) = [line.rstrip(":").split() for line in lines if line.startswith("lab ")]
    assert targets == [command.__name__ for command in lab.COMMANDS]


# ---- files ----
def test_no_file_names_a_machine_or_a_registry_or_is_kept_in_lfs():
    texts, problems = text_files(), []
    for name, text in texts.items():
        problems += [f"{name}: {match.group()}" for match in MACHINE_PATH.finditer(text)]
        problems += [f"{name}: {host}" for host in REGISTRIES if host in text]
        problems += [f"{name}: LFS"] if text.startswith("version https://git-lfs") else []
    assert not problems and "filter=lfs" not in texts[".gitattributes"]


def test_data_and_environment_are_ignored():
    text_files()  # skips what is no git clone
    names = [".venv/x", "data/MNIST/raw/x", "my_work/x", "runs/x", "wheels/x", "dist/x", "progress.json"]
    names += ["notebooks/.ipynb_checkpoints/x", ".coverage.x"]
    command = ["git", "check-ignore", *names]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split() == names


# ---- lab.py ----
def test_lab_is_standard_library_and_readable_for_an_old_python():
    imported = modules_of(ast.parse((ROOT / "lab.py").read_text(encoding="utf-8"), feature_version=(3, 6)))
    assert imported <= sys.stdlib_module_names
    assert "__future__" not in imported, "Python 3.6 does not know annotations"


# Python, system, machine, folder, and what is said; nothing where the course can run.
MACHINES = [
    ((3, 10, 13), "linux", "x86_64", "/course", "3.11, 3.12 or 3.13"),
    ((3, 14, 0), "linux", "x86_64", "/course", "3.11, 3.12 or 3.13"),
    ((3, 11, 0), "linux", "x86_64", "/course", None),
    ((3, 12, 1), "darwin", "x86_64", "/course", "Colab"),
    ((3, 12, 1), "darwin", "arm64", "/course", None),
    ((3, 12, 1), "win32", "AMD64", "/me/OneDrive/course", "outside OneDrive"),
    ((3, 12, 1), "win32", "AMD64", "/me/OneDrive - School/course", "outside OneDrive"),
    ((3, 12, 1), "win32", "AMD64", "/me/Desktop/course", "outside OneDrive"),
    ((3, 12, 1), "win32", "AMD64", "/" + "x" * 80, None),
    ((3, 12, 1), "win32", "AMD64", "/" + "x" * 100, "shorter path"),
]


@pytest.mark.parametrize("version, system, machine, root, said", MACHINES)
def test_what_cannot_work_is_refused_in_a_sentence(monkeypatch, version, system, machine, root, said):
    for name in ("OneDrive", "OneDriveCommercial", "LESSONS_VENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OneDriveConsumer", "/me/Desktop")
    monkeypatch.setattr(lab.sys, "version_info", version)
    monkeypatch.setattr(lab.sys, "platform", system)
    monkeypatch.setattr(lab.platform, "machine", lambda: machine)
    if said is None:
        return lab.refuse_what_cannot_work(Path(root))
    with pytest.raises(lab.Refusal, match=said) as caught:
        lab.refuse_what_cannot_work(Path(root))
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_lessons_venv_is_no_folder_of_something_else_and_unknown_commands_are_one_sentence(capsys, tmp_path):
    assert lab.main(["lecture"]) == 1
    names = "lab, test, check, playground, update, notebooks, bundle"
    assert capsys.readouterr().err == f"lab.py: Unknown command 'lecture': choose one of {names}.\n"
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(lab.Refusal, match="not empty"):
        lab.make_environment(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.fixture
def course(tmp_path, monkeypatch) -> Path:
    """A copy of what set-up reads, with an environment folder that holds a Python and nothing else."""
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    venv = tmp_path / ".venv"
    lab.python_in(venv).parent.mkdir(parents=True)
    lab.python_in(venv).touch()
    (venv / "pyvenv.cfg").write_text("version = 3.12.4\n")
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    monkeypatch.setenv("LESSONS_VENV", str(venv))
    return tmp_path


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """Record the steps of a set-up instead of running them, on a machine without a GPU and a network."""
    done = []
    monkeypatch.setattr(lab, "answer", lambda *words, limit=60: "")
    monkeypatch.setattr(lab, "make_environment", lambda venv: done.append("environment"))
    monkeypatch.setattr(lab, "step", lambda what, *words: done.append(" ".join(map(str, words))))
    return done


def set_up(steps, *choice: str) -> list[str]:
    """What a set-up does."""
    steps.clear()
    lab.set_up(*choice)
    return list(steps)


def test_second_set_up_does_nothing_until_something_changes(course, steps):
    environment, packages, project = set_up(steps)
    assert environment == "environment" and packages.endswith("-r requirements.txt")
    assert project.endswith("--no-deps --no-build-isolation -e .")
    for change in ("requirements.txt", "pyproject.toml", ".venv/pyvenv.cfg"):
        assert set_up(steps) == []
        with open(course / change, "a") as file:
            file.write("# changed\n" if change != ".venv/pyvenv.cfg" else "version_info = 3.13.1\n")
        assert len(set_up(steps)) == 3, change


TORCH = version_of(pins()["torch"])


def provide(monkeypatch, *answers: str) -> None:
    """A Linux machine on which these commands answer: nvidia-smi, and the question to PyTorch's own index."""
    says = {"nvidia-smi": "a GPU", "versions": f"Available versions: 2.0.0+cpu, {TORCH}+cpu"}

    def answer(*words, limit=60):
        return next((says[name] for name in answers if name in words), "")

    monkeypatch.setattr(lab.sys, "platform", "linux")
    monkeypatch.setattr(lab, "answer", answer)


def install_torch(course: Path, *versions: str) -> None:
    shutil.rmtree(course / ".venv/lib", ignore_errors=True)
    for version in versions:
        (course / f".venv/lib/python3.12/site-packages/{version}.dist-info").mkdir(parents=True)


BUILDS = [
    (["versions"], None, None, True),
    ([], None, None, False),
    (["versions", "nvidia-smi"], None, None, False),
    (["versions"], "cuda", None, False),
    (["versions", "nvidia-smi"], "cpu", None, True),
    (["versions"], None, f"torch-{TORCH}", False),
    (["versions", "nvidia-smi"], None, "torch-2.0.0+cpu", True),
]


@pytest.mark.parametrize("answers, choice, present, cpu", BUILDS)
def test_build_of_torch_suits_the_machine(course, steps, monkeypatch, capsys, answers, choice, present, cpu):
    provide(monkeypatch, *answers)
    install_torch(course, *filter(None, [present]))
    done = set_up(steps, choice)
    assert f"{lab.CPU_INDEX} torch=={TORCH}+cpu torchvision==" in done[1] if cpu else len(done) == 3
    assert ("out of reach" in capsys.readouterr().out) == (answers == [])


def test_environment_keeps_its_torch_until_another_is_asked_for(course, steps, monkeypatch, capsys):
    provide(monkeypatch, "nvidia-smi")
    install_torch(course, f"torch-{TORCH}+cpu", f"torchvision-{version_of(pins()['torchvision'])}+cpu")
    assert len(set_up(steps)) == 3 and "out of reach" not in capsys.readouterr().out
    assert set_up(steps, "cpu") == []
    done = set_up(steps, "cuda")
    assert done[1].endswith("uninstall --yes torch torchvision") and len(done) == 4
    install_torch(course, f"torch-{TORCH}")
    assert set_up(steps) == set_up(steps, "cuda") == []


def test_failed_step_is_one_sentence():
    for printed, cause in {
        "OSError: [Errno 28] No space left on device": "disk is full",
        "WARNING: Retrying (Retry(total=4)) after connection broken": "check the network",
        "ERROR: something else": "its last lines are above",
    }.items():
        program = f"import sys; print({printed!r}, file=sys.stderr); sys.exit(1)"
        said = rf"^Installing did not finish \(.*{cause}.*next call resumes\.$"
        with pytest.raises(lab.Refusal, match=said):
            lab.step("Installing", sys.executable, "-c", program)


# ---- update ----
@pytest.fixture
def plain_git(monkeypatch) -> None:
    """Git that knows of no repository but the folder's own."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def clone(tmp_path, monkeypatch, plain_git) -> Path:
    """A learner's clone, whose origin (a local bare repository) has one commit more."""
    author, learner = tmp_path / "author", tmp_path / "learner"

    def publish(version: str, *names: str) -> None:
        for name in ("library.py", *names):
            (author / name).parent.mkdir(parents=True, exist_ok=True)
            (author / name).write_text(f"{version} {Path(name).name}\n")
        git(author, "add", ".")
        git(author, "commit", "--quiet", "-m", version)
        git(author, "push", "--quiet", "origin", "HEAD")

    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    git(tmp_path, "clone", "--quiet", "origin.git", "author")
    publish("old", "notebooks/00.ipynb", "notebooks/01.ipynb", "notebooks/solutions/01.ipynb")
    git(tmp_path, "clone", "--quiet", "origin.git", "learner")
    publish("new", "notebooks/00.ipynb", "notebooks/01.ipynb", "notebooks/02.ipynb")
    monkeypatch.setattr(lab, "ROOT", learner)
    return learner


def contents(folder: Path) -> dict[str, str]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text().strip() for name, path in found.items() if "git" not in name.split("/")[0]}


def test_update_copies_the_learners_notebooks_first(clone):
    mine = {
        "01.ipynb": "mine 01",
        "solutions/01.ipynb": "mine too",
        "02.ipynb": "mine 02",
        "x.ipynb": "scratch",
    }
    for name, text in mine.items():
        (clone / "notebooks" / name).write_text(text)
    git(clone, "add", "notebooks/01.ipynb")
    day = clone / "my_work" / lab.datetime.date.today().isoformat()
    day.mkdir(parents=True)
    (day / "01.ipynb").write_text("from this morning")
    assert lab.main(["update"]) == 0
    assert contents(day) == {"01.ipynb": "from this morning"}
    assert contents(day.with_name(day.name + "-2")) == mine
    new = {name: f"new {name}" for name in ("00.ipynb", "01.ipynb", "02.ipynb")}
    old = {"solutions/01.ipynb": "old 01.ipynb", "x.ipynb": "scratch"}
    assert contents(clone / "notebooks") == new | old
    assert (clone / "library.py").read_text() == "new library.py\n"


SPOILS = [
    (lambda clone: (clone / "library.py").write_text("mine"), "library.py"),
    (lambda clone: git(clone, "commit", "--quiet", "--allow-empty", "-m", "mine"), "commits of its own"),
    (lambda clone: git(clone, "remote", "set-url", "origin", str(clone / "no.git")), "could not be fetched"),
    (lambda clone: git(clone, "remote", "remove", "origin"), "could not be fetched"),
    (lambda clone: (clone / ".git").rename(clone / "git-was-here"), "not a git clone"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILS)
def test_update_that_cannot_work_loses_nothing(clone, capsys, spoil, said):
    (clone / "notebooks/01.ipynb").write_text("mine 01")
    (clone / "notebooks/02.ipynb").write_text("mine 02")
    spoil(clone)
    before = contents(clone)
    assert lab.main(["update"]) == 1
    sentence = capsys.readouterr().err
    assert said in sentence and sentence.count("\n") == 1 and sentence.endswith(".\n")
    after = contents(clone)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("my_work/") for name in set(after) - set(before))


# ---- bundle ----
@pytest.fixture
def teacher(course, steps, monkeypatch) -> Path:
    """A course with private files, in which pip wheel makes one empty wheel."""
    private = "data/x", "my_work/x", "wheels/old.whl", ".env", "env/pyvenv.cfg", "env/x.py"
    for name in ("library.py", "package/data/x.py", *private):
        (course / name).parent.mkdir(parents=True, exist_ok=True)
        (course / name).write_text("x")

    def step(what, *words):
        Path(words[words.index("--wheel-dir") + 1], "torch-1+cpu.whl").touch()
        steps.append(" ".join(map(str, words)))

    monkeypatch.setattr(lab, "step", step)
    return course


def bundled(course: Path) -> tuple[zipfile.ZipFile, set[str]]:
    (archive,) = (course / "dist").iterdir()
    assert archive.suffix == ".zip" and "-with-Python-" in archive.name
    file = zipfile.ZipFile(archive)
    names = {name for name in file.namelist() if not name.endswith("/")}
    return file, {name.removeprefix("steering-diffusion/") for name in names}


WHEELS = {"wheels/torch-1+cpu.whl", "wheels/made-for.txt"}
PUBLIC = {"library.py", "package/data/x.py", "pyproject.toml", "requirements.txt"}


def test_bundle_holds_the_course_and_its_packages(teacher, steps, monkeypatch):
    provide(monkeypatch, "versions", "nvidia-smi")
    assert lab.main(["bundle"]) == 0
    assert "wheel --wheel-dir" in steps[1] and f"torch=={TORCH}+cpu" in steps[1]
    assert steps[2].endswith("-r requirements.txt") and len(steps) == 3
    assert bundled(teacher)[1] == PUBLIC | WHEELS
    steps.clear()
    assert lab.main(["bundle", "--gpu"]) == 0 and len(steps) == 2


def test_bundle_of_a_clone_holds_what_is_committed(teacher, plain_git):
    git(teacher, "init", "--quiet")
    git(teacher, "add", "library.py")
    git(teacher, "commit", "--quiet", "-m", "one")
    (teacher / "library.py").write_text("the teacher's own answer")
    assert lab.main(["bundle"]) == 0
    file, names = bundled(teacher)
    assert names == {"library.py"} | WHEELS
    assert file.read("steering-diffusion/library.py") == b"x"


def test_unpacked_bundle_needs_no_network(teacher, steps, monkeypatch, tmp_path, capsys):
    assert lab.main(["bundle"]) == 0
    bundled(teacher)[0].extractall(tmp_path / "room")
    monkeypatch.setattr(lab, "ROOT", tmp_path / "room/steering-diffusion")
    monkeypatch.setattr(lab, "step", lambda what, *words: steps.append(" ".join(map(str, words))))
    provide(monkeypatch, "versions")
    done = set_up(steps, "cuda")
    assert done[1].endswith("install --no-index --find-links wheels -r requirements.txt") and len(done) == 3
    assert set_up(steps, "cuda") == []
    monkeypatch.setattr(lab.platform, "machine", lambda: "riscv")
    (lab.ROOT / "requirements.txt").write_text("torch==1\n")
    assert lab.main(["check"]) == 1
    sentence = capsys.readouterr().err
    assert "this is" in sentence and "riscv" in sentence and sentence.count("\n") == 1


# ---- the numeric tests once more, with the kernels and the threads of other processors ----
OLD = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait take the time of the other tests
}
NEW = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [OLD, NEW], ids=["SSE, 2 threads", "AVX2, 1 thread"])
def test_numbers_hold_with_other_kernels(settings):
    if settings is NEW and not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("this processor has no AVX2")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | settings
    words = ["-q", "-x", "-m", "numeric and not slow", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
