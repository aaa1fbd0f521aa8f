"""Where units live: a site names a kind of hook point, Units map its units to flat columns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from operator import mul
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped

from tl_modules.errors import ModulesError, check_choice
from tl_modules.models.hooked_model import HookedModel, check_model, model_name
from tl_modules.saving.checked_json import check_float32s, checked_list, checked_text


@dataclass(frozen=True)
class Site:
    """A kind of hook point, one per layer, and what its units are."""

    name: str
    """The name that users pass."""

    pattern: str
    """The hook point's name, with ``{layer}`` in it."""

    width: tuple[str, ...]
    """Fields of ``model.cfg`` whose product is the number of units per layer."""

    span: tuple[str, ...] = ()
    """Fields whose product is the number of coordinates per unit; without fields it is 1."""

    apart_from: str | None = None
    """The name of a hook point, with ``{layer}`` in it, that must not be the site's own one."""

    def units(self, model: HookedModel) -> "Units":
        """All units of a model at this site, layer by layer.

        Raises:
            ModulesError: If the model lacks the hook points.
        """
        check_model(model)
        n_layers = int(model.cfg.n_layers)
        names = tuple(self.pattern.format(layer=layer) for layer in range(n_layers))
        missing = [name for name in names if name not in model.hook_dict]
        fields = [name for name in self.width + self.span if not getattr(model.cfg, name, None)]
        if missing or fields:
            raise ModulesError(
                f"The site {self.name!r} needs the hook points {self.pattern!r} and "
                f"{', '.join(f'cfg.{name}' for name in self.width + self.span)}; "
                f"{model_name(model)!r} lacks {missing or fields}. Use a model whose layers "
                "TransformerLens exposes there."
            )
        width, span = (
            prod(int(getattr(model.cfg, name)) for name in fields)
            for fields in (self.width, self.span)
        )
        self._check_apart(model, names)
        layers = tuple(range(n_layers))
        return Units.whole(names, layers, (width,) * n_layers, (span,) * n_layers, self.name)

    def _check_apart(self, model: HookedModel, names: tuple[str, ...]) -> None:
        """Refuse layers where TransformerLens gives another hook point this site's name."""
        if self.apart_from is None:
            return
        others = [self.apart_from.format(layer=layer) for layer in range(len(names))]
        same = [
            name
            for name, other in zip(names, others, strict=True)
            if model.hook_dict[name] is model.hook_dict.get(other)
        ]
        if same:
            raise ModulesError(
                f"The site {self.name!r} needs each layer's own hook point for its neurons; in "
                f"{len(same)} of {len(names)} layers of {model_name(model)!r} {same[0]!r} is "
                f"{self.apart_from!r} under another name, as where the layer is a mixture of "
                "experts, whose neurons TransformerLens does not expose. Use 'attn_heads', "
                "'attn_z' or 'resid'."
            )


_SITES = (
    Site(
        "mlp",
        "blocks.{layer}.mlp.hook_post",
        ("d_mlp",),
        apart_from="blocks.{layer}.mlp.hook_out",
    ),
    Site("attn_heads", "blocks.{layer}.attn.hook_z", ("n_heads",), ("d_head",)),
    Site("attn_z", "blocks.{layer}.attn.hook_z", ("n_heads", "d_head")),
    Site("resid", "blocks.{layer}.hook_resid_post", ("d_model",)),
)
SITES = {site.name: site for site in _SITES}
SiteName = Literal["mlp", "attn_heads", "attn_z", "resid", "sae"]
"""Sites by name. ``mlp``: neurons where the down-projection reads them; act(gate) * up if gated.
``attn_heads``: attention heads, each by its output before the output projection; its activation is
that vector's length. ``attn_z``: the dimensions of those vectors. ``resid``: the dimensions of the
residual stream after each layer."""


def site_names(site: str) -> list[str]:
    """The sites that a name such as ``"mlp+attn_heads"`` joins; needs no model.

    Raises:
        ModulesError: If there is no such site, or two share hook points.
    """
    names = site.split("+")
    for name in names:
        check_choice("units", name, (*SITES, "sae"))
    patterns = [SITES[name].pattern if name in SITES else name for name in names]
    if len(set(patterns)) < len(patterns):
        raise ModulesError(
            f"The sites of {site!r} should have different hook points; some are the same. Name "
            "one of them."
        )
    return names


