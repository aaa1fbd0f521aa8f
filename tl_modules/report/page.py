"""Render and write the report: one self-contained HTML page about a set of modules."""

import base64
import gzip
import json
import math
from dataclasses import dataclass
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
from tl_modules.report.claim_figures import claim_figures
from tl_modules.report.continuations import Continuation, continuations
from tl_modules.report.cores import HasCores, check_cores
from tl_modules.report.effects_table import COLUMNS, EffectsTable, effects_table
from tl_modules.report.figures import report_figures
from tl_modules.report.module_pages import module_pages
from tl_modules.report.prompts import PromptRows, prompt_rows
from tl_modules.runtime.arguments import checked
from tl_modules.saving import files
from tl_modules.tables.effects_frame import check_effects, split_runs
from tl_modules.tables.text import visible
from tl_modules.tables.verdicts import has_verdicts

MAX_BYTES = 10_000_000
"""The largest size of a page. To stay below it, prompts are shortened, then the weakest ones are
left out."""


@checked
@measures
def write_report(  # noqa: PLR0913 - the parts of one page, all by keyword
    path: str | Path,
    modules: ModuleSet,
    *,
    effects: pd.DataFrame | None = None,
    core_effects: pd.DataFrame | None = None,
    cores: HasCores | None = None,
    acts: ActivationMatrix | ActivationStore | None = None,
    model: HookedModel | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write one HTML page about modules, to read offline.

    The page begins with what the causal tests say (``verdict_sentence``), how many prompts and
    controls they have, what the words mean, and the figure of that claim. One row per module
    follows. A row opens into the module's own page: its effects beside its controls, what the model
    writes without it, the units of its core, and what drives it. Then come all effects, other
    figures (with the extra ``viz``), the prompts, and the method with its limits. A search leads to
    modules and prompts. Markup in prompts is shown as text.

    Args:
        path: The HTML file.
        modules: The modules. If they have no topics, ``write_report`` finds topics from the samples
            and, if given, the model.
        effects: The table that ``module_effects`` returned for these modules, or ``effects.csv`` of
            ``tl-modules test``; it may hold several runs.
        core_effects: The same of the modules' cores (``causal_cores(...).cores``), or
            ``core_effects.csv`` of ``tl-modules demo``. The page then begins with what they show.
        cores: What ``causal_cores`` returned. It gives the page the cores' units and their curve;
            the texts that the model writes are then without the core.
        acts: The activations that the modules were discovered on, for the figures that need them. A
            larger matrix, which also holds the held-out prompts, is reduced to the modules'
            samples.
        model: The model that the modules were discovered in. It finds missing topics, colours the
            tokens of the top prompts by their module's activation, and writes texts with and
            without each module.
        seed: Seeds the random directions of topics, the random units that the texts are compared
            with, and the random parts of the figures.
        progress: Show progress bars while the model runs.

    Returns:
        The path of the file.

    Raises:
        ModulesError: If the effects or the activations belong to other modules, or the file cannot
            be written.
    """
    page = ReportPage(modules, effects, acts, model, seed, progress, core_effects, cores)
    files.write_bytes(path, page.html())
    return files.checked_path(path)


@dataclass(frozen=True, eq=False)
class ReportPage:
    """The content of a report; ``write_report`` describes the fields."""

    modules: ModuleSet
    effects: pd.DataFrame | None = None
    acts: ActivationMatrix | ActivationStore | None = None
    model: HookedModel | None = None
    seed: int = 0
    progress: bool = True
    core_effects: pd.DataFrame | None = None
    cores: HasCores | None = None

    def html(self) -> bytes:
        """Render the page.

        Returns:
            HTML in UTF-8, below ``MAX_BYTES``.

        Raises:
            ModulesError: If the effects, the cores or the activations belong to other modules.
        """
        # Effects are checked first: finding topics and drawing figures may take minutes.
        tables = self._effects_tables()
        of_cores = self._cores_table()
        if self.cores is not None:
            check_cores(self.cores, self.modules)
        modules = self._modules_with_topics()
        claims = claim_figures(
            modules,
            self.core_effects if of_cores is not None else None,
            tables[0][1] if tables else None,
            None if self.cores is None else self.cores.table,
        )
        figures, missing = report_figures(modules, self.acts, seed=self.seed)
        shown = [effects_table(run, table, modules) for run, table in tables]
        cards = module_cards(modules, self.model, progress=self.progress)
        units = None if self.cores is None else self.cores.units
        texts = self._texts(modules)
        context = {
            "modules": modules,
            "pages": module_pages(
                modules, cards, of_cores, shown[0] if shown else None, units, texts
            ),
            "cores": of_cores,
            "tables": shown,
            "claims": claims,
            "figures": figures,
            "plotly": _plotly_source() if figures or claims else None,
            "missing": missing,
            "coloured": self.model is not None,
            "of_cores": self.cores is not None,
        }
        template = _environment().get_template("report.html.j2")
        # Rendered twice: the first time to learn how many bytes are left for prompts.
        no_prompts = PromptRows([], len(modules.samples), 0)
        without_prompts = _encoded(template.render(context, prompts=no_prompts))
        prompts = prompt_rows(modules, MAX_BYTES - len(without_prompts))
        return _encoded(template.render(context, prompts=prompts))

    def _effects_tables(self) -> list[tuple[dict[str, str], pd.DataFrame]]:
        """Validate the effects and split them into runs."""
        if self.effects is None:
            return []
        check_effects(self.effects, COLUMNS, len(self.modules))
        _check_sizes(self.effects, self.modules)
        return split_runs(self.effects)

    def _cores_table(self) -> EffectsTable | None:
        """Prepare the cores' effects; None for a table of an earlier version, without verdicts."""
        if self.core_effects is None:
            return None
        check_effects(self.core_effects, ("module", "category", "n_units"), len(self.modules))
        if not has_verdicts(self.core_effects):
            return None
        check_effects(self.core_effects, COLUMNS)
        _check_sizes(self.core_effects, self.modules)
        runs = split_runs(self.core_effects)
        if len(runs) > 1:
            raise ModulesError(
                f"core_effects should be of one run; this table holds {len(runs)}. Select the rows "
                "of one run."
            )
        return effects_table(*runs[0], self.modules, of="cores")

    def _texts(self, modules: ModuleSet) -> dict[int, Continuation]:
        """Let the model write with and without each module, or its core."""
        if self.model is None:
            return {}
        ablated = modules if self.cores is None else self.cores.cores
        by_label = {module.label: module for module in ablated}
        return continuations(self.model, modules, by_label, seed=self.seed, progress=self.progress)

    def _modules_with_topics(self) -> ModuleSet:
        """Return the modules, with topics if their samples have prompts, and named by effects."""
        modules = self.modules
        if self.effects is not None:
            modules = modules.with_effects(self.effects)
        if modules.topics is not None or "prompt" not in modules.samples:
            return modules
        return with_topics(modules, self.model, seed=self.seed, progress=self.progress)


def _environment() -> Environment:
    """Return the templates' environment, which escapes all text that is not ``Markup``."""
    environment = Environment(
        loader=PackageLoader("tl_modules.report"),
        autoescape=True,  # prompts are untrusted text
        # Control characters and bidirectional overrides could disguise a prompt's text.
        finalize=lambda v: v if isinstance(v, Markup) or not isinstance(v, str) else visible(v),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"json": _json, "number": _number, "p": _p}
    return environment


def _check_sizes(effects: pd.DataFrame, modules: ModuleSet) -> None:
    """Raise if the effects belong to other modules with the same numbers but more units."""
    if "n_units" not in effects:
        return
    sizes = {module.label: module.n_units for module in modules}
    largest = np.array([sizes[module] for module in effects["module"]])
    # Fewer units are possible: module_effects may have excluded some.
    other = effects.loc[effects["n_units"].to_numpy() > largest]
    if len(other):
        row = other.iloc[0]
        raise ModulesError(
            f"effects should belong to these modules; in effects module {row['module']} has "
            f"{row['n_units']} units, in these modules {sizes[row['module']]}. Test this set "
            "again, or move the table (effects.csv) away."
        )


def _number(value: Any, digits: int = 2) -> str:
    """Format a number for a table; a missing one is a dash."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    shown = f"{value:.{digits}f}"
    return shown.lstrip("-") if float(shown) == 0 else shown  # "-0.00" would look like an effect


def _p(value: Any) -> str:
    """Format a p-value."""
    return "<0.001" if value is not None and 0 <= value < 0.0005 else _number(value, 3)


def _plotly_source() -> str:
    """Return plotly's script, compressed, because it is most of the page."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _json(value: object) -> Markup:
    """Return JSON for a script element, without ``<``, which could end the element."""
    as_json = (
        value
        if isinstance(value, str)
        else json.dumps(value, separators=(",", ":"), allow_nan=False)
    )
    return Markup(as_json.replace("<", "\\u003c"))


def _encoded(page: str) -> bytes:
    return page.encode("utf-8", errors="replace")
