"""Where in the model modules lie: their layers beside those of all units."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.modules.module_set import Module, as_list
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import ROUNDING, control_p_value
from tl_modules.tables.p_values import benjamini_hochberg, holm
from tl_modules.units import Units


@checked
def module_layers(modules: Module | Iterable[Module]) -> pd.DataFrame:
    """How many units each module has in each layer, beside what chance would give it.

    Args:
        modules: A ``ModuleSet``, some modules of one, or one.

    Returns:
        One row a module and layer: ``module``, ``layer``, ``n_units``, ``expected`` (if the
        module's units were spread over the layers as all units of the site are), ``ratio``
        (of the two; NaN for a module without units), ``p_value`` (two-sided: twice the smaller
        tail of the hypergeometric distribution, at most 1), ``p_holm`` and ``p_bh`` (the same,
        adjusted over all cells after Holm and Benjamini and Hochberg). A layer has thousands of
        neurons, so that small departures have small p-values too: read ``ratio``.

    Raises:
        ModulesError: If there is no module, or all units are of one layer.
    """
    from scipy.stats import hypergeom  # slow to import

    chosen = as_list(modules)
    site = _Layers.of(chosen[0].units)
    counts = np.stack([site.counts(module.units) for module in chosen])
    sizes, total = counts.sum(axis=1, keepdims=True), site.widths.sum()
    expected = sizes * site.widths / total
    # P(X <= count) and P(X >= count).
    tails = (
        hypergeom.cdf(counts, total, site.widths, sizes),
        hypergeom.sf(counts - 1, total, site.widths, sizes),
    )
    table = pd.DataFrame(
        {
            "module": np.repeat([module.label for module in chosen], len(site.numbers)),
            "layer": np.tile(site.numbers, len(chosen)),
            "n_units": counts.ravel(),
            "expected": expected.ravel(),
            "ratio": (counts / np.where(expected > 0, expected, np.nan)).ravel(),
            # Of a module without units nothing is tested.
            "p_value": np.where(sizes > 0, np.clip(2 * np.minimum(*tails), 0, 1), np.nan).ravel(),
        }
    )
    p_values = table["p_value"].to_numpy()
    return table.assign(p_holm=holm(p_values), p_bh=benjamini_hochberg(p_values))


@checked
def module_depth(
    modules: Module | Iterable[Module], *, n_draws: int = 1999, seed: int = 0
) -> pd.DataFrame:
    """How deep each module lies and how far it spreads, beside random sets of as many units.

    Args:
        modules: A ``ModuleSet``, some modules of one, or one.
        n_draws: Random sets for the p-values, whose smallest value is ``1 / (1 + n_draws)``.
        seed: Seeds them.

    Returns:
        One row a module: ``module``, ``n_units``; of its units' layers the mean and the standard
        deviation, ``mean_layer`` and ``std_layer``; ``evenness``, the entropy of its units over
        the layers as a share of that of all units (0: one layer; 1: as even as all units);
        ``early``, ``middle`` and ``late``, the shares of its units in each third of the layers
        that have units; ``index``, late minus early, from -1 to 1. ``expected_mean_layer``,
        ``expected_std_layer`` and ``expected_index`` are those of all units. ``p_value`` of the
        index is two-sided, against random sets of as many units of the site; ``p_holm`` and
        ``p_bh`` are adjusted over the modules; ``evenness_p_value`` counts the random sets that
        are no more even. NaN for a module without units.

    Raises:
        ModulesError: If there is no module, or all units are of one layer.
    """
    check_at_least("n_draws", n_draws, 1)
    check_seed(seed)
    chosen = as_list(modules)
    site = _Layers.of(chosen[0].units)
    generator = np.random.default_rng(seed)
    whole = site.described(site.widths[None]).to_dict(orient="records")[0]
    expected = {f"expected_{name}": whole[name] for name in ("mean_layer", "std_layer", "index")}
    rows = []
    for module in chosen:
        null = site.described(
            generator.multivariate_hypergeometric(
                site.widths, module.n_units, n_draws, method="marginals"
            )
        )
        own = site.described(site.counts(module.units)[None]).to_dict(orient="records")[0]
        shifts = (null["index"] - whole["index"]).abs().to_numpy()
        rows.append(
            {
                "module": module.label,
                "n_units": module.n_units,
                **own,
                **expected,
                "p_value": control_p_value(abs(own["index"] - whole["index"]), shifts, ROUNDING),
                "evenness_p_value": control_p_value(
                    -own["evenness"], -null["evenness"].to_numpy(), ROUNDING
                ),
            }
        )
    table = pd.DataFrame(rows)
    p_values = table["p_value"].to_numpy()
    return table.assign(p_holm=holm(p_values), p_bh=benjamini_hochberg(p_values))


@dataclass(frozen=True, eq=False)
class _Layers:
    """The layers of a site that have units."""

    numbers: Int[np.ndarray, " layers"]
    widths: Int[np.ndarray, " layers"]
    """How many units each has; several hook points of one layer count together."""

    @classmethod
    def of(cls, units: Units) -> "_Layers":
        """The layers of all units of the hook points."""
        numbers, widths = np.unique(units.every().to_frame()["layer"], return_counts=True)
        if len(numbers) < 2:
            raise ModulesError(
                f"Where modules lie can be asked of units of at least two layers; all "
                f"{widths.sum()} are of layer {numbers[0]}. Collect a site of several layers, or "
                "pass units=... to ActivationMatrix.from_arrays."
            )
        return cls(numbers, widths)

    def counts(self, units: Units) -> Int[np.ndarray, " layers"]:
        """How many of some units each layer has."""
        places = np.searchsorted(self.numbers, np.asarray(units.layers)[units.hook])
        return np.bincount(places, minlength=len(self.numbers))

    def described(self, counts: Int[np.ndarray, "sets layers"]) -> pd.DataFrame:
        """Mean, spread, evenness and thirds of some sets of units, one row a set."""
        with np.errstate(invalid="ignore"):  # no units: NaN
            shares = counts / counts.sum(axis=1, keepdims=True)
        n_layers = len(self.numbers)
        mean = shares @ self.numbers
        variance = (shares * (self.numbers - mean[:, None]) ** 2).sum(axis=1)
        # By the layers' middles: as many layers are early as late.
        thirds = 3 * (2 * np.arange(n_layers) + 1) // (2 * n_layers)
        early, middle, late = (shares[:, thirds == third].sum(axis=1) for third in range(3))
        return pd.DataFrame(
            {
                "mean_layer": mean,
                "std_layer": np.sqrt(variance),
                "evenness": _entropy(shares) / _entropy(self.widths / self.widths.sum()),
                "early": early,
                "middle": middle,
                "late": late,
                "index": late - early,
            }
        )


def _entropy(shares: Float[np.ndarray, "*sets layers"]) -> Float[np.ndarray, "*sets"]:
    """Shannon's, nats."""
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return np.asarray(-(shares * logs).sum(axis=-1))
