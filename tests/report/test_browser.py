"""The report in a real browser: Debian's Chromium, driven by Playwright."""

import shutil
from dataclasses import replace

import pytest

import tl_modules as tlm

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
PATIENCE = 120_000
"""Milliseconds for an action: Chromium may share two cores with a test that trains models."""


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
    options = {"n_controls": 2, "progress": False}
    found = tlm.causal_cores(model, modules, prompts[:8], prompts[8:], rankings=(), **options)
    tlm.write_report(
        path,
        described,
        effects=tlm.module_effects(model, modules, prompts, **options),
        core_effects=tlm.module_effects(model, found.cores, prompts[8:], **options),
        cores=found,
        acts=replace(acts, samples=samples),
        model=model,
        progress=False,
    )
    return path


def new_page(browser, **options):
    page = browser.new_page(**options)
    page.set_default_timeout(PATIENCE)
    return page


@pytest.fixture(params=[("light", 1280), ("dark", 400)], ids=["light-1280", "dark-400"])
def page(request, browser, report):
    """The page, opened; what it complains of and asks the network for must be nothing."""
    scheme, width = request.param
    opened = new_page(browser, color_scheme=scheme, viewport={"width": width, "height": 900})
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
    for _ in range(600):
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
    assert len(page.query_selector_all(".js-plotly-plot .main-svg")) >= 7
    ink = page.evaluate("getComputedStyle(document.body).color")
    ticks = page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")
    assert ticks == ink


def test_verdict_words_and_the_whole_first_figure_are_on_the_first_screen(browser, report):
    page = new_page(browser, viewport={"width": 1280, "height": 800})
    page.goto(report.as_uri())
    wait_until(page, "document.querySelector('#claim [data-drawn]') !== null")
    figure = [f"#claim .{part}" for part in ("legend", "xtitle", "ytitle", "xtick", "scatterlayer")]
    for selector in (".verdict", ".second", "dfn", "#claim figcaption", *figure):
        box = page.query_selector(selector).bounding_box()
        assert 0 <= box["y"] < box["y"] + box["height"] <= 800, selector
    assert page.query_selector("#claim .ytitle").text_content() == "core of module"
    legend = page.query_selector("#claim .legend").bounding_box()
    title = page.query_selector("#claim .xtitle").bounding_box()
    rows = page.query_selector("#claim .scatterlayer").bounding_box()
    assert legend["y"] + legend["height"] <= title["y"] + 1
    assert title["y"] + title["height"] <= rows["y"]
    page.close()


def test_axes_titles_fit_a_narrow_page(browser, report):
    page = new_page(browser, viewport={"width": 400, "height": 900})
    page.goto(report.as_uri())
    draw_all(page)
    for title in page.query_selector_all(":is(#claim, #more-claims) .xtitle"):
        box = title.bounding_box()
        assert 0 <= box["x"] < box["x"] + box["width"] <= 400
    page.close()


def test_nothing_is_wider_than_the_window(page):
    draw_all(page)
    page.click("#open-all")
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('table')].filter((one) => one.scrollWidth > innerWidth)"
    assert page.evaluate(f"{wide}.length") == 0
    scrolled = "[...document.querySelectorAll(':is(#claim, #more-claims, #effects) .scroll')]"
    assert (
        page.evaluate(f"{scrolled}.filter((one) => one.scrollWidth > one.clientWidth).length") == 0
    )


def test_a_table_of_many_categories_keeps_the_modules_names_in_sight(browser, report, tmp_path):
    page = new_page(browser, viewport={"width": 1280, "height": 900})
    page.goto(report.as_uri())
    page.evaluate(
        """for (const row of document.querySelectorAll("#effects tr")) {
          for (let k = 0; k < 30; k++) row.append(row.children[1].cloneNode(true));
        }"""
    )
    scroll = page.query_selector("#effects .scroll")
    assert scroll.evaluate("one => one.scrollWidth > one.clientWidth")
    scroll.evaluate("one => { one.scrollLeft = 600; }")
    name = page.query_selector("#effects tbody th").bounding_box()
    assert name["x"] == pytest.approx(scroll.bounding_box()["x"], abs=1)
    page.close()


