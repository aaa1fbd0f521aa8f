import html
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.conftest import once
from tests.interpret.made_by_hand import layered, module_set
from tl_modules.modules import ScoredLabel, ScoredLabels
from tl_modules.modules.topic import Word, WrittenToken
from tl_modules.plots.tokens import token_spans
from tl_modules.report import page as page_module
from tl_modules.report.effects_table import COLUMNS
from tl_modules.report.prompts import prompt_rows

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Collects tags, text and addresses."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words, self.ids, self.source = [], [], [], {}, text
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name in {"src", "href", "data"}]

    def handle_data(self, data):
        self.words.append(data)
        if self.tags and "id" in self.tags[-1][1]:
            self.ids.setdefault(self.tags[-1][1]["id"], data)

    @property
    def text(self):
        return "".join(self.words)

    def count(self, tag, **wanted):
        return sum(
            name == tag and all(attrs.get(key) == value for key, value in wanted.items())
            for name, attrs in self.tags
        )


@pytest.fixture(scope="module")
def effects(model, modules, prompts):
    return tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)


@pytest.fixture(scope="module")
def described(model, modules):
    return tlm.with_topics(modules, model, progress=False)


def written(folder, modules, **parts):
    tlm.write_report(folder / "page.html", modules, **parts, progress=False)
    return Page((folder / "page.html").read_text())


