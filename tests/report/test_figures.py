import json

import pytest

from tl_modules.report.figures import report_figures

pytest.importorskip("plotly", reason="the extra 'viz' is not installed in this environment")


def test_figures_leave_backgrounds_and_text_to_the_page(modules, acts):
    """The page is light or dark, and its script gives the text the page's colour."""
    figures, missing = report_figures(modules, acts)
    assert (len(figures), missing) == (4, [])
    for figure in figures:
        layout = json.loads(figure.json)["layout"]
        assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0, 0, 0, 0)"
        assert "font" not in layout
