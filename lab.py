"""Set up the course and start it, on Linux, macOS and Windows, with nothing but Python 3.11 to 3.13.

    python lab.py lab         set up, then open JupyterLab at the first notebook
    python lab.py test        set up, then lint, unit tests and every notebook (--slow: the slow tests alone)
    python lab.py check       what this machine has, in ten lines
    python lab.py playground  the playground as a web page
    python lab.py book        the course as a web site, in book/_build/html
    python lab.py update      fetch the newest course; your changed notebooks are copied to my_work first
    python lab.py notebooks   run the notebooks again and store their outputs (for authors)
    python lab.py bundle      one archive of the course and its packages, for machines without a network

More words pass through: python lab.py lab --no-browser --port 8899
Where make exists: make lab ARGS="--no-browser --port 8899"

On Linux a machine without a working nvidia-smi gets the CPU-only torch from PyTorch's own index, or the
ordinary torch (6 GB in all) where that index is out of reach. --gpu or --cpu asks for one of the two (make
lab GPU=1, make lab CPU=1); without them an environment keeps what it has. The environment is the folder
.venv, or the folder that LESSONS_VENV names.
"""

# Python 3.6 must be able to read this file, so that an old Python gets a sentence and not a syntax error.
import datetime
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST, NEWEST = (3, 11), (3, 13)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
BUILDS = {"--gpu": "cuda", "--cpu": "cpu"}  # Linux has two builds of torch
WHEELS, MADE_FOR = "wheels", "made-for.txt"  # in a bundle: the folder of the packages, and what they are for
NOT_THE_COURSE = ("data", "runs", "my_work", "dist", "build", "test-artifacts", "progress.json", WHEELS)
LONGEST_VENV_ON_WINDOWS = 95  # Windows stops at 259 characters; the longest path in the environment takes 155
NOTEBOOK_LIMIT_S = 60
FIRST_NOTEBOOK = "notebooks/00_start_here.ipynb"

# What a failed step prints, and the cause that it stands for.
DISK_FULL = "the disk is full: free about 3 GB, or 10 GB for CUDA"
CAUSES = (
    (r"No space left|Errno 28\b|WinError 112\b", DISK_FULL),
    (
        r"Retrying \(|name resolution|getaddrinfo|NewConnectionError|Timeout|ProxyError|Max retries|timed out"
        r"|Connection (refused|reset|aborted|broken)|Network is unreachable|IncompleteRead",
        "the package index cannot be reached: check the network",
    ),
    (r"Permission denied|Errno 13\b|WinError 5\b|Read-only", "a file cannot be written: check who owns it"),
    (r"ensurepip", "the disk is full, or this Python has no ensurepip: Debian has it in python3-venv"),
    (
        r"No matching distribution",
        "the package index (or the folder wheels) lacks a build for this system, or is out of reach",
    ),
)


class Refusal(Exception):
    """One sentence for the learner; the program ends with status 1."""