@pytest.fixture(scope="module")
def page(described, effects, acts, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return written(folder, described, effects=effects, acts=acts, model=model)


def tables(page):
    """Each table of effects: by module's number and category, what its cell says."""
    found = []
    for table in re.findall(r'<table class="effects">(.*?)</table>', page.source, flags=re.DOTALL):
        names = re.findall(r"<th>(.*?)</th>", table)[1:]
        rows = {}
        for row in re.findall(r"<tr data-module=\"(\d+)\">(.*?)</tr>", table, flags=re.DOTALL):
            cells = re.findall(r"<td.*?>(.*?)</td>", row[1], flags=re.DOTALL)
            # On a narrow page each cell says which column it is of.
            assert [html.unescape(of) for of in re.findall(r'data-of="(.*?)"', row[1])] == [
                html.unescape(name) for name in names
            ]
            texts = [html.unescape(" ".join(re.sub(r"<.*?>", " ", cell).split())) for cell in cells]
            rows[int(row[0])] = dict(zip(names, texts, strict=True))
        found.append(rows)
    return found


def by_hand(modules, **changes):
    """A table of effects in which every number is another."""
    rows = [
        {
            "module": module,
            "category": category,
            "own": modules[module].category == category,
            "n": 3 + at,
            "effect": 1 + module + at / 10,
            "control_mean": 0.5 + module + at / 100,
            "control_std": 0.25,
            "ci_low": 0.1,
            "ci_high": 9.9,
            "p_value": 0.04,
            "p_bh": 0.06 - 0.04 * (module == 1),
            "selectivity": 10.0 + module,
            "selectivity_ci_low": -1.0,
            "selectivity_ci_high": 20.0 + module,
            "selectivity_control_mean": 30.0 + module,
            "selectivity_control_std": 0.75,
            "selectivity_p_value": 0.05 if module else 0.0001,
        }
        for module in range(len(modules))
        for at, category in enumerate(["animal", "code"])
    ]
    return pd.DataFrame(rows).assign(**changes)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_every_effect_stands_in_its_place_beside_its_controls(described, tmp_path, seed):
    effects = by_hand(described)
    shuffled = effects if seed is None else effects.sample(frac=1, random_state=seed)
    page = written(tmp_path, described, effects=shuffled)
    (table,) = tables(page)
    for row in effects.itertuples():
        star = "*" if row.module == 1 else ""
        assert table[row.module][row.category] == (
            f"{row.effect:.2f}{star} {row.control_mean:.2f} ± 0.25"
        )
        assert table[row.module]["Selectivity"] == (
            f"{10 + row.module:.2f} -1.00 to {20 + row.module:.2f}"
        )
        assert table[row.module]["of controls"] == f"{30 + row.module:.2f} ± 0.75"
        assert table[row.module]["p"] == ("0.050" if row.module else "<0.001")
    assert "nats per token, 7 prompts" in page.text
    cells = [attrs for tag, attrs in page.tags if tag == "td" and "heat" in attrs.get("class", "")]
    assert sum("own" in cell["class"].split() for cell in cells) == effects["own"].sum()
    deepest = max(cells, key=lambda cell: float(re.findall(r",([\d.]+)\)", cell["style"])[0]))
    assert "rgba(var(--heat),0.40)" in deepest["style"]


def rows(page):
    """Each module's row: the texts of its cells."""
    found = {}
    for label, row in re.findall(
        r'<details class="module" id="module-(\d+)".*?<summary class="row">(.*?)</summary>',
        page.source,
        flags=re.DOTALL,
    ):
        cells = re.findall(r"<span.*?>(.*?)</span>", row, flags=re.DOTALL)
        found[int(label)] = [
            html.unescape(" ".join(re.sub(r"<.*?>", " ", cell).split())) for cell in cells
        ]
    return found


def module_page(page, label):
    """The source of a module's page."""
    return page.source.split(f'id="module-{label}"')[1].split("</details>")[0]


def said_of(row):
    """A row of verdicts in words, as a sentence begins."""
    return row["line"][0].upper() + row["line"][1:]


def test_the_verdict_comes_first(page, effects, described, tmp_path):
    sentence = tlm.verdict_sentence(effects)
    assert sentence in page.text
    assert page.text.index(sentence) < page.text.index("discovered on") < page.text.index("L =")
    judged = tlm.verdicts(effects)
    assert [row[1] for row in rows(page).values()] == judged["verdict"].tolist()
    for row in judged.to_dict(orient="records"):
        said = html.unescape(module_page(page, row["module"]))
        assert f"<strong>Verdict.</strong> {said_of(row)}." in said
    # Once in the module's row.
    assert page.text.count("least of 2 controls") == judged["at_floor"].sum()
    untested = written(tmp_path, described)
    assert "No causal test was run" in untested.text
    older = written(tmp_path, described, effects=effects.drop(columns="n_controls"))
    assert sentence not in older.text


def first_screen(page):
    """The text above the first figure."""
    header = page.source.split("<header>")[1].split("</header>")[0]
    return " ".join(html.unescape(re.sub(r"<.*?>", "", header)).split())


def test_the_first_screen_says_what_its_words_mean_and_how_large_the_test_is(
    described, effects, model, prompts, tmp_path
):
    cores = [module.core(2, by=np.ones(len(described.units))) for module in described]
    of_cores = tlm.module_effects(model, cores, prompts[:15], n_controls=4, progress=False)
    shown = first_screen(written(tmp_path, described, effects=effects, core_effects=of_cores))
    assert (
        "on other prompts than those of the test, did most of what the whole module does" in shown
    )
    assert (
        "Tested on 15 prompts (7 to 8 of each of 2 categories), with 4 controls per core; whole "
        "modules on 16 prompts (8 of each of 2 categories), with 2 per whole module."
    ) in shown
    alone = first_screen(written(tmp_path, described, effects=effects))
    assert "Tested on 16 prompts (8 of each of 2 categories), with 2 controls per module." in alone
    assert "core" not in alone
    for word in ("module", "Ablation", "Controls", "selective"):
        assert f"<dfn>{word}</dfn>" in (tmp_path / "page.html").read_text()
    older = written(tmp_path, described, effects=effects.drop(columns="n_controls"))
    assert "with an unknown number of controls per module" in older.text
    assert (
        "with no controls"
        in written(tmp_path, described, effects=effects.assign(control_mean=np.nan)).text
    )


def test_the_first_figure_says_what_ranks_and_what_the_interval_is(described, effects, tmp_path):
    page = written(tmp_path, described, effects=effects)
    caption = html.unescape(page.source.split("<figcaption>")[1].split("</figcaption>")[0])
    for said in (
        "The verdict depends on the mark's place among these points alone",
        "A selective module has p at most 0.05 after correction",
        "even a mark to the right of all may not",
        "The horizontal line is the 95 % interval over prompts",
    ):
        assert said in caption


def test_a_tie_of_categories_says_which_of_them_is_scored(tmp_path):
    names = ["code", "animal", "code", "code"]
    tied = module_set(np.arange(4) % 2, layered([2, 2]), np.array([0, 0, 1, 1]), names)
    page = written(tmp_path, tied, effects=by_hand(tied))
    said = "animal (ties with code; the first by name counts)"
    first, second = (f"own category: <bdi>{each}</bdi>" for each in (said, "code"))
    rows = page.source.split('<summary class="row">')
    assert first in rows[1]
    assert second in rows[2]
    assert f"Its own category in the tests: {said}." in page.text


def test_cores_stand_before_whole_modules(described, effects, model, prompts, tmp_path):
    scores = np.arange(len(described.units), dtype=float)
    cores = [module.core(2, by=scores) for module in described]
    of_cores = tlm.module_effects(model, cores, prompts, n_controls=4, progress=False)
    shown = written(tmp_path, described, effects=effects, core_effects=of_cores)
    sentence = tlm.verdict_sentence(of_cores, of="cores")
    whole = f"Whole modules: {tlm.verdict_sentence(effects)}"
    assert 0 < shown.text.index(sentence) < shown.text.index(whole) < shown.text.index("L =")
    judged = tlm.verdicts(of_cores)
    for row in judged.to_dict(orient="records"):
        cells = rows(shown)[row["module"]]
        assert cells[1] == row["verdict"]
        assert cells[3].split()[2] in {f"{row['control_mean']:.{n}f}" for n in range(2, 6)}
        least = f" least of {row['n_controls']} controls" if row["at_floor"] else ""
        assert cells[4] == f"p {row['p_value']:.3f}{least}"
        assert cells[5] == f"p corrected {row['p_bh']:.3f}"
        assert cells[6] == f"units 2 of {described[row['module']].n_units}"
        page = html.unescape(module_page(shown, row["module"]))
        assert f"<strong>Core.</strong> {said_of(row)}." in page
    first, second = tables(shown)
    for found, table in ((first, of_cores), (second, effects)):
        for row in table.itertuples():
            assert float(found[row.module][row.category].split()[0].rstrip("*")) == pytest.approx(
                row.effect, abs=0.01 * table["effect"].abs().max()
            )
    with pytest.raises(tlm.ModulesError, match="of these 3 modules; it has rows of"):
        written(tmp_path, described, core_effects=of_cores.assign(module=7))
    twice = pd.concat([of_cores.assign(modules="a"), of_cores.assign(modules="b")])
    with pytest.raises(tlm.ModulesError, match="of one run; this table holds 2"):
        written(tmp_path, described, core_effects=twice)


def test_a_modules_page_has_its_effects_beside_its_controls(described, tmp_path):
    effects = by_hand(described)
    page = written(tmp_path, described, effects=effects)
    for row in effects.itertuples():
        table = module_page(page, row.module).split('class="effects-of"')[1].split("</table>")[0]
        (line,) = [line for line in table.split("<tr") if f"<bdi>{row.category}</bdi>" in line]
        text = " ".join(re.sub(r"<.*?>", " ", line.partition(">")[2]).split())
        own = " (its own)" if row.own else ""
        star = "*" if row.module == 1 else ""
        assert text == (f"{row.category}{own} {row.effect:.2f}{star} {row.control_mean:.2f} ± 0.25")


@pytest.fixture(scope="module")
def found(model, modules, prompts):
    return tlm.causal_cores(
        model, modules, prompts[:8], prompts[8:], rankings=(), n_controls=0, progress=False
    )


def test_a_modules_page_lists_the_units_of_its_core(described, found, tmp_path):
    page = written(tmp_path, described, cores=found)
    for module in described:
        units = found.units.loc[found.units["module"] == module.label]
        listed = module_page(page, module.label).split('class="units"')[1].split("</ul>")[0]
        shown = []
        for hook, numbers in re.findall(r"<code>(.*?)</code> (.*?)</li>", listed):
            shown += [(hook, int(number)) for number in numbers.split(", ")]
        assert sorted(shown) == sorted(zip(units["hook_name"], units["unit"], strict=True))
    many = replace(found, units=pd.concat([found.units] * 20))
    page = written(tmp_path, described, cores=many)
    n_units = (many.units["module"] == 0).sum()
    assert f"The 40 strongest\nof {n_units}" in module_page(page, 0)
    fewer = tlm.discover(tlm.ActivationMatrix.from_arrays(np.eye(4)), 2)
    turned = replace(found.cores, unit_labels=np.where(in_core(found), 2 - labels(found), -1))
    for other in (fewer, turned):
        with pytest.raises(tlm.ModulesError, match="cores should be parts of these 3 modules"):
            written(tmp_path, described, cores=replace(found, cores=other))
    with pytest.raises(tlm.ModulesError, match=r"cores.units lacks \['hook_name'\]"):
        written(tmp_path, described, cores=replace(found, units=found.units[["module", "unit"]]))


def labels(found):
    return found.cores.unit_labels


def in_core(found):
    return labels(found) >= 0


def test_a_modules_page_has_what_the_model_writes_without_it(described, found, model, tmp_path):
    whole = written(tmp_path, described, model=model)
    of_cores = written(tmp_path, described, model=model, cores=found)
    for module in described:
        prompt = module.samples.loc[module.samples["category"] == module.category, "prompt"].iloc[0]
        unchanged = generated(model, prompt)
        for page, target, what in (
            (whole, module, "the module"),
            (of_cores, found.cores[module.label], "the core"),
        ):
            with target.ablated(model, positions="content"):
                without = generated(model, prompt)
            texts = module_page(page, module.label).split('class="texts"')[1].split("</dl>")[0]
            said = re.findall(r"<dt>(.*?)</dt><dd><bdi>(.*?)</bdi>", texts)
            assert [name for name, _ in said][1:3] == ["The model goes on", f"Without {what}"]
            assert [html.unescape(text) for _, text in said[1:3]] == [
                unchanged or "(nothing)",
                without or "(nothing)",
            ]
            assert said[3][0] == "Without as many random units of the same layers"
    again = written(tmp_path, described, model=model)
    assert again.source == whole.source
    assert 'class="texts"' not in written(tmp_path, described).source


def generated(model, prompt):
    """What the model writes after the first 24 tokens, up to EOS or padding."""
    tokens = model.to_tokens(prompt)[:, :24]
    new = model.generate(tokens, max_new_tokens=24, do_sample=False, verbose=False)
    new = new[0, tokens.shape[1] :].tolist()
    last = (model.tokenizer.eos_token_id, model.tokenizer.pad_token_id)
    ends = [at for at, token in enumerate(new) if token in last]
    return model.tokenizer.decode(new[: ends[0] if ends else None], skip_special_tokens=True)


def test_a_model_that_cannot_write_costs_only_the_texts(described, model, tmp_path):
    class Mute:
        """A model without ``generate``."""

        def __getattr__(self, name):
            if name == "generate":
                raise AttributeError(name)
            return getattr(model, name)

        def __call__(self, *args, **options):
            return model(*args, **options)

    page = written(tmp_path, described, model=Mute())
    assert 'class="texts"' not in page.source
    assert "Colour shows how active the module" in page.text


def test_a_modules_row_shows_its_effect_beside_its_controls(described, tmp_path):
    effects = by_hand(described)
    page = written(tmp_path, described, effects=effects)
    for row in effects[effects["own"]].itertuples():
        cells = rows(page)[row.module]
        assert (
            cells[2] == f"selectivity {row.selectivity:.2f} -1.00 to {row.selectivity_ci_high:.2f}"
        )
        assert cells[3] == f"of controls {row.selectivity_control_mean:.2f} ± 0.75"
    assert "nats per token, 7 prompts" in page.text


def test_a_cell_that_was_not_tested_says_so_in_its_place(described, tmp_path):
    effects = by_hand(described)
    page = written(tmp_path, described, effects=effects.drop(index=[0, 3]))
    (table,) = tables(page)
    assert table[0]["animal"] == table[1]["code"] == "not tested"
    assert table[0]["code"].startswith("1.10")
    assert "7 prompts" in page.text


def test_a_module_that_every_category_needs_is_not_named_after_a_topic(described, tmp_path):
    effects = by_hand(described).assign(shared_by_all=lambda table: table["module"] == 1)
    page = written(tmp_path, described, effects=effects)
    names = dict(re.findall(r'<h3 id="name-(\d+)">Module \d+: <bdi>(.*?)</bdi>', page.source))
    assert names["1"] == "shared by all"
    assert names["0"] == html.escape(described[0].topic.label, quote=False)
    heads = re.findall(r'<th scope="row"><a href="#module-1">1</a>\s*<bdi>(.*?)</bdi>', page.source)
    assert heads == ["shared by all"]
    assert rows(page)[1][0] == "1 shared by all"
    plain = written(tmp_path, described, effects=by_hand(described))
    assert "shared by all" not in plain.text


def test_small_effects_keep_their_digits(described, tmp_path):
    effects = by_hand(described)
    (table,) = tables(written(tmp_path, described, effects=effects.assign(effect=-0.000123)))
    assert table[0]["code"].startswith("-0.000123")
    (table,) = tables(written(tmp_path, described, effects=effects.assign(effect=-0.0)))
    assert table[0]["code"].startswith("0.00")


def test_what_module_effects_returns_is_shown(page, effects, described):
    (table,) = tables(page)
    for row in effects.itertuples():
        shown = float(table[row.module][row.category].split()[0].rstrip("*"))
        assert shown == pytest.approx(row.effect, abs=0.01 * effects["effect"].abs().max())
    assert "nats per token, 16 prompts; controls: layer" in page.text


def test_each_module_has_a_card_with_its_topic_layers_and_prompts(page, described):
    assert page.count("article") == page.count("svg") == len(described)
    assert page.count("rect") == len(described) * 3
    for module in described:
        topic = module.topic
        assert f"Module {module.label}: {topic.label}" in page.text
        assert ", ".join(word.word for word in topic.words) in page.text
        first = topic.contexts[0]
        assert f"{first.before}{first.token}{first.after}" in page.text
        for layer, count in enumerate(module.units.counts()):
            assert f"layer {layer}: {count} units" in page.text
        assert module.samples["prompt"].iloc[0][:20] in page.text


def test_lines_stand_where_chance_would_put_the_units(page, described):
    lines = [attrs for tag, attrs in page.tags if (tag, attrs.get("class")) == ("line", "expected")]
    counts = described[0].units.counts()
    expected = described[0].n_units / 3
    assert float(lines[0]["y1"]) == pytest.approx(68 - 60 * expected / max(counts), abs=0.06)


def test_the_models_run_colours_each_modules_prompts_by_its_own_values(described, model, tmp_path):
    page = written(tmp_path, described, model=model)
    cards = page.source.split("<article")[1:]
    for module, card in zip(described, cards, strict=True):
        own = module.samples["prompt"].head(5).tolist()
        values = tlm.token_values(model, described, own, max_tokens=80, progress=False)
        for spans in token_spans(values, module.label):
            assert f"<li><bdi>{spans}</bdi></li>" in card
    assert "Colour shows how active the module" in page.text
    plain = written(tmp_path, described)
    assert "213,94,0" not in plain.source
    assert "Colour shows how active the module" not in plain.text


def test_only_tokens_beyond_random_directions_are_told(described, tmp_path):
    topic = replace(
        described[0].topic,
        promoted=(WrittenToken("clear", 2.0, 9.0), WrittenToken("within", 1.0, 3.0)),
        suppressed=(WrittenToken("chance", -1.0, -3.9),),
        chance_z=4.0,
    )
    told = replace(described, topics=(topic, *described.topics[1:]))
    card = written(tmp_path, told).source.split("<article")[1]
    assert "likelier than random directions do</dt><dd><bdi>&#39;clear&#39;</bdi></dd>" in card
    assert "less likely than random directions do</dt><dd>none</dd>" in card


def test_words_without_end_are_cut(described, tmp_path):
    topic = replace(
        described[0].topic,
        label="w" * 10**5,
        words=(Word("v" * 10**5, 1.0),),
        categories={"c" * 10**5: 1.0},
    )
    page = written(tmp_path, replace(described, topics=(topic, *described.topics[1:])))
    for letter in "wvc":
        assert letter * 30 in page.text
        assert letter * 100 not in page.text


def test_a_module_that_never_varies_costs_only_the_figure(modules, acts, tmp_path):
    values = acts.values.copy()
    values[:, modules.unit_labels == 1] = 1.0
    flat = replace(acts, values=values, normaliser=None)
    constant = replace(modules, normaliser=flat.zscore().normaliser)
    page = written(tmp_path, constant, acts=flat)
    assert "Tree of modules: Each module's mean activation should vary" in page.text
    assert "data-landscape" in page.ids
    with pytest.raises(tlm.ModulesError, match=r"the 16 samples .*; they hold 5"):
        tlm.write_report(tmp_path / "no.html", modules, acts=acts.select(range(5)))


def test_scores_that_are_not_numbers_and_halves_of_characters_are_shown(modules, acts, tmp_path):
    scores = modules.sample_scores.copy()
    scores[0] = np.nan
    halves = pd.Series(["half \ud800"] * len(scores), dtype=object)
    samples = modules.samples.assign(category=halves)
    odd = replace(modules, samples=samples, sample_scores=scores)
    page = written(tmp_path, odd, acts=replace(acts, samples=samples))
    rows = json.loads(page.ids["prompt-data"])
    assert [row[2] for row in rows].count(None) == 1
    assert "half ?" in page.text
    with pytest.raises(tlm.ModulesError, match="prompt 0 holds half of a character"):
        written(tmp_path, replace(odd, samples=samples.assign(prompt=halves)))


def test_figures_stand_with_their_data(page):
    names = [attrs["data-figure"] for _, attrs in page.tags if "data-figure" in attrs]
    others = ["data-activations", "data-layers", "data-hierarchy", "data-landscape"]
    assert names == ["data-selectivity", *others]
    for name in names:
        assert json.loads(page.ids[name])["data"]


def test_without_activations_the_page_says_which_figures_need_them(described, tmp_path):
    page = written(tmp_path, described)
    assert [attrs["data-figure"] for _, attrs in page.tags if "data-figure" in attrs] == [
        "data-layers"
    ]
    assert "Other figures need the activations; none were passed." in page.text


def test_without_plotly_there_are_no_figures_but_a_page(described, acts, tmp_path, monkeypatch):
    monkeypatch.setattr("tl_modules.report.figures.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "plotly", None)
    page = written(tmp_path, described, acts=acts)
    assert "pip install plotly" in page.text
    assert page.count("article") == 3
    assert "plotly-source" not in page.ids


def test_every_prompt_can_be_searched(page, described):
    rows = json.loads(page.ids["prompt-data"])
    assert len(rows) == len(described.samples)
    assert {(row[0], row[3]) for row in rows} == set(
        zip(described.sample_labels, described.samples["prompt"], strict=True)
    )


def test_the_page_needs_no_network(page):
    assert all(link.startswith("#") for link in page.links)
    assert not page.count("link")
    assert not page.count("iframe")
    (policy,) = [attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'")


def test_what_prompts_and_names_hold_stays_text(modules, effects, model, acts, tmp_path):
    samples = modules.samples.assign(prompt=HOSTILE, category=HOSTILE)
    hostile = replace(modules, samples=samples, model_name=HOSTILE)
    told = effects.assign(category=[f"{HOSTILE}{row % 2}" for row in range(len(effects))])
    acts = replace(acts, samples=samples)
    clean = written(tmp_path, modules, effects=effects, acts=acts_of(modules, acts))
    page = written(tmp_path, hostile, effects=told, acts=acts)
    assert page.count("img") == 0
    assert page.count("script") == clean.count("script")
    assert HOSTILE in page.text


def acts_of(modules, acts):
    """The activations with the modules' own samples."""
    return replace(acts, samples=modules.samples)


def test_modules_without_topics_get_those_of_their_samples(modules, tmp_path):
    assert modules.topics is None
    page = written(tmp_path, modules)
    assert "Distinctive words" in page.text
    assert "Contexts and tokens need the model" in page.text


def test_modules_without_prompts_or_controls_still_give_a_page(planted, effects, tmp_path):
    modules = tlm.discover(tlm.ActivationMatrix.from_arrays(planted[0]), 4)
    rows = pd.concat(
        [
            effects.head(1).assign(
                module=k, n_units=modules[k].n_units, control_mean=np.nan, p_value=np.nan
            )
            for k in range(4)
        ]
    )
    page = written(tmp_path, modules, effects=rows)
    assert page.count("svg") == 4
    assert "these effects alone say nothing about the modules" in page.text
    assert re.findall(r".{,60}\bnan\b.{,40}", page.source.split("prompt-data")[0]) == []
    assert "controls: layer" not in page.text
    assert "samples have no prompts" in page.text


def test_several_runs_are_told_apart(described, effects, tmp_path):
    runs = pd.concat(
        [
            effects.assign(modules="m", controls="layer", excluded=np.nan, metric="loss"),
            effects.assign(
                modules="m", controls="magnitude", excluded="5 shared", metric="answer_accuracy"
            ),
        ]
    )
    page = written(tmp_path, described, effects=runs)
    assert "nats per token, 16 prompts; excluded: none; controls: layer" in page.text
    assert "share of answers, 16 prompts; excluded: 5 shared; controls: magnitude" in page.text


def test_a_caption_says_which_tokens_were_changed(described, effects, tmp_path):
    for table, said in (
        (effects.assign(positions="content"), "; units changed at content tokens; "),
        (effects.assign(positions="all"), "; units changed at every token; "),
        # A table of an earlier version, which changed every token.
        (effects.drop(columns="positions"), "; units changed at every token; "),
    ):
        assert said in written(tmp_path, described, effects=table).text


def test_a_caption_says_how_many_controls_there_are(described, effects, tmp_path):
    few = effects.assign(n_controls=19)
    more = few.assign(n_controls=few["n_controls"] + 20 * few["module"])
    of_earlier_version = few.drop(columns="n_controls")
    for table, said in (
        (few, "; 19 controls per module"),
        (few.assign(n_controls=1), "; 1 control per module"),
        (more, "Here each test chose how many controls it needed"),
        (more, f"; 19 to {19 + 20 * few['module'].max()} controls per module"),
        (of_earlier_version, "whose controls held no unit of their module"),
        (few.assign(n_controls=float("nan")), "whose controls held no unit of their module"),
    ):
        page = written(tmp_path, described, effects=table)
        assert said in html.unescape(page.source)


def test_effects_of_other_modules_are_refused(described, effects, tmp_path):
    for wrong, message in (
        (effects.assign(module=effects["module"] + 1), r"these 3 modules; it has rows of \[3\]"),
        (effects.assign(n_units=37), "module 0 has 37 units, in these"),
        (pd.concat([effects, effects]), "each module and category once"),
        (effects.head(0), "this table has 0 rows"),
        (effects.head(0).assign(controls="layer"), "this table has 0 rows"),
        *((effects.drop(columns=name), rf"lacks \['{name}'\]") for name in COLUMNS),
    ):
        with pytest.raises(tlm.ModulesError, match=message):
            tlm.write_report(tmp_path / "page.html", described, effects=wrong)
    assert not (tmp_path / "page.html").exists()


def test_effects_without_some_units_are_still_these_modules(described, effects, tmp_path):
    written(tmp_path, described, effects=effects.assign(n_units=1))


def test_a_table_from_a_file_is_the_same(described, effects, tmp_path):
    effects.to_csv(tmp_path / "effects.csv", index=False)
    first = written(tmp_path, described, effects=effects)
    for kind in (None, str):
        read = pd.read_csv(tmp_path / "effects.csv", dtype={"own": kind} if kind else None)
        again = written(tmp_path, described, effects=read)
        assert tables(again) == tables(first)
        assert again.source.count("heat own") == first.source.count("heat own") > 0


def test_a_module_that_was_not_tested_says_so(described, effects, tmp_path):
    page = written(tmp_path, described, effects=effects[effects["module"] == 1])
    assert page.text.count("not tested") == 2


def test_prompts_are_shortened_then_left_out_to_fit():
    texts = ["x" * 1000] * 30 + ["<" * 1000] * 10
    modules = module_set(np.arange(60) % 2, layered([30, 30]), np.arange(40) % 2)
    modules = replace(
        modules,
        samples=pd.DataFrame({"prompt": texts}),
        sample_scores=np.linspace(1, 0, 40),
    )
    whole = prompt_rows(modules, 10**6)
    assert (len(whole.rows), whole.n_all, whole.longest) == (40, 40, 400)
    assert all(len(row[3]) == 400 and row[3].endswith("…") for row in whole.rows)
    short = prompt_rows(modules, 12_000)
    assert (len(short.rows), short.longest) == (40, 100)
    few = prompt_rows(modules, 1_000)
    assert 0 < len(few.rows) < 40
    assert {row[0] for row in few.rows} == {0, 1}
    assert min(row[2] for row in few.rows) > 0.5  # the strongest stay
    assert prompt_rows(modules, 0).rows == []


@once
@pytest.mark.slow
def test_a_page_of_many_modules_and_long_prompts_stays_below_10_mb(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    units, n_samples = layered([100] * 40), 7000
    labels = np.append(np.arange(100), generator.integers(0, 100, n_samples - 100))
    unit_labels = np.append(np.arange(100), generator.integers(0, 100, 3900))
    names = [f"category {k % 12}" for k in range(n_samples)]
    modules = module_set(unit_labels, units, labels, names)
    words = np.array([f"word{k}" for k in range(500)])
    prompts = [" ".join(row) for row in words[generator.integers(0, 500, (n_samples, 150))]]
    modules = replace(modules, samples=modules.samples.assign(prompt=prompts))
    acts = tlm.ActivationMatrix(
        generator.normal(size=(n_samples, 4000)).astype(np.float32), units, modules.samples
    ).zscore()
    cells = pd.MultiIndex.from_product([range(100), sorted(set(names))]).to_frame(index=False)
    row = dict.fromkeys(
        ("effect", "ci_low", "ci_high", "control_mean", "control_std", "p_value", "p_bh"), 0.123456
    )
    row |= {f"selectivity{end}": 0.5 for end in ("", "_ci_low", "_ci_high", "_p_value")}
    row |= {f"selectivity_control_{end}": 0.5 for end in ("mean", "std")}
    effects = cells.set_axis(["module", "category"], axis=1).assign(**row, own=False, n=3)
    written(tmp_path, modules, effects=effects, acts=acts)
    size = (tmp_path / "page.html").stat().st_size
    assert 5e6 < size < 10e6
    monkeypatch.setattr(page_module, "MAX_BYTES", size - 200_000)
    page = written(tmp_path, modules, effects=effects, acts=acts)
    assert (tmp_path / "page.html").stat().st_size <= size - 200_000
    assert "Texts end after" in page.text


def test_a_page_that_cannot_be_written_is_refused(described, tmp_path):
    with pytest.raises(tlm.ModulesError, match="Cannot write"):
        tlm.write_report(tmp_path / "nowhere" / "page.html", described)


def test_a_card_shows_the_label_with_its_score_on_held_out_prompts(described, tmp_path):
    scored = ScoredLabel("labeller", f"cats {HOSTILE}", 0.9, 0.875, 0.75, 1.0, 0.25, 0.01)
    labels = ScoredLabels(f"cats {HOSTILE}\x1b[31m", (scored,), 0.03, 40, 12)
    without = tlm.write_report(tmp_path / "without.html", described)
    assert "Label: " not in without.read_text()
    labelled = replace(described, scored_labels=(labels, None, None))
    page = Page(tlm.write_report(tmp_path / "with.html", labelled).read_text())
    said = "AUROC 0.88 [0.75, 1.00] on 40 held-out prompts, p = 0.03 after correction"
    assert page.text.count(f"Label: cats {HOSTILE}\\x1b[31m: {said}") == 1
    assert page.text.count("Label: ") == 1
    assert page.count("img") == 0
    assert f"Module 0: cats {HOSTILE}"[:60] in page.text
