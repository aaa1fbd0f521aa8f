"""Functional modules: disjoint sets of units across all layers, each with its topic's samples."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.activations.normalise import (
    Normaliser,
    check_normaliser,
    largest_normaliser,
    normaliser_arrays,
    read_normaliser,
)
from tl_modules.activations.reading import Reading
from tl_modules.errors import ModulesError, check_type
from tl_modules.interventions.target import as_targets, units_on_one_site
from tl_modules.modules.module import Module, given_category
from tl_modules.modules.topic import Topic, clear_tokens, topic_label
from tl_modules.saving import files
from tl_modules.saving.checked_json import flag, number, rows, text, whole
from tl_modules.sharing.shareable import FILE_KIND, Shareable
from tl_modules.tables.columns import free_name
from tl_modules.tables.frames import frame_from_json, frame_to_json, n_rows
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.text import text_column
from tl_modules.units import Units, check_unit_means

BACKGROUND = -1
"""The label of units that were set aside: they belong to no module."""


@dataclass(frozen=True)
class Objective:
    """The parts of the ULCMOD objective (arXiv 2603.17823); an empty block makes B and L 0."""

    xi: float
    """Mean activation inside the diagonal blocks (z-score units)."""

    B: float
    """Harmonic mean of the K block sizes, samples x units."""

    L: float
    """xi * B, what discovery maximises."""


@dataclass(frozen=True, eq=False, repr=False)
class ModuleSet(Shareable):
    """A partition of a model's units and of the samples into K paired groups."""

    units: Units
    """All units that were partitioned."""

    samples: pd.DataFrame
    """What was collected, one row a sample."""

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

    method: str = "iterd"
    """The algorithm."""

    history: tuple[float, ...] = ()
    """L after each round."""

    converged: bool = False
    """Whether the last round moved nothing."""

    starts: pd.DataFrame | None = None
    """One row a start of the discovery: ``kind``, ``seed``, ``L``, ``n_rounds``, ``converged``."""

    model_name: str = "unknown"
    """The model that the activations come from."""

    reading: Reading = field(default_factory=Reading)
    """How the activations' values came about; see ``ActivationMatrix``."""

    unit_scores: Float[np.ndarray, " _units"] | None = None
    """How well each unit fits its module: its normalised mean on its topic minus its best other."""

    unit_means: Float[np.ndarray, " _coordinates"] | None = None
    """Each coordinate's mean (signed) over the tokens collected: mean ablation's values. Most units
    have one coordinate, attention heads several."""

    normaliser: Normaliser | None = None
    """What normalised the activations, for held-out prompts; it knows each unit's mean value."""

    topics: tuple[Topic, ...] | None = None
    """What each module is about, once ``with_topics`` has said so."""

    own_categories: tuple[str | None, ...] | None = None
    """The category that the user gave each module, if any; see ``with_categories``."""

    versions: dict[str, str] = field(default_factory=lambda: package_versions())
    """Versions of the packages that made it."""

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together, and make the arrays read-only."""
        n_units, n_samples = len(self.units), len(self.samples)
        if not 2 <= self.n_modules <= n_units + n_samples:
            raise ModulesError(
                f"n_modules should be at least 2, and not above samples + units = "
                f"{n_units + n_samples}; got {self.n_modules}. Rebuild the module set from one "
                "discovery."
            )
        for name, length in (
            ("unit_labels", n_units),
            ("unit_means", self.units.n_coordinates),
            ("unit_scores", n_units),
            ("sample_labels", n_samples),
            ("sample_scores", n_samples),
        ):
            array = getattr(self, name)
            if array is None:
                continue
            if array.shape != (length,):
                raise ModulesError(
                    f"{name} should have {length} entries; it has shape {array.shape}. "
                    "Rebuild the module set from one discovery."
                )
            if name.endswith("labels"):
                self._check_labels(name, array)
            elif name != "unit_means" and array.dtype.kind != "f":  # made by hand, perhaps NaN
                raise ModulesError(
                    f"{name} should be floats; they are {array.dtype}. Rebuild the module set from "
                    "one discovery."
                )
            object.__setattr__(self, name, _read_only(array))

        check_unit_means(self.unit_means, self.units)
        check_normaliser(self.normaliser, n_units)
        remedies = {"topics": "Find them again: tlm.with_topics(modules, model)."}
        remedies["own_categories"] = "Give them again: modules.with_categories({0: ...})."
        for name, remedy in remedies.items():
            of_modules = getattr(self, name)
            if of_modules is not None and len(of_modules) != self.n_modules:
                raise ModulesError(
                    f"{name} should have one entry a module, {self.n_modules}; they have "
                    f"{len(of_modules)}. {remedy}"
                )

    def _check_labels(self, name: str, labels: Int[np.ndarray, " items"]) -> None:
        """Refuse labels that are no module's; only units may be set aside."""
        least = BACKGROUND if name == "unit_labels" else 0
        if labels.dtype not in (np.int32, np.int64):
            raise ModulesError(
                f"{name} should be int32 or int64; they are {labels.dtype}. Convert them: "
                "labels.astype(np.int64)."
            )
        if len(labels) and not least <= labels.min() <= labels.max() < self.n_modules:
            raise ModulesError(
                f"{name} should lie in {least}..{self.n_modules - 1}; they go from {labels.min()} "
                f"to {labels.max()}. Rebuild the module set from one discovery."
            )

    def __len__(self) -> int:
        """K."""
        return self.n_modules

    @property
    def background(self) -> Units:
        """The units that belong to no module; none unless they were set aside."""
        return self.units.select(self.unit_labels == BACKGROUND)

    def __getitem__(self, k: int) -> Module:
        """Module ``k``.

        Raises:
            ModulesError: If there is no such module.
        """
        if not isinstance(k, int | np.integer) or not 0 <= k < self.n_modules:
            # An IndexError too: the sequence protocol ends iteration on one.
            raise _NoSuchModule(f"Modules are numbered 0..{self.n_modules - 1}; got {k!r}.")
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
        )

    def __iter__(self) -> Iterator[Module]:
        """The modules in order."""
        return (self[k] for k in range(self.n_modules))

    @property
    def score_column(self) -> str:
        """What ``Module.samples`` calls the samples' scores.

        ``"score"``, or ``"tlm_score"`` where the samples have a column ``score`` of their own.
        """
        return free_name(self.samples, "score", self.sample_scores)

    def with_categories(self, categories: Mapping[int, str | None]) -> "ModuleSet":
        """The same modules, some with another own category: that of a tie which you mean, say.

        ``module_effects`` measures selectivity for the own category; tables, figures and topics'
        labels name modules after it, and files keep it.

        Args:
            categories: The own category of each module that should have another one, by the
                module's number; None for the most frequent of its samples again.

        Returns:
            A new set.

        Raises:
            ModulesError: If there is no such module, or a category is empty.

        Example::

            modules = modules.with_categories({0: "coding"})
            modules[0].category  # "coding"
        """
        check_type(
            categories,
            Mapping,
            "categories should be a mapping of modules' numbers to their own categories",
            "Pass {0: 'math'}, for one.",
        )
        given = list(self.own_categories or [None] * self.n_modules)
        changed = [self[k].label for k in categories]  # refused if there is no such module
        for k, category in zip(changed, categories.values(), strict=True):
            given[k] = None if category is None else given_category(category)
        found = replace(self, own_categories=tuple(given))
        if self.topics is None:
            return found
        topics = list(self.topics)
        for k in changed:
            others = [topic.label for at, topic in enumerate(topics) if at != k]
            label = topic_label(found[k].category_name, topics[k].words, k, others)
            topics[k] = replace(topics[k], label=label)
        return replace(found, topics=tuple(topics))

    def to_frame(self) -> pd.DataFrame:
        """One row a module.

        Returns:
            Columns ``module``, ``n_units``, ``n_samples``, ``n_layers``, ``mean_activation`` (the
            block's mean, normalised), ``category`` (its own: the most frequent of its samples, or
            what it was given; all names of a tie, ``"coding / math"``) and ``category_share`` (that
            category's share of its samples; of a tie, that of each).
        """
        rows, named = [], []
        for module in self:
            named.append(module.category_title)
            scores = self.sample_scores[self.sample_labels == module.label].astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):  # scores of any size, from a file
                mean = float(np.mean(scores)) if len(scores) else float("nan")
            rows.append(
                {
                    "module": module.label,
                    "n_units": module.n_units,
                    "n_samples": len(module.samples),
                    "n_layers": len(module.layers),
                    "mean_activation": mean,
                    "category": None,
                    "category_share": module.category_share,
                }
            )
        return pd.DataFrame(rows).assign(category=text_column(named))

    def describe(self) -> pd.DataFrame:
        """What each module is about, one row a module; before ``with_topics``, see ``to_frame``.

        Returns:
            Columns ``module``, ``label``, ``category`` and ``category_share`` as in ``to_frame``,
            ``words``, ``promoted`` and ``suppressed`` (those tokens that are clearer than chance
            makes one), ``top_prompt``, ``n_units`` and ``n_samples``. ``Module.topic`` has all
            tokens, and the numbers.

        Raises:
            ModulesError: If the modules have no topics.
        """
        if self.topics is None:
            raise ModulesError(
                "These modules have no topics yet. Use tlm.with_topics(modules, model) first, or "
                "see modules.to_frame()."
            )
        topics = self.topics
        frame = self.to_frame()
        words = [", ".join(word.word for word in topic.words) for topic in topics]
        promoted, suppressed = (
            [", ".join(clear_tokens(getattr(topic, name), topic.chance_z)) for topic in topics]
            for name in ("promoted", "suppressed")
        )
        return pd.DataFrame(
            {
                "module": frame["module"],
                "label": text_column(topic.label for topic in topics),
                "category": frame["category"],
                "category_share": frame["category_share"],
                "words": text_column(words),
                "promoted": text_column(promoted),
                "suppressed": text_column(suppressed),
                "top_prompt": text_column(next(iter(topic.prompts), None) for topic in topics),
                "n_units": frame["n_units"],
                "n_samples": frame["n_samples"],
            }
        )

    def save(self, path: str | Path) -> None:
        """Write the set to one safetensors file with a JSON header, atomically.

        Raises:
            ModulesError: If the file cannot be written, or a column of ``samples`` holds values
                that JSON cannot.
        """
        files.write(path, FILE_KIND, *self.parts())

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a file keeps: a JSON-ready header, and arrays by name."""
        header = {
            "units": self.units.to_dict(),
            "samples": frame_to_json(self.samples),
            "n_modules": self.n_modules,
            "objective": asdict(self.objective),
            "seed": self.seed,
            "method": self.method,
            "history": list(self.history),
            "converged": self.converged,
            "starts": None if self.starts is None else frame_to_json(self.starts),
            "model_name": self.model_name,
            "reading": self.reading.to_dict(),
            "normalisation": None if self.normaliser is None else self.normaliser.name,
            "topics": None if self.topics is None else [topic.to_dict() for topic in self.topics],
            "versions": self.versions,
        }
        if self.own_categories is not None:
            header["own_categories"] = list(self.own_categories)
        arrays = {name: array for name in _ARRAYS if (array := getattr(self, name)) is not None}
        arrays |= normaliser_arrays(self.normaliser)
        return header, arrays

    @classmethod
    def load(cls, path: str | Path) -> "ModuleSet":
        """Read a set that ``save`` wrote.

        Raises:
            ModulesError: If the file is missing, truncated, altered, or no module set.
        """
        return files.read(path, FILE_KIND, cls.from_parts, _largest)

    @classmethod
    def from_parts(cls, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> "ModuleSet":
        """A set of what ``parts`` gave.

        Raises:
            ModulesError: If the parts do not fit each other.
            TypeError: If one is of another type.
        """
        starts, topics, seed = header.get("starts"), header.get("topics"), header["seed"]
        given = header.get("own_categories")
        return cls(
            units=Units.from_dict(header["units"], len(arrays["unit_labels"])),
            samples=frame_from_json(header["samples"]),
            n_modules=whole(header["n_modules"]),
            objective=Objective(**{k: number(v) for k, v in header["objective"].items()}),
            seed=None if seed is None else whole(seed),
            method=text(header["method"]),
            history=rows(header["history"], number),
            converged=flag(header["converged"]),
            starts=None if starts is None else frame_from_json(starts),
            model_name=text(header["model_name"]),
            reading=Reading.from_dict(header["reading"]),
            normaliser=read_normaliser(header["normalisation"], arrays),
            topics=None if topics is None else rows(topics, Topic.from_dict),
            own_categories=None if given is None else rows(given, _text_or_none),
            versions={name: text(found) for name, found in header["versions"].items()},
            **{name: arrays[name] for name in _ARRAYS if name in arrays},
        )

    def __repr__(self) -> str:
        """One line, not its arrays."""
        return (
            f"ModuleSet({self.n_modules} modules of {self.model_name}: {len(self.units):,} units, "
            f"{len(self.samples):,} samples, L = {self.objective.L:,.0f}, "
            f"xi = {self.objective.xi:.3f}, B = {self.objective.B:,.0f})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the table of modules."""
        table = self.to_frame() if self.topics is None else self.describe()
        return html_table(repr(self), table)


