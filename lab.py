"""Set up the course and start it, on Linux, macOS and Windows, with nothing but Python 3.11 to 3.13.

    python lab.py lab         set up, then open JupyterLab at the first notebook
    python lab.py test        set up, then lint, unit tests and every notebook
    python lab.py check       what this machine has, in ten lines
    python lab.py playground  the playground as a web page
    python lab.py update      fetch the newest course; your changed notebooks are copied to my_work first
    python lab.py notebooks   run the notebooks again and store their outputs (for authors)

More words pass through: python lab.py lab --no-browser --port 8899
Where make exists: make lab ARGS="--no-browser --port 8899"

On Linux the ordinary torch brings 6 GB of CUDA. The CPU-only build is much smaller and comes from PyTorch's
own index: python lab.py lab --cpu-torch, or make lab CPU=1, or LESSONS_CPU_TORCH=1. The choice is remembered;
delete .venv to go back. The environment is the folder .venv, or the folder that LESSONS_VENV names.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST, NEWEST = (3, 11), (3, 13)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LONGEST_VENV_ON_WINDOWS = 95  # Windows stops at 259 characters; the longest path in the environment takes 155
NOTEBOOK_LIMIT_S = 60
FIRST_NOTEBOOK = "notebooks/00_start_here.ipynb"
PLAYGROUND = "notebooks/playground.ipynb"
PLAYGROUND_PAGE = "assets/playground"  # settings and template for voila
REFRESH = "tests/refresh_notebooks.py"

# What a failed step prints, and the cause that it stands for.
DISK_FULL = "the disk is full: free about 10 GB, or 3 GB with --cpu-torch"
CAUSES = (
    (r"No space left|Errno 28\b|WinError 112\b", DISK_FULL),
    (
        r"Retrying \(|name resolution|getaddrinfo|NewConnectionError|Timeout|ProxyError|Max retries|timed out"
        r"|Connection (refused|reset|aborted|broken)|Network is unreachable|IncompleteRead",
        "the package index cannot be reached: check the network",
    ),
    (r"Permission denied|Errno 13\b|WinError 5\b|Read-only", "a file cannot be written: check who owns it"),
    (r"ensurepip", "the disk is full, or this Python has no ensurepip: Debian has it in python3-venv"),
    (r"No matching distribution", "the package index lacks a build for this system, or is out of reach"),
)


class Refusal(Exception):
    """One sentence for the learner; the program ends with status 1."""


def refuse_what_cannot_work(root=ROOT):
    """Raise Refusal for a Python, a machine or a folder on which the course cannot run."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found = [name for name in ("python3.12", "python3.13", "python3.11") if shutil.which(name)]
        hint = f"run {found[0]} lab.py instead" if found else "install one of them"
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
    return env


def step(what, *command):
    """Run one step of the set-up; its output is shown, and a failure becomes one sentence."""
    words = [str(word) for word in command]
    process = subprocess.Popen(words, cwd=str(ROOT), stderr=subprocess.PIPE, errors="replace")
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


def works(*command):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.call([str(word) for word in command], **quiet) == 0
    except OSError:
        return False


def make_environment(venv):
    """Create the environment when it is missing, repair it when it is half made."""
    python, ours = python_in(venv), (venv / "pyvenv.cfg").exists()
    if venv.exists() and not ours and (not venv.is_dir() or any(venv.iterdir())):
        raise Refusal(f"{venv} is not empty and no virtual environment: name another folder in LESSONS_VENV.")
    if works(python, "-m", "pip", "--version"):
        return
    print(f"Creating the environment in {venv}", flush=True)
    # venv keeps a dead link to a Python that was removed, so such an environment is made anew.
    anew = ["--clear"] if ours and not works(python, "--version") else []
    step("Creating the environment", sys.executable, "-m", "venv", *anew, venv)


def wants_cpu_torch(venv, asked):
    """The switch, or what it was last time; elsewhere than on Linux the ordinary torch is CPU-only."""
    asked = asked or os.environ.get("LESSONS_CPU_TORCH", "") not in ("", "0")
    return sys.platform == "linux" and (asked or (venv / "cpu-torch").exists())


