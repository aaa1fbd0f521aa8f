"""Prompts and names that a page should show without being changed by them."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest

import tl_modules as tlm
from tests.report.test_page import written
from tl_modules.modules.topic import WrittenToken
from tl_modules.plots.style import plotly_text, wrapped
from tl_modules.plots.tokens import token_spans

OVERRIDE = "\u202ered\u2069 \x1b[31m\x00"
SPELLED = r"\u202ered\u2069 \x1b[31m\x00"
ARABIC = "\u0642\u0637\u0629"


@pytest.fixture(scope="module")
def page(modules, acts, model, prompts, tmp_path_factory):
    categories = [f"{ARABIC} {OVERRIDE}" if c == "code" else "animal" for c in prompts["category"]]
    samples = modules.samples.assign(
        prompt=[f"{prompt} {ARABIC} {OVERRIDE}" for prompt in modules.samples["prompt"]],
        category=categories,
    )
    odd = tlm.with_topics(replace(modules, samples=samples), progress=False)
    topic = replace(odd[0].topic, promoted=(WrittenToken(ARABIC, 1.0, 9.0),), chance_z=1.0)
    odd = replace(odd, topics=(topic, *odd.topics[1:]), model_name=OVERRIDE)
    effects = tlm.module_effects(model, odd, samples.head(4), n_controls=1, progress=False)
    folder = tmp_path_factory.mktemp("odd")
    return written(folder, odd, effects=effects, acts=replace(acts, samples=samples))


def test_what_acts_on_its_neighbours_is_spelled_out(page):
    assert not {"\u202e", "\x1b", "\x00"} & set(page.source)
    assert SPELLED in page.text
    rows = json.loads(page.ids["prompt-data"])
    assert all(row[3].endswith(SPELLED) for row in rows)
    assert {row[1] for row in rows} == {"animal", f"{ARABIC} {SPELLED}"}


def test_names_and_prompts_run_in_their_own_direction(page, modules):
    assert f"<bdi>&#39;{ARABIC}&#39;</bdi></dd>" in page.source
    assert re.search(rf"<bdi>{ARABIC} [^<]+</bdi> \d+%", page.source)
    shown = sum(min(5, len(module.samples)) for module in modules)
    assert page.source.count("<li><bdi>") == shown
    assert page.source.count("</a>\n <bdi>") == len(modules)  # in the table of effects
    assert len(re.findall(r'class="title">\d+ <bdi>', page.source)) == len(modules)


def test_names_in_figures_are_held_apart_and_spelled_out():
    assert plotly_text(ARABIC) == f"\u2068{ARABIC}\u2069"
    assert plotly_text(OVERRIDE) == SPELLED
    assert wrapped(OVERRIDE) == SPELLED


def test_tokens_are_spelled_out_each_prompt_in_its_own_direction():
    index = pd.MultiIndex.from_tuples([(0, 0), (0, 1)], names=["prompt", "position"])
    values = pd.DataFrame(
        {"token": ["\u202eab", "\x1b[0m"], "special": [False] * 2, 0: [0.0, 5.0]}, index=index
    )
    (spans,) = token_spans(values, 0)
    assert spans.startswith(r"\u202eab<span")
    assert r"\x1b[0m</span>" in spans
    assert '<p dir="auto">' in tlm.plots.plot_tokens(values).html


def test_the_card_spells_out_and_holds_apart(modules, tmp_path):
    samples = modules.samples.assign(category=f"{ARABIC} {OVERRIDE}")
    replace(modules, samples=samples).save_pretrained(tmp_path / "card")
    card = (tmp_path / "card" / "README.md").read_text()
    assert not {"\u202e", "\x1b", "\x00"} & set(card)
    assert f"\u2068{ARABIC} " in card


@pytest.mark.parametrize("word", ["a" * 10_000, "e" + "\u0301" * 10_000, "\U0001f600" * 3000])
def test_a_word_without_end_is_cut_everywhere(modules, acts, word, tmp_path):
    samples = modules.samples.assign(prompt=[f"{word}{row}" for row in range(16)], category=word)
    page = written(tmp_path, replace(modules, samples=samples), acts=replace(acts, samples=samples))
    assert word[:30] in page.source
    assert word[:1000] not in page.source
