"""Whether a figure can be read."""


def check_readable(figure):
    """A title, names on both axes, no background, and grey text."""
    layout = figure.layout
    assert layout.title.text
    assert layout.xaxis.title.text
    assert layout.yaxis.title.text
    for background in (layout.paper_bgcolor, layout.plot_bgcolor):
        assert background == "rgba(0, 0, 0, 0)"
    assert layout.font.color == "#808080"


def names_overlap(figure, n_rows):
    """Whether names down the side are closer than a line of text."""
    axis = figure.layout.yaxis
    margins = 180
    pixels_a_row = (figure.layout.height - margins) / n_rows
    rows_a_name = n_rows / len(axis.ticktext)
    return pixels_a_row * rows_a_name < 14
