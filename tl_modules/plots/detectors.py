"""Draw the scores of kinds of detectors of a concept side by side."""

from typing import TYPE_CHECKING

from tl_modules.errors import check_type
from tl_modules.evaluation.detectors import Detectors
from tl_modules.plots.style import COLOURS, GREY, FigureTemplate, graph_objects, plotly_text, styled
from tl_modules.runtime.arguments import checked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@checked
@styled
def plot_detectors(detectors: Detectors, *, template: FigureTemplate = None) -> "Figure":
    """Draw each kind of detector's scores over resamples, beside scores with shuffled labels.

    A box shows the scores of the resamples on the prompts that each resample left out: coloured
    with the true labels, grey with shuffled labels. A diamond is the mean on the test prompts; its
    bar holds 95 % of the resamples.

    Args:
        detectors: The comparison that ``compare_detectors`` returned.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, or ``detectors`` is no
            ``Detectors``.
    """
    figure = graph_objects().Figure()
    check_type(
        detectors,
        Detectors,
        "detectors should be what compare_detectors returned",
        "Pass the whole result, not its table.",
    )
    names = detectors.table["detector"].tolist()
    for shuffled, colour, name in ((True, GREY, "shuffled"), (False, COLOURS[0], "left out")):
        runs = detectors.runs.loc[detectors.runs["shuffled"] == shuffled]
        figure.add_box(
            x=runs["detector"], y=runs["auc"], name=name, line_color=colour, boxpoints=False
        )
    table = detectors.table.dropna(subset="auc_test")
    if len(table):
        figure.add_scatter(
            x=table["detector"],
            y=table["auc_test"],
            error_y={
                "type": "data",
                "array": table["auc_test_ci_high"] - table["auc_test"],
                "arrayminus": table["auc_test"] - table["auc_test_ci_low"],
                "width": 3,
            },
            mode="markers",
            marker={"symbol": "diamond", "size": 9, "color": COLOURS[1]},
            name="test prompts",
        )
    figure.update_xaxes(categoryorder="array", categoryarray=names)
    figure.update_yaxes(title_text="AUC")
    title = f"Detectors of {plotly_text(detectors.concept)}, on prompts that they did not see"
    return figure.update_layout(title_text=title, boxmode="group", width=800, height=440)