def refuse_what_cannot_work(root=ROOT):
    """Raise Refusal for a Python, a machine or a folder on which the course cannot run."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        pythons = [name for name in ("python3.12", "python3.13", "python3.11") if shutil.which(name)]
        hint = f"run {pythons[0]} lab.py instead" if pythons else "install one of them"
        version = platform.python_version()
        raise Refusal(f"This is Python {version}, and the course needs Python 3.11, 3.12 or 3.13: {hint}.")
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        raise Refusal(
            "This is an Intel Mac (or an Intel build of Python), for which torch is no longer made: "
            "open the course in Google Colab (or install the Apple-silicon Python)."
        )
    if sys.platform in ("win32", "darwin"):
        names = ("OneDrive", "OneDriveConsumer", "OneDriveCommercial")
        synced = [Path(os.environ[name]) for name in names if os.environ.get(name)]
        if any(part.startswith("OneDrive") for part in root.parts) or set(synced) & {root, *root.parents}:
            raise Refusal(
                f"OneDrive syncs the folder {root} and would lock the course's thousands of files: "
                "move the course to a folder outside OneDrive."
            )
    venv = str(environment_folder(root))
    if sys.platform == "win32" and len(venv) > LONGEST_VENV_ON_WINDOWS:
        raise Refusal(
            f"The path {venv} has {len(venv)} characters, and Windows allows it {LONGEST_VENV_ON_WINDOWS}: "
            "move the course to a shorter path."
        )


# ---- set-up ----


def environment_folder(root=ROOT):
    return Path(os.path.abspath(os.environ.get("LESSONS_VENV") or str(root / ".venv")))


def python_in(venv):
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def activated(venv):
    """The variables of a process in the environment: a cell's `!python` must find the same Python."""
    env = dict(os.environ, VIRTUAL_ENV=str(venv))
    env["PATH"] = str(python_in(venv).parent) + os.pathsep + env.get("PATH", "")
    env.pop("PYTHONHOME", None)
    # See classroom/no_delay.py.
    places = [str(ROOT / "assets" / "jupyter"), env.get("JUPYTER_CONFIG_PATH", "")]
    env["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, places))
    return env


def step(what, *command):
    """Run one step of the set-up; its output is shown, and a failure becomes one sentence."""
    words = [str(word) for word in command]
    env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    process = subprocess.Popen(words, cwd=str(ROOT), env=env, stderr=subprocess.PIPE, errors="replace")
    said = []
    try:
        for line in process.stderr:
            sys.stderr.write(line)
            said.append(line)
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    if status:
        causes = (cause for pattern, cause in CAUSES if re.search(pattern, "".join(said)))
        cause = next(causes, "its last lines are above")
        raise Refusal(f"{what} did not finish ({cause}); what was there is kept, and the next call resumes.")


def answer(*command, limit=60):
    """What a command prints; nothing if it fails, is not there, or takes longer than limit seconds."""
    words = [str(word) for word in command]
    try:
        return subprocess.check_output(words, stderr=subprocess.DEVNULL, timeout=limit, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return ""


def make_environment(venv):
    """Create the environment when it is missing, repair it when it is half made."""
    python, ours = python_in(venv), (venv / "pyvenv.cfg").exists()
    if venv.exists() and not ours and (not venv.is_dir() or any(venv.iterdir())):
        raise Refusal(f"{venv} is not empty and no virtual environment: name another folder in LESSONS_VENV.")
    if answer(python, "-m", "pip", "--version"):
        return
    print(f"Creating the environment in {venv}", flush=True)
    # venv keeps a dead link to a Python that was removed, so such an environment is made anew.
    anew = ["--clear"] if ours and not answer(python, "--version") else []
    step("Creating the environment", sys.executable, "-m", "venv", *anew, venv)


def installed(venv, pin):
    """Whether an environment on Linux has this package: "torch==*+cpu"."""
    return any(venv.glob("lib/python*/site-packages/" + pin.replace("==", "-") + ".dist-info"))


def this_machine():
    """What a wheel must suit."""
    return f"{platform.system()} {platform.machine()} with Python {'.'.join(map(str, sys.version_info[:2]))}"


def fetch_packages(venv, build, *command):
    """Let pip do this command (install, wheel) with all packages that requirements.txt pins."""
    pip = [python_in(venv), "-m", "pip"]
    options, made_for = [], ROOT / WHEELS / MADE_FOR
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    torch = [pin + "+cpu" for pin in re.findall(r"(?m)^(?:torch|torchvision)==[\w.]+", pinned)]
    if made_for.exists():
        machine = made_for.read_text(encoding="utf-8")
        if machine != this_machine():
            raise Refusal(
                f"The packages in the folder {WHEELS} are for {machine}, and this is {this_machine()}: "
                f"use that Python, or delete {WHEELS} to take the packages from the network."
            )
        options = ["--no-index", "--find-links", WHEELS]
    elif build == "cpu" and sys.platform == "linux" and not all(installed(venv, pin) for pin in torch):
        # A short question first: an install from an index that is out of reach tries again for minutes.
        hasty = ["--index-url", CPU_INDEX, "--retries", "0", "--timeout", "4", "--disable-pip-version-check"]
        if torch[0].split("==")[1] in answer(*pip, "index", "versions", "torch", *hasty, limit=10):
            step("Fetching the CPU-only torch", *pip, *command, "--no-deps", "--index-url", CPU_INDEX, *torch)
        else:
            print("PyTorch's own index is out of reach: the ordinary torch follows (6 GB).", flush=True)
    step("Fetching the packages", *pip, *command, *options, "-r", "requirements.txt")


def stamp_of(venv):
    """A hash of all that set-up depends on; of the folder too, because an editable install points to it."""
    config = venv / "pyvenv.cfg"
    version = re.findall(r"(?m)^version.*$", config.read_text(encoding="utf-8")) if config.exists() else []
    parts = [(ROOT / name).read_bytes() for name in ("requirements.txt", "pyproject.toml")]
    return hashlib.sha256(repr((parts, version, str(ROOT))).encode()).hexdigest()


def set_up(choice=None):
    """Return the environment's folder, ready to use; takes no time when nothing has changed.

    choice: the build of torch, "cuda" or "cpu"; without it the environment's, else what suits the machine.
    """
    venv = environment_folder()
    python, stamp = python_in(venv), venv / "steering-diffusion.stamp"
    present = "cpu" if installed(venv, "torch==*+cpu") else "cuda" if installed(venv, "torch==*") else None
    if sys.platform != "linux" or (ROOT / WHEELS / MADE_FOR).exists():
        choice = None  # there is one build only
    ready = python.exists() and stamp.exists() and stamp.read_text() == stamp_of(venv)
    if ready and choice in (None, present):
        return venv
    make_environment(venv)
    stamp.unlink(missing_ok=True)
    build = choice or present or ("cuda" if answer("nvidia-smi", limit=30) else "cpu")
    print("Installing the course's packages: the first time takes some minutes", flush=True)
    if (present, build) == ("cpu", "cuda"):  # the pin alone would be content with the CPU-only one
        step("Removing the CPU-only torch", python, "-m", "pip", "uninstall", "--yes", "torch", "torchvision")
    fetch_packages(venv, build, "install")
    pip = [python, "-m", "pip", "install"]
    # Without isolation pip builds with the pinned setuptools and needs no network.
    step("Installing the library", *pip, "--no-deps", "--no-build-isolation", "-e", ".")
    stamp.write_text(stamp_of(venv))
    return venv


# ---- commands ----


def start(venv, *words):
    """Hand over to a Python program of the environment."""
    command = [str(python_in(venv)), *words]
    os.chdir(str(ROOT))
    if sys.platform != "win32":
        sys.stdout.flush()
        os.execve(command[0], command, activated(venv))
    process = subprocess.Popen(command, env=activated(venv))  # Windows has no real exec
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the program has its own answer to Ctrl-C


def lab(venv, words):
    options = [f"--ServerApp.root_dir={ROOT}", f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")  # Jupyter would refuse, and in a container everyone is root
    return start(venv, "-m", "jupyterlab", *options, *words)


def check(venv, words):
    return start(venv, "-m", "lessons_lib", "check-machine", *words)


def playground(venv, words):
    page = ROOT / "assets/playground"  # settings and template for voila
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, (str(page), os.environ.get("JUPYTER_PATH"))))
    settings = f"--Voila.config_file_paths={page}"
    return start(venv, "-m", "voila", "notebooks/playground.ipynb", settings, *words)


def book(venv, words):
    return start(venv, "-m", "book.build", *words)


def notebooks(venv, words):
    return start(venv, "tests/refresh_notebooks.py", *words)


def test(venv, words):
    """Run every stage, also after one has failed; more words go to the unit tests (-k name).

    --slow: the tests that are marked slow, and nothing else. --coverage: what the unit tests leave out.
    """
    begun = time.perf_counter()
    options = {"--slow", "--coverage"}.intersection(words)
    units = ["pytest", "-n", "2", "tests"] + [word for word in words if word not in options]
    stages = {
        "lint": ["ruff", "check", "."],
        "format": ["ruff", "format", "--check", "."],
        "unit tests": ["coverage", "run", "-m"] * ("--coverage" in options) + units,
        # loadfile: the cells of a notebook need one kernel, so one worker.
        "notebooks": ["pytest", "--nbval", "notebooks", "-n", "2", "--dist", "loadfile"],
    }
    if "--coverage" in options:
        stages.update({"its parts": ["coverage", "combine", "--quiet"], "coverage": ["coverage", "report"]})
    if "--slow" in options:
        stages = {"slow tests": units + ["-m", "slow"]}
    env = dict(activated(venv), LESSONS_OFFLINE="1")
    # Two workers that each use every core wait for each other most of the time.
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    lines, failed, counts = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in stages.items():
            print(f"\n==== {name} ====", flush=True)
            report, stage_begun = Path(folder, f"{name}.xml"), time.perf_counter()
            extra = [f"--junitxml={report}"] if "pytest" in words else []
            status = subprocess.call([str(python_in(venv)), "-m", *words, *extra], cwd=str(ROOT), env=env)
            seconds, verdict = time.perf_counter() - stage_begun, "FAILED" if status else "ok"
            lines.append(f"{name:<52} {seconds:7.1f} s  {verdict}")
            failed += [name] if status else []
            for file, seconds in sorted(read_report(report, counts).items()):
                if name == "notebooks":
                    short = file[len("notebooks.") : -len(".ipynb")].replace(".", "/")
                    over = f"  over {NOTEBOOK_LIMIT_S} s" if seconds > NOTEBOOK_LIMIT_S else ""
                    lines.append(f"    notebook {short:<39} {seconds:7.1f} s{over}")
    total = time.perf_counter() - begun
    tests = ", ".join(f"{counts[kind]} {kind}" for kind in ("failed", "passed", "skipped") if kind in counts)
    print("\n==== seconds ====", *lines, f"{'total':<52} {total:7.1f} s", sep="\n")
    print("stages that failed: " + ", ".join(failed) if failed else "every stage is ok")
    print(f"==== {tests or 'no tests ran'} in {total:.1f}s ====", flush=True)
    return 1 if failed else 0


def read_report(report, counts):
    """Add a JUnit report to counts and return the seconds of each file in it."""
    seconds_of = {}
    for case in xml.etree.ElementTree.parse(str(report)).iter("testcase") if report.exists() else ():
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        counts[kind] = counts.get(kind, 0) + 1
        file = case.get("classname", "")
        seconds_of[file] = seconds_of.get(file, 0.0) + float(case.get("time", 0))
    return seconds_of


def git(*words):
    """Run git in the course's folder and return what it prints; a failure is raised with git's own words."""
    env = dict(os.environ, GIT_TERMINAL_PROMPT="0", LC_ALL="C")
    options = {"cwd": str(ROOT), "env": env, "capture_output": True, "encoding": "utf-8", "errors": "replace"}
    done = subprocess.run(["git", *words], **options)
    if done.returncode:
        said = done.stderr.splitlines()
        reasons = [line.split(": ", 1)[-1] for line in said if line.startswith(("fatal:", "error:"))]
        files = ", ".join(line.strip() for line in said if line.startswith("\t"))
        raise Refusal(f"{(reasons or said or ['git failed'])[0].rstrip(':.')} {files}".strip())
    return done.stdout


def copy_to_my_work(names):
    """Copy these notebooks to a new folder my_work/DATE; a folder that exists is never used again."""
    day, number = ROOT / "my_work" / datetime.date.today().isoformat(), 1
    target = day
    while target.exists():
        number += 1
        target = day.with_name(f"{day.name}-{number}")
    for name in names:
        copy = target / Path(name).relative_to("notebooks")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(str(ROOT / name), str(copy))
    return target


def update():
    """Fast-forward to the newest course; changed notebooks are copied first, and put back if it fails."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        why = "git is not installed" if (ROOT / ".git").exists() else "this folder is not a git clone"
        raise Refusal(f"The course cannot be updated in place ({why}): download the newest ZIP beside it.")
    try:
        git("fetch", "--quiet")
        behind, ahead = (int(git("rev-list", "--count", s)) for s in ("HEAD..@{u}", "@{u}..HEAD"))
    except Refusal as error:
        raise Refusal(f"The newest course could not be fetched ({error}); nothing was changed.") from None
    if not behind:
        print("This is the newest course already; nothing was changed.")
        return 0
    if ahead:
        raise Refusal(f"This clone has {ahead} commits of its own: merge with git; nothing was changed.")
    listing = ("--name-only", "--no-renames", "-z", "HEAD")
    git("reset", "--quiet", "HEAD", "--", "notebooks")
    changed = git("diff", *listing, "--", "notebooks").split("\0")[:-1]
    added = git("ls-files", "--others", "--exclude-standard", "-z", "--", "notebooks").split("\0")[:-1]
    present = [name for name in changed + added if (ROOT / name).is_file()]
    copies = copy_to_my_work(present) if present else None
    if copies:
        print(f"Copied the {len(present)} notebooks that you changed to {copies.relative_to(ROOT)}")
    try:
        if changed:
            git("checkout", "--quiet", "HEAD", "--", *changed)
        for name in set(git("diff", *listing, "@{u}").split("\0")).intersection(added):
            (ROOT / name).unlink()
        git("merge", "--ff-only", "--quiet", "@{u}")
    except (Refusal, OSError) as error:
        for name in present:
            shutil.copy2(str(copies / Path(name).relative_to("notebooks")), str(ROOT / name))
        raise Refusal(f"The update failed ({error}); your notebooks are as they were.") from None
    print(f"The course is {behind} commits newer now; the next start installs what it needs.")
    return 0


def files_of_the_course():
    """The files of a course without git, but for what a learner's machine has added."""
    for top in sorted(ROOT.iterdir()):
        if top.name not in NOT_THE_COURSE and not (top / "pyvenv.cfg").exists():
            places = [path.relative_to(ROOT) for path in (top, *sorted(top.rglob("*"))) if path.is_file()]
            yield from (
                p for p in places if not any(part.startswith((".", "__pyc", "_build")) for part in p.parts)
            )


def bundle(build):
    """Write one archive: the course (of a clone what is committed) and the wheels of all its packages."""
    name, dist = "steering-diffusion", ROOT / "dist"
    title = "-".join([name, *this_machine().split()]) + ".zip"
    dist.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(dist)) as folder:
        venv, wheels, archive = (Path(folder, part) for part in ("venv", WHEELS, title))
        wheels.mkdir()
        make_environment(venv)
        # --find-links: the second of pip's runs takes the torch that the first one has brought.
        fetch_packages(venv, build or "cpu", "wheel", "--wheel-dir", wheels, "--find-links", wheels)
        (wheels / MADE_FOR).write_text(this_machine(), encoding="utf-8")
        is_clone = (ROOT / ".git").exists() and shutil.which("git")
        if is_clone:
            git("archive", "--format=zip", f"--prefix={name}/", f"--output={archive}", "HEAD")
        with zipfile.ZipFile(str(archive), "a", strict_timestamps=False) as file:
            for path in () if is_clone else files_of_the_course():
                file.write(str(ROOT / path), f"{name}/{path}", zipfile.ZIP_DEFLATED)
            for path in sorted(wheels.iterdir()):
                file.write(str(path), f"{name}/{WHEELS}/{path.name}")
        os.replace(str(archive), str(dist / title))
    print(f"Wrote dist/{title}, {(dist / title).stat().st_size / 1e9:.1f} GB: unpacked on {this_machine()},")
    print("python lab.py lab installs the course from it without a network.")
    return 0


COMMANDS = (lab, test, check, playground, book, update, notebooks, bundle)


def main(argv):
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    commands = {command.__name__: command for command in COMMANDS}
    command = commands.get(argv[0])
    try:
        refuse_what_cannot_work()
        if command is None:
            raise Refusal(f"Unknown command {argv[0]!r}: choose one of {', '.join(commands)}.")
        build = next((BUILDS[word] for word in argv if word in BUILDS), None)
        if command is update:
            return update()
        if command is bundle:
            return bundle(build)
        return command(set_up(build), [word for word in argv[1:] if word not in BUILDS])
    except Refusal as error:
        print(f"lab.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        reason = DISK_FULL if error.errno == 28 else error
        print(f"lab.py: {argv[0]} did not finish ({reason}).", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlab.py: stopped; what is installed is kept, and the next call goes on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
