"""Units of a model as columns: each is an index at a hook point."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import mul
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped

from tl_modules.errors import ModulesError
from tl_modules.models.hook_points import HookPoints
from tl_modules.models.hooked_model import HookedModel, check_model, model_name
from tl_modules.models.sites import SITES, SitePattern, hook_points_at, is_named


@dataclass(frozen=True, eq=False, repr=False)
class Units:
    """Units of a model in a fixed order: the columns of an activation matrix, or some of them.

    A selection keeps the whole list of hook points. This list shows whether two selections belong
    to the same model.
    """

    hook_names: tuple[str, ...]
    """Hook points, in column order."""

    layers: tuple[int, ...]
    """The layer of each hook point."""

    widths: tuple[int, ...]
    """How many units each hook point has."""

    spans: tuple[int, ...]
    """How many coordinates of each hook point's activation make one unit."""

    hook: Int[np.ndarray, " units"]
    """Which hook point each unit belongs to, as a position in ``hook_names``."""

    index: Int[np.ndarray, " units"]
    """Each unit's index at its hook point."""

    site: str | None = None
    """The name of the site, if the units are those of a named site."""

    @classmethod
    def whole(
        cls,
        hook_names: tuple[str, ...],
        layers: tuple[int, ...],
        widths: tuple[int, ...],
        spans: tuple[int, ...] | None = None,
        site: str | None = None,
    ) -> "Units":
        """All units of some hook points, in the order of the hook points.

        >>> units = Units.whole(("blocks.0.hook", "blocks.1.hook"), (0, 1), (2, 3))
        >>> units.hook.tolist(), units.index.tolist()
        ([0, 0, 1, 1, 1], [0, 1, 0, 1, 2])
        """
        return cls(
            hook_names,
            layers,
            widths,
            (1,) * len(widths) if spans is None else spans,
            hook=_frozen(np.repeat(np.arange(len(widths), dtype=np.int32), widths)),
            index=_frozen(np.concatenate([np.arange(n, dtype=np.int32) for n in widths])),
            site=site,
        )

    @classmethod
    def anonymous(cls, n_units: int) -> "Units":
        """Units of no known model: one nameless hook point. They cannot be hooked."""
        return cls.whole(("",), (0,), (n_units,))

    @classmethod
    def from_dict(cls, described: dict[str, Any], n_units: int | None = None) -> "Units":
        """Rebuild units from what ``to_dict`` returned.

        Args:
            described: What ``to_dict`` returned.
            n_units: The expected number of units, if it is known.

        Raises:
            ModulesError: If the description is malformed, or has another number of units.
        """
        points = HookPoints.from_dict(described)
        if n_units is not None and points.n_units != n_units:
            raise ModulesError(
                f"The file's list of hook points should have {n_units} units, as its arrays do; it "
                f"has {points.n_units}. Save the file again."
            )
        return cls.whole(*points)

    @staticmethod
    def sizes(described: dict[str, Any]) -> tuple[int, int]:
        """How many units and coordinates ``from_dict`` would give; nothing is allocated.

        Raises:
            ModulesError: If the description is malformed.
        """
        points = HookPoints.from_dict(described)
        return points.n_units, points.n_coordinates

    def to_dict(self) -> dict[str, Any]:
        """The hook points, JSON-ready. Use it for all units of the hook points, not a selection."""
        return self.hook_points.to_dict()

    @property
    def hook_points(self) -> HookPoints:
        """The hook points alone, with their sizes."""
        return HookPoints(self.hook_names, self.layers, self.widths, self.spans, self.site)

    def __len__(self) -> int:
        """How many units."""
        return len(self.index)

    def __repr__(self) -> str:
        """Its size, not its arrays."""
        return f"Units({len(self):,} of {self.hook_points.outline()})"

    def select(self, chosen: Bool[np.ndarray, " units"] | Int[np.ndarray, " chosen"]) -> "Units":
        """Some of the units, by a mask or by their positions."""
        return replace(self, hook=_frozen(self.hook[chosen]), index=_frozen(self.index[chosen]))

    def flat(self) -> Int[np.ndarray, " units"]:
        """Each unit's column in an activation matrix of all units of the hook points."""
        return (np.cumsum((0, *self.widths))[self.hook] + self.index).astype(np.int64)

    def every(self) -> "Units":
        """All units of the hook points, in order."""
        return Units.whole(*self.hook_points)

    def coordinates(self) -> "Units":
        """The coordinates that make up the units, as units of one coordinate each.

        >>> heads = Units.whole(("blocks.0.attn.hook_z",), (0,), (3,), (2,))
        >>> heads.select(np.array([1])).coordinates().index.tolist()
        [2, 3]
        """
        if set(self.spans) == {1}:
            return self
        spans = np.asarray(self.spans)[self.hook]
        # Each unit's coordinates follow one another.
        within = np.arange(spans.sum()) - np.repeat(np.cumsum(spans) - spans, spans)
        return Units(
            self.hook_names,
            self.layers,
            tuple(map(mul, self.widths, self.spans)),
            (1,) * len(self.spans),
            hook=_frozen(np.repeat(self.hook, spans)),
            index=_frozen(np.repeat(self.index * spans, spans) + within),
        )

    @property
    def n_coordinates(self) -> int:
        """How many coordinates all units of the hook points have."""
        return self.hook_points.n_coordinates

    def summed(
        self, values: Shaped[np.ndarray, "*batch coordinates"]
    ) -> Shaped[np.ndarray, "*batch units"]:
        """Sums over each unit's coordinates.

        >>> heads = Units.whole(("blocks.0.attn.hook_z",), (0,), (2,), (2,))
        >>> heads.summed(np.array([1, 2, 3, 4])).tolist()
        [3, 7]
        """
        if set(self.spans) == {1}:
            return values
        spans = np.asarray(self.spans)[self.hook]
        return np.add.reduceat(values, np.cumsum(spans) - spans, axis=-1)

    def complement(self) -> "Units":
        """All other units of the hook points, in order."""
        whole = self.every()
        outside = np.ones(len(whole), dtype=bool)
        outside[self.flat()] = False
        return whole.select(outside)

    def without(self, others: "Units") -> "Units":
        """The units that are not in ``others``, a selection of the same hook points."""
        return self.select(~np.isin(self.flat(), others.flat()))

    def are_whole(self) -> bool:
        """Whether these are all units of the hook points, in order."""
        return np.array_equal(self.flat(), np.arange(sum(self.widths)))

    def by_hook(self) -> Iterator[tuple[int, Int[np.ndarray, " chosen"]]]:
        """Each hook point that has units here: its position, and the positions of those units."""
        by_hook = np.argsort(self.hook, kind="stable")
        hooks, starts = np.unique(self.hook[by_hook], return_index=True)
        if len(hooks):
            yield from zip(hooks.tolist(), np.split(by_hook, starts[1:]), strict=True)

    def counts(self) -> Int[np.ndarray, " hooks"]:
        """How many of the units each hook point has."""
        return np.bincount(self.hook, minlength=len(self.hook_names))

    def neurons(self) -> dict[str, Int[np.ndarray, " chosen"]]:
        """The units' indices by hook point name, for each hook point that has units here.

        TransformerLens' ``interchange.neuron_basis(width, neurons)`` and ``sparse_probing`` take
        these indices as neurons, one hook point at a time. For attention heads, use
        ``coordinates().neurons()``.

        >>> units = Units.whole(("blocks.0.hook", "blocks.1.hook"), (0, 1), (2, 3))
        >>> units.select(units.hook == 1).neurons()
        {'blocks.1.hook': array([0, 1, 2])}
        """
        return {
            self.hook_names[hook]: self.index[at].astype(np.int64) for hook, at in self.by_hook()
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per unit: ``layer``, ``hook_name``, ``unit`` (its number at the hook point)."""
        return pd.DataFrame(
            {
                "layer": np.asarray(self.layers)[self.hook],
                "hook_name": pd.Series(self.hook_names, dtype="str").array.take(self.hook),
                "unit": self.index.astype(np.int64),
            }
        )

    def same_hooks(self, other: "Units") -> bool:
        """Whether both belong to a model with the same hook points of the same widths."""
        return self.hook_points.same_as(other.hook_points)

    def check_model(self, model: HookedModel) -> None:
        """Refuse a model that these units do not belong to.

        Raises:
            ModulesError: If the model's hook points or their widths differ.
        """
        check_model(model)
        if self.hook_names == ("",):
            raise ModulesError(
                "These modules come from a matrix without units, so no hook point is known for "
                "them. Pass units=... to ActivationMatrix.from_arrays, or use collect()."
            )
        site = self.site or self._likely_site()
        if site is not None and is_named(site):
            theirs = hook_points_at(model, site)
            if not self.hook_points.same_as(theirs):
                raise ModulesError(
                    f"The modules' units should be those of the model; they are "
                    f"{self.hook_points.outline()}, {model_name(model)!r} has {theirs.outline()}. "
                    "Use the model that the activations were collected from."
                )
            return
        missing = [name for name in self.hook_names if name not in model.hook_dict]
        if missing:
            raise ModulesError(
                f"The modules' units are at hook points that {model_name(model)!r} lacks: "
                f"{missing}. Use the model that the activations were collected from."
            )

    def _likely_site(self) -> str | None:
        """The MLP site, where every hook point is one of its; units made by hand name no site."""
        names = map(SITES["mlp"].pattern.format_map, ({"layer": layer} for layer in self.layers))
        return "mlp" if self.hook_names == tuple(names) else None


def _frozen(array: np.ndarray) -> np.ndarray:
    """The array, as read-only int32."""
    array = np.ascontiguousarray(array, dtype=np.int32)
    array.setflags(write=False)
    return array


class Site(SitePattern):
    """A kind of hook point, one per layer, and what its units are."""

    def units(self, model: HookedModel) -> Units:
        """All units of a model at this site, layer by layer.

        Raises:
            ModulesError: If the model lacks the hook points.
        """
        return Units.whole(*self.hook_points(model))


def site_units(model: HookedModel, site: str) -> Units:
    """All units of a model at a named site, or at several; see ``hook_points_at``.

    Raises:
        ModulesError: If there is no such site, the model lacks its hook points, or two sites share
            hook points.
    """
    return Units.whole(*hook_points_at(model, site))
