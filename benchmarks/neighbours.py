"""Modules beside EigenShift on the contrast prompts: what each harms, and what else it costs.

Both are made from the first half of the prompts and tested on the other half.

    python -m benchmarks.neighbours
    python -m benchmarks.neighbours --figure docs/images/costs.png
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import tl_modules as tlm
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model

PAIRS = (("formal", "informal"), ("informal", "formal"), ("english", "french"))
"""What a shift leaves, and what it weakens."""


def main() -> None:
    """Print the table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=4)
    parser.add_argument("--components", type=int, default=5)
    parser.add_argument("--factor", type=float, default=0.1)
    parser.add_argument("--new-tokens", type=int, default=0)
    parser.add_argument("--controls", type=int, default=39)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    fit, held_out = halves(load_prompts("contrasts"))
    acts = tlm.collect(model, fit)
    modules = tlm.discover(acts, args.modules)
    targets = [*modules]
    for against, towards in PAIRS:
        sets = [fit.loc[fit["category"] == name] for name in (towards, against)]
        options = {"n_components": args.components, "factor": args.factor}
        shift = tlm.related.eigenshift(
            model, *sets, n_new_tokens=args.new_tokens, category=towards, **options
        )
        targets.append(replace(shift, label=f"shift away from {towards}"))
    effects = tlm.module_effects(model, targets, held_out, n_controls=args.controls)
    print(table(effects).to_string(index=False))
    if args.figure is not None:
        draw(tlm.plots.plot_costs(effects, modules=modules), args.figure)


def halves(prompts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first and the last prompts of each category, as many."""
    groups = prompts.groupby("category", sort=False)
    half = len(prompts) // groups.ngroups // 2
    return groups.head(half), groups.tail(half)


def table(effects: pd.DataFrame) -> pd.DataFrame:
    """One row a target."""
    own = effects.loc[effects["own"]].set_index("module")
    others = effects.loc[~effects["own"]].groupby("module", sort=False)["effect"].mean()
    found = pd.DataFrame(
        {
            "target": own.index,
            "category": own["category"].to_numpy(),
            "own": own["effect"].to_numpy(),
            "others": others.loc[own.index].to_numpy(),
            "perplexity of others x": np.exp(others.loc[own.index].to_numpy()),
        }
    )
    for name in ("selectivity", "selectivity_ci_low", "selectivity_ci_high"):
        found[name] = own[name].to_numpy()
    found["its controls'"] = own["selectivity_control_mean"].to_numpy()
    found["p"] = own["selectivity_p_value"].to_numpy()
    found["p after BH"] = own["selectivity_p_bh"].to_numpy()
    return found.round(3)


def draw(figure, path: Path) -> None:
    """A picture of a figure, on white; needs the extra ``browser`` and Chromium."""
    from playwright.sync_api import sync_playwright

    figure.update_layout(paper_bgcolor="white", plot_bgcolor="white")
    size = {"width": figure.layout.width, "height": figure.layout.height}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page_path = Path(folder) / "figure.html"
        figure.write_html(page_path, config={"displayModeBar": False})
        chromium = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = chromium.new_page(viewport={"width": size["width"] + 20, "height": size["height"]})
        page.goto(page_path.as_uri(), timeout=120_000)  # of a busy machine
        page.wait_for_selector(".plotly .main-svg")
        page.screenshot(path=path)
        chromium.close()


if __name__ == "__main__":
    main()
