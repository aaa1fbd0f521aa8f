"""``explore`` in a real JupyterLab and browser, on a tiny model: what is clicked reaches Python."""

import importlib.util

import pytest

from tests.report.lab import CHROMIUM, FLAGS, TINY, jupyterlab, opened, run_cell, set_theme

pytestmark = pytest.mark.slow

CELLS = (
    TINY,
    "print([module.n_units for module in explorer.modules], *explorer.history, sep='; ')",
    """
import threading
threads = []
point = c.model.hook_dict["blocks.0.mlp.hook_post"]
point.register_forward_hook(lambda *_: threads.append(threading.current_thread().name))
""",
    "print(*sorted(set(threads)))",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A notebook with the page of modules; the browser complains of nothing, and asks no one."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the extra 'browser' is not installed in this environment"
    )
    if importlib.util.find_spec("jupyterlab") is None:
        pytest.skip("the extra 'browser' with JupyterLab is not installed in this environment")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    said, asked = [], []
    folder = tmp_path_factory.mktemp("lab")
    with jupyterlab(folder, *CELLS) as address, playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        shown = chromium.new_page(viewport={"width": 1280, "height": 1600})
        shown.on("console", lambda one: said.append(one.text) if one.type == "error" else None)
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("request", lambda sent: asked.append(sent.url))
        opened(shown, address)
        run_cell(shown)
        shown.wait_for_selector(".tlm-x", timeout=300_000)
        yield shown
        chromium.close()
    host = address.partition("/lab")[0]
    assert said == []
    assert [url for url in asked if not url.startswith((host, "data:", "blob:"))] == []


@pytest.fixture
def explorer(page):
    """The page, all of it open, and nothing edited."""
    shown = page.locator(".tlm-x")
    shown.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    while shown.get_by_role("button", name="Undo").is_enabled():
        shown.get_by_role("button", name="Undo").click()
        done(page)
    return shown


def done(page):
    """Until Python has answered the last click, and the model has run."""
    page.wait_for_selector(".tlm-x[aria-busy=false]", timeout=120_000)


def printed(page, number=1):
    """What a cell prints: by default, what Python says of the modules."""
    cell = ran(page, number)
    return cell.locator(".jp-OutputArea-output").inner_text().strip()


def ran(page, number):
    """A cell, once it was run."""
    cell = page.locator(".jp-CodeCell").nth(number)
    before = cell.locator(".jp-InputPrompt").inner_text()
    run_cell(page, number)
    page.wait_for_function(
        "([cell, before]) => /[0-9]/.test(cell.innerText) && cell.innerText !== before",
        arg=[cell.locator(".jp-InputPrompt").element_handle(), before],
    )
    return cell


def test_choosing_a_module_runs_it_beside_a_control(page, explorer):
    headline = explorer.locator(".headline").inner_text()
    explorer.get_by_role("checkbox", name="1:").check()
    done(page)
    assert explorer.locator(".headline").inner_text() != headline
    assert explorer.locator(".error").is_hidden()
    changes = explorer.locator("tbody >> nth=0 >> tr").all_inner_texts()
    assert [text.split()[0] for text in changes] == ["unchanged", "changed", "control"]
    explorer.get_by_role("checkbox", name="1:").uncheck()
    done(page)
    assert explorer.locator(".headline").inner_text() == headline


def test_clicks_run_the_model_in_the_thread_of_the_cells(page, explorer):
    ran(page, 2)
    for module in ("1:", "2:"):  # JupyterLab delivers the second click in another thread
        explorer.get_by_role("checkbox", name=module).check()
        done(page)
    assert printed(page, 3) == "MainThread"
    for module in ("1:", "2:"):
        explorer.get_by_role("checkbox", name=module).uncheck()
        done(page)


def test_edits_come_back_to_python(page, explorer):
    before = printed(page)
    explorer.get_by_label("New name").fill("<img src=x onerror=console.error('ran')>")
    explorer.get_by_role("button", name="Rename").click()
    done(page)
    assert explorer.locator(".list").inner_text().startswith("0: <img src=x onerror")
    explorer.get_by_label("Number", exact=True).fill("3")
    explorer.get_by_role("button", name="Split").click()
    done(page)
    explorer.get_by_label("Its first units").select_option(index=[0, 1])
    explorer.get_by_label("To module").select_option("1")
    explorer.get_by_role("button", name="Move", exact=True).click()
    done(page)
    found = printed(page)
    assert found.startswith("[1, ")
    assert "renamed module 0 (animal) to <img" in found
    assert "split" in found
    assert "moved 2 units" in found
    for _ in range(3):
        explorer.get_by_role("button", name="Undo").click()
        done(page)
    assert printed(page) == before


