"""Markup in prompts, categories, labels and names stays text wherever it is shown as HTML."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

import tl_modules as tlm
from tests.calls import CALLS, setting
from tests.conftest import WORDS, tiny_model

MARKUP = (
    "<script>alert(1)</script>",
    "<img/src=x/onerror=alert(1)>",
    '<a/href="javascript:alert(1)">',
    "</script><svg/onload=alert(1)>",
    "'\"><b/onmouseover=alert(1)>",
)
TAGS = {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "span"}


class Tags(HTMLParser):
    """Every tag and attribute of a page, and the text of its scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.scripts, self._inside = [], [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._inside = tag == "script"

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts.append(data)

    def is_harmless(self):
        return not any(
            name.startswith("on") or "javascript:" in (value or "")
            for name, value in self.attributes
            if name in ("href", "src") or name.startswith("on")
        )


def strings(value):
    """Every text inside a figure's description."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def marks(description):
    """What plotly might read as a tag or link, apart from the package's own."""
    own = re.compile(r"<br>|<extra></extra>")
    return {text for text in strings(description) if "<" in own.sub("", text)}


@pytest.fixture(scope="module")
def these(prompts, tmp_path_factory):
    """Everything that can hold a text holds markup: tokens, too."""
    model = tiny_model(known=[*WORDS, *MARKUP])
    model.cfg.model_name = MARKUP[0]
    names = {"animal": MARKUP[1], "code": MARKUP[2]}
    hostile = prompts.assign(
        category=prompts["category"].map(names),
        prompt=[f"{MARKUP[row % 5]} {text}" for row, text in enumerate(prompts["prompt"])],
    )
    hostile[MARKUP[3]] = MARKUP[4]
    acts = tlm.collect(model, hostile, progress=False)
    assert acts.model_name == MARKUP[0]
    modules = tlm.discover(acts, 3, method="ulcmod", progress=False)
    own = {0: MARKUP[1], 1: MARKUP[2], 2: MARKUP[1]}  # named, for what discovery finds may tie
    modules = modules.with_categories(own)
    modules = tlm.with_topics(modules, model, progress=False)
    topics = tuple(
        replace(topic, label=MARKUP[number], notes=(MARKUP[0],), categories={MARKUP[1]: 1.0})
        for number, topic in enumerate(modules.topics)
    )
    modules = replace(modules, topics=topics, versions={MARKUP[3]: MARKUP[4]}, method=MARKUP[1])
    folder = tmp_path_factory.mktemp("hostile")
    return setting(model, hostile, acts, modules, folder)


def shown(thing):
    """What a notebook shows of a result and of what it is made of."""
    if hasattr(thing, "_repr_html_"):
        yield thing._repr_html_()
    if isinstance(thing, tlm.ModuleSet):
        for part in (*thing, *(thing.topics or ())):
            yield part._repr_html_()


@pytest.mark.parametrize(
    "name", [name for name in CALLS if "plot" not in name and not name.endswith("_curve")]
)
def test_no_result_shows_markup_of_others(name, these):
    for html in shown(CALLS[name](these)):
        found = Tags(html)
        assert set(found.tags) <= {*TAGS, "style"}  # pandas' own frames have a style
        assert found.is_harmless()


def test_matrices_and_stores_show_no_markup_of_others(these, tmp_path):
    with tlm.ActivationStore.create(
        tmp_path / "acts", these.acts.units, model_name=MARKUP[0]
    ) as writer:
        writer.add(these.acts.values, these.acts.samples)
    for thing in (these.acts, tlm.ActivationStore(tmp_path / "acts"), *shown_units(these)):
        for html in shown(thing):
            assert set(Tags(html).tags) <= TAGS


def shown_units(these):
    """Modules at hook points that are called markup."""
    units = these.modules.units
    return replace(these.modules, units=tlm.Units.whole(MARKUP[:3], units.layers, units.widths))


FIGURES = {
    "activations": lambda c: tlm.plots.plot_activations(c.modules, c.acts),
    "layers": lambda c: tlm.plots.plot_layers(c.modules),
    "effects": lambda c: tlm.plots.plot_effects(c.effects, modules=c.modules, unit=MARKUP[1]),
    "effects alone": lambda c: tlm.plots.plot_effects(c.effects),
    "coverage": lambda c: tlm.plots.plot_coverage(
        tlm.coverage(c.modules, c.acts, n_permutations=9), modules=c.modules
    ),
    "confusion": CALLS["plot_categories"],
    "similarity": lambda c: tlm.plots.plot_categories(tlm.category_similarity(c.modules, c.acts)),
    "hierarchy": lambda c: tlm.plots.plot_hierarchy(
        tlm.hierarchy(c.modules, c.acts, n_permutations=9)
    ),
    "cores": CALLS["core_curve"],
    "selectivity": CALLS["plot_selectivity"],
    "components": CALLS["plot_components"],
    "faithfulness": CALLS["faithfulness_curve"],
    "landscape": lambda c: tlm.plots.plot_landscape(c.modules, c.acts),
    "thoughts": lambda c: tlm.plots.plot_thoughts(
        tlm.thoughts.thought_states(
            c.model,
            pd.DataFrame(
                {
                    "id": MARKUP[:2],
                    "prompt": MARKUP[2:4],
                    "choices": [list(MARKUP[:2])] * 2,
                    "answer": MARKUP[0],
                }
            ),
            modules=c.modules,
            chains=[MARKUP[4], " ".join(MARKUP)],
            progress=False,
        ),
        modules=c.modules,
    ),
    "landscape without categories": lambda c: tlm.plots.plot_landscape(
        c.modules, replace(c.acts, samples=c.acts.samples.drop(columns="category"))
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_figure_holds_markup_of_others(name, these):
    description = json.loads(FIGURES[name](these).to_json())
    assert not marks(description)


def test_the_check_of_figures_finds_what_plotly_would_read():
    assert marks({"layout": {"title": {"text": 'a<br><a href="javascript:alert(1)">b</a>'}}})
    assert not marks({"hovertemplate": "a<br>%{text}<extra></extra>"})


def test_coloured_tokens_are_text(these):
    view = tlm.plots.plot_tokens(CALLS["token_values"](these), these.modules)
    found = Tags(view.html)
    assert set(found.tags) <= {*TAGS, "style"}
    assert found.is_harmless()
    assert "&lt;script&gt;" in view.html


def test_a_report_holds_no_markup_of_others(these, prompts, acts, modules, tmp_path):
    options = {"progress": False}
    effects = tlm.module_effects(these.model, these.modules, these.prompts, n_controls=2, **options)
    path = tlm.write_report(
        tmp_path / "hostile.html",
        these.modules,
        effects=effects,
        acts=these.acts,
        model=these.model,
        **options,
    )
    clean = tlm.write_report(
        tmp_path / "clean.html",
        modules,
        effects=tlm.module_effects(these.model, modules, prompts, n_controls=2, **options),
        acts=acts,
        **options,
    )
    page, other = (Tags(each.read_text("utf-8")) for each in (path, clean))
    for tag in ("script", "img", "form", "iframe", "object", "embed", "base", "link"):
        assert page.tags.count(tag) == other.tags.count(tag), tag
    assert page.is_harmless()
    drawn = [json.loads(text) for text in page.scripts if text.startswith('{"data"')]
    assert len(drawn) == 5
    assert not any(marks(each) for each in drawn)


def test_a_model_card_holds_no_markup_of_others(these, tmp_path):
    effects = tlm.module_effects(
        these.model, these.modules, these.prompts, n_controls=2, progress=False
    )
    for modules in (these.modules, shown_units(these)):
        modules.save_pretrained(tmp_path / MARKUP[1].replace("/", " "), effects=effects)
        card = (tmp_path / MARKUP[1].replace("/", " ") / "README.md").read_text("utf-8")
        prose = re.sub(r"```py\n.*?\n```", "", card, flags=re.DOTALL)
        assert "<" not in prose
        assert card.count("```") == 2 * card.count("```py")
