"""The page that draws, in a Chromium: as torch does; the newest wish, an own digit, phone, dark, keyboard."""

import re

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from browser_tools import MARKS, PATIENCE, modules_or_skip, new_page, playwright, screenshot

from benchmarks.page import built, own_digit, served
from lessons_lib.pipeline import GenerationRequest, generate_images
from lessons_lib.samplers import SampleNoise

pytestmark = MARKS
LIMIT = 8e6  # bytes until the first digit

# What the worker draws at a seed and a scale: [10, 784].
DRAWN = """async ([seed, scale]) => {
  const { worker } = await import("./play.js"), rows = [];
  await new Promise((done) => {
    worker.addEventListener("message", ({ data }) => {
      if (data.kind !== "picture" || data.seed !== seed || data.scale !== scale) return;
      rows[data.label] = Array.from(data.pixels);
      if (rows.filter(Boolean).length === 10) done();
    });
    worker.postMessage({ kind: "noise", seed, scale });
  });
  return rows;
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    modules_or_skip()
    with served(built(tmp_path_factory.mktemp("page"))) as address:
        yield address


@pytest.fixture(scope="module")
def page(address):
    with new_page(1440, 900) as page:
        page.asked, page.complaints = [], []
        page.on(
            "response", lambda answer: page.asked.append((answer.url, answer.headers.get("content-length")))
        )
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda line: line.type == "error" and page.complaints.append(line.text))
        page.goto(address)
        page.wait_for_function("document.body.dataset.seconds", timeout=PATIENCE)
        page.sent = sum(int(size or 0) for _, size in page.asked)
        page.wait_for_function("/of 10/.test(document.querySelector('#line').textContent)", timeout=PATIENCE)
        yield page


def test_the_first_digit_costs_little_and_nobody_else_is_asked(page, address):
    home = address.rpartition("/")[0]
    assert all(url.startswith((home, "blob:", "data:")) for url, _ in page.asked)
    assert page.sent < LIMIT
    screenshot(page, "play-1440")
    assert page.locator("#line").text_content() == "10 of 10 are read as asked."
    assert page.locator("#told").text_content() == "w = 2.0", "it has risen by itself"


@pytest.mark.numeric
def test_the_page_draws_what_torch_draws(page):
    seeds = [0, 3, 12345]
    found = page.evaluate(
        "import('./numbers.js').then((m) => [0, 3, 12345].map((s) => Array.from(m.noiseOf(s, 2))))"
    )
    noise = SampleNoise([(seed, 2) for seed in seeds])(torch.zeros(3, 1, 28, 28)).flatten(1)
    assert (torch.tensor(found) - noise).abs().max() < 1e-5
    for seed, scale in ((3, 2.0), (77, 0.35), (77, 0.0)):
        drawn = torch.tensor(page.evaluate(DRAWN, [seed, scale])).view(10, 1, 28, 28)
        request = GenerationRequest(
            tuple(range(10)),
            "mnist-flow-map",
            guidance_scale=scale,
            steps=1,
            seed=seed,
            sample_indices=(0,) * 10,
        )
        assert (drawn - generate_images(request)).abs().max() < 1e-3


def test_the_slider_by_keyboard_and_the_way_of_a_digit(page):
    slider = page.locator("#scale")
    slider.focus()
    slider.press("Home")
    playwright.expect(page.locator("#line")).to_have_text(
        re.compile("all ten are the same"), timeout=PATIENCE
    )
    pictures = page.evaluate("[...document.querySelectorAll('.digit canvas')].map((one) => one.toDataURL())")
    assert len(set(pictures)) == 1
    for _ in range(40):
        slider.press("ArrowRight")
    playwright.expect(page.locator("#line")).to_have_text(re.compile("of 10 are read"), timeout=PATIENCE)
    scales = page.evaluate("[...document.querySelectorAll('.digit')].map((one) => +one.dataset.scale)")
    assert scales == [2.0] * 10, "where the slider rests"
    page.locator(".digit").nth(4).press("Enter")
    when = page.locator("#when")
    playwright.expect(when).to_have_text("the finished picture", timeout=PATIENCE)
    sees = page.locator("#sees").evaluate("(one) => one.toDataURL()")
    page.locator("#moment").press("Home")
    playwright.expect(when).to_have_text("t = 999")
    assert page.locator("#sees").evaluate("(one) => one.toDataURL()") != sees
    page.locator(".digit").nth(4).press("Enter")
    playwright.expect(page.locator("#way")).to_be_hidden()


def test_an_own_digit_is_drawn_as_all_ten(page):
    measured = own_digit(page)
    print(measured)
    screenshot(page, "play-own")
    assert measured["of_ten_read_as_asked"] >= 8
    page.locator("#clear").click()
    playwright.expect(page.locator("#line")).to_have_text(re.compile("of 10"), timeout=PATIENCE)
    assert page.complaints == []


def test_it_fits_a_phone_in_the_dark_and_names_everything(page, address):
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    screenshot(page, "play-390-dark")
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    page.set_viewport_size({"width": 1440, "height": 900})
    page.emulate_media(color_scheme="light")


def test_a_browser_without_webassembly_gets_a_sentence(page, address):
    old = page.context.browser.new_page()
    old.add_init_script("delete window.WebAssembly")
    old.goto(address)
    playwright.expect(old.locator("#state")).to_contain_text("lacks WebAssembly")
    old.close()