def test_the_keyboard_is_enough(page, explorer):
    n_cells = page.locator(".jp-CodeCell").count()
    explorer.get_by_label("Prompt", exact=True).focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("the dog ran")
    page.keyboard.press("Control+Enter")
    done(page)
    assert explorer.locator(".tokens").inner_text().endswith("the dog ran")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.value") == "ablate"
    page.keyboard.press("ArrowRight")
    done(page)
    page.keyboard.press("Tab")  # the factor
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    done(page)
    assert page.evaluate("document.activeElement.value") == "1"
    assert "+0.000" in explorer.locator(".headline").inner_text()  # as it is
    page.keyboard.press("Tab")  # the core
    page.keyboard.press("Home")
    done(page)
    assert "Changing 1 unit " in explorer.locator(".headline").inner_text()
    page.keyboard.press("End")
    done(page)
    for _ in range(3):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")  # the last module's pin
    assert page.evaluate("document.activeElement.textContent") == "Pin"
    page.keyboard.press("Enter")
    done(page)
    assert page.evaluate("document.activeElement.textContent") == "Pinned"
    assert explorer.locator(".list li").first.inner_text().startswith("2:")
    page.keyboard.press("Space")
    done(page)
    assert explorer.locator(".list li").first.inner_text().startswith("0:")
    # JupyterLab did not take any of it for a command of its own.
    assert page.locator(".jp-CodeCell").count() == n_cells


def test_a_refusal_is_said_and_nothing_is_lost(page, explorer):
    explorer.get_by_label("Patch from another prompt").check()
    done(page)
    explorer.get_by_label("Other prompt", exact=True).fill("the cat")
    explorer.get_by_role("button", name="Run", exact=True).click()
    done(page)
    assert "as many tokens as the prompt" in explorer.locator(".error").inner_text()
    assert explorer.locator(".headline").is_visible()
    earlier = explorer.locator(".results.old")
    assert "An earlier result" in earlier.inner_text()
    pin = explorer.get_by_role("button", name="Pin module 0")
    pin.click()  # another action
    done(page)
    assert "as many tokens as the prompt" in explorer.locator(".error").inner_text()
    assert earlier.is_visible()
    pin.click()
    done(page)
    explorer.get_by_label("Other prompt", exact=True).fill("a cat sat")
    explorer.get_by_role("button", name="Run", exact=True).click()
    done(page)
    assert explorer.locator(".error").is_hidden()
    assert earlier.count() == 0
    explorer.get_by_label("Ablate").check()
    done(page)


STOP = """(stop) => new Promise((stopped) => {
  new MutationObserver((_, watcher) => {
    if (stop.disabled) return;
    watcher.disconnect();
    stop.click();
    stopped();
  }).observe(stop, { attributes: true });
  const length = stop.closest(".tlm-x").querySelector("select");
  length.value = "40";
  length.dispatchEvent(new Event("change"));
})"""


def test_writing_can_be_stopped(page, explorer):
    explorer.get_by_role("button", name="Stop").evaluate(STOP)
    done(page)
    assert explorer.get_by_role("status").inner_text() == "Stopped."
    explorer.get_by_role("button", name="Run", exact=True).click()
    done(page)
    assert explorer.get_by_role("status").inner_text() == "Done."
    assert explorer.locator(".texts p").count() == 3
    explorer.get_by_label("Text to write").select_option("0")
    done(page)


@pytest.mark.parametrize("width", [1280, 700])
@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_contrast_names_and_roles_are_as_wcag_aa_asks(page, explorer, theme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.set_viewport_size({"width": width, "height": 1600})
    set_theme(page, theme)
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    found = axe.run(page, context=".tlm-x", options=options).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
    box = explorer.bounding_box()
    assert explorer.evaluate("node => node.scrollWidth") <= box["width"]
