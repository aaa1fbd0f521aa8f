"""The figures of all files as tables, with intervals."""

import numpy as np
import pandas as pd

CANCELLING = "cancelling"
"""The kind that no method is expected to recover: its rows are apart."""


def mean_of_files(values: pd.Series) -> str:
    """Mean, and half of its 95 % interval over files and seeds."""
    numbers = values.to_numpy(dtype=float)
    if len(numbers) < 2:
        return f"{numbers.mean():.3f}"
    return f"{numbers.mean():.3f} ± {1.96 * numbers.std(ddof=1) / np.sqrt(len(numbers)):.3f}"


def share(counts: pd.DataFrame) -> str:
    """A share, and its 95 % interval (Wilson 1927)."""
    k, n = counts["selective"].sum(), counts["n"].sum()
    z = 1.96
    centre = (k + z**2 / 2) / (n + z**2)
    half = z * np.sqrt(k * (n - k) / n + z**2 / 4) / (n + z**2)
    return f"{k / n:.3f} ({max(centre - half, 0):.3f} to {centre + half:.3f}; n = {n})"


def recovery_tables(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By scene over all files but the cancelling ones, by kind when balanced, and the chosen K."""
    rows = ["reading", "method"]
    true = table[table["k"] == "true"]
    rest = true[true["kind"] != CANCELLING]
    balanced = true[true["scene"] == "balanced"]
    options = {"aggfunc": mean_of_files, "values": "ari", "sort": False}
    found = {
        "Adjusted Rand index by scene, true K": rest.pivot_table(
            index=rows, columns="scene", **options
        ),
        "Adjusted Rand index by kind, balanced, true K": balanced.pivot_table(
            index=rows, columns="kind", **options
        ),
    }
    chosen = table[(table["k"] == "chosen") & (table["kind"] != CANCELLING)]
    if len(chosen):
        found["Adjusted Rand index by scene, chosen K"] = chosen.pivot_table(
            index=rows, columns="scene", **options
        )
        right = chosen.assign(right=chosen["right"].astype(float))
        found["Share of runs whose chosen K is right"] = right.pivot_table(
            index=rows, columns="scene", values="right", aggfunc="mean", sort=False
        ).round(2)
    return found


def shares(table: pd.DataFrame, rows: str) -> pd.DataFrame:
    """The share called selective, by a column and the kind of control."""
    grouped = table.groupby([rows, "controls"], sort=False)[["selective", "n"]]
    return pd.DataFrame({"called selective": grouped.apply(share)}).unstack("controls")


def shared_table(table: pd.DataFrame) -> pd.DataFrame:
    """The precision of ``shared_units`` by file."""
    grouped = table.groupby(["file", "shared"], sort=False)
    return pd.DataFrame(
        {
            "precision": grouped["precision"].apply(mean_of_files),
            "used": grouped["used"].mean().round(1),
            "precision of used": grouped["precision of used"].apply(mean_of_files),
            "chance": grouped["chance"].first().round(3),
        }
    )


def called_table(table: pd.DataFrame) -> pd.DataFrame:
    """How many sets of each kind are called shared by all, in models with shared units or not."""
    shared = table.loc[table["set"] == "shared", "file"].unique()
    model = np.where(table["file"].isin(shared), "with shared units", "without")
    grouped = table.assign(model=model).groupby(["set", "model"], sort=False)["called"]
    counts = grouped.sum().astype(str) + " of " + grouped.size().astype(str)
    return counts.unstack("model").fillna("")


def markdown(table: pd.DataFrame) -> str:
    """As a Markdown table."""
    flat = table.reset_index()
    flat.columns = [
        " ".join(map(str, column)).strip() if isinstance(column, tuple) else str(column)
        for column in flat.columns
    ]
    lines = ["| " + " | ".join(flat.columns) + " |", "|" + " --- |" * len(flat.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in flat.to_numpy()]
    return "\n".join(lines)