_ARRAYS = (
    "unit_labels",
    "sample_labels",
    "sample_scores",
    "unit_scores",
    "unit_means",
)


def _largest(header: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The largest shapes of a file's arrays."""
    n_units, n_coordinates = Units.sizes(header["units"])
    n_samples = n_rows(header["samples"])
    lengths = (n_units, n_samples, n_samples, n_units, n_coordinates)
    shapes = {name: (length,) for name, length in zip(_ARRAYS, lengths, strict=True)}
    return shapes | largest_normaliser(n_units)


def check_module_set(modules: object) -> None:
    """Refuse what is no module set, such as one module or a list of some.

    Raises:
        ModulesError: If it is none.
    """
    remedy = "Pass the ModuleSet that discover returned."
    check_type(modules, ModuleSet, "modules should be a module set", remedy)


def as_list(modules: Module | Iterable[Module]) -> list[Module]:
    """One module, some, or a set, as a list.

    Raises:
        ModulesError: If there is none, two share a label, or they belong to different models.
    """
    listed = as_targets(modules)
    units_on_one_site(listed)
    return listed


class _NoSuchModule(ModulesError, IndexError):
    """A refused module number."""


def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on, without importing them."""
    found = {}
    for package in ("tl-modules", "transformer-lens", "torch", "numpy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _text_or_none(value: Any) -> str | None:
    return None if value is None else text(value)


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array
