"""How selective the first units of each ranking are, in modules that discovery found."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

import tl_modules as tlm
from benchmarks.truth.files import Truth

SIZES = (5, 10, 20, 30)
BY = ("path", "magnitude", "signed")
"""What cores are ranked by."""


def cores(truth: Truth, seeds: Iterable[int]) -> pd.DataFrame:
    """The mean selectivity over the modules, by ranking and size; cores by each of ``BY``."""
    tables = []
    for seed in seeds:
        acts = tlm.collect(truth.model, truth.prompts(40, seed), batch_size=64, progress=False)
        modules = tlm.discover(acts, truth.n_tasks, seed=seed, progress=False)
        twin = tlm.untrained_twin(truth.model, seed=seed)
        of_twin = tlm.collect(twin, truth.prompts(40, seed), batch_size=64, progress=False)
        twins_modules = tlm.discover(of_twin, truth.n_tasks, seed=seed, progress=False)
        prompts = truth.prompts(20, 100 + seed), truth.prompts(10, 200 + seed)
        for by in BY:
            options: dict[str, Any] = {"rankings": []}
            if by == "path":
                options = {"untrained": (twin, twins_modules)}
            found = tlm.causal_cores(
                *(truth.model, modules, *prompts),
                sizes=SIZES,
                by=by,
                n_controls=0,
                batch_size=500,
                seed=seed,
                progress=False,
                **options,
            )
            table = found.table[found.table["n_units"].isin(SIZES)]
            name = table["ranking"].mask(table["ranking"] == "core", f"core, by={by}")
            tables.append(table.assign(ranking=name, seed=seed))
    # One number per seed: the modules of one model are no independent draws.
    grouped = pd.concat(tables).groupby(["ranking", "n_units", "seed"], sort=False)
    return grouped[["effect", "others", "selectivity"]].mean().reset_index()
