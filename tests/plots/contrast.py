"""The contrast of every text of a figure with what is behind it, from the figure's JSON."""

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
    colour = {"white": "#ffffff", "black": "#000000"}.get(colour, colour)
    if colour.startswith("rgb("):
        parts = [float(part) for part in colour[4:-1].split(",")]
    else:
        digits = colour.removeprefix("#")
        assert len(digits) == 6, f"{colour} is not opaque, or not known here"
        parts = [int(digits[at : at + 2], 16) for at in (0, 2, 4)]
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
