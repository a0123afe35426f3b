"""python -m book.build: the course as a web site in book/_build/html, from the notebooks' stored outputs.

The notebooks stay as they are. Each is laid out as a page first: pictures become files, what only a kernel
can do becomes a link, papers become citations, the moving world moves. Sphinx reads the pages, see conf.py.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import nbformat
import numpy as np
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell as markdown
from nbformat.v4 import new_output
from PIL import Image
from pybtex.database import Entry, parse_file
from sphinx.cmd.build import main as sphinx

from book import play_page
from classroom import panels

HERE = Path(__file__).resolve().parent
ROOT, BUILD = HERE.parent, HERE / "_build"
PAGES, EXTRA, STATIC, HTML = BUILD / "pages", BUILD / "extra", BUILD / "static", BUILD / "html"
# A live figure for lessons without a moving world of their own: what stands above it, and its cell.
WORLDS = {
    "00": (
        "The same two handles in a world of dots, which your browser computes: each dot is one picture, of a "
        "7 or of a 3. Choose a wish, and move the scale.",
        'panels.MovingWorld("guide", guidance_scale=1.0)',
    ),
    "07": (
        "The formula of section 1 with exact answers, computed by your browser. The green line is the "
        "difference of the two answers, times w.",
        'panels.MovingWorld("guide", guidance_scale=2.0, target=1)',
    ),
}
FILM = "![Ten squares of noise become ten digits, one for each wish](../assets/figures/ten_digits.gif)"
CLOUD = (
    "- **Without an installation:** the rocket at the top of each lesson opens it on Binder, whose first "
    "start takes some minutes, or in Colab."
)
# Paragraphs of a lesson's header that the page says in another place.
ELSEWHERE = ("**Map:**", "To run it in Colab", "Press Shift + Enter: the cell above")


def address() -> tuple[str, str]:
    """OWNER/NAME and branch of the repository on GitHub that builds this; "" where nobody says."""
    return os.environ.get("GITHUB_REPOSITORY", ""), os.environ.get("GITHUB_REF_NAME") or "main"


# ---- a notebook as a page ----


class Page:
    """One notebook, `path`, laid out as a page of the same name."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.notebook = nbformat.read(path, as_version=4)
        self.number = self.notebook.metadata.lesson.number
        self.solutions = path.parent.name == "solutions"
        self.up = "../" * self.solutions

    def write(self) -> str:
        """Write the page; returns its line in a table of contents."""
        cells = sorted(self.notebook.cells, key=lambda cell: "header" not in _tags(cell))
        title = next(re.findall(r"^# (.*)", cell.source)[0] for cell in cells if cell.source.startswith("# "))
        self.notebook.cells = [page for cell in cells for page in self.laid_out(cell)]
        target = PAGES / self.path.relative_to(ROOT / "notebooks")
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(self.notebook, target)
        name = target.relative_to(PAGES).with_suffix("").as_posix()
        return f"{title.partition(':')[0] if not self.solutions else title} <{name}>"

    def laid_out(self, cell: NotebookNode) -> Iterator[NotebookNode]:
        """The cells of the page that stand for one of the notebook."""
        source, tags = cell.source, _tags(cell)
        if cell.cell_type == "markdown":
            yield markdown(self.words(source, "header" in tags))
        elif "guard" not in tags and not source.startswith("checks.progress"):
            yield self.code(cell, source)
        if "exercise" in tags:
            solutions = f"[right answers](solutions/{self.path.name})"
            has = (self.path.parent / "solutions" / self.path.name).exists()
            yield markdown(f"*{self.live()} to have it checked{f', or see {solutions}' * has}.*")
        if "widget" in tags and "guard" not in tags and self.number in WORLDS:
            words, source = WORLDS.pop(self.number)
            yield markdown(words)
            yield markdown(self.world(source))

    def words(self, text: str, header: bool) -> str:
        """The text of a cell: without what the page says elsewhere, with citations and pictures."""
        if header:
            parts = [part for part in text.split("\n\n") if not part.startswith(ELSEWHERE)]
            parts[1:1] = [FILM] if self.number == "00" else []
            text = "\n\n".join([*parts, f"**{self.live()}**, or read on."])
        text = re.sub(r"\*\*Papers:\*\* (.*)\.", lambda m: f"**Papers:** {cited(m[1])}.", text)
        file = lambda m: self.picture((ROOT / m[2]).read_bytes(), m[2][-3:], m[1], 760)  # noqa: E731
        return re.sub(r"!\[(.*?)\]\(\.\./(assets/.*?)\)", file, text)

    def code(self, cell: NotebookNode, source: str) -> NotebookNode:
        """A code cell with its outputs; what JupyterLab folds is folded."""
        tags, folded = _tags(cell), cell.metadata.get("jupyter", {})
        hidden = {"hide-input": folded.get("source_hidden") or "solution" in tags}
        hidden["hide-output"] = folded.get("outputs_hidden")
        cell.metadata.tags = [name for name, hides in hidden.items() if hides]
        cell.outputs = [] if "exercise" in tags else [self.output(one, source) for one in cell.outputs]
        return cell

    def output(self, output: NotebookNode, source: str) -> NotebookNode:
        """An output whose pictures are files; a panel's still leads to the panel."""
        data = output.get("data", {})
        shown = data.get("text/html", "")
        if image := re.match(r'<img src="data:image/(\w+);base64,(.*?)" width="(\d+)" alt="(.*?)"', shown):
            kind, content, width, alt = image.groups()
            shown = self.picture(base64.b64decode(content), kind, html.unescape(alt), int(width))
        elif "image/png" in data:
            told = output.metadata["image/png"]
            shown = self.picture(base64.b64decode(data["image/png"]), "png", told["alt"], told["width"])
            run = f'{shown}<p class="run-live">{self.live()}: move its sliders.</p>'
            shown = self.world(source, shown) if "panels.MovingWorld(" in source else run
        else:
            return output
        return new_output("display_data", {"text/html": shown})

    def picture(self, content: bytes, kind: str, alt: str, width: int) -> str:
        """Write a picture's file; returns its element, which leads to the file: for a slide."""
        self.count += 1
        name = f"figures/{self.number}-{self.count}.{kind}"
        (EXTRA / name).parent.mkdir(parents=True, exist_ok=True)
        (EXTRA / name).write_bytes(content)
        wide, high = Image.open(io.BytesIO(content)).size
        size = f'width="{width}" height="{round(width * high / wide)}"'
        image = f'<img src="{self.up}{name}" alt="{html.escape(alt)}" {size} loading="lazy">'
        return f'<a class="lesson-picture" href="{self.up}{name}">{image}</a>'

    def world(self, source: str, still: str = "") -> str:
        """The moving world of a cell: live.js sets it going in the place of its still."""
        world = eval(re.search(r"panels\.MovingWorld\(.*\)", source)[0], {"panels": panels})
        if not still:
            film, alt = world.film()
            still = self.picture(film, "png", alt, 640)
        traits = ("scene", "guidance_scale", "target", "steps", "seed", "arrows")
        settings = html.escape(json.dumps({name: getattr(world, name) for name in traits}))
        return f'<div class="live-world" data-settings="{settings}">{still}</div>'

    def live(self) -> str:
        """A link to where this notebook runs: Binder if the repository is known, else how to run it."""
        repository, branch = address()
        path = self.path.relative_to(ROOT).as_posix()
        cloud = f"https://mybinder.org/v2/gh/{repository}/{branch}?labpath={path}"
        return f'<a href="{cloud if repository else self.up + "index.html#run-it"}">Run it live</a>'


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


