"""Where units live: a site names a kind of hook point, Units map its units to flat columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from tl_modules.errors import ModulesError, check_choice
from tl_modules.model import HookedModel, check_model, model_name


@dataclass(frozen=True)
class Site:
    """A kind of hook point, one a layer, whose last axis holds the units."""

    name: str
    """What users call it."""

    pattern: str
    """The hook point's name, with ``{layer}`` in it."""

    width: str
    """The field of ``model.cfg`` that says how many units a layer has there."""

    def units(self, model: HookedModel) -> "Units":
        """All units of a model at this site, layer by layer.

        Raises:
            ModulesError: If the model lacks the hook points.
        """
        check_model(model)
        n_layers = int(model.cfg.n_layers)
        names = tuple(self.pattern.format(layer=layer) for layer in range(n_layers))
        missing = [name for name in names if name not in model.hook_dict]
        width = getattr(model.cfg, self.width, None)
        if missing or not width:
            raise ModulesError(
                f"The site {self.name!r} needs the hook points {self.pattern!r} and "
                f"cfg.{self.width}; {model_name(model)!r} lacks {missing or 'cfg.' + self.width}. "
                "Use a model whose MLP layers TransformerLens exposes there."
            )
        return Units.whole(names, tuple(range(n_layers)), (int(width),) * n_layers)


SITES = {
    "mlp": Site("mlp", "blocks.{layer}.mlp.hook_post", "d_mlp"),
}
"""Sites by name. ``mlp``: neurons where the down-projection reads them; act(gate) * up if gated."""


def site_units(model: HookedModel, site: str) -> "Units":
    """All units of a model at a named site.

    Raises:
        ModulesError: If there is no such site, or the model lacks its hook points.
    """
    check_choice("units", site, tuple(SITES))
    return SITES[site].units(model)


