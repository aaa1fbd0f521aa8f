from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules.report.html import write_page


class Page(HTMLParser):
    """Collects tags, text and addresses."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name in {"src", "href", "data"}]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def effects(model, modules, prompts):
    return tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)


@pytest.fixture
def page(modules, effects, tmp_path):
    write_page(tmp_path / "page.html", modules, effects)
    return Page((tmp_path / "page.html").read_text())


def test_the_heatmap_shows_every_effect_beside_its_controls(page, effects):
    cells = [attrs for tag, attrs in page.tags if tag == "td" and "heat" in attrs.get("class", "")]
    assert len(cells) == len(effects)
    assert sum("own" in cell["class"] for cell in cells) == effects["own"].sum()
    text = "".join(page.words)
    for row in effects.itertuples():
        assert f"{row.effect:.2f}" in text
        assert f"{row.control_mean:.2f} ± {row.control_std:.2f}" in text
        assert f"{row.selectivity:.2f}" in text


def test_each_module_has_a_layer_histogram_and_its_top_prompts(page, modules):
    assert sum(tag == "svg" for tag, _ in page.tags) == len(modules)
    assert sum(tag == "rect" for tag, _ in page.tags) == len(modules) * 3
    text = "".join(page.words)
    for module in modules:
        assert module.samples["prompt"].iloc[0] in text
        for layer, count in enumerate(module.units.counts()):
            assert f"layer {layer}: {count} units" in text


def test_the_page_needs_no_network_and_no_script(page):
    assert page.links == []
    assert not any(tag in {"script", "link", "img", "iframe"} for tag, _ in page.tags)


def test_a_prompt_that_holds_markup_stays_text(modules, effects, tmp_path):
    from dataclasses import replace

    hostile = "<script>alert('x')</script><img src=x>"
    samples = modules.samples.assign(prompt=hostile)
    write_page(tmp_path / "page.html", replace(modules, samples=samples), effects)
    page = Page((tmp_path / "page.html").read_text())
    assert not any(tag in {"script", "img"} for tag, _ in page.tags)
    assert hostile in "".join(page.words)


def test_modules_without_prompts_or_controls_still_give_a_page(effects, planted, tmp_path):
    modules = tlm.discover(tlm.ActivationMatrix.from_arrays(planted[0]), 4)
    rows = pd.concat(
        [effects.head(1).assign(module=k, control_mean=np.nan, p_value=np.nan) for k in range(4)]
    )
    write_page(tmp_path / "page.html", modules, rows)
    assert sum(tag == "svg" for tag, _ in Page((tmp_path / "page.html").read_text()).tags) == 4


def test_effects_of_only_some_modules_are_refused(modules, effects, tmp_path):
    with pytest.raises(tlm.ModulesError, match=r"rows of every module; \[1, 2\] are missing"):
        write_page(tmp_path / "page.html", modules, effects[effects["module"] == 0])
    assert not (tmp_path / "page.html").exists()
