"""The book: every page of it in a browser, on a screen and on a phone, light and dark, with no other host."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx", reason="needs the packages of the extra book")
import browser_tools as tools

from benchmarks.page import served
from book import build

LIVE = ("00", "01", "04", "06", "07", "08")  # lessons with a figure that moves on the page
FORK = "someone/their-course"
# What a page must answer: pictures that do not show, and formulas that were not set.
MISSING = """() => Promise.all([...document.images].map(async (image) => {
  image.loading = "eager";
  await image.decode().catch(() => 0);
  return image.naturalWidth && image.alt !== null ? null : image.src;
})).then((found) => found.filter(Boolean).concat(document.querySelectorAll("mjx-merror").length || []))"""
MOVED = "document.querySelector('.live-world canvas').toDataURL() !== window.before"
LINKS = "() => [...document.querySelectorAll('a[href]')].map((link) => link.href)"


def test_every_paper_of_a_lesson_is_in_the_bibliography_and_the_other_way():
    cited = set()
    for path in build.ROOT.glob("notebooks/*.ipynb"):
        for papers in re.findall(r"\*\*Papers:\*\* ([^\"]*)", path.read_text(encoding="utf-8")):
            cited |= set(re.findall(r"{cite:t}`(\w+)`", build.cited(papers)))
    assert cited == set(build.papers())
    with pytest.raises(LookupError, match="Nobody 2020 is not in"):
        build.cited("Nobody 2020 (nothing)")


def test_live_links_follow_the_repository_that_builds(monkeypatch):
    page = build.Page(build.ROOT / "notebooks" / "01_forward_process.ipynb")
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert page.live() == '<a href="index.html#run-it">Run it live</a>'
    monkeypatch.setenv("GITHUB_REPOSITORY", FORK)
    assert f"/gh/{FORK}/" in page.live() and "labpath=notebooks/01_forward_process.ipynb" in page.live()


@pytest.fixture
def book() -> Path:
    """The book as a fork of the course builds it: a warning fails."""
    tools.modules_or_skip()
    env = os.environ | {"GITHUB_REPOSITORY": FORK, "GITHUB_REF_NAME": "main", "PYTHONPATH": str(build.ROOT)}
    done = subprocess.run([sys.executable, "-m", "book.build"], cwd=build.ROOT, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert sum(path.stat().st_size for path in build.HTML.rglob("*") if path.is_file()) < 40e6
    return build.HTML


def walk(page, address: str, names: list[str]) -> tuple[set[str], list[str]]:
    """Visit pages; returns where their links lead, and everything that is wrong."""
    links, wrong, own = set(), [], (address, "data:", "blob:")
    page.on("console", lambda said: wrong.extend([said.text] * (said.type == "error")))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.extend([asked.url] * (not asked.url.startswith(own))))
    page.on("response", lambda got: wrong.extend([got.url] * (got.status >= 400)))
    for name in names:
        page.set_viewport_size({"width": 1440, "height": 900})
        page.goto(f"{address}/{name}")
        page.wait_for_function("!window.MathJax || window.MathJax.startup?.promise.then(() => true)")
        links |= {f"{name} {link}" for link in page.evaluate(LINKS)}
        wrong += [f"{name}: {missing}" for missing in page.evaluate(MISSING)]
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 844})
            for theme in ("light", "dark"):
                page.emulate_media(color_scheme=theme)
                page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
                wide = page.evaluate("document.documentElement.scrollWidth")
                wrong += [f"{name}: {wide} pixels wide at {width}"] * (wide > width)
        if name[:2] in LIVE:
            canvas = page.locator(".live-world canvas").first
            canvas.scroll_into_view_if_needed()  # it plays by itself as soon as it is seen
            canvas.evaluate("(canvas) => void (window.before = canvas.toDataURL())")
            page.wait_for_function(MOVED)
            tools.screenshot(page, f"book-{name[:2]}")
    return links, wrong


def dead(book: Path, address: str, links: set[str]) -> list[str]:
    """The links that lead nowhere in the book, and those out of it that name another repository."""
    found = []
    for line in sorted(links):
        parts = urlsplit(line.partition(" ")[2])
        if f"{parts.scheme}://{parts.netloc}" != address:
            ours = parts.netloc in ("github.com", "mybinder.org", "colab.research.google.com")
            found += [line] * (ours and FORK not in line)
            continue
        target = book / unquote(parts.path.lstrip("/"))
        ok = target.is_file() and (
            not parts.fragment or f'id="{unquote(parts.fragment)}"' in target.read_text(encoding="utf-8")
        )
        found += [line] * (not ok)
    return found


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(tools.CHROMIUM is None, reason="needs a Chromium on this machine")
def test_every_page_is_whole_on_a_screen_and_on_a_phone(book):
    names = sorted(
        path.relative_to(book).as_posix()
        for path in book.rglob("*.html")
        if not {"_static", "play"} & {*path.parts}  # test_play.py opens the page that draws
    )
    assert len(names) > 30 and "search.html" in names
    with served(book) as index, tools.new_page(1440, 900) as page:
        address = index.rpartition("/")[0]
        links, wrong = walk(page, address, names)
    assert not wrong and not dead(book, address, links)
