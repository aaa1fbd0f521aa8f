"""The contrast of what the report and the page in a notebook draw (WCAG 1.4.11: 3 to 1)."""

import re
from importlib.resources import files

import pytest

from tests.plots.contrast import contrast, opaque
from tl_modules.plots.style import COLOURS, GREY

REPORT = files("tl_modules.report") / "templates" / "report.css"
EXPLORER = files("tl_modules.report") / "explorer" / "explorer.css"


def schemes(path):
    """The colours of a style sheet by their names, light then dark."""
    blocks = re.findall(r"\{([^{}]*--page:[^{}]*)\}", path.read_text())
    light, dark = (dict(re.findall(r"--([\w-]+): ([^;]+);", block)) for block in blocks)
    return light, dark


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("path", "drawn"),
    [
        # Bars and their axis, frames of own categories, borders of controls, the focus.
        (REPORT, ("bar", "quiet", "ink", "own", "link")),
        (EXPLORER, ("edge", "quiet", "changed", "control", "clean", "link", "on", "bad")),
    ],
    ids=["report", "explorer"],
)
def test_marks_and_borders_of_controls_stand_out_from_page_and_card(path, drawn, scheme):
    colours = schemes(path)[scheme]
    found = {
        (name, behind): contrast(colours[name], colours[behind])
        for name in drawn
        for behind in ("page", "card")
    }
    assert {pair: ratio for pair, ratio in found.items() if ratio < 3} == {}


def test_borders_of_controls_have_the_colours_that_are_tested():
    for path, name in ((REPORT, "quiet"), (EXPLORER, "edge")):
        rules = re.findall(r"([^{}]*)\{([^{}]*)\}", path.read_text())
        borders = [body for selector, body in rules if re.search(r"\binput, ", selector)]
        assert f"border: 1px solid var(--{name})" in "".join(borders)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_figures_marks_stand_out_from_the_page(scheme):
    colours = schemes(REPORT)[scheme]
    found = {each: contrast(each, colours["page"]) for each in {*COLOURS, GREY}}
    assert min(found.values()) >= 3, found


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_frame_of_the_own_category_stands_out_from_the_deepest_cell(scheme):
    colours = schemes(REPORT)[scheme]
    cell = opaque(f"rgba({colours['heat']}, 0.4)", colours["page"])  # the deepest one
    assert contrast(colours["own"], cell) >= 3
