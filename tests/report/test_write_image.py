"""Figures as files: kaleido, of the extra 'viz', draws them in the Chromium that is there."""

import shutil

import pytest

import tl_modules as tlm

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, BROWSERS)),
    reason="there is no Chromium on this machine: apt-get install chromium",
)
def test_a_figure_is_written_as_an_image(modules, tmp_path):
    pytest.importorskip("kaleido", reason="images need the extra 'viz'")
    figure = tlm.plots.plot_layers(modules)
    figure.write_image(tmp_path / "layers.svg")
    figure.write_image(tmp_path / "layers.png")
    said = (tmp_path / "layers.svg").read_text()
    assert said.startswith("<svg")
    assert figure.layout.title.text.split()[0] in said
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
