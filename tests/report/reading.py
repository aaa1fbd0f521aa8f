"""Whether a figure can be read."""

from tl_modules.plots.style import INK


def check_readable(figure):
    """A title, names on both axes, and the package's template."""
    layout = figure.layout
    assert layout.title.text
    assert layout.xaxis.title.text
    assert layout.yaxis.title.text
    template = layout.template.layout
    assert template.paper_bgcolor == template.plot_bgcolor == "#ffffff"
    assert template.font.color == INK


def names_overlap(figure, n_rows):
    """Whether names down the side are closer than a line of text."""
    axis = figure.layout.yaxis
    margins = 180
    pixels_a_row = (figure.layout.height - margins) / n_rows
    rows_a_name = n_rows / len(axis.ticktext)
    return pixels_a_row * rows_a_name < 14
