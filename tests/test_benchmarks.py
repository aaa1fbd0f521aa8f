"""The benchmarks still run, at a size where their figures mean nothing."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from benchmarks import (
    ablation,
    agreement,
    along_text,
    annotators,
    checkpoints,
    claims,
    components,
    concentration,
    controls,
    core_tests,
    cores,
    detectors,
    equal_specificity,
    erasure,
    estimates,
    first_token,
    first_token_shares,
    intervention_order,
    ioi,
    iterd,
    label_noise,
    labels,
    languages,
    long_prompts,
    loss_on,
    methods,
    neighbours,
    partial,
    parts,
    products,
    readings,
    report,
    scale,
    search,
    start,
    steering,
    styles,
    sufficiency,
    thoughts,
    tokenise,
    unlearning,
)
from benchmarks.calibration import __main__ as calibration
from tests.architectures import hooked_model, hugging_face_model
from tests.calls import parallel
from tests.conftest import LEGACY, tiny_model, unsaid, word_tokenizer
from tl_modules.discovery import _kernel
from tl_modules.interpret import language_neurons


def run(module, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    module.main()
    return capsys.readouterr().out


@pytest.fixture
def saved(tmp_path):
    values = np.random.default_rng(0).gamma(1.0, size=(60, 300)).astype(np.float32)
    tlm.ActivationMatrix.from_arrays(values).save(tmp_path / "acts.safetensors")
    return str(tmp_path / "acts.safetensors")


def test_iterd(monkeypatch, capsys):
    # It wraps the kernels in a clock: put them back.
    monkeypatch.setattr(_kernel, "sweep", _kernel.sweep)
    monkeypatch.setattr(_kernel, "PARALLEL", _kernel.PARALLEL)
    words = ["--samples", "40", "--units", "200", "--modules", "3", "--slice", "20"]
    assert "ratio (published" in run(iterd, words, monkeypatch, capsys)


def test_calibration(monkeypatch, capsys, tmp_path):
    path = tmp_path / "levels.csv"
    words = ["--scale", "0.01", "--only", "covered", "--out", str(path)]
    found = run(calibration, words, monkeypatch, capsys)
    assert re.search(r"coverage +0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] +8 +\d+\n", found)
    assert "module holds" in found
    level = pd.read_csv(path, index_col="kind").loc["coverage"]
    assert level["n_tests"] == 32
    assert level["low"] <= level["share"] <= level["high"]


@unsaid
def test_methods(monkeypatch, capsys, tmp_path, model, prompts):
    acts = tlm.collect(model, pd.concat([prompts] * 2), progress=False)
    acts.save(tmp_path / "acts.safetensors")
    words = ["--acts", str(tmp_path / "acts.safetensors"), "--modules", "2", "--splits", "2"]
    out = run(methods, words, monkeypatch, capsys)
    for name in ("halves_ari", "svc_accuracy", "lr_accuracy"):
        assert re.search(rf"K = 2 +{name} +[+-]\d.\d+ \+- \d.\d+", out)
    monkeypatch.setattr(methods, "load_demo_model", lambda: model)
    tested = prompts.rename(columns={"text": "prompt"})[["prompt", "category"]]
    monkeypatch.setattr(methods, "load_prompts", lambda: tested)
    out = run(methods, [*words, "--selectivity", "--controls", "1"], monkeypatch, capsys)
    assert re.search(r"K = 2 +selectivity: ulcmod -?\d.\d+, topics_first", out)


def test_report(monkeypatch, capsys):
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the extra 'browser' is not installed in this environment"
    )
    assert playwright
    if shutil.which("chromium") is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    words = ["--sizes", "28x3", "--units", "20", "--layers", "3", "--repeats", "1"]
    found = run(report, words, monkeypatch, capsys)
    assert re.search(r"28x3 +\d+\.\d+", found)


def test_search(saved, monkeypatch, capsys):
    words = ["--acts", saved, "--modules", "3", "--restarts", "2"]
    assert "against the best restart" in run(search, words, monkeypatch, capsys)


def test_start(saved, monkeypatch, capsys):
    pytest.importorskip("k_means_constrained", reason="the start of before is not installed")
    words = ["--acts", saved, "--modules", "3", "18", "--seeds", "2"]
    out = run(start, words, monkeypatch, capsys)
    assert re.search(r"K = 3 +start \d.\d+ s, IterD \d.\d+ s, ratio \d+.\d+ ± .*before: start", out)
    assert re.search(r"K = 18 +components \d.\d+ s .* ARI \d.\d+ ±", out)


def test_products(monkeypatch, capsys):
    words = ["--device", "cpu", "--samples", "60", "--units", "300", "--modules", "3"]
    out = run(products, words, monkeypatch, capsys)
    assert re.search(r"sums of units +loops \d.\d+ s, torch \d.\d+ s, ratio \d", out)
    (share,) = re.findall(r"largest difference of a sum: (.*) of the bound", out)
    assert float(share) <= 1
    (one, other) = re.findall(r"IterD from random labels, .* L = (.*)\n", out)
    assert float(one) == pytest.approx(float(other), abs=0.1)


def on_contrasts(script, monkeypatch):
    """Give a script a tiny model, and prompts whose words it knows."""
    prompts = script.load_prompts("contrasts").groupby("category", sort=False).head(4)
    known = sorted({word for prompt in prompts["prompt"] for word in prompt.split()})
    model = tiny_model(known=known, d_mlp=32)
    monkeypatch.setattr(script, "load_model", lambda name: model)
    monkeypatch.setattr(script, "load_prompts", lambda name: prompts)


@pytest.mark.filterwarnings("ignore:The own categor")  # a tiny model's modules mix categories
def test_controls(monkeypatch, capsys):
    prompts = controls.load_prompts().groupby("category", sort=False).head(4)
    known = sorted({word for text in prompts["prompt"] for word in text.split()})
    model = tiny_model(known=known, d_mlp=32, n_ctx=256)
    monkeypatch.setattr(controls, "load_demo_model", lambda: model)
    monkeypatch.setattr(controls, "load_prompts", lambda: prompts)
    words = ["--per-category", "1", "--modules", "3", "--fixed", "19"]
    found = run(controls, words, monkeypatch, capsys)
    assert "p_holm_fixed" in found
    assert re.search(r"runs of the prompts: \d+ against 61 ", found)


@pytest.fixture
def small_cores(prompts, monkeypatch, tmp_path):
    """The benchmarks of cores on a tiny model."""
    model = tiny_model(d_mlp=32)
    more = prompts.assign(prompt=prompts["prompt"] + " why")
    many = pd.concat([prompts, more], ignore_index=True)
    monkeypatch.setattr(cores, "load_model", lambda name: model)
    monkeypatch.setattr(cores, "load_prompts", lambda: many)
    monkeypatch.setattr(cores, "PUBLIC", tmp_path / "none.jsonl")


@unsaid
def test_cores(small_cores, monkeypatch, capsys, tmp_path):
    out = tmp_path / "cores.csv"
    words = ["--modules", "2", "--sizes", "3", "9", "--out", str(out), "--controls", "1"]
    words += ["--twin"]
    found = run(cores, words, monkeypatch, capsys)
    assert "its own prompts test" in found
    assert re.search(r"core +3 ", found)
    assert "specificity" in found
    rankings = {"core", "random", "fit", "all units", "t-contrast", "untrained twin"}
    assert set(pd.read_csv(out)["ranking"]) == rankings


@unsaid
def test_equal_specificity(small_cores, monkeypatch, capsys):
    words = ["--modules", "2", "--choosing", "2", "--testing", "2", "--sizes", "3", "9"]
    found = run(equal_specificity, words, monkeypatch, capsys)
    inside, means = found.split("Means over the modules")
    assert len(re.findall(r"^(?:animal|code) +[01]\.\d+ +[01]\.\d+$", inside, re.MULTILINE)) == 2
    assert re.search(r"core +1\.0 +3 ", means)
    assert re.search(r"all units +1\.0 +3 ", means)
    assert re.search(r"3\.0 +3 ", means)


@unsaid
def test_core_tests_resume_and_refuse_other_options(small_cores, monkeypatch, capsys, tmp_path):
    out = tmp_path / "tests.csv"
    words = ["--modules", "2", "--size", "3", "--controls", "4", "--out", str(out)]
    words += ["--choosing", "3", "--testing", "2"]
    found = run(core_tests, words, monkeypatch, capsys)
    assert re.search(r"\d of 2 cores are beyond all controls", found)
    assert "whole_selectivity" in found
    table = pd.read_csv(out)
    assert table["module"].tolist() == [0, 1]
    table.iloc[1:].to_csv(out, index=False)
    run(core_tests, words, monkeypatch, capsys)
    again = pd.read_csv(out)
    assert sorted(again["selectivity"]) == pytest.approx(sorted(table["selectivity"]))
    with pytest.raises(SystemExit, match="other options"):
        run(core_tests, [*words, "--seed", "1"], monkeypatch, capsys)


def test_detectors(monkeypatch, capsys):
    on_contrasts(detectors, monkeypatch)
    words = ["--concepts", "french", "--resamples", "2"]
    found = run(detectors, words, monkeypatch, capsys)
    assert "french: 4 of 16" in found
    assert "neurons" in found


def test_erasure(monkeypatch, capsys):
    on_contrasts(erasure, monkeypatch)
    found = run(erasure, ["--controls", "2"], monkeypatch, capsys)
    assert "LEACE, all layers" in found
    assert "other genres" in found


@unsaid
def test_concentration(monkeypatch, capsys):
    on_contrasts(concentration, monkeypatch)
    few = concentration.paraphrases().groupby("category").head(2)
    monkeypatch.setattr(concentration, "paraphrases", lambda: few)
    words = ["--controls", "2", "--steps", "2", "--batch-size", "2"]
    found = run(concentration, words, monkeypatch, capsys)
    data = ("plain", "concentrated")
    trained = [f"{name}, {part}" for name in data for part in ("whole", "module")]
    for name in trained:
        assert f"{name}: at the end" in found
    n_tables = 2 * (1 + len(trained))
    for rows in ("LEACE, layer 1", "LEACE, all layers", "paraphrased"):
        assert found.count(rows) == 3 * n_tables


@unsaid
def test_neighbours(monkeypatch, capsys):
    on_contrasts(neighbours, monkeypatch)
    found = run(neighbours, ["--controls", "2", "--components", "2"], monkeypatch, capsys)
    assert "shift away from french" in found
    assert "perplexity of others" in found


@unsaid
def test_steering(monkeypatch, capsys, tmp_path):
    on_contrasts(steering, monkeypatch)
    path = tmp_path / "steering.csv"
    words = ["--controls", "1", "--factors", "2", "--new-tokens", "2", "--per-category", "1"]
    found = run(steering, [*words, "--modules", "2", "--out", str(path)], monkeypatch, capsys)
    assert "fluency lost" in found
    assert "At none of 1 factors" in found
    assert len(pd.read_csv(path)) == 2
    words += ["--cores", "2", "4", "--match", "magnitude", "--categories", "french"]
    found = run(steering, [*words, "--modules", "2", "--out", str(path)], monkeypatch, capsys)
    assert "units of the cores: [" in found
    (row,) = pd.read_csv(path).to_dict(orient="records")
    assert (row["controls"], row["category"]) == ("magnitude", "french")
    assert 2 <= row["n_units"] == row["control_units"]


def test_thoughts(monkeypatch, capsys, tmp_path):
    load_prompts = thoughts.load_prompts

    def few(name="abilities"):
        return load_prompts(name).groupby("category").head(2)

    monkeypatch.setattr(thoughts, "load_model", lambda name: tiny_model(n_ctx=256))
    monkeypatch.setattr(thoughts, "load_prompts", few)
    words = ["--modules", "2", "--new-tokens", "4", "--plain", "--states", str(tmp_path / "s.csv")]
    found = run(thoughts, words, monkeypatch, capsys)
    assert "last - first" in found
    assert "share_consistent" in found
    assert "last state" in found
    assert "p_holm" in found
    assert len(pd.read_csv(tmp_path / "s.csv")) >= 6


def test_styles(monkeypatch, capsys):
    load_prompts = styles.load_prompts

    def few(name="abilities"):
        return load_prompts(name).groupby("category").head(2)

    model = tiny_model(n_ctx=256)
    monkeypatch.setattr(styles, "load_model", lambda name: model)
    monkeypatch.setattr(styles, "load_prompts", few)
    drawn = []
    monkeypatch.setattr(styles, "draw", lambda figure, path: drawn.append(figure))
    words = ["--modules", "2", "--new-tokens", "3", "--plain", "--max-tokens", "8"]
    found = run(styles, [*words, "--figure", "styles.png"], monkeypatch, capsys)
    assert found.count("minus") == 4
    assert found.count("last thought") == 9  # three styles, all and each of two kinds
    assert "all, explicit" in found
    assert found.count("module 1,") == 3
    assert "4 chains on 4 questions with 4 choices" in found
    (figure,) = drawn
    accuracy, differences = figure.data[:2], figure.data[2:]
    assert [trace.name for trace in accuracy] == ["after the question", "after the last thought"]
    assert all(len(trace.y) == 3 for trace in accuracy)
    assert [trace.name for trace in differences] == [
        *("cot minus direct", "lot minus direct", "lot minus cot")
    ]
    direct, lot, last = (np.array(trace.x) for trace in differences)
    np.testing.assert_allclose(lot - direct, last, atol=1e-6)


def test_unlearning(monkeypatch, capsys):
    prompts = unlearning.load_prompts("contrasts").groupby("category", sort=False).head(4)
    coding = unlearning.load_prompts().query("category == 'coding'").head(12)
    given = {"contrasts": prompts, "abilities": coding}
    texts = [*prompts["prompt"], *coding["prompt"]]
    known = sorted({word for prompt in texts for word in prompt.split()})
    monkeypatch.setattr(unlearning, "load_model", lambda name: tiny_model(known=known, d_mlp=32))
    monkeypatch.setattr(unlearning, "load_prompts", lambda name="abilities": given[name])
    found = run(unlearning, ["--controls", "2", "--steps", "2"], monkeypatch, capsys)
    assert "gradient ascent" in found
    assert "kept away from" in found
    assert "trained alone" in found


@pytest.mark.filterwarnings("ignore:The own categor")  # a tiny model's modules mix categories
@pytest.mark.parametrize("method", ["mean", "patch"])
def test_parts(method, monkeypatch, capsys):
    load_prompts = parts.load_prompts

    def few(name):
        # As many words each, and so tokens: patching needs it.
        prompts = load_prompts(name)
        lengths = prompts["prompt"].str.split().str.len()
        return prompts.loc[lengths == lengths.mode()[0]].head(6)

    known = {word for name in ("recall", "reasoning") for word in words_of(few(name))}
    model = tiny_model(known=sorted(known), d_mlp=32)
    monkeypatch.setattr(parts, "load_model", lambda name: model)
    monkeypatch.setattr(parts, "load_prompts", few)
    words = ["--controls", "2", "--modules", "2", "--heads", "1", "--neurons", "4"]
    found = run(parts, [*words, "--method", method], monkeypatch, capsys)
    assert ("{'recall': 3, 'reasoning': 3}" in found) == (method == "patch")
    assert "recall neurons" in found
    assert "reasoning layers" in found


@unsaid
def test_loss_on(monkeypatch, capsys):
    known = {word for name in loss_on.CORPORA for word in words_of(loss_on.load_prompts(name))}
    model = tiny_model(known=sorted(known), d_mlp=32)
    monkeypatch.setattr(loss_on, "load_model", lambda name: model)
    words = ["--controls", "1", "--modules", "2", "--per-category", "2"]
    drawn = []
    monkeypatch.setattr(loss_on, "draw", lambda figure, path: drawn.append(figure))
    words += ["--figure", "loss-on.png"]
    rows = run(loss_on, words, monkeypatch, capsys).splitlines()[-7:]
    assert rows[0].split()[:3] == ["loss_on", "module", "category"]
    assert [row.split()[0] for row in rows[1:]] == ["prompt"] * 2 + ["answer"] * 2 + ["all"] * 2
    (figure,) = drawn
    shown = [trace for trace in figure.data if trace.name.startswith("loss on")]
    column = rows[0].split().index("selectivity")
    printed = [float(row.split()[column]) for row in rows[1:]]
    np.testing.assert_allclose(np.concatenate([trace.y for trace in shown]), printed, atol=6e-4)


def test_components(tmp_path, monkeypatch, capsys):
    prompts = components.load_prompts("contrasts")
    known = sorted({word for prompt in prompts["prompt"] for word in prompt.split()})
    monkeypatch.setattr(components, "load_model", lambda name: tiny_model(known=known, d_mlp=32))
    words = ["--modules", "2", "--controls", "2", "--sizes", "4"]
    words += ["--fit", "4", "--choosing", "2", "--testing", "2", "--out", str(tmp_path / "t.csv")]
    found = run(components, words, monkeypatch, capsys)
    assert "L2 resid" in found
    assert "core 0" in found
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["kind"].value_counts()["head"] == 6 * table["category"].nunique()
    # Without a model: the table is the one that was written.
    monkeypatch.setattr(components, "load_model", None)
    again = run(components, ["--table", str(tmp_path / "t.csv")], monkeypatch, capsys)
    assert [line.split()[:2] for line in again.splitlines()] == [
        line.split()[:2] for line in found.splitlines()
    ]


def words_of(frame):
    return " ".join([*frame["prompt"], *frame["answer"]]).split()


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory figures that Linux keeps")
def test_scale(saved, monkeypatch, capsys):
    out = run(scale, ["--smaller", "40", "--modules", "8", "--acts", saved], monkeypatch, capsys)
    assert "peak resident anonymous memory" in out
    assert "samples x 2" in out


@pytest.mark.parametrize("template", [None, "{{ messages[0]['content'] }} how"])
def test_readings(template, prompts, monkeypatch, capsys, tmp_path):
    model = tiny_model()
    model.tokenizer.chat_template = template
    monkeypatch.setattr(readings, "load_model", lambda name: model)
    monkeypatch.setattr(search, "PUBLIC", tmp_path / "absent.jsonl")
    monkeypatch.setattr(search, "load_prompts", lambda: prompts)
    words = ["--modules", "2", "--max-tokens", "12", "--out", str(tmp_path / "table.csv")]
    out = run(readings, words, monkeypatch, capsys)
    assert ("plain form only" in out) == (template is None)
    table = pd.read_csv(tmp_path / "table.csv", index_col="reading")
    assert len(table) == (8 if template is None else 11)
    assert table.loc["all", "r_with_all"] == pytest.approx(1)
    # The benchmark's one pass for all readings gives what collect gives for each.
    acts = tlm.collect(model, prompts, max_tokens=12, tokens="content", aggregate="max")
    expected = tlm.discover(acts, 2, method="ulcmod").objective.L
    assert table.loc["content, max", "L"] == pytest.approx(expected, rel=1e-3)


def test_readings_of_effects_with_junk_prompts(prompts, monkeypatch, capsys, tmp_path):
    model = tiny_model()
    monkeypatch.setattr(readings, "load_model", lambda name: model)
    monkeypatch.setattr(search, "PUBLIC", tmp_path / "absent.jsonl")
    monkeypatch.setattr(search, "load_prompts", lambda: prompts)
    words = ["--modules", "2", "--max-tokens", "12", "--effects", "--junk", "0.2"]
    words += ["--out", str(tmp_path / "table.csv")]
    out = run(readings, words, monkeypatch, capsys)
    assert f"{round(1.25 * len(prompts))} prompts" in out
    table = pd.read_csv(tmp_path / "table.csv", index_col="reading")
    assert np.isfinite(table.loc["all, activation_effect"]).all()
    assert abs(table.loc["all, effect", "r_with_all"]) < 0.999


@pytest.mark.slow
def test_partial(shared, monkeypatch, capsys):
    path = shared / "truth" / "fewshared-0.safetensors"
    if not path.is_file():
        pytest.skip("the models of known truth beside the project (../shared/truth) are absent")
    words = [str(path), "--repeats", "1", "--controls", "1", "--prompts", "2"]
    found = run(partial, words, monkeypatch, capsys)
    assert re.search(r"a quarter +selective 0\.00 \[0\.00, 0\.43\] of 5", found)
    assert re.search(r"shared block +selective .* of 5", found)


def test_claims(acts, monkeypatch, capsys, tmp_path):
    acts.save(tmp_path / "acts.safetensors")
    words = ["--acts", str(tmp_path / "acts.safetensors"), "--modules", "3", "4", "5"]
    out = run(claims, [*words, "--out", str(tmp_path / "figures")], monkeypatch, capsys)
    assert "Space, K = 4" in out
    assert out.count("uncovered: [") == 3
    tree = tlm.hierarchy(tlm.discover(acts, 4, method="ulcmod"), acts)
    assert f"3 branches: {tree.cut(3).tolist()}" in out
    assert repr(tree) in out
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"layers.html", "hierarchy.html", "coverage.html"}


def test_checkpoints(prompts, monkeypatch, capsys):
    model = tiny_model()  # its own: it is trained
    monkeypatch.setattr(checkpoints, "load_demo_model", lambda: model)
    other = tiny_model(n_layers=2, d_mlp=8, gated=False)
    monkeypatch.setattr(checkpoints, "load_model", {"other": other}.get)
    monkeypatch.setattr(checkpoints, "load_prompts", lambda: prompts)
    monkeypatch.setattr(checkpoints, "HELD_OUT", 2)
    words = ["--category", "code", "--modules", "2", "--other", "other", "--learning-rate", "0.003"]
    out = run(checkpoints, words, monkeypatch, capsys)
    moved = [int(line.split()[0]) for line in out.splitlines() if "units moved" in line]
    assert len(moved) == 2
    before, after = re.search(r"([\d.]+) before, ([\d.]+) after", out).groups()
    assert abs(float(after) - float(before)) > 0.05  # random words: trained, not better
    assert "by profiles on 4 prompts" in out


@unsaid
def test_first_token(prompts, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(first_token, "load_model", lambda name: tiny_model())
    monkeypatch.setattr(first_token, "PUBLIC", tmp_path / "absent.jsonl")
    monkeypatch.setattr(first_token, "load_prompts", lambda: prompts)
    words = ["--modules", "2", "--controls", "2", "--units", "4", "--max-tokens", "8"]
    out = run(first_token, words, monkeypatch, capsys)
    assert "0 tokens are special or sinks" in out
    assert out.count("r with patching") == 3  # leaving the first token alone is the same here
    assert "mean over content, sinks left alone" in out


def test_estimates(prompts, monkeypatch, capsys):
    monkeypatch.setattr(estimates, "load_model", lambda name: tiny_model())
    monkeypatch.setattr(estimates, "load_prompts", lambda: prompts)
    monkeypatch.setattr(estimates, "NAMES", [("cat", "dog"), ("bird", "house")])
    monkeypatch.setattr(estimates, "TEMPLATES", ["the{a} and{b} sat over the{c} is"])
    words = ["--units", "8", "--max-tokens", "8", "--pairs", "2", "--steps", "2"]
    rows = [line.split() for line in run(estimates, words, monkeypatch, capsys).splitlines()]
    of_units = [row for row in rows if row[0] == "leading"]
    of_layers = [row for row in rows if row[0].isdigit()]
    assert [row[2] for row in of_units] == ["gradient", "integrated_gradients", "relp"] * 3
    assert [row[1] for row in of_layers] == ["gradient", "integrated_gradients", "relp"]
    assert all(abs(float(number)) <= 1 for row in of_units for number in row[3:])


@unsaid
def test_first_token_shares(prompts, monkeypatch, capsys):
    model = tiny_model()  # its own: it is trained
    monkeypatch.setattr(first_token_shares, "load_model", lambda name: model)
    monkeypatch.setattr(first_token_shares, "load_prompts", lambda: prompts)
    monkeypatch.setattr(first_token_shares, "NAMES", [("cat", "dog"), ("bird", "house")])
    monkeypatch.setattr(first_token_shares, "TASK", "{} and {} sat and {} ran")
    words = ["--modules", "2", "--controls", "2", "--trained", "1", "--steps", "2"]
    out = run(first_token_shares, [*words, "--per-category", "2"], monkeypatch, capsys)
    titles = ["States that EigenShift reads", "Paired runs", "Steering", "Unlearning"]
    places = [out.index(title) for title in titles]
    assert places == sorted(places)
    assert "nan" not in out.lower()


@unsaid
def test_labels(model, prompts, monkeypatch, capsys):
    monkeypatch.setattr(labels, "load_model", lambda name: model)
    monkeypatch.setattr(labels, "load_prompts", lambda: prompts)
    monkeypatch.setattr(labels, "cores_of", lambda model, modules, prompts, args: modules)
    out = run(labels, ["--modules", "2", "--per-category", "4"], monkeypatch, capsys)
    assert "8 prompts discover, 8 choose and score" in out
    with_categories, without = out.split("\nWithout categories\n")
    assert "category auc" in with_categories
    assert "category auc" not in without
    assert out.count("no label fits") == 4  # so few prompts can show nothing


@unsaid
def test_label_noise(model, prompts, monkeypatch, capsys):
    monkeypatch.setattr(label_noise, "RATES", (0.2,))
    monkeypatch.setattr(label_noise, "SIZES", {"3 to 1": (30, 20, 15, 10)})
    monkeypatch.setattr(label_noise, "EFFECT_SIZES", {"2 to 1": (20, 16, 10)})
    monkeypatch.setattr(label_noise, "load_model", lambda name: model)
    monkeypatch.setattr(label_noise, "load_prompts", lambda: prompts)
    drawn = []
    monkeypatch.setattr(label_noise, "draw", lambda figure, path: drawn.append(figure))
    words = ["--draws", "1", "--weight-draws", "2", "--controls", "2"]
    out = run(label_noise, [*words, "--figure", "label-noise.png"], monkeypatch, capsys)
    planted, others = out.split("Effects of the planted model")
    planted, weights = planted.split("Weights of rare labels")
    assert planted.count("tail-to-head") == 8  # two distances, four profiles
    assert weights.count("tail-to-head") == 6  # two distances, three weights
    effects, real = others.split("Activations of demo")
    assert effects.count("audited") == 2
    assert "components" in real
    assert len(drawn) == 1


@unsaid
def test_annotators(monkeypatch, capsys):
    corpus = annotators.load_prompts()
    known = sorted({word for prompt in corpus["prompt"] for word in prompt.split()})
    model = tiny_model(known=known, d_mlp=32)
    monkeypatch.setattr(annotators, "load_model", lambda name: model)
    monkeypatch.setattr(annotators, "N_PROMPTS", (24,))
    drawn = []
    monkeypatch.setattr(annotators, "draw", lambda figure, path: drawn.append(figure))
    words = ["--draws", "1", "--controls", "2", "--categories", "2", "--per-category", "3"]
    out = run(annotators, [*words, "--figure", "annotators.png"], monkeypatch, capsys)
    said, planted, coverage, real = re.split("\n(?:planted|coverage|model)\n", out)
    assert re.match(r"consensus: \d of 6 held-out labels right\nvote: \d of 6", said)
    assert planted.split()[:3] == ["n_prompts", "consensus", "vote"]
    assert "consensus as certain" in coverage
    assert real.count("uncertain") == real.count("groups") == 2
    assert len(drawn) == 1


def test_planted_annotators_err_as_their_confusions_say():
    truth = np.zeros(4000, dtype=int)
    names = ["a", "b", "c"]
    answers = annotators.answers_of(truth, names, np.random.default_rng(0))
    for confusion, each in zip(annotators.confusions(3), answers, strict=True):
        assert each.count(None) / 4000 == pytest.approx(annotators.ABSTAIN, abs=0.02)
        share = annotators.counted(each, ["a"] * 4000, names)
        np.testing.assert_allclose(share[0], confusion[0], atol=0.03)
        assert np.isnan(share[1:]).all()
    assert annotators.vote([["a", None], ["b", "c"], ["b", None]], names) == ["b", "c"]


def test_label_noise_gives_the_stated_share_of_labels_that_it_may_give():
    truth = np.repeat([0, 1, 2], [100, 20, 10])
    generator = np.random.default_rng(0)
    given = label_noise.noisy(truth, "symmetric", 0.2, generator)
    assert (given != truth).sum() == 26
    assert set(given[truth == 0]) == {0, 1, 2}
    given = label_noise.noisy(truth, "tail-to-head", 0.4, generator)
    assert (given != truth).sum() == 12  # of 30 prompts outside the largest category
    assert (given <= truth).all()


@pytest.mark.parametrize(("noise", "rate"), [("symmetric", 0.05), ("tail-to-head", 0.4)])
def test_wrong_labels_are_found_where_sizes_are_20_to_1(noise, rate):
    sizes = label_noise.SIZES["20 to 1"]
    assert max(sizes) == 20 * min(sizes)
    acts, truth, modules = label_noise.planted(sizes, 4.0, seed=label_noise.FRESH)
    given = label_noise.noisy(truth, noise, rate, np.random.default_rng(0))
    found = label_noise.scores(acts, truth, given, modules)
    assert found["precision"] > 0.85  # balanced weights have 0.81 of symmetric noise on average
    assert found["recall"] > 0.65  # equal weights have 0.59 of tail-to-head noise on average
    assert found["chance_precision"] < 0.15


def test_the_rival_of_the_audit_leaves_a_prompt_out_of_its_own_mean():
    # With itself in the mean of its two prompts, the last would lie nearer to its own label's.
    profiles = np.array([[0.0], [0.2], [0.1], [4.0], [1.8]])
    given = np.array([0, 0, 0, 1, 1])
    assert label_noise.nearest_mean(profiles, given).tolist() == [False, False, False, False, True]


@unsaid
def test_languages(model, prompts, monkeypatch, capsys):
    monkeypatch.setattr(languages, "load_model", lambda name, dtype: model)
    monkeypatch.setattr(languages, "load_prompts", lambda name: parallel(prompts))
    # Of 36 neurons, that few prompts activate all the time.
    monkeypatch.setattr(
        languages,
        "language_neurons",
        lambda *given, **quiet: language_neurons(*given, n_neurons=6, quantile=0.5, **quiet),
    )
    drawn, kinds = [], []
    monkeypatch.setattr(languages, "draw", lambda figure, path: drawn.append(figure))
    own_and_others = languages.own_and_others
    monkeypatch.setattr(
        languages,
        "own_and_others",
        lambda effects: kinds.extend(effects["controls"]) or own_and_others(effects),
    )
    words = ["--meanings", "4", "--measured", "3", "--controls", "2", "--match", "magnitude"]
    out = run(languages, [*words, "--figure", "languages.png"], monkeypatch, capsys)
    assert set(kinds) == {"magnitude"}
    modules, neurons = out.split("Modules ablated")[1].split("LAPE neurons ablated")
    assert "animal" in modules + neurons
    (figure,) = drawn
    shown = [np.array(trace.z, dtype=float) for trace in figure.data if trace.type == "heatmap"]
    assert [values.shape[1] for values in shown] == [2, 2]
    assert all(np.isfinite(values).all() for values in shown)


def test_languages_are_measured_on_meanings_that_found_nothing(prompts, monkeypatch):
    monkeypatch.setattr(languages, "load_prompts", lambda name: parallel(prompts))
    finding, measuring = languages.halves(None, 3)
    assert (len(finding), len(measuring)) == (6, 6)
    assert not set(finding["meaning"]) & set(measuring["meaning"])
    assert set(languages.halves(["code"], 3)[0]["category"]) == {"code"}


def test_a_targets_own_language_is_held_against_the_others():
    effects = pd.DataFrame(
        {
            "module": ["de", "de", "de"],
            "category": ["de", "en", "sw"],
            "own": [True, False, False],
            "effect": [0.5, 0.1, 0.3],
            "control_mean": [0.2, 0.0, 0.0],
            "n_units": 7,
            "selectivity": 0.3,
            "selectivity_control_max": 0.1,
        }
    )
    (row,) = languages.own_and_others(effects).to_dict("records")
    assert (row["own"], row["others"], row["own_control"]) == (0.5, pytest.approx(0.2), 0.2)
    assert languages.own_and_others(effects.assign(own=False)).empty


@unsaid
def test_along_text(prompts, monkeypatch, capsys):
    llama = hooked_model(hugging_face_model("Llama"), "Llama")
    monkeypatch.setattr(along_text, "load_model", lambda name: llama)
    monkeypatch.setattr(along_text, "load_prompts", lambda: prompts)
    drawn = []
    monkeypatch.setattr(along_text, "draw", lambda figure, path: drawn.append(figure))
    words = ["--modules", "2", "--per-category", "5", "--in-text", "1", "--aggregate-over", "4"]
    words += ["--chunk-tokens", "16", "--figure", "x.png"]
    out = run(along_text, words, monkeypatch, capsys)
    assert "windows of 4 tokens, 2 sections" in out
    assert out.count("*") == 2  # a module's own category
    # BOS, then a prompt of 13 words of each category.
    assert [shape.x0 for shape in drawn[0].layout.shapes] == [0, 1 + 13]


def test_a_section_begins_at_a_token_of_the_whole_text():
    # As GPT-2's tokenizer, which takes two line breaks as one token at a text's end alone.
    pieces = re.compile(r"\s+(?!\S)|\s|\w+|\W")
    ids = {}

    def to_tokens(text, truncate):
        found = pieces.findall(text)
        return torch.tensor([[0, *(ids.setdefault(piece, len(ids) + 1) for piece in found)]])

    model = SimpleNamespace(to_tokens=to_tokens)
    prompts = pd.DataFrame({"prompt": ["a b.", "c.", "d."], "category": ["x", "x", "y"]})
    text, sections = along_text.long_text(model, prompts)
    whole = to_tokens(text, truncate=False)[0].tolist()
    assert text == "a b.\n\nc.\n\nd."
    assert sections == {"x": 0, "y": 9}
    assert whole[9:] == [ids["\n"], ids["\n"], ids["d"], ids["."]]


def test_activity_by_section_by_hand():
    places = pd.MultiIndex.from_product([[0], [0, 4, 8, 12]], names=["prompt", "position"])
    columns = {"token": "", "special": [True, False, False, False], 0: [90.0, 1.0, 2.0, 6.0]}
    table = along_text.by_section(pd.DataFrame(columns, index=places), {"a": 0, "b": 8})
    assert table.loc[0].to_dict() == pytest.approx({"a": 1 / 3, "b": 4 / 3})


def test_long_prompts(prompts, monkeypatch, capsys):
    llama = hooked_model(hugging_face_model("Llama"), "Llama")
    monkeypatch.setattr(long_prompts, "load_model", lambda name: llama)
    monkeypatch.setattr(long_prompts, "load_prompts", lambda: prompts)

    def here(words):  # in place of a process of its own
        given = dict(zip(words[::2], words[1::2], strict=True))
        long_prompts.measure(
            given["--model"],
            None,
            int(given["--one"]),
            int(given["--chunk-tokens"]),
            Path(given["--out"]),
        )
        return np.load(given["--out"])

    monkeypatch.setattr(long_prompts, "measured", here)
    words = ["--lengths", "40", "400", "--chunk-tokens", "32", "--most-whole", "50"]
    _, both, parted = run(long_prompts, words, monkeypatch, capsys).splitlines()
    assert re.fullmatch(r" +40( +\d+ MB, \d+ s){2} +\d\.\de-0[678]", both)
    assert re.fullmatch(r" +400 +- +\d+ MB, \d+ s +-", parted)
    out = run(long_prompts, ["--one", "70", "--chunk-tokens", "32"], monkeypatch, capsys)
    assert json.loads(out)["tokens"] == 70
    if not LEGACY:  # a HookedTransformer wraps no other model
        wrapped = llama.original_model
        made, again = (
            long_prompts.shallow(
                # A tokenizer to which TransformerLens has added no BOS yet.
                SimpleNamespace(original_model=wrapped, tokenizer=word_tokenizer()),
                1,
            ).original_model
            for _ in range(2)
        )
        assert len(made.model.layers) == 1
        # Every process makes the same weights, or the two ways could not be compared.
        assert made.lm_head.weight.equal(again.lm_head.weight)


@unsaid
def test_tokenise(prompts, monkeypatch, capsys):
    monkeypatch.setattr(tokenise, "load_model", lambda name: tiny_model())
    words = ["--prompts", "60", "--tokens", "9", "--alone", "30", "--repeats", "2"]
    out = run(tokenise, words, monkeypatch, capsys)
    assert "same ids: True" in out
    rates = [int(line.split(": ")[1].split()[0].replace(",", "")) for line in out.splitlines()[1:]]
    assert len(rates) == 3
    assert min(rates) > 0


def on_tiny_tasks(script, prompts, monkeypatch, **options):
    """Give a script of sufficiency a tiny model, and prompts of its words."""
    names = dict(zip(("code", "animal"), sufficiency.ABILITIES, strict=False))
    more = [prompts.assign(prompt=prompts["prompt"] + end) for end in ("", " why", " how")]
    many = pd.concat(more, ignore_index=True)
    many["category"] = many["category"].map(names)
    monkeypatch.setattr(script, "load_model", lambda name: tiny_model(d_mlp=32, **options))
    monkeypatch.setattr(script, "load_prompts", lambda: many)


@unsaid
@pytest.mark.filterwarnings("ignore:Module .* has no units")
def test_agreement(prompts, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(agreement, "FOLDER", tmp_path)
    assert "Skipped: " in run(agreement, [], monkeypatch, capsys)
    on_tiny_tasks(agreement, prompts, monkeypatch)
    nouns = ["cat", "dog", "bird", "mat", "house", "tree", "red", "green", "blue", "big"]
    rows = [
        {"clean_prefix": f"the {noun} {end}", "patch_prefix": f"a {noun} {end}"}
        | {"clean_answer": " is", "patch_answer": " was", "case": "plural"}
        for noun in nouns
        for end in ("on", "over", "unknown word")
    ]
    rows += [rows[0] | {"patch_answer": " is was"}, rows[1] | {"patch_prefix": "a"}]
    (tmp_path / "simple.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--pairs", "14", "--per-category", "9", "--random", "2", "--steps", "2"]
    out = run(agreement, [*words, "--cores"], monkeypatch, capsys)
    found = {line.split("  ")[0].strip(): line for line in out.splitlines()}
    for ranking in ("gradient", "integrated gradients", "RelP", "by module", "cores", "random"):
        assert ranking in found
    assert "Neurons that reach 0.9" in out
    assert "of 96" in out


@unsaid
def test_intervention_order(prompts, monkeypatch, capsys, tmp_path):
    known = sorted({word for text in prompts["prompt"] for word in text.split()})
    monkeypatch.setattr(intervention_order, "load_prompts", lambda: prompts)
    model = tiny_model(known=known, n_ctx=256)
    monkeypatch.setattr(intervention_order, "load_demo_model", lambda: model)
    monkeypatch.setattr(
        intervention_order, "draw", lambda figure, path: path.write_text(figure.to_json())
    )
    words = ["--sizes", "6", "--seeds", "2", "--demo", "--modules", "2", "--per-category", "2"]
    words += ["--out", str(tmp_path / "t.csv"), "--figure", str(tmp_path / "f.json")]
    found = run(intervention_order, words, monkeypatch, capsys)
    assert re.search(r"demo: 2 modules, 4 pairs, edges \d+\n", found)
    # A random model writes words and no list of numbers.
    assert "Refused as it is: propose should return module numbers" in found
    assert "Its module numbers alone: ''" in found
    table = pd.read_csv(tmp_path / "t.csv")
    assert set(table["order"]) == set(intervention_order.ORDERS)
    scores = table[["f1", "settled", "wrong"]].to_numpy()
    assert ((scores >= 0) & (scores <= 1)).all()
    # Patched on every pair, a recorded graph is the truth.
    last = table[table["graph"].str.contains("demo")].groupby("order").last()
    assert (last["f1"] == 1).all()
    assert "misleading guess" in (tmp_path / "f.json").read_text()


def test_every_order_of_interventions_is_in_the_legend_once():
    orders = [("planted", "random"), ("demo", "random"), ("demo", intervention_order.OWN)]
    table = pd.DataFrame(orders, columns=["graph", "order"]).assign(interventions=1)
    for what in ("f1", "settled"):
        table = table.assign(**{what: 0.5, f"{what}_error": 0.1})
    lines = intervention_order.drawn(table).data
    assert [line.name for line in lines if line.showlegend] == ["random", intervention_order.OWN]


def test_a_model_that_names_modules_gives_a_guess(modules, monkeypatch, capsys):
    said = "I would replace module 2 first, and 0 after it."
    monkeypatch.setattr(intervention_order, "answered", lambda model, question: said)
    assert intervention_order.own_guess(None, list(modules)) == [2, 0]
    assert "Refused as it is" in capsys.readouterr().out
    monkeypatch.setattr(intervention_order, "answered", lambda model, question: "1, 0")
    assert intervention_order.own_guess(None, list(modules)) == [1, 0]
    assert "Refused" not in capsys.readouterr().out


@unsaid
def test_ioi(prompts, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(ioi, "FOLDER", tmp_path / "absent")
    assert "Skipped: " in run(ioi, [], monkeypatch, capsys)
    monkeypatch.setattr(ioi, "FOLDER", tmp_path)
    given = {
        "names": ["cat", "dog", "bird", "two words", "tree"],
        "objects": ["mat", "house"],
        "places": ["one", "two"],
        "templates": ["{name_A} and {name_B} sat on {place} {name_C} ran over a {object} or"],
    }
    given["templates"] += ["an {object} " + given["templates"][0], "why " + given["templates"][0]]
    for name, value in given.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    on_tiny_tasks(ioi, prompts, monkeypatch)
    words = ["--pairs", "6", "--per-category", "6", "--random", "2", "--steps", "2"]
    out = run(ioi, words, monkeypatch, capsys)
    rows = {line[:24].strip(): line for line in out.split("Areas")[1].splitlines()}
    numbers = r"-?\d+\.\d\d \[-?\d+\.\d\d, -?\d+\.\d\d\]"
    for ranking in ("gradient", "|gradient|", "RelP", "|RelP|", "by module", "random"):
        (line,) = (text for text in rows.values() if text.strip().startswith(f"{ranking} "))
        assert len(re.findall(numbers, line)) == 2
    assert re.search(r"random .* to ", out)
    assert not any(" an " in f" {pair.clean}" for pair in ioi.pairs(tiny_model(), 8, 0))


@pytest.mark.slow
def test_ablation(demo_model, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "load_demo_model", lambda: demo_model)
    words = ["--rows", "2", "--runs", "2", "--tokens", "8", "--repeats", "1"]
    out = run(ablation, words, monkeypatch, capsys)
    gap = float(out.split("from the run alone:")[1])
    assert gap < 1e-2
