"""How long ``tlm.explore`` takes from a click to the numbers, in JupyterLab on the demo model.

One ablation of a module on a prompt of 20 tokens, beside its control: from the click on the
module's box to the page that shows the losses and next tokens. Needs the extras ``demo``, ``viz``
and ``browser``, and Chromium.

    python -m benchmarks.explore
    python -m benchmarks.explore --figure docs/images/explore.png
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from tests.report.lab import CHROMIUM, FLAGS, jupyterlab, opened, run_cell

PROMPT = "To bake bread you need flour, water and yeast. Mix them well, then let the dough"
CELL = f"""
import tl_modules as tlm
from tl_modules.data import load_demo_model, load_prompts
model = load_demo_model()
prompts = load_prompts().groupby("category", sort=False).head(8)
held_out = prompts.groupby("category", sort=False).tail(2)
acts = tlm.collect(model, prompts.drop(held_out.index), max_tokens=32, progress=False)
modules = tlm.with_topics(tlm.discover(acts, 7, progress=False), model, progress=False)
explorer = tlm.explore(model, modules, prompt={PROMPT!r})
explorer
"""
FROM_CLICK_TO_NUMBERS = """(box) => new Promise((done) => {
  const root = box.closest(".tlm-x");
  const status = root.querySelector("[role=status]");
  const started = performance.now();
  const look = new MutationObserver(() => {
    if (status.textContent !== "Done.") return;
    look.disconnect();
    requestAnimationFrame(() => setTimeout(() => done((performance.now() - started) / 1000)));
  });
  look.observe(status, { childList: true, characterData: true, subtree: true });
  box.click();
})"""


def main() -> None:
    """Print the seconds, and draw the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--figure", type=Path, help="write a picture of the page here")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory() as folder,
        jupyterlab(Path(folder), CELL) as address,
        sync_playwright() as driver,
    ):
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = chromium.new_page(viewport={"width": 1500, "height": 1700})
        opened(page, address)
        run_cell(page)
        page.wait_for_selector(".tlm-x .headline", timeout=1_200_000)
        print(page.locator(".tlm-x .headline").inner_text())
        n_tokens = page.locator(".tlm-x .tokens span").count()
        box = page.get_by_role("checkbox", name="1:")
        seconds = [box.evaluate(FROM_CLICK_TO_NUMBERS) for _ in range(args.rounds)]
        print(
            f"{n_tokens} tokens: {statistics.median(seconds):.2f} s (median of {args.rounds}; "
            f"{min(seconds):.2f} to {max(seconds):.2f})"
        )
        if args.figure:
            draw(page, args.figure)
        chromium.close()


def draw(page, path: Path) -> None:
    """Write a picture of the page with all that it can show."""
    shown = page.locator(".tlm-x")
    if shown.get_by_role("checkbox", name="1:").is_checked():
        shown.get_by_role("checkbox", name="1:").uncheck()
    shown.get_by_label("Text to write").select_option("20")
    page.wait_for_function(
        "document.querySelectorAll('.tlm-x .texts p').length === 3"
        " && document.querySelector('.tlm-x [role=status]').textContent === 'Done.'",
        timeout=300_000,
    )
    shown.get_by_label("the effect on its loss").check()
    page.mouse.move(0, 0)
    shown.screenshot(path=path)


if __name__ == "__main__":
    main()
