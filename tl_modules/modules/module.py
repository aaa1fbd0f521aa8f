"""One functional module: its units, its samples, and how to intervene on it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.errors import ModulesError, check_at_least, count_or_share
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.interventions.target import as_targets, units_on_one_site
from tl_modules.interventions.unit_target import UnitTarget
from tl_modules.modules.categories import given_category
from tl_modules.modules.likeness import nearest
from tl_modules.modules.scored_labels import ScoredLabels
from tl_modules.modules.shared_set import SHARED
from tl_modules.modules.topic import Topic
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.labels import label_texts
from tl_modules.units import Units

_MOST_TIED = 3
"""How many names of a tie to show."""


@dataclass(frozen=True, eq=False, repr=False)
class Module(UnitTarget):
    """One functional module: its units, and the samples that drive them (its topic).

    ``fwd_hooks``, ``ablated`` and ``attach`` intervene on the units.
    """

    label: int
    """The module's number in the set, from 0."""

    units: Units
    """The module's units."""

    samples: pd.DataFrame
    """The module's topic: the set's samples with this label, strongest first by ``score``
    (``tlm_score`` where the samples had a column ``score`` of their own)."""

    scores: Float[np.ndarray, " _units"] | None = None
    """How well each unit fits: its normalised mean on this topic minus its largest mean on another
    topic."""

    means: HasUnitMeans | None = None
    """Where mean ablation takes its values from by default: the set that the module belongs to."""

    topic: Topic | None = None
    """The words and the label of the topic; None until ``with_topics`` finds them."""

    own_category: str | None = None
    """The category that the user gave the module; see ``with_category``."""

    shared_by_all: bool = False
    """Whether every category needs the module as much as its own; see ``with_effects``."""

    scored_labels: ScoredLabels | None = None
    """The module's labels with their scores; None until ``with_labels`` finds them."""

    @property
    def reference(self) -> HasUnitMeans | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where mean ablation takes its values from by default: ``means``."""
        return self.means

    @property
    def n_units(self) -> int:
        """The number of units."""
        return len(self.units)

    @property
    def layers(self) -> list[int]:
        """The layers in which the module has units."""
        return sorted({self.units.layers[hook] for hook, _ in self.units.by_hook()})

    @property
    def category(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The module's own category: the user's choice, or else the most frequent category.

        If several categories are equally frequent, this is the first by name; ``tied_categories``
        holds them all. It is None if the samples have no categories.
        """
        if self.own_category is not None:
            return self.own_category
        return next(iter(self.category_shares), None)

    @property
    def category_shares(self) -> dict[str, float]:
        """Each category's share of the samples, largest first; equal shares are sorted by name."""
        if "category" not in self.samples:
            return {}
        counts = Counter(filter(None, label_texts(self.samples["category"])))
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return {name: count / len(self.samples) for name, count in ordered}

    @property
    def category_share(self) -> float:
        """The own category's share of the samples; NaN without a category."""
        category = self.category
        return float("nan") if category is None else self.category_shares.get(category, 0.0)

    @property
    def tied_categories(self) -> tuple[str, ...]:
        """The categories that tie for the most frequent among the module's samples.

        Empty if one category is the most frequent, or if the user gave the module a category.
        """
        shares = self.category_shares
        largest = max(shares.values(), default=0.0)
        tied = tuple(name for name, share in shares.items() if share == largest)
        return tied if len(tied) > 1 and self.own_category is None else ()

    @property
    def category_title(self) -> str | None:
        """The category as tables and figures show it; for a tie ``"coding / math"``."""
        tied = self.tied_categories
        more = f" and {len(tied) - _MOST_TIED} more" if len(tied) > _MOST_TIED else ""
        return f"{' / '.join(tied[:_MOST_TIED])}{more}" if tied else self.category

    @property
    def given_name(self) -> str | None:
        """The name that a user gave in ``tlm.explore``, until ``with_labels`` scores labels."""
        topic = self.topic
        if topic is None or not topic.label_is_given or self.scored_labels is not None:
            return None
        return topic.label

    @property
    def title(self) -> str | None:
        """The module's name in tables and figures: its topic's label or, without one, its category.

        It is "shared by all" where ``ModuleSet.with_effects`` found that. After ``with_labels`` it
        is the label that was chosen, or says that no label fits. A name that a user gave in
        ``tlm.explore`` stands before "shared by all".
        """
        topic, scored = self.topic, self.scored_labels
        if (name := self.given_name) is not None:
            return name
        if self.shared_by_all:
            return SHARED
        if scored is not None:
            return scored.title
        return self.category_title if topic is None else topic.label

    @property
    def category_name(self) -> str | None:
        """The category in the topic's label; None if at most half of the samples have it.

        Two or three tied categories count together. A category that the user gave always counts.
        """
        n_tied = len(self.tied_categories)
        share = self.category_share * max(n_tied, 1) if n_tied <= _MOST_TIED else 0.0
        return self.category_title if self.own_category is not None or share > 0.5 else None

    def with_category(self, category: str) -> "Module":
        """Return the same module with another own category, for example to decide a tie.

        ``module_effects`` measures selectivity for the own category. Tables and figures name the
        module after it.

        Args:
            category: One of the categories of the prompts that the module is tested on.

        Returns:
            A new module.

        Raises:
            ModulesError: If the category is empty.
        """
        return replace(self, own_category=given_category(category))

    def core(self, n: int | float, by: Float[np.ndarray, " units"]) -> "Module":
        """The units of the module with the highest scores.

        ``causal_cores`` finds a core's units and its size by causal effects.

        Args:
            n: A whole number of units, at least 1, or a share of the module's above 0 and at most
                1. More units than the module has give the module.
            by: One score per unit of the module, or per unit of the site, such as
                ``Attribution.unit_scores``. The highest come first.

        Returns:
            A module of at least one unit with the same topic.

        Raises:
            ModulesError: If ``n`` is out of range, or ``by`` does not fit the module.

        Example::

            scores = tlm.attribute_modules(model, clean, corrupted, metric, modules)
            module.core(100, by=scores.unit_scores)
        """
        scores = np.asarray(by)
        if scores.shape == (len(self.units.every()),) != (self.n_units,):
            scores = scores[self.units.flat()]
        is_number = scores.dtype.kind in "fiu"
        if scores.shape != (self.n_units,) or not (is_number and np.isfinite(scores).all()):
            raise ModulesError(
                f"by should be one finite score per unit of the module, ({self.n_units},), or of "
                f"the site, ({len(self.units.every())},); got shape {np.shape(by)}."
            )
        scores = scores.astype(np.float64)
        n_kept = min(count_or_share("n", n, self.n_units), self.n_units)
        kept = np.sort(np.argsort(-scores, kind="stable")[:n_kept])
        own = None if self.scores is None else self.scores[kept]
        # Whether every category needs the part, or a label fits it, is another question.
        return replace(
            self,
            units=self.units.select(kept),
            scores=own,
            shared_by_all=False,
            scored_labels=None,
        )

    def by_fit(self, n: int | float) -> "Module":
        """The units of the module that fit its topic best.

        Fit is not importance: it says how much more strongly the topic's prompts drive a unit than
        other prompts do. A unit that fits well may do nothing that the model needs, and ablating
        the best-fitting units often does little; see ``causal_cores``.

        Args:
            n: As in ``core``.

        Returns:
            A module of the units with the highest ``scores``, with the same topic.

        Raises:
            ModulesError: If ``n`` is out of range or the module has no scores.
        """
        if self.scores is None:
            raise ModulesError("These modules hold no unit scores. Discover them with discover().")
        if not np.isfinite(self.scores).all():
            raise ModulesError(
                f"The fit of module {self.label}'s units is not known: no sample is in its topic. "
                "Use core(n, by=...) with scores of your own."
            )
        return self.core(n, by=self.scores)

    def nearest(self, others: Iterable["Module"], n: int = 3) -> pd.DataFrame:
        """The modules of another set that share most units with this one.

        Use it to find the same module in a set of another K, seed or method on one model.

        Args:
            others: The other modules: a ``ModuleSet``, or some modules.
            n: The number of modules to return.

        Returns:
            One row per module, the nearest first: ``module`` (its label), ``category``,
            ``n_units``, ``n_common`` (units in both) and ``jaccard`` (units in both / units in
            either).

        Raises:
            ModulesError: If the modules belong to another model or site, or ``n`` is below 1.

        Example::

            other = tlm.discover(acts, n_modules=20)
            modules[0].nearest(other)
        """
        check_at_least("n", n, 1)
        return nearest(self, others).head(n)

    def __repr__(self) -> str:
        """One line, without the arrays."""
        title = None if self.topic is None and not self.shared_by_all else self.title
        name = self.label if title is None else f"{self.label}, {title!r}"
        return (
            f"Module({name}: {self.n_units:,} units in {len(self.layers)} layers, "
            f"{len(self.samples):,} samples, category {self.category_title})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the one line, and the strongest samples."""
        return html_table(repr(self), self.samples.head(5))


def as_list(modules: Module | Iterable[Module]) -> list[Module]:
    """One module, some, or a set, as a list.

    Raises:
        ModulesError: If there is none, two share a label, or they belong to different models.
    """
    listed = as_targets(modules)
    units_on_one_site(listed)
    return listed
