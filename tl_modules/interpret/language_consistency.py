"""How alike modules, cores and the residual stream are across languages on the same meanings."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.activations.prompt_means import prompt_means
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interpret.language_numbers import LanguageNumbers, Shuffles
from tl_modules.interpret.parallel_prompts import ParallelPrompts
from tl_modules.interventions.measuring import measures
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.sites import hook_points_at
from tl_modules.models.tokens import tokenise
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.tables.text import text_column

_Set = tuple[str, int, Float[np.ndarray, "prompts _units"]]
"""A set's kind and number, and its units' values."""


@dataclass(frozen=True, eq=False, repr=False)
class LanguageConsistency:
    """How modules, cores and layers of the residual stream vary with language and with meaning."""

    table: pd.DataFrame
    """One row per set of units: ``kind`` (``"module"``, ``"core"`` or ``"resid"``), ``number`` (of
    the module or of the layer) and ``n_units``. Over pairs of languages, ``similarity`` is the mean
    cosine of the set's values on the same meaning, ``similarity_shuffled`` on different meanings,
    ``gain`` their difference, and ``retrieved`` how often the same meaning is the nearest in the
    other language (by chance one of the number of meanings). ``language_share``, ``meaning_share``
    and ``rest_share`` are shares of the variance; the rest is the interaction of both, and what is
    by chance. ``language_null`` and ``meaning_null`` are the shares that permutations have on
    average, ``language_null_max`` and ``meaning_null_max`` the largest of those drawn. ``serves``
    is ``"language"`` or ``"meaning"``: of the shares above all drawn permutations the one further
    above its null; or ``"neither"``. ``language`` and ``meaning`` are those on which a module or a
    core is most active. A set without units, or whose values are constant, has missing values."""

    pairs: pd.DataFrame
    """One row per set and pair of languages: ``kind``, ``number``, ``language``, ``other``,
    ``similarity``, ``similarity_shuffled`` and ``retrieved``."""

    activity: pd.DataFrame
    """One row per module or core and language: ``kind``, ``number``, ``language`` and ``activity``
    (the mean of its units' values, each in standard deviations from the unit's mean)."""

    n_meanings: int
    """The number of meanings."""

    def __repr__(self) -> str:
        """Return one line, without the tables."""
        of_modules = self.table.loc[self.table["kind"] == "module", "serves"]
        counts = {name: int((of_modules == name).sum()) for name in ("language", "meaning")}
        n_languages = len(set(self.pairs["language"]) | set(self.pairs["other"]))
        return (
            f"LanguageConsistency({n_languages} languages, {self.n_meanings} meanings; of "
            f"{len(of_modules)} modules {counts['language']} serve a language and "
            f"{counts['meaning']} a meaning)"
        )

    def _repr_html_(self) -> str:
        """Show Jupyter the table of sets."""
        return html_table(repr(self), self.table)


@checked
@measures
def language_consistency(  # noqa: PLR0913 - the options of one measurement, all by keyword
    model: HookedModel,
    modules: ModuleSet,
    parallel_prompts: Prompts,
    *,
    cores: ModuleSet | None = None,
    n_permutations: int = 99,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> LanguageConsistency:
    """Measure how alike languages are in each module, core and layer on prompts that say the same.

    FuxiTranyu (Sun et al. 2024, arXiv 2408.06273) reports that a multilingual model's neurons and
    representations are consistent across languages. Only its abstract and its beginning could be
    read, so that the measures are this package's own. Each prompt has one value per unit: the mean
    over its content tokens of |activation|, or of the signed dimensions of the residual stream.
    Each unit is standardised over the prompts, so that no unit counts for its scale and no offset
    that all prompts share counts as likeness. A set's values on two prompts are compared by their
    cosine. Its variance, summed over the units, is divided between languages and meanings (a
    two-way layout with one prompt per cell, where interaction and chance cannot be told apart).

    Languages also differ in script and in tokens per sentence, which is part of
    ``language_share``. No p-value is given.

    Args:
        model: The model that the modules were discovered in.
        modules: The modules.
        parallel_prompts: A frame with ``prompt``, ``category`` (the language) and ``meaning``:
            every meaning once in every language. ``load_prompts("parallel")`` is one.
        cores: The modules' cores, ``causal_cores(...).cores``, to measure beside them.
        n_permutations: The number of permutations of meanings within languages, and of languages
            within meanings.
        batch_size: Prompts per forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Cut prompts after this many tokens.
        seed: Seeds the permutations.
        progress: Show a progress bar.

    Returns:
        Tables of the sets, of pairs of languages, and of the modules' activity in each language.

    Raises:
        ModulesError: If a meaning is not said once in every language, a prompt has no content
            token, the modules or cores belong to another model, or an activation is not finite.

    Example::

        prompts = tl_modules.data.load_prompts("parallel")
        modules = tlm.discover(tlm.collect(model, prompts, tokens="content"), 12)
        found = tlm.language_consistency(model, modules, prompts)
        found.table.sort_values("meaning_share")
    """
    check_at_least("n_permutations", n_permutations, 1)
    check_seed(seed)
    modules.units.check_model(model)
    if cores is not None and not cores.units.same_hooks(modules.units):
        raise ModulesError(
            "cores should be those of the modules; their hook points or widths differ. Pass "
            "causal_cores(model, modules, ...).cores."
        )
    layout = ParallelPrompts.of(parallel_prompts)
    residual = hook_points_at(model, "resid")
    (sizes, stream), _ = prompt_means(
        model,
        [(modules.units.hook_points, "size"), (residual, "signed")],
        tokenise(model, layout.prompts, max_tokens),
        batch_size,
        progress=progress,
    )
    sets = [*_of_modules("module", modules, sizes)]
    sets += [] if cores is None else _of_modules("core", cores, sizes)
    parts = np.split(stream, np.cumsum(residual.widths)[:-1], axis=1)
    sets += [("resid", layer, part) for layer, part in zip(residual.layers, parts, strict=True)]
    n_languages, n_meanings = layout.rows.shape
    return _tables(sets, layout, Shuffles.draw(n_languages, n_meanings, n_permutations, seed))


def _of_modules(
    kind: str, modules: ModuleSet, sizes: Float[np.ndarray, "prompts units"]
) -> Iterator[_Set]:
    for module in modules:
        yield kind, module.label, sizes[:, module.units.flat()]


def _tables(sets: list[_Set], layout: ParallelPrompts, shuffles: Shuffles) -> LanguageConsistency:
    rows, pairs, activity = [], [], []
    first, second = np.triu_indices(len(layout.languages), 1)
    names = np.array(layout.languages, dtype=object)
    for kind, number, values in sets:
        head = {"kind": kind, "number": number}
        found = LanguageNumbers.of(values[layout.rows], shuffles)
        rows.append(head | _row(kind, found, layout, values.shape[1]))
        both = {
            name: getattr(found, name)[first, second]
            for name in ("similarity", "similarity_shuffled", "retrieved")
        }
        ends = {"language": text_column(names[first]), "other": text_column(names[second])}
        pairs.append(pd.DataFrame(ends | both).assign(**head))
        if kind != "resid":
            means = {"language": text_column(names), "activity": found.activity.mean(axis=1)}
            activity.append(pd.DataFrame(means).assign(**head))
    table = pd.DataFrame(rows)
    for name in ("kind", "serves", "language", "meaning"):
        table[name] = text_column(table[name])
    return LanguageConsistency(
        table, _joined(pairs), _joined(activity), n_meanings=len(layout.meanings)
    )


def _row(
    kind: str, found: LanguageNumbers, layout: ParallelPrompts, n_units: int
) -> dict[str, object]:
    """A set's row: means over the pairs of languages, shares, and what it is most active on."""
    first, second = np.triu_indices(len(layout.languages), 1)
    similarity, shuffled, retrieved = (
        float(each[first, second].mean())
        for each in (found.similarity, found.similarity_shuffled, found.retrieved)
    )
    # The mean of a stream's dimensions says nothing.
    has_peak = found.serves is not None and kind != "resid"
    return {
        "n_units": n_units,
        "similarity": similarity,
        "similarity_shuffled": shuffled,
        "gain": similarity - shuffled,
        "retrieved": retrieved,
        "language_share": found.language_share,
        "language_null": found.language_null,
        "language_null_max": found.language_null_max,
        "meaning_share": found.meaning_share,
        "meaning_null": found.meaning_null,
        "meaning_null_max": found.meaning_null_max,
        "rest_share": found.rest_share,
        "serves": found.serves,
        "language": layout.languages[found.activity.mean(axis=1).argmax()] if has_peak else None,
        "meaning": layout.meanings[found.activity.mean(axis=0).argmax()] if has_peak else None,
    }


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """One table, with the set's kind and number first."""
    table = pd.concat(frames, ignore_index=True)
    table["kind"] = text_column(table["kind"])
    return table.set_index(["kind", "number"]).reset_index()  # these columns first
