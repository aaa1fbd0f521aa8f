"""The contrast of every text, mark and line of a figure with what is behind it, from its JSON."""

import base64
import json
from collections.abc import Iterator

import numpy as np
from plotly.colors import sample_colorscale


def luminance(colour: str) -> float:
    """The relative luminance of an opaque colour, after the Web Content Accessibility Guidelines.

    >>> luminance("#ffffff"), luminance("rgb(0, 0, 0)")
    (1.0, 0.0)
    """
    parts = _parts(colour).tolist()
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (each / 255 for each in parts)
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(text: str, behind: str) -> float:
    """The ratio of two colours' luminance, from 1 to 21."""
    low, high = sorted((luminance(text), luminance(behind)))
    return (high + 0.05) / (low + 0.05)


def contrasts(figure) -> Iterator[tuple[str, float]]:
    """Where each text is, and its contrast: of the figure's own font, and of all that differ."""
    described = json.loads(figure.to_json())
    layout = described["layout"]
    page = layout["template"]["layout"] | layout
    behind = page["paper_bgcolor"], page["plot_bgcolor"]
    for colour in behind:
        yield "font", contrast(page["font"]["color"], colour)
    for where, colour in _fonts(layout, "layout"):
        yield from ((where, contrast(colour, each)) for each in behind)
    for number, trace in enumerate(described["data"]):
        # plotly chooses the colours of these texts, with too little contrast on some cells.
        assert "texttemplate" not in trace, f"trace {number} has texts of plotly's colours"
        own = trace.pop("textfont", {}).get("color")
        if isinstance(own, list):
            cells = _cells(described["data"], trace)
            assert len(own) == len(trace["text"]) == len(cells)
            yield from (
                (f"cell {at}", contrast(*pair))
                for at, pair in enumerate(zip(own, cells, strict=True))
            )
        elif own is not None:  # a text on its marker
            yield f"trace {number}", contrast(own, trace["marker"]["color"])
        for where, colour in _fonts(trace, f"trace {number}"):
            yield from ((where, contrast(colour, each)) for each in behind)


def mark_contrasts(figure) -> Iterator[tuple[str, float]]:
    """Where each mark, line and edge is, and its contrast with the background.

    A grid is left out: it says nothing that the axis' numbers do not say. So are the cells of a
    heat map, which no scale of colours can keep apart from each other: a scale stands beside them.
    """
    described = json.loads(figure.to_json())
    layout = described["layout"]
    page = layout["template"]["layout"] | layout
    behind = {opaque(page["paper_bgcolor"]), opaque(page["plot_bgcolor"])}
    for number, trace in enumerate(described["data"]):
        if trace["type"] == "heatmap":
            continue
        for where, colours in _colours(trace):
            # Of a mark with an edge, either makes it visible.
            yield (
                f"trace {number} {where}",
                min(
                    max(contrast(opaque(colour, each, opacity), each) for colour, opacity in either)
                    for either in colours
                    for each in behind
                ),
            )
    scales = [trace["colorscale"] for trace in described["data"] if trace["type"] == "heatmap"]
    cells = [
        each
        for scale in scales
        for each in sample_colorscale(scale, np.linspace(0, 1, 101).tolist())
    ]
    for number, shape in enumerate(layout.get("shapes", [])):
        line = shape["line"]["color"]
        yield f"shape {number}", min(contrast(opaque(line, each), each) for each in cells or behind)


_Either = list[tuple[str, float]]
"""Colours that lie beside each other, each with its opacity."""


def _colours(trace: dict) -> Iterator[tuple[str, list[_Either]]]:
    """The colours of what a trace draws, by where they are given."""
    mode, whole = trace.get("mode", ""), trace.get("opacity", 1)
    marker, line = trace.get("marker", {}), trace.get("line", {})
    usual = marker.get("color", line.get("color"))
    if "markers" in mode:
        opacity = whole * marker.get("opacity", 1)
        symbol, edge = marker.get("symbol", ""), marker.get("line", {})
        edges = [(edge["color"], opacity)] if edge.get("width") and "color" in edge else []
        if isinstance(symbol, str) and symbol.startswith("line"):  # such a mark is its edge alone
            yield "marker", [edges]
        else:
            fills = usual if isinstance(usual, list) else [usual]
            yield "marker", [[(fill, opacity), *edges] for fill in fills]
    if ("lines" in mode or trace["type"] == "box") and line.get("width", 2):
        yield "line", [[(line["color"], whole)]]
    for error in ("error_x", "error_y"):
        if error in trace:
            yield error, [[(trace[error].get("color", usual), whole)]]


def opaque(colour: str, behind: str = "#ffffff", opacity: float = 1.0) -> str:
    """A colour as it looks on what is behind it."""
    if colour.startswith("rgba("):
        *parts, alpha = (float(part) for part in colour[5:-1].split(","))
        colour, opacity = f"rgb({', '.join(map(str, parts))})", opacity * alpha
    top, below = (_parts(each) for each in (colour, behind))
    mixed = opacity * top + (1 - opacity) * below
    return f"rgb({', '.join(map(str, mixed.tolist()))})"


def _parts(colour: str) -> np.ndarray:
    """Red, green and blue, each from 0 to 255."""
    colour = {"white": "#ffffff", "black": "#000000"}.get(colour, colour)
    if colour.startswith("rgb("):
        return np.array([float(part) for part in colour[4:-1].split(",")])
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], dtype=float)


def _fonts(part: object, where: str) -> Iterator[tuple[str, str]]:
    """The colour of each font inside a part of a figure that has one of its own."""
    if isinstance(part, dict):
        for name, inner in part.items():
            if name.endswith("font") and "color" in inner:
                yield f"{where}.{name}", inner["color"]
            else:
                yield from _fonts(inner, f"{where}.{name}")
    elif isinstance(part, list):
        for number, inner in enumerate(part):
            yield from _fonts(inner, f"{where}[{number}]")


def _cells(traces: list, texts: dict) -> list[str]:
    """The colour of the cell behind each text of a trace."""
    (heatmap,) = (
        trace
        for trace in traces
        if trace["type"] == "heatmap" and trace.get("xaxis") == texts.get("xaxis")
    )
    values, low, high = numbers(heatmap["z"]), heatmap["zmin"], heatmap["zmax"]
    places = [
        (values[int(y)][int(x)] - low) / (high - low)
        for y, x in zip(numbers(texts["y"]), numbers(texts["x"]), strict=True)
    ]
    return sample_colorscale(heatmap["colorscale"], np.clip(places, 0, 1).tolist())


def numbers(coded) -> list:
    """An array of a figure's JSON, which plotly writes as text or as a list."""
    if isinstance(coded, dict):
        flat = np.frombuffer(base64.b64decode(coded["bdata"]), dtype=coded["dtype"])
        shape = [int(part) for part in str(coded.get("shape", len(flat))).split(",")]
        return flat.reshape(shape).tolist()
    return coded
