"""Functional modules: disjoint sets of units across all layers, each with its topic's samples."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from tl_modules.activations.normalise import Normaliser
from tl_modules.activations.reading import Reading
from tl_modules.errors import check_type
from tl_modules.modules.categories import recategorised
from tl_modules.modules.checks import check_fields
from tl_modules.modules.labels import BACKGROUND
from tl_modules.modules.lookup import (
    UnitPlace,
    labelled,
    names_of,
    number_of,
    place_of,
    position_of,
)
from tl_modules.modules.module import Module
from tl_modules.modules.objective import Objective
from tl_modules.modules.overview import described, label_scores, overview
from tl_modules.modules.saved import ARRAYS, fields_of, largest_shapes, parts_of
from tl_modules.modules.scored_labels import ScoredLabels
from tl_modules.modules.shared_set import SharedSet
from tl_modules.modules.tested import with_shared
from tl_modules.modules.topic import Topic
from tl_modules.saving import files
from tl_modules.saving.versions import package_versions
from tl_modules.sharing.shareable import FILE_KIND, Shareable
from tl_modules.tables.columns import free_name
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.verdicts import Tested
from tl_modules.units import Units


@dataclass(frozen=True, eq=False, repr=False)
class ModuleSet(Shareable):
    """A partition of a model's units and of the samples into K paired groups."""

    units: Units
    """All units that were partitioned."""

    samples: pd.DataFrame
    """The collected samples, one row per sample."""

    unit_labels: Int[np.ndarray, " _units"]
    """Each unit's module."""

    sample_labels: Int[np.ndarray, " _samples"]
    """Each sample's module."""

    n_modules: int
    """K."""

    objective: Objective
    """The partition's xi, B and L."""

    sample_scores: Float[np.ndarray, " _samples"]
    """Each sample's mean over its own module's units, normalised."""

    seed: int | None = None
    """The seed of the discovery."""

    method: str = "ulcmod"
    """The method of ``discover`` or ``discover_baseline`` (``"iterd"`` in old files, which is
    ``"ulcmod"``)."""

    history: tuple[float, ...] = ()
    """L after each round."""

    converged: bool = False
    """Whether the last round moved nothing."""

    starts: pd.DataFrame | None = None
    """One row per start of the discovery: ``kind``, ``seed``, ``L``, ``n_rounds``,
    ``converged``."""

    model_name: str = "unknown"
    """The name of the model that the activations come from."""

    reading: Reading = field(default_factory=Reading)
    """How the activations' values were computed; see ``ActivationMatrix``."""

    unit_scores: Float[np.ndarray, " _units"] | None = None
    """How well each unit fits its module: its normalised mean on its topic minus its largest mean
    on another topic."""

    unit_runners_up: Int[np.ndarray, " _units"] | None = None
    """The other module on whose samples each unit is most active; -1 if there is none."""

    unit_means: Float[np.ndarray, " _coordinates"] | None = None
    """Each coordinate's mean (signed) over the collected tokens, for mean ablation. Most units have
    one coordinate; attention heads have several."""

    normaliser: Normaliser | None = None
    """The activations' fitted normaliser, for held-out prompts; it also holds each unit's mean
    value."""

    topics: tuple[Topic, ...] | None = None
    """What each module is about; None until ``with_topics`` finds it."""

    own_categories: tuple[str | None, ...] | None = None
    """The category that the user gave each module, if any; see ``with_categories``."""

    versions: dict[str, str] = field(default_factory=package_versions)
    """Versions of the packages that made the set."""

    content_means: Float[np.ndarray, " _coordinates"] | None = None
    """The means without special tokens and attention sinks; see ``ActivationMatrix``."""

    is_shared: Bool[np.ndarray, " _units"] | None = None
    """Whether each unit was set aside by ``discover(..., shared=...)``; None if none was."""

    shared_by_all: tuple[bool, ...] | None = None
    """Whether each module is shared by all; None until ``with_effects`` knows."""

    verdicts: tuple[str | None, ...] | None = None
    """What effects say of each module (see ``tlm.verdicts``); None until ``with_effects`` knows."""

    verdict_sentence: str | None = None
    """What effects say of all modules; None until ``with_effects`` knows, or if runs disagree."""

    scored_labels: tuple[ScoredLabels | None, ...] | None = None
    """Each module's labels with their scores; None until ``with_labels`` finds them."""

    holds: Tested = "modules"
    """Whether each set of units is a module or, as ``causal_cores`` finds it, a module's core; the
    sentence of verdicts says which."""

    def __post_init__(self) -> None:
        """Refuse fields that do not fit together, and make the arrays read-only."""
        check_fields(self)
        for name in ARRAYS:
            array = getattr(self, name)
            if array is not None:
                object.__setattr__(self, name, _read_only(array))

    def __len__(self) -> int:
        """K."""
        return self.n_modules

    @property
    def background(self) -> Units:
        """The units that belong to no module because they were set aside; shared units too."""
        return self.units.select(self.unit_labels == BACKGROUND)

    @property
    def shared(self) -> SharedSet | None:
        """The units that ``discover(..., shared=...)`` set aside, as a target; None without any."""
        if self.is_shared is None or not self.is_shared.any():
            return None
        return SharedSet(self.units.select(self.is_shared), self)

    @overload
    def __getitem__(self, k: SupportsIndex | str) -> Module: ...

    @overload
    def __getitem__(self, k: slice) -> list[Module]: ...

    def __getitem__(self, k: SupportsIndex | str | slice) -> Module | list[Module]:
        """One module, by its number or its label, or several, by a slice.

        Args:
            k: A number from 0, or from -1 backwards; a label, which is that of a module's topic or
                its category; or a slice.

        Raises:
            ModulesError: If there is no such module, or several have the label.

        Example::

            modules[0], modules[-1], modules["french"], modules[2:5]
        """
        if isinstance(k, slice):
            return [self._module(number) for number in range(self.n_modules)[k]]
        if isinstance(k, str):
            return self._module(labelled([names_of(module) for module in self], k))
        return self._module(number_of(self.n_modules, int(k) if isinstance(k, np.integer) else k))

    def find(
        self, *, layer: SupportsIndex, unit: SupportsIndex, hook_name: str | None = None
    ) -> UnitPlace:
        """The module that one unit belongs to, how well it fits, and the next best module.

        Args:
            layer: The unit's layer.
            unit: The unit's number at its hook point: for ``"mlp"`` the neuron.
            hook_name: The hook point, if the layer has several (``units="mlp+attn_heads"``).

        Returns:
            A named tuple ``module, score, runner_up``; see ``UnitPlace``.

        Raises:
            ModulesError: If the set has no such unit, or the layer has several hook points.

        Example::

            module, score, runner_up = modules.find(layer=12, unit=345)
        """
        return place_of(self, position_of(self.units, layer, unit, hook_name))

    def _module(self, k: int) -> Module:
        own = self.sample_labels == k
        score = self.score_column
        samples = self.samples[own].assign(**{score: self.sample_scores[own]})
        return Module(
            label=int(k),
            units=self.units.select(self.unit_labels == k),
            scores=None if self.unit_scores is None else self.unit_scores[self.unit_labels == k],
            samples=samples.sort_values(score, ascending=False, kind="stable"),
            means=self,
            topic=None if self.topics is None else self.topics[k],
            own_category=None if self.own_categories is None else self.own_categories[k],
            shared_by_all=self.shared_by_all is not None and self.shared_by_all[k],
            scored_labels=None if self.scored_labels is None else self.scored_labels[k],
        )

    def __iter__(self) -> Iterator[Module]:
        """The modules in order."""
        return (self._module(k) for k in range(self.n_modules))

    @property
    def score_column(self) -> str:
        """The name of the score column in ``Module.samples``.

        It is ``"score"``, or ``"tlm_score"`` if the samples have a column ``score`` of their own.
        """
        return free_name(self.samples, "score", self.sample_scores)

    def with_categories(self, categories: Mapping[int, str | None]) -> "ModuleSet":
        """Return the modules, some with another own category, for example to decide a tie.

        ``module_effects`` measures selectivity for the own category. Tables, figures and topics'
        labels name modules after it, and saved files keep it.

        Args:
            categories: The new own categories, by module number. None restores the most frequent
                category of the module's samples.

        Returns:
            A new set.

        Raises:
            ModulesError: If there is no such module, or a category is empty.

        Example::

            modules = modules.with_categories({0: "coding"})
            modules[0].category  # "coding"
        """
        return recategorised(self, categories)

    def with_effects(self, effects: pd.DataFrame) -> "ModuleSet":
        """Keep what effects say of each module: its verdict, and whether every category needs it.

        ``describe`` then has a column ``verdict`` (see ``tlm.verdicts``). Modules that every
        category needs are named "shared by all": a topic's name would say that they serve one
        topic. Figures, the report and shared folders show both. Saved files keep them.

        Args:
            effects: The table that ``module_effects`` returned for these modules; its column
                ``shared_by_all`` decides. In a table of several runs, every run has to say so.

        Returns:
            A new set. Modules that are not in the table, or have fewer than 3 controls or 2 prompts
            per category there, keep their names. A table of several runs gives a module a verdict
            if the runs agree.

        Raises:
            ModulesError: If ``effects`` is no table of effects of these modules.

        Example::

            modules = modules.with_effects(tlm.module_effects(model, modules, prompts))
        """
        return with_shared(self, effects)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the modules, one row per module.

        Returns:
            Columns ``module``, ``n_units``, ``n_samples``, ``n_layers``, ``mean_activation`` (the
            block's mean, normalised), ``category`` (the own category; for a tie all names,
            ``"coding / math"``) and ``category_share`` (the own category's share of the module's
            samples; for a tie, the share of each category). After ``with_effects`` also
            ``shared_by_all``.
        """
        return overview(self)

    def describe(self) -> pd.DataFrame:
        """Tabulate what each module is about, once ``with_topics`` has found the topics.

        Returns:
            One row per module, with the columns ``module``, ``label`` ("shared by all" where
            ``with_effects`` found so), after ``with_effects`` ``verdict``, after ``with_labels``
            ``label_auc`` and ``label_p_holm`` (see ``label_scores``), ``category`` and
            ``category_share`` as in ``to_frame``, ``words``, ``promoted`` and ``suppressed`` (only
            tokens that stand out more than chance makes any token stand out), ``top_prompt``,
            ``n_units`` and ``n_samples``. ``Module.topic`` has all tokens, with their numbers.
            ``attrs["sentence"]`` is what ``with_effects`` found of all modules, else None.

        Raises:
            ModulesError: If the modules have no topics.
        """
        return described(self)

    def label_scores(self) -> pd.DataFrame:
        """Tabulate all candidate labels, once ``with_labels`` has scored them.

        Returns:
            One row per module and candidate, with the columns ``module``, ``kind`` (see
            ``ScoredLabel``), ``label``, ``chosen``, ``choice_auc`` (on the prompts that choose),
            ``auc``, ``ci_low``, ``ci_high`` and ``p_value`` (on the prompts that score),
            ``auc_others`` (the mean of the other modules' labels of that kind on this module's
            prompts), ``p_holm`` (the chosen label's, corrected over the modules; NaN for others)
            and ``fits``. A reader who picks another row has to correct for that choice.

        Raises:
            ModulesError: If the modules have no scored labels.
        """
        return label_scores(self)

    def save(self, path: str | Path) -> None:
        """Write the set to one safetensors file with a JSON header, atomically.

        Raises:
            ModulesError: If the file cannot be written, or a column of ``samples`` cannot be saved
                as JSON.
        """
        files.write(path, FILE_KIND, *self.parts())

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The content of a saved file: a JSON-ready header, and arrays by name."""
        return parts_of(self)

    @classmethod
    def load(cls, path: str | Path) -> "ModuleSet":
        """Read a set that ``save`` wrote.

        Raises:
            ModulesError: If the file is missing, truncated or altered, or is not a module set.
        """
        return files.read(path, FILE_KIND, cls.from_parts, largest_shapes)

    @classmethod
    def from_parts(cls, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> "ModuleSet":
        """Rebuild a set from what ``parts`` returned.

        Raises:
            ModulesError: If the parts do not fit each other.
            TypeError: If a part has another type.
        """
        return cls(**fields_of(header, arrays))

    def __repr__(self) -> str:
        """One line, not its arrays."""
        shared = "" if self.shared is None else f" ({self.shared.n_units:,} shared by all)"
        return (
            f"ModuleSet({self.n_modules} modules of {self.model_name}: {len(self.units):,} units"
            f"{shared}, {len(self.samples):,} samples, L = {self.objective.L:,.0f}, "
            f"xi = {self.objective.xi:.3f}, B = {self.objective.B:,.0f})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the verdict, and the table of modules."""
        table = self.to_frame() if self.topics is None else self.describe()
        said = () if self.verdict_sentence is None else (self.verdict_sentence,)
        return html_table(" ".join([*said, repr(self)]), table)


def check_module_set(modules: object) -> None:
    """Refuse what is no module set, such as one module or a list of some.

    Raises:
        ModulesError: If it is none.
    """
    remedy = "Pass the ModuleSet that discover returned."
    check_type(modules, ModuleSet, "modules should be a module set", remedy)


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array