# ---- papers ----


def cited(told: str) -> str:
    """Papers as a lesson names them, "Ho, Jain and Abbeel 2020 (DDPM); …", as citations; or LookupError."""
    return re.sub(r"([A-Z][^;()\d=]*) (\d{4})", lambda match: f"{{cite:t}}`{key_of(*match.groups())}`", told)


@functools.cache
def papers() -> Mapping[str, Entry]:
    """The entries of references.bib by key."""
    return parse_file(str(HERE / "references.bib")).entries


def key_of(names: str, year: str) -> str:
    """The key of the paper by these authors, in their order; with "and others" the one by most."""
    wanted = re.split(r", | and ", names)
    others = wanted[-1] == "others"
    wanted = wanted[:-1] if others else wanted
    found: dict[str, int] = {}
    for key, entry in papers().items():
        authors = [" ".join(one.prelast_names + one.last_names) for one in entry.persons["author"]]
        fits = authors[: len(wanted)] == wanted if others else authors == wanted
        if fits and entry.fields["year"] == year:
            found[key] = len(authors)
    best = [key for key, count in found.items() if count == max(found.values())]
    if len(best) != 1:
        raise LookupError(f"{names} {year} is {' and '.join(best) or 'not'} in book/references.bib.")
    return best[0]


# ---- the book ----


