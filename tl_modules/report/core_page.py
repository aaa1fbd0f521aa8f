"""A page with the curves of causal cores, which needs no network."""

from importlib.util import find_spec

import pandas as pd

from tl_modules.plots.cores import core_curve


def core_page(table: pd.DataFrame) -> bytes | None:
    """Draw selectivity over size: the mean of the modules, then each module.

    Args:
        table: ``CausalCores.table``.

    Returns:
        An HTML page of a few MB, which holds plotly's script; None without plotly.
    """
    if find_spec("plotly") is None:
        return None
    labels = table["module"].drop_duplicates().tolist()
    figures = [core_curve(table), *(core_curve(table, module=label) for label in labels)]
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=not number, div_id=f"curve-{number}")
        for number, figure in enumerate(figures)
    ]
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Causal cores</title>'
    return f"{head}<body>{''.join(parts)}</body></html>\n".encode()