def stamp_of(venv, cpu):
    """A hash of all that set-up depends on; of the folder too, because an editable install points to it."""
    config = venv / "pyvenv.cfg"
    version = re.findall(r"(?m)^version.*$", config.read_text(encoding="utf-8")) if config.exists() else []
    parts = [(ROOT / name).read_bytes() for name in ("requirements.txt", "pyproject.toml")]
    return hashlib.sha256(repr((parts, version, cpu, str(ROOT))).encode()).hexdigest()


def set_up(cpu_asked=False):
    """Return the environment's folder, ready to use; takes no time when nothing has changed."""
    venv = environment_folder()
    cpu, stamp, python = wants_cpu_torch(venv, cpu_asked), venv / "steering-diffusion.stamp", python_in(venv)
    if python.exists() and stamp.exists() and stamp.read_text() == stamp_of(venv, cpu):
        return venv
    make_environment(venv)
    size = "" if cpu or sys.platform != "linux" else ", and --cpu-torch saves 5 GB"
    print(f"Installing the course's packages: the first time takes some minutes{size}", flush=True)
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    if cpu:
        (venv / "cpu-torch").touch()
        pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
        wheels = [pin + "+cpu" for pin in re.findall(r"(?m)^(?:torch|torchvision)==[\w.]+", pinned)]
        step("Installing the CPU-only torch", *pip, "--no-deps", "--index-url", CPU_INDEX, *wheels)
    step("Installing the packages", *pip, "-r", "requirements.txt")
    # Without isolation pip builds with the pinned setuptools and needs no network.
    step("Installing the library", *pip, "--no-deps", "--no-build-isolation", "-e", ".")
    fresh = stamp.with_suffix(".new")
    fresh.write_text(stamp_of(venv, cpu))
    os.replace(str(fresh), str(stamp))
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


def start_file(name, venv, *words):
    if not (ROOT / name).exists():
        raise Refusal(f"{name} is not there yet: python lab.py lab opens the lessons.")
    return start(venv, *words)


def lab(venv, words):
    options = [f"--ServerApp.root_dir={ROOT}"]
    if (ROOT / FIRST_NOTEBOOK).exists():
        options.append(f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")  # Jupyter would refuse, and in a container everyone is root
    return start(venv, "-m", "jupyterlab", *options, *words)


def check(venv, words):
    return start(venv, "-m", "lessons_lib", "check-machine", *words)


def playground(venv, words):
    page = ROOT / PLAYGROUND_PAGE
    paths = (str(page), os.environ.get("JUPYTER_PATH"))
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, paths))
    settings = f"--Voila.config_file_paths={page}"
    return start_file(PLAYGROUND, venv, "-m", "voila", PLAYGROUND, settings, *words)


def notebooks(venv, words):
    return start_file(REFRESH, venv, REFRESH, *words)


def test(venv, words):
    """Run every stage, also after one has failed; more words go to the unit tests (-k name)."""
    begun = time.perf_counter()
    stages = {
        "lint": ["ruff", "check", "."],
        "format": ["ruff", "format", "--check", "."],
        "unit tests": ["pytest", "-n", "2", "tests", *words],
    }
    if any(ROOT.glob("notebooks/**/*.ipynb")):
        # loadfile: the cells of a notebook need one kernel, so one worker.
        stages["notebooks"] = ["pytest", "--nbval", "notebooks", "-n", "2", "--dist", "loadfile"]
    env = dict(activated(venv), LESSONS_OFFLINE="1")
    # Two workers that each use every core wait for each other most of the time.
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    lines, failed, counts = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in stages.items():
            print(f"\n==== {name} ====", flush=True)
            report, stage_begun = Path(folder, f"{name}.xml"), time.perf_counter()
            extra = [f"--junitxml={report}"] if words[0] == "pytest" else []
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
    told = ", ".join(f"{counts[kind]} {kind}" for kind in ("failed", "passed", "skipped") if kind in counts)
    print("\n==== seconds ====", *lines, f"{'total':<52} {total:7.1f} s", sep="\n")
    print("stages that failed: " + ", ".join(failed) if failed else "every stage is ok")
    print(f"==== {told or 'no tests ran'} in {total:.1f}s ====", flush=True)
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


COMMANDS = (lab, test, check, playground, update, notebooks)


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
        if command is update:
            return update()
        venv = set_up("--cpu-torch" in argv)
        return command(venv, [word for word in argv[1:] if word != "--cpu-torch"])
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
