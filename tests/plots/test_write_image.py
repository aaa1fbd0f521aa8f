"""Figures as files: kaleido, of the extra 'viz', draws them in the Chromium that is there."""

import re
import shutil
import struct
import subprocess
import sys

import plotly.io
import pytest

import tl_modules as tlm
from tests.tables.test_verdicts import effects_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NO_NETWORK = ("unshare", "--net", "--map-root-user")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(map(shutil.which, BROWSERS)),
        reason="there is no Chromium on this machine: apt-get install chromium",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _kaleido():
    pytest.importorskip("kaleido", reason="images need the extra 'viz'")


def figure(**options):
    return tlm.plots.plot_selectivity(effects_of({"own": 2.0}, {"p": 0.5}), **options)


def test_figures_are_written_as_images_in_the_size_and_style_of_a_paper(modules, tmp_path):
    column = figure(template="simple_white").update_layout(font_size=12, title_text="")
    layers = tlm.plots.plot_layers(modules)
    names = ("column.svg", "column.png", "column.pdf", "layers.svg")
    files = [tmp_path / name for name in names]
    sizes = {"width": [528] * 3 + [800], "height": [320] * 3 + [400], "scale": [1, 3, 1, 1]}
    plotly.io.write_images([column] * 3 + [layers], files, **sizes)
    svg, said = files[0].read_text("utf-8"), files[3].read_text("utf-8")
    assert re.match('<svg[^>]* width="528" height="320"', svg)
    assert "selective" in svg
    assert "rgb(36, 36, 36)" in svg  # the template's text
    assert layers.layout.title.text.split()[0] in said
    png = files[1].read_bytes()
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == (3 * 528, 3 * 320)
    pdf = files[2].read_bytes()
    assert pdf.startswith(b"%PDF")
    assert re.search(rb"/MediaBox ?\[0 0 396 240\]", pdf)  # points: 96 pixels are an inch


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*NO_NETWORK, "true"], check=False, capture_output=True).returncode,
    reason="this machine cannot run a program without a network",
)
def test_an_image_is_written_without_a_network_as_root(tmp_path):
    code = (
        "import os, sys, plotly.io\n"
        "assert os.geteuid() == 0\n"
        "plotly.io.read_json(sys.argv[1]).write_image(sys.argv[2])"
    )
    figure().write_json(tmp_path / "figure.json")
    paths = [str(tmp_path / name) for name in ("figure.json", "figure.png")]
    subprocess.run([*NO_NETWORK, sys.executable, "-c", code, *paths], check=True, timeout=300)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