def fetched_modules() -> Path:
    """The packages of package-lock.json from npm; a second build asks no network."""
    folder, lock = BUILD / "npm", "package-lock.json"
    if not (folder / "node_modules").is_dir() or (folder / lock).read_bytes() != (HERE / lock).read_bytes():
        if (npm := shutil.which("npm")) is None:
            sys.exit("book: npm is missing, which fetches what the pages run: install Node.js.")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("package.json", lock):
            shutil.copy(HERE / name, folder)
        if subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder).returncode:
            shutil.rmtree(folder)
            sys.exit("book: npm could not fetch what package-lock.json names: check the network.")
    return folder / "node_modules"


def lay_out() -> None:
    """Write everything that Sphinx reads."""
    for folder in (PAGES, EXTRA, STATIC, HTML):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    modules, fonts = fetched_modules(), "output/chtml/fonts/woff-v2"
    mathjax = modules / "mathjax" / "es5"
    shutil.copytree(mathjax / fonts, STATIC / "mathjax" / fonts)
    shutil.copy(mathjax / "tex-chtml.js", STATIC / "mathjax")
    play_page.build(EXTRA / "play", modules)
    for name in ("world.js", "strip.css"):
        shutil.copy(ROOT / "classroom" / "panels" / name, STATIC)
    world = panels.MovingWorld()
    numbers = {name: np.frombuffer(getattr(world, name)).tolist() for name in ("means", "abar")}
    (STATIC / "world.json").write_text(json.dumps(numbers | {"classes": world.classes, "std": world.std}))
    pages = {
        place: sorted((ROOT / "notebooks" / place).glob("[0-9p]*.ipynb")) for place in (".", "solutions")
    }
    lines = {place: [Page(path).write() for path in paths] for place, paths in pages.items()}
    goals = re.findall(r"(?m)^\| \[.*\]\(notebooks/.*\|$", (ROOT / "README.md").read_text(encoding="utf-8"))
    told = {
        "LESSONS": lines["."][:-1],  # the last is the playground
        "SOLUTIONS": lines["solutions"],
        "GOALS": ["| lesson | |", "|---|---|", *(goal.replace("](notebooks/", "](") for goal in goals)],
        "CLOUD": [CLOUD] * bool(address()[0]),
    }
    for path in (HERE / "pages").glob("*.md"):
        found = path.read_text(encoding="utf-8").splitlines()
        text = "\n".join(new for line in found for new in told.get(line, [line]))
        (PAGES / path.name).write_text(text, encoding="utf-8")


def main(words: list[str]) -> int:
    """Build the book; returns the exit status. A warning is an error; more words go to Sphinx."""
    lay_out()
    status = sphinx(["-W", "--keep-going", "-q", "-E", "-c", str(HERE), "-d", str(BUILD / "doctrees"), *words,
                     str(PAGES), str(HTML)])  # fmt: skip
    size = sum(path.stat().st_size for path in HTML.rglob("*") if path.is_file())
    print(f"The book is in {HTML.relative_to(ROOT)}: {size / 1e6:.1f} MB.")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