@dataclass(frozen=True, eq=False, repr=False)
class Units:
    """Units of a model in a fixed order: the columns of an activation matrix, or some of them.

    A selection keeps the whole list of hook points, so that two selections of one model agree on
    the model they belong to.
    """

    hook_names: tuple[str, ...]
    """Hook points, in column order."""

    layers: tuple[int, ...]
    """The layer of each hook point."""

    widths: tuple[int, ...]
    """How many units each hook point has."""

    hook: Int[np.ndarray, " units"]
    """Which hook point each unit belongs to, as a position in ``hook_names``."""

    index: Int[np.ndarray, " units"]
    """Each unit's index along its hook point's last axis."""

    @classmethod
    def whole(
        cls, hook_names: tuple[str, ...], layers: tuple[int, ...], widths: tuple[int, ...]
    ) -> "Units":
        """Every unit of some hook points, hook point by hook point.

        >>> units = Units.whole(("blocks.0.hook", "blocks.1.hook"), (0, 1), (2, 3))
        >>> units.hook.tolist(), units.index.tolist()
        ([0, 0, 1, 1, 1], [0, 1, 0, 1, 2])
        """
        return cls(
            hook_names,
            layers,
            widths,
            hook=_frozen(np.repeat(np.arange(len(widths)), widths)),
            index=_frozen(np.concatenate([np.arange(width) for width in widths])),
        )

    @classmethod
    def anonymous(cls, n_units: int) -> "Units":
        """Units of no known model: one nameless hook point. They cannot be hooked."""
        return cls.whole(("",), (0,), (n_units,))

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> "Units":
        """Units from what ``to_dict`` returned.

        Raises:
            ModulesError: If the description is malformed.
        """
        try:
            names, layers, widths = (tuple(described[key]) for key in ("names", "layers", "widths"))
            well_formed = (
                len(names) == len(layers) == len(widths) > 0
                and len(set(names)) == len(names)
                and all(isinstance(name, str) for name in names)
                and all(type(number) is int and number >= 0 for number in layers)
                and all(type(number) is int and 0 < number < 2**31 for number in widths)
            )
        except (KeyError, TypeError) as error:
            raise ModulesError(
                f"The file's list of hook points is malformed: {error!r}."
            ) from error
        # Bounded before anything is allocated: the description may come from a hostile file.
        if not well_formed or sum(widths) >= 2**28:
            raise ModulesError(
                "The file's list of hook points is malformed: it should give every hook point one "
                "name, one layer and one width. Save the file again."
            )
        return cls.whole(names, layers, widths)

    def to_dict(self) -> dict[str, Any]:
        """The hook points, JSON-ready. Only for all units of the hook points, not a selection."""
        return {
            "names": list(self.hook_names),
            "layers": list(self.layers),
            "widths": list(self.widths),
        }

    def __len__(self) -> int:
        """How many units."""
        return len(self.index)

    def __repr__(self) -> str:
        """Its size, not its arrays."""
        return f"Units({len(self):,} of {_outline(self)})"

    def select(self, chosen: Bool[np.ndarray, " units"] | Int[np.ndarray, " chosen"]) -> "Units":
        """Some of the units, by a mask or by their positions."""
        return Units(
            self.hook_names,
            self.layers,
            self.widths,
            hook=_frozen(self.hook[chosen]),
            index=_frozen(self.index[chosen]),
        )

    def flat(self) -> Int[np.ndarray, " units"]:
        """Each unit's column in an activation matrix of all units of the hook points."""
        return (np.cumsum((0, *self.widths))[self.hook] + self.index).astype(np.int64)

    def every(self) -> "Units":
        """All units of the hook points, in order."""
        return Units.whole(self.hook_names, self.layers, self.widths)

    def complement(self) -> "Units":
        """All other units of the hook points, in order."""
        whole = self.every()
        outside = np.ones(len(whole), dtype=bool)
        outside[self.flat()] = False
        return whole.select(outside)

    def without(self, others: "Units") -> "Units":
        """Those that are not among others of the same hook points."""
        return self.select(~np.isin(self.flat(), others.flat()))

    def are_whole(self) -> bool:
        """Whether these are all units of the hook points, in order."""
        return np.array_equal(self.flat(), np.arange(sum(self.widths)))

    def by_hook(self) -> Iterator[tuple[int, Int[np.ndarray, " chosen"]]]:
        """Each hook point that has units here: its position, and the positions of those units."""
        for hook in np.unique(self.hook):
            yield int(hook), np.flatnonzero(self.hook == hook)

    def counts(self) -> Int[np.ndarray, " hooks"]:
        """How many of the units each hook point has."""
        return np.bincount(self.hook, minlength=len(self.hook_names))

    def neurons(self) -> dict[str, Int[np.ndarray, " chosen"]]:
        """The units' indices at each hook point that has some, by its name.

        What TransformerLens' ``interchange.neuron_basis(width, neurons)`` and
        ``sparse_probing`` call neurons, one hook point at a time.

        >>> units = Units.whole(("blocks.0.hook", "blocks.1.hook"), (0, 1), (2, 3))
        >>> units.select(units.hook == 1).neurons()
        {'blocks.1.hook': array([0, 1, 2])}
        """
        return {
            self.hook_names[hook]: self.index[at].astype(np.int64) for hook, at in self.by_hook()
        }

    def to_frame(self) -> pd.DataFrame:
        """One row a unit: ``layer``, ``hook_name``, ``index``."""
        return pd.DataFrame(
            {
                "layer": np.asarray(self.layers)[self.hook],
                "hook_name": pd.Categorical.from_codes(
                    np.asarray(self.hook), categories=list(self.hook_names)
                ),
                "index": self.index,
            }
        )

    def same_hooks(self, other: "Units") -> bool:
        """Whether both belong to a model with the same hook points of the same widths."""
        return self.hook_names == other.hook_names and self.widths == other.widths

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
        for site in SITES.values():
            if self.hook_names[0] == site.pattern.format(layer=self.layers[0]):
                theirs = site.units(model)
                if not self.same_hooks(theirs):
                    raise ModulesError(
                        f"The modules' units should be those of the model; they are "
                        f"{_outline(self)}, {model_name(model)!r} has {_outline(theirs)}. Use the "
                        "model that the activations were collected from."
                    )
                return
        missing = [name for name in self.hook_names if name not in model.hook_dict]
        if missing:
            raise ModulesError(
                f"The modules' units are at hook points that {model_name(model)!r} lacks: "
                f"{missing}. Use the model that the activations were collected from."
            )


def _outline(units: Units) -> str:
    """A short description for messages."""
    widths = sorted(set(units.widths))
    return f"{len(units.hook_names)} hook points of width {', '.join(map(str, widths))}"


def _frozen(array: np.ndarray) -> np.ndarray:
    """The array, as read-only int32."""
    array = np.ascontiguousarray(array, dtype=np.int32)
    array.setflags(write=False)
    return array
