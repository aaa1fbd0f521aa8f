"""Compare the layers of modules with the layers of all units of the site."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.modules.module import Module, as_list
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import ROUNDING, control_p_value
from tl_modules.tables.p_values import benjamini_hochberg, holm
from tl_modules.units import Units


@checked
def module_layers(modules: Module | Iterable[Module]) -> pd.DataFrame:
    """Count each module's units in each layer, and compare the counts with chance.

    Args:
        modules: A ``ModuleSet``, several modules of one set, or one module.

    Returns:
        One row per module and layer: ``module``, ``layer``, ``n_units``, ``expected`` (the count
        if the module's units were distributed over the layers as all units of the site are),
        ``ratio`` (``n_units / expected``; NaN for a module without units), ``p_value`` (two-sided:
        twice the smaller tail of the hypergeometric distribution, at most 1), ``p_holm`` and
        ``p_bh`` (adjusted over all rows after Holm and after Benjamini and Hochberg). Counts are
        whole numbers, so the test is conservative in small layers: of random modules 0.038 have
        p <= 0.05 with 100 units per layer, 0.041 with 300 and 0.047 with 1,536. A layer has
        thousands of neurons, so even a small departure has a small p-value: read ``ratio``.

    Raises:
        ModulesError: If there is no module, or all units are in one layer.
    """
    from scipy.stats import hypergeom  # slow to import

    module_list = as_list(modules)
    site = _Layers.of(module_list[0].units)
    counts = np.stack([site.counts(module.units) for module in module_list])
    sizes, total = counts.sum(axis=1, keepdims=True), site.widths.sum()
    expected = sizes * site.widths / total
    # P(X <= count) and P(X >= count).
    tails = (
        hypergeom.cdf(counts, total, site.widths, sizes),
        hypergeom.sf(counts - 1, total, site.widths, sizes),
    )
    table = pd.DataFrame(
        {
            "module": np.repeat([module.label for module in module_list], len(site.numbers)),
            "layer": np.tile(site.numbers, len(module_list)),
            "n_units": counts.ravel(),
            "expected": expected.ravel(),
            "ratio": (counts / np.where(expected > 0, expected, np.nan)).ravel(),
            # A module without units has nothing to test.
            "p_value": np.where(sizes > 0, np.clip(2 * np.minimum(*tails), 0, 1), np.nan).ravel(),
        }
    )
    p_values = table["p_value"].to_numpy()
    return table.assign(p_holm=holm(p_values), p_bh=benjamini_hochberg(p_values))


@checked
def module_depth(
    modules: Module | Iterable[Module], *, n_draws: int = 1999, seed: int = 0
) -> pd.DataFrame:
    """Measure each module's depth and spread over the layers, beside random sets of units.

    Args:
        modules: A ``ModuleSet``, several modules of one set, or one module.
        n_draws: The number of random sets; the smallest possible p-value is ``1 / (1 + n_draws)``.
        seed: Seeds the random sets.

    Returns:
        One row per module. ``mean_layer`` and ``std_layer`` are the mean and the standard deviation
        of its ``n_units`` units' layers. ``evenness`` is the entropy of its units over the layers,
        divided by the entropy of all units (0: one layer; 1: as even as all units). ``early``,
        ``middle`` and ``late`` are the shares of its units in each third of the layers that have
        units; ``index`` is ``late - early``, from -1 to 1. ``expected_mean_layer``,
        ``expected_std_layer`` and ``expected_index`` are the same figures for the set of all units.
        ``p_value`` tests ``index``, two-sided, against random sets of equally many units of the
        site; ``p_holm`` and ``p_bh`` are adjusted over the modules. ``evenness_p_value`` is the
        share of random sets that are at most as even as the module. A module without units has NaN.

    Raises:
        ModulesError: If there is no module, or all units are in one layer.
    """
    check_at_least("n_draws", n_draws, 1)
    check_seed(seed)
    module_list = as_list(modules)
    site = _Layers.of(module_list[0].units)
    generator = np.random.default_rng(seed)
    whole = site.described(site.widths[None]).to_dict(orient="records")[0]
    expected = {f"expected_{name}": whole[name] for name in ("mean_layer", "std_layer", "index")}
    rows = []
    for module in module_list:
        # Only the layers matter, so the number of units per layer is drawn, not the units.
        null = site.described(
            generator.multivariate_hypergeometric(
                site.widths, module.n_units, n_draws, method="marginals"
            )
        )
        observed = site.described(site.counts(module.units)[None]).to_dict(orient="records")[0]
        shifts = (null["index"] - whole["index"]).abs().to_numpy()
        rows.append(
            {
                "module": module.label,
                "n_units": module.n_units,
                **observed,
                **expected,
                "p_value": control_p_value(
                    abs(observed["index"] - whole["index"]), shifts, ROUNDING
                ),
                "evenness_p_value": control_p_value(
                    -observed["evenness"], -null["evenness"].to_numpy(), ROUNDING
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
    """The number of units per layer; several hook points of one layer count together."""

    @classmethod
    def of(cls, units: Units) -> "_Layers":
        """Take the layers of all units at the hook points."""
        numbers, widths = np.unique(units.every().to_frame()["layer"], return_counts=True)
        if len(numbers) < 2:
            raise ModulesError(
                f"The modules' units should lie in at least two layers; all {widths.sum()} are in "
                f"layer {numbers[0]}. Collect a site of several layers, or pass units=... to "
                "ActivationMatrix.from_arrays."
            )
        return cls(numbers, widths)

    def counts(self, units: Units) -> Int[np.ndarray, " layers"]:
        """Count units per layer."""
        places = np.searchsorted(self.numbers, np.asarray(units.layers)[units.hook])
        return np.bincount(places, minlength=len(self.numbers))

    def described(self, counts: Int[np.ndarray, "sets layers"]) -> pd.DataFrame:
        """Describe sets of units by their layers: mean, deviation, evenness, thirds."""
        with np.errstate(invalid="ignore"):  # no units: NaN
            shares = counts / counts.sum(axis=1, keepdims=True)
        n_layers = len(self.numbers)
        mean = shares @ self.numbers
        variance = (shares * (self.numbers - mean[:, None]) ** 2).sum(axis=1)
        # A layer's middle decides its third, so that as many layers are early as late.
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
    """Compute Shannon's entropy, in nats."""
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return np.asarray(-(shares * logs).sum(axis=-1))