def site_units(model: HookedModel, site: str) -> "Units":
    """All units of a model at a named site, or at several: ``"mlp+attn_heads"``.

    The site ``"sae"`` is the model's own, in its mapping ``sites``: see ``with_saes``.

    Raises:
        ModulesError: If there is no such site, the model lacks its hook points, or two sites share
            hook points.
    """
    check_model(model)
    own: Mapping[str, Units] = getattr(model, "sites", {})
    parts = []
    for name in site_names(site):
        if name == "sae" and name not in own:
            raise ModulesError(
                f"The site 'sae' needs a model with SAEs; {model_name(model)!r} has none. Use "
                "tlm.with_saes(model, saes) in its place."
            )
        parts.append(SITES[name].units(model) if name in SITES else own[name])
    if len(parts) == 1:
        return parts[0]
    fields = ("hook_names", "layers", "widths", "spans")
    joined = [sum((getattr(part, field) for part in parts), ()) for field in fields]
    return Units.whole(*joined, site=site)


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
        names, layers, widths, spans, site = _checked(described)
        if n_units is not None and sum(widths) != n_units:
            raise ModulesError(
                f"The file's list of hook points should have {n_units} units, as its arrays do; it "
                f"has {sum(widths)}. Save the file again."
            )
        return cls.whole(names, layers, widths, spans, site)

    @staticmethod
    def sizes(described: dict[str, Any]) -> tuple[int, int]:
        """How many units and coordinates ``from_dict`` would give; nothing is allocated.

        Raises:
            ModulesError: If the description is malformed.
        """
        _, _, widths, spans, _ = _checked(described)
        return sum(widths), sum(map(mul, widths, spans))

    def to_dict(self) -> dict[str, Any]:
        """The hook points, JSON-ready. Use it for all units of the hook points, not a selection."""
        return {
            "names": list(self.hook_names),
            "layers": list(self.layers),
            "widths": list(self.widths),
            "spans": list(self.spans),
            "site": self.site,
        }

    def __len__(self) -> int:
        """How many units."""
        return len(self.index)

    def __repr__(self) -> str:
        """Its size, not its arrays."""
        return f"Units({len(self):,} of {_outline(self)})"

    def select(self, chosen: Bool[np.ndarray, " units"] | Int[np.ndarray, " chosen"]) -> "Units":
        """Some of the units, by a mask or by their positions."""
        return replace(self, hook=_frozen(self.hook[chosen]), index=_frozen(self.index[chosen]))

    def flat(self) -> Int[np.ndarray, " units"]:
        """Each unit's column in an activation matrix of all units of the hook points."""
        return (np.cumsum((0, *self.widths))[self.hook] + self.index).astype(np.int64)

    def every(self) -> "Units":
        """All units of the hook points, in order."""
        return Units.whole(self.hook_names, self.layers, self.widths, self.spans, self.site)

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
        return sum(map(mul, self.widths, self.spans))

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
        return (self.hook_names, self.widths, self.spans) == (
            other.hook_names,
            other.widths,
            other.spans,
        )

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
        if site is not None:
            theirs = site_units(model, site)
            if not self.same_hooks(theirs):
                raise ModulesError(
                    f"The modules' units should be those of the model; they are {_outline(self)}, "
                    f"{model_name(model)!r} has {_outline(theirs)}. Use the model that the "
                    "activations were collected from."
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


def _checked(described: dict[str, Any]) -> tuple[Any, ...]:
    """The names, layers, widths, spans and site of a description.

    Raises:
        ModulesError: If it is malformed.
    """
    try:
        names, layers, widths = (
            tuple(checked_list(described[key])) for key in ("names", "layers", "widths")
        )
        spans = tuple(checked_list(described.get("spans", [1] * len(widths))))
        site = described.get("site")
        for name in names:
            checked_text(name).encode()
        well_formed = (
            len(names) == len(layers) == len(widths) == len(spans) > 0
            and (site is None or isinstance(site, str))
            and len(set(names)) == len(names)
            and all(type(number) is int and 0 <= number < 2**31 for number in layers)
            and all(type(number) is int and 0 < number < 2**31 for number in widths + spans)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModulesError(f"The file's list of hook points is malformed: {error!r}.") from error
    # Bounded before anything is allocated: the description may come from a hostile file.
    if not well_formed or sum(map(mul, widths, spans)) >= 2**28:
        raise ModulesError(
            "The file's list of hook points is malformed: it should give every hook point one "
            "name, one layer and one width. Save the file again."
        )
    return names, layers, widths, spans, site


def _outline(units: Units) -> str:
    """A short description for messages."""
    sizes = sorted(set(zip(units.widths, units.spans, strict=True)))
    shown = [str(width) if span == 1 else f"{width} x {span}" for width, span in sizes]
    return f"{len(units.hook_names)} hook points of width {', '.join(shown)}"


def _frozen(array: np.ndarray) -> np.ndarray:
    """The array, as read-only int32."""
    array = np.ascontiguousarray(array, dtype=np.int32)
    array.setflags(write=False)
    return array


def check_unit_means(
    unit_means: Shaped[np.ndarray, "..."] | None, units: Units, name: str = "unit_means"
) -> None:
    """Refuse means for ablation that are not one finite number per coordinate.

    Raises:
        ModulesError: If there are more or fewer numbers, or a number is NaN or infinite.
    """
    if unit_means is None:
        return
    if unit_means.shape != (units.n_coordinates,):
        raise ModulesError(
            f"{name} should have {units.n_coordinates} entries; it has shape {unit_means.shape}."
        )
    bad = np.flatnonzero(~np.isfinite(unit_means)) if unit_means.dtype.kind == "f" else []
    if len(bad):
        raise ModulesError(
            f"{name} should be finite; entry {bad[0]} is {unit_means[bad[0]]}. Collect them "
            "anew, or leave them out."
        )
    check_float32s(name, unit_means)
