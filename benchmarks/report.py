"""How large a report is and how fast it opens in Chromium, over prompts and modules.

The modules are drawn at random, with the demo model's layers and the project's own prompts over and
over: what a page costs depends on how much is on it. Needs the extra ``browser`` and Chromium.

    python -m benchmarks.report
    python -m benchmarks.report --sizes 280x7
    python -m benchmarks.report --page out/demo/report.html

The last tells of one report how soon its verdict can have been read: the seconds until the first
screen is painted, and the words up to the verdict's end at 238 words a minute, the mean rate of
adults who read English non-fiction in silence (Brysbaert 2019, doi 10.1016/j.jml.2019.104047).
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import tl_modules as tlm
from tl_modules.data import load_prompts
from tl_modules.units import Units

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
UNTIL_DRAWN = """() => new Promise((done) => {
  const drawings = [...document.querySelectorAll("[data-figure]")];
  drawings.forEach((drawing, at) => setTimeout(() => drawing.scrollIntoView(), 50 * at));
  const ready = () => drawings.every((one) => "drawn" in one.dataset);
  const look = () => ready() ? done() : setTimeout(look, 10);
  look();
})"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["280x7", "1074x10", "7000x100"])
    parser.add_argument("--units", type=int, default=1536, help="a layer's units")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--page", type=Path, help="a report whose verdict is to be read")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        if args.page is not None:
            print_until_read(chromium, args.page.resolve(), args.repeats)
            return
        for size in args.sizes:
            n_samples, n_modules = map(int, size.split("x"))
            path = Path(folder) / f"{size}.html"
            started = time.perf_counter()
            tlm.write_report(path, **parts(n_samples, n_modules, args.layers, args.units))
            written = time.perf_counter() - started
            opened, drawn = zip(*(times(chromium, path) for _ in range(args.repeats)), strict=True)
            rows.append(
                {
                    "prompts x modules": size,
                    "MB": path.stat().st_size / 1e6,
                    "written in s": written,
                    "opened in s (median)": statistics.median(opened),
                    "slowest": max(opened),
                    "all figures drawn after s": statistics.median(drawn),
                }
            )
        chromium.close()
    print(pd.DataFrame(rows).round(2).to_string(index=False))


WORDS_A_SECOND = 238 / 60
PAINTED = """() => new Promise((done) => new PerformanceObserver((list) => {
  for (const entry of list.getEntriesByName("first-contentful-paint")) done(entry.startTime);
}).observe({type: "paint", buffered: true}))"""


def print_until_read(chromium, path: Path, repeats: int) -> None:
    """Print how soon the verdict of a report is painted and read, on two widths of window."""
    for width in (1280, 400):
        painted = []
        for _ in range(repeats):
            page = chromium.new_page(viewport={"width": width, "height": 800})
            page.goto(path.as_uri())
            painted.append(page.evaluate(PAINTED) / 1000)
            verdict = page.locator(".verdict").first
            box, text = verdict.bounding_box(), verdict.inner_text()
            above = page.inner_text("body").split(text)[0]
            page.close()
        bottom, n_words = box["y"] + box["height"], len(above.split()) + len(text.split())
        print(
            f"{width} px: painted after {statistics.median(painted):.2f} s (median of {repeats}); "
            f"the verdict ends {bottom:.0f} px below the top of 800, after {n_words} words; "
            f"read {n_words / WORDS_A_SECOND:.1f} s later"
        )


def times(chromium, path: Path) -> tuple[float, float]:
    """Seconds until the page can be searched, and from then until every figure is drawn."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    started = time.perf_counter()
    page.goto(path.as_uri())
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert "modules" in page.inner_text("#found")
    opened = time.perf_counter() - started
    page.evaluate(UNTIL_DRAWN)
    drawn = time.perf_counter() - started - opened
    page.close()
    return opened, drawn


def parts(n_samples: int, n_modules: int, n_layers: int, width: int) -> dict:
    """Modules with topics, effects on seven categories, and activations."""
    generator = np.random.default_rng(0)
    names = tuple(f"blocks.{layer}.mlp.hook_post" for layer in range(n_layers))
    units = Units.whole(names, tuple(range(n_layers)), (width,) * n_layers)
    own = load_prompts()
    samples = own.iloc[np.arange(n_samples) % len(own)].reset_index(drop=True)
    labels = generator.permutation(np.arange(n_samples) % n_modules)
    unit_labels = generator.permutation(np.arange(len(units)) % n_modules)
    values = generator.normal(size=(n_samples, len(units))).astype(np.float32)
    values += labels[:, None] == unit_labels
    acts = tlm.ActivationMatrix(values, units, samples).zscore()
    modules = tlm.ModuleSet(
        units=units,
        samples=samples,
        unit_labels=unit_labels,
        sample_labels=labels,
        n_modules=n_modules,
        objective=tlm.modules.Objective(1.0, 1.0, 1.0),
        sample_scores=generator.random(n_samples),
        unit_scores=generator.normal(size=len(units)),
        normaliser=acts.normaliser,
    )
    return {"modules": modules, "effects": effects(modules, generator), "acts": acts}


def effects(modules: tlm.ModuleSet, generator: np.random.Generator) -> pd.DataFrame:
    """A table as ``module_effects`` makes it, of random numbers."""
    categories = sorted(modules.samples["category"].unique())
    cells = pd.MultiIndex.from_product([range(len(modules)), categories])
    table = cells.to_frame(index=False, name=["module", "category"]).assign(n=3, own=False)
    for name in ("effect", "control", "selectivity", "selectivity_control"):
        table[f"{name}_mean" if "control" in name else name] = generator.random(len(table))
        for end in ("_std", "_max", "_ci_low", "_ci_high", "_p_value"):
            table[f"{name}{end}"] = generator.random(len(table))
    return table.rename(columns={"effect_ci_low": "ci_low", "effect_ci_high": "ci_high"}).assign(
        p_value=table["effect_p_value"], p_bh=1.0
    )


if __name__ == "__main__":
    main()
