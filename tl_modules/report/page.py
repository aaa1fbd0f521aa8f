"""One self-contained HTML page: what each module is, where it lies, what ablating it does."""

import base64
import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError
from tl_modules.interpret.topics import with_topics
from tl_modules.interventions.measuring import measures
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.cards import module_cards
from tl_modules.report.effects_table import COLUMNS, effects_table
from tl_modules.report.figures import report_figures
from tl_modules.report.prompts import PromptRows, prompt_rows
from tl_modules.runtime.arguments import checked
from tl_modules.saving import files
from tl_modules.tables.effects_frame import check_effects, split_runs
from tl_modules.tables.text import visible

MAX_BYTES = 10_000_000
"""A page stays below this: prompts are shortened, then left out, from the weakest."""


@checked
@measures
def write_report(
    path: str | Path,
    modules: ModuleSet,
    *,
    effects: pd.DataFrame | None = None,
    acts: ActivationMatrix | ActivationStore | None = None,
    model: HookedModel | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write a page to read modules by: one HTML file that needs no network.

    It has a table of the modules and a card for each (its topic, layers and top prompts), what
    ablating each does beside its controls, figures (with the extra ``viz``), and a search over
    modules and prompts. What prompts hold is shown as text.

    Args:
        path: The HTML file.
        modules: The modules; without topics they get those that their samples give, and, with a
            model, all.
        effects: What ``module_effects`` returned for them, or ``effects.csv`` of ``tl-modules
            test``, with one run or several.
        acts: The activations that they were discovered on, for the figures that need them; of a
            larger matrix, such as that of held-out prompts too, the modules' own samples are taken.
        model: The model that they were discovered in: it finds topics where there are none, and
            colours the top prompts' tokens by their module's activation.
        seed: Seeds the random directions of topics, and what the figures draw at random.
        progress: Show progress bars while the model runs.

    Returns:
        The file.

    Raises:
        ModulesError: If effects or activations are not these modules', or the file cannot be
            written.
    """
    page = report_page(
        modules, effects=effects, acts=acts, model=model, seed=seed, progress=progress
    )
    files.write_bytes(path, page)
    return files.checked_path(path)


def report_page(
    modules: ModuleSet,
    *,
    effects: pd.DataFrame | None = None,
    acts: ActivationMatrix | ActivationStore | None = None,
    model: HookedModel | None = None,
    seed: int = 0,
    progress: bool = True,
) -> bytes:
    """The page that ``write_report`` writes.

    Args:
        modules: As ``write_report`` takes them, and so all others.
        effects: The effects.
        acts: The activations.
        model: The model.
        seed: The seed.
        progress: Show progress bars.

    Returns:
        HTML, in UTF-8.

    Raises:
        ModulesError: If effects or activations are not these modules'.
    """
    if effects is not None:
        check_effects(effects, COLUMNS, len(modules))
        _check_sizes(effects, modules)
    if modules.topics is None and "prompt" in modules.samples:
        modules = with_topics(modules, model, seed=seed, progress=progress)
    runs = [] if effects is None else split_runs(effects)
    figures, missing = report_figures(modules, acts, seed=seed)
    context = {
        "modules": modules,
        "cards": module_cards(modules, model, progress=progress),
        "tables": [effects_table(run, table, modules) for run, table in runs],
        "figures": figures,
        "plotly": _plotly_source() if figures else None,
        "missing": missing,
        "coloured": model is not None,
    }
    environment = Environment(
        loader=PackageLoader("tl_modules.report"),
        autoescape=True,  # prompts are untrusted text
        finalize=lambda v: v if isinstance(v, Markup) or not isinstance(v, str) else visible(v),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"json": _json, "number": _number, "p": _p}
    template = environment.get_template("report.html.j2")
    without = _encoded(template.render(context, prompts=PromptRows([], len(modules.samples), 0)))
    prompts = prompt_rows(modules, MAX_BYTES - len(without))
    return _encoded(template.render(context, prompts=prompts))


def _check_sizes(effects: pd.DataFrame, modules: ModuleSet) -> None:
    """Refuse effects of other modules that have these ones' numbers: larger than these are."""
    if "n_units" not in effects:
        return
    sizes = {module.label: module.n_units for module in modules}
    largest = np.array([sizes[module] for module in effects["module"]])
    other = effects.loc[effects["n_units"].to_numpy() > largest]  # some units may be excluded
    if len(other):
        row = other.iloc[0]
        raise ModulesError(
            f"effects should be of these modules; in them module {row['module']} has "
            f"{row['n_units']} units, here {sizes[row['module']]}. Test this set again, or move "
            "the table (effects.csv) away."
        )


def _number(value: Any, digits: int = 2) -> str:
    """A number for a table, and a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    shown = f"{value:.{digits}f}"
    return shown.lstrip("-") if float(shown) == 0 else shown


def _p(value: Any) -> str:
    """A p-value."""
    return "<0.001" if value is not None and 0 <= value < 0.0005 else _number(value, 3)


def _plotly_source() -> str:
    """Plotly's script, compressed: it is most of the page, and opened only to draw."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _json(value: object) -> Markup:
    """JSON that can stand in a script element: no ``<`` that would end it."""
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, separators=(",", ":"), allow_nan=False)
    )
    return Markup(text.replace("<", "\\u003c"))


def _encoded(page: str) -> bytes:
    return page.encode("utf-8", errors="replace")