def test_contrast_names_and_roles_are_as_wcag_aa_asks(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    draw_all(page)
    page.click("#open-all")
    page.fill("#search", "cat")
    wait_until(page, "!document.querySelector('#hits').hidden")
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    found = axe.run(page, options=options).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []


def test_search_lists_its_hits_below_itself(page, modules):
    everything = page.inner_text("#found")
    assert everything == f"{len(modules)} modules, {len(modules.samples)} prompts"
    assert not page.is_visible("#hits")
    page.fill("#search", "onerror")
    wait_until(page, f"document.querySelector('#found').textContent !== {everything!r}")
    assert page.inner_text("#found").endswith(", 1 prompt")
    (item,) = visible(page, "#prompt-list li")
    assert "<img src=x" in item.inner_text()
    shown = [hit.inner_text() for hit in visible(page, "#hits li")]
    assert f"{sum(hit.startswith('Module') for hit in shown)} module" in page.inner_text("#found")
    assert [hit for hit in shown if hit.startswith("Prompt:") and "onerror" in hit] == shown[-1:]
    page.fill("#search", "no such word")
    wait_until(page, "document.querySelector('#found').textContent.startsWith('0 modules')")
    assert not page.is_visible("#hits")
    assert visible(page, "#prompt-list li") == []


def test_a_hit_is_on_the_screen_wherever_the_search_began(page):
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.fill("#search", "onerror")
    wait_until(page, "document.querySelector('#found').textContent.endsWith(', 1 prompt')")
    for hit in visible(page, "#hits a"):
        assert 0 <= hit.bounding_box()["y"] < page.viewport_size["height"]
    n_hits = len(visible(page, "#hits a"))
    for _ in range(n_hits):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")  # the last hit is the prompt
    wait_until(page, "document.activeElement.closest('#prompt-list') !== null")
    assert_in_sight(page, page.query_selector("#prompt-list li"))
    page.fill("#search", "cat")
    page.press("#search", "Enter")  # the first hit is a module, before the page searched by itself
    page.wait_for_timeout(200)  # by then it would have
    assert not page.is_visible("#hits")
    opened = page.query_selector(page.evaluate("location.hash"))
    assert opened.get_attribute("open") is not None
    marked = page.query_selector(".hit")
    assert "cat" in marked.inner_text().lower()
    assert_in_sight(page, marked)


def assert_in_sight(page, element):
    below = page.evaluate("document.querySelector('#search-form').getBoundingClientRect().bottom")
    top = element.bounding_box()["y"]
    assert below - 1 <= top < page.viewport_size["height"]


def test_the_keyboard_is_enough(page, modules):
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("cat")
    wait_until(page, "document.querySelector('#prompt-list').children.length < 16")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('#hits') !== null")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "search"
    assert page.input_value("#search") == ""
    assert page.inner_text("#found").startswith(f"{len(modules)} modules")
    page.focus("#open-all")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.parentElement.id") == "module-0"
    assert not page.is_visible("#module-0 article")
    page.keyboard.press("Enter")
    assert page.is_visible("#module-0 article")
    page.focus("#module-0 button")
    page.keyboard.press("Enter")  # "All prompts of module 0"
    assert page.evaluate("document.activeElement.id") == "which"
    assert page.input_value("#which") == "0"
    n_own = len(modules[0].samples)
    assert len(visible(page, "#prompt-list li")) == n_own


def test_a_link_opens_its_module_and_so_does_an_address(page, browser, report):
    page.fill("#search", "onerror")
    wait_until(page, "document.querySelector('#found').textContent.endsWith(', 1 prompt')")
    page.focus("#prompt-list a")
    page.keyboard.press("Enter")
    module = page.query_selector(page.evaluate("location.hash"))
    assert module.query_selector("article").is_visible()
    assert_in_sight(page, page.query_selector(".hit"))
    fresh = new_page(browser)
    fresh.goto(f"{report.as_uri()}#module-1")
    assert fresh.is_visible("#module-1 article")
    assert not fresh.is_visible("#module-0 article")
    fresh.close()


def test_all_modules_open_at_once_and_on_paper(page, modules):
    page.click("#open-all")
    assert len(visible(page, "details.module article")) == len(modules)
    page.click("#open-all")
    assert not visible(page, "details.module article")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert len(visible(page, "details.module article")) == len(modules)


def test_all_prompts_of_a_module_are_all_whatever_was_searched(page, modules):
    page.fill("#search", "onerror")
    wait_until(page, "document.querySelector('#found').textContent.endsWith(', 1 prompt')")
    page.click("#open-all")
    button = visible(page, "button[data-prompts-of]")[0]
    label = int(button.get_attribute("data-prompts-of"))
    button.click()
    assert len(visible(page, "#prompt-list li")) == len(modules[label].samples)


def test_fingers_scroll_over_figures(browser, report):
    context = browser.new_context(
        viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True
    )
    context.set_default_timeout(PATIENCE)
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
    page = new_page(browser, color_scheme="light")
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
    page = new_page(browser)
    page.goto((tmp_path / "many.html").as_uri())
    for expected in (50, 100, 130):
        assert len(visible(page, "#prompt-list li")) == expected
        if expected < n:
            page.click("#more")
            assert page.evaluate("document.activeElement.tagName") == "A"
    assert not visible(page, "#more")
    page.close()
