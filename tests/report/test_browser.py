"""The report in a real browser: Debian's Chromium, driven by Playwright."""

import shutil
from dataclasses import replace

import pytest

import tl_modules as tlm

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the extra 'browser' is not installed in this environment"
    )
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(model, modules, prompts, acts, tmp_path_factory):
    """A page with all it can have; one prompt tries to run a script."""
    texts = modules.samples["prompt"].tolist()
    texts[3] = "<img src=x onerror=console.error('ran')> the cat sat"
    samples = modules.samples.assign(prompt=texts)
    described = tlm.with_topics(replace(modules, samples=samples), model, progress=False)
    path = tmp_path_factory.mktemp("report") / "report.html"
    tlm.write_report(
        path,
        described,
        effects=tlm.module_effects(model, modules, prompts, n_controls=2, progress=False),
        acts=replace(acts, samples=samples),
        model=model,
        progress=False,
    )
    return path


@pytest.fixture(params=[("light", 1280), ("dark", 400)], ids=["light-1280", "dark-400"])
def page(request, browser, report):
    """The page, opened; what it complains of and asks the network for must be nothing."""
    scheme, width = request.param
    opened = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda sent: asked.append(sent.url))
    opened.goto(report.as_uri())
    yield opened
    opened.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def wait_until(page, expression):
    """Until it is true. (``wait_for_function`` needs eval, which the page's policy forbids.)"""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {expression}")


def draw_all(page):
    for drawing in page.query_selector_all("[data-figure]"):
        drawing.evaluate("drawing => drawing.scrollIntoView()")
        page.wait_for_timeout(50)
    wait_until(page, "!document.querySelector('[data-figure]:not([data-drawn])')")


def visible(page, selector):
    return [one for one in page.query_selector_all(selector) if one.is_visible()]


def test_every_figure_is_drawn(page):
    draw_all(page)
    assert len(page.query_selector_all(".js-plotly-plot .main-svg")) >= 4
    ink = page.evaluate("getComputedStyle(document.body).color")
    ticks = page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")
    assert ticks == ink


def test_nothing_is_wider_than_the_window(page):
    draw_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_contrast_names_and_roles_are_as_wcag_aa_asks(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    draw_all(page)
    # Off-screen cards are not laid out until they come near; all of them are checked.
    page.add_style_tag(content=".card { content-visibility: visible !important; }")
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    found = axe.run(page, options=options).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []


def test_search_finds_modules_and_prompts(page, modules):
    everything = page.inner_text("#found")
    assert everything == f"{len(modules)} modules, {len(modules.samples)} prompts"
    page.fill("#search", "onerror")
    wait_until(page, f"document.querySelector('#found').textContent !== {everything!r}")
    assert page.inner_text("#found").endswith(", 1 prompt")
    (item,) = visible(page, "#prompt-list li")
    assert "<img src=x" in item.inner_text()
    assert len(visible(page, "article.card")) < len(modules)
    shown = {row.get_attribute("data-module") for row in visible(page, "tr[data-module]")}
    assert shown == {card.get_attribute("data-module") for card in visible(page, "article.card")}
    page.fill("#search", "no such word")
    wait_until(page, "document.querySelector('#found').textContent.startsWith('0 modules')")
    assert visible(page, "article.card") == visible(page, "#prompt-list li") == []


def test_the_keyboard_is_enough(page, modules):
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("cat")
    wait_until(page, "document.querySelector('#prompt-list').children.length < 16")
    page.keyboard.press("Escape")
    assert page.input_value("#search") == ""
    assert page.inner_text("#found").startswith(f"{len(modules)} modules")
    # On from the search: the table, then its first link, which leads to the first card.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "region"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.hash") == "#module-0"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#module-0"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # "All prompts of module 0"
    assert page.evaluate("document.activeElement.id") == "which"
    assert page.input_value("#which") == "0"
    n_own = len(modules[0].samples)
    assert len(visible(page, "#prompt-list li")) == n_own


def test_a_link_leads_to_its_module_though_the_search_hid_it(page):
    page.fill("#search", "onerror")
    wait_until(page, "document.querySelector('#found').textContent.endsWith(', 1 prompt')")
    page.evaluate("document.querySelectorAll('article').forEach((card) => { card.hidden = true; })")
    page.focus("#prompt-list a")
    page.keyboard.press("Enter")
    card = page.query_selector(page.evaluate("location.hash"))
    assert card.is_visible()
    below = page.evaluate("document.querySelector('#search-form').getBoundingClientRect().bottom")
    assert card.bounding_box()["y"] >= below


def test_all_prompts_of_a_module_are_all_whatever_was_searched(page, modules):
    page.fill("#search", "onerror")
    wait_until(page, "document.querySelector('#found').textContent.endsWith(', 1 prompt')")
    button = visible(page, "button[data-prompts-of]")[0]
    label = int(button.get_attribute("data-prompts-of"))
    button.click()
    assert len(visible(page, "#prompt-list li")) == len(modules[label].samples)


def test_fingers_scroll_over_figures(browser, report):
    context = browser.new_context(
        viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(report.as_uri())
    draw_all(page)
    assert page.evaluate("document.querySelector('#layers .drawing').layout.dragmode") is False
    shown = page.evaluate("document.querySelector('#layers .drawing').layout.yaxis.ticktext")
    assert all(name.isdigit() for name in shown)
    context.close()


def test_the_skip_link_shows_when_it_has_the_focus(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    box = page.query_selector(".skip").bounding_box()
    assert box["x"] >= 0


def test_figures_follow_a_change_of_colours(browser, report):
    page = browser.new_page(color_scheme="light")
    page.goto(report.as_uri())
    draw_all(page)
    page.emulate_media(color_scheme="dark")
    ink = page.evaluate("getComputedStyle(document.body).color")
    wait_until(page, f"getComputedStyle(document.querySelector('.xtick text')).fill === {ink!r}")
    page.close()


def test_many_prompts_come_fifty_at_a_time(browser, modules, tmp_path):
    import numpy as np
    import pandas as pd

    n = 130
    labels = np.arange(n) % len(modules)
    many = replace(
        modules,
        samples=pd.DataFrame({"prompt": [f"the cat {k}" for k in range(n)]}),
        sample_labels=labels,
        sample_scores=np.zeros(n),
    )
    tlm.write_report(tmp_path / "many.html", many)
    page = browser.new_page()
    page.goto((tmp_path / "many.html").as_uri())
    for expected in (50, 100, 130):
        assert len(visible(page, "#prompt-list li")) == expected
        if expected < n:
            page.click("#more")
            assert page.evaluate("document.activeElement.tagName") == "A"
    assert not visible(page, "#more")
    page.close()
