import json

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.conftest import unsaid
from tl_modules import cli
from tl_modules.commands import demo


@pytest.fixture
def small_demo(model, prompts, monkeypatch):
    """The demo on the tiny model and its prompts."""
    monkeypatch.setattr(demo, "load_model", lambda name: model)
    monkeypatch.setattr(demo, "load_prompts", lambda: prompts)
    monkeypatch.setattr(demo, "CHOOSING", 2)
    monkeypatch.setattr(demo, "TESTING", 2)
    monkeypatch.setattr(demo, "SIZES", (3,))


def rows_of_cores(printed, n_modules):
    """The rows of the table of cores, by its columns."""
    lines = printed.partition("The core of each module")[2].splitlines()
    first = next(at for at, line in enumerate(lines) if line.split()[:2] == ["module", "category"])
    names = lines[first].split()
    rows = lines[first + 1 : first + 1 + n_modules]
    return [dict(zip(names, line.split(), strict=True)) for line in rows]


def says_verdicts(summary, effects, of_cores):
    assert summary["verdict"] == tlm.verdict_sentence(effects)
    assert summary["verdicts"] == dict(zip("012", tlm.verdicts(effects)["line"], strict=True))
    assert summary["verdict_of_cores"] == tlm.verdict_sentence(of_cores, of="cores")


@unsaid
def test_the_demo_prints_the_table_and_writes_its_files(small_demo, tmp_path, capsys):
    out = tmp_path / "new" / "demo"
    words = ["demo", "--out", str(out), "-k", "3", "--n-controls", "3", "--core-controls", "4"]
    assert cli.main([*words, "--no-progress"]) == 0
    names = {"modules.safetensors", "effects.csv", "report.html", "summary.json"}
    names |= {"acts.safetensors", ".tl-modules.json"}
    names |= {"cores.safetensors", "cores.csv", "core_units.csv", "core_effects.csv"}
    assert {path.name for path in out.iterdir()} == names

    modules = tlm.ModuleSet.load(out / "modules.safetensors")
    effects = pd.read_csv(out / "effects.csv")
    summary = json.loads((out / "summary.json").read_text())
    assert len(effects) == 3 * 2
    assert summary["objective"]["L"] == modules.objective.L
    assert modules.shared_by_all == tuple(effects["shared_by_all"][::2])
    above = (effects["selectivity"] > effects["selectivity_control_max"])[::2].sum()
    assert summary["modules_whose_selectivity_exceeds_all_their_controls"] == above
    says_verdicts(summary, effects, pd.read_csv(out / "core_effects.csv"))

    printed, bars = capsys.readouterr()
    assert bars == ""
    assert (
        "[4/6] Ablating each module and 3 layer-matched random controls on 4 held-out prompts"
        in printed
    )
    for value in effects["effect"]:
        assert f"{value:.2f}" in printed
    for module in modules:
        assert f"  {module.label}  {module.title}\n" in printed
        assert module.topic.contexts
    assert (
        "[5/6] Finding the core of each module on 4 other held-out prompts, and ablating it and 4 "
        "controls" in printed
    )
    cores = tlm.ModuleSet.load(out / "cores.safetensors")
    table, tests = pd.read_csv(out / "cores.csv"), pd.read_csv(out / "core_effects.csv")
    chosen = table[table["chosen"]].set_index("module")
    for core, module in zip(cores, modules, strict=True):
        assert set(core.units.flat()) <= set(module.units.flat())
        assert core.n_units == chosen.loc[core.label, "n_units"]
    own = tests[tests["own"]].set_index("module")
    np.testing.assert_allclose(own["selectivity"], chosen["selectivity"], atol=1e-5)
    assert (own["n_controls"] == 4).all()
    rows = rows_of_cores(printed, 3)
    for row, (label, core) in zip(rows, chosen.iterrows(), strict=True):
        assert int(row["module"]) == label
        assert float(row["selectivity"]) == pytest.approx(core["selectivity"], abs=6e-4)
    beyond = (own["selectivity"] > own["selectivity_control_max"]).sum()
    assert summary["cores_whose_selectivity_exceeds_all_their_controls"] == beyond
    assert f"cores whose selectivity exceeds all their controls: {beyond} of 3" in printed
    page = (out / "report.html").read_text()
    assert all(module.title in page for module in modules)
    assert 'id="activations"' in page


@unsaid
def test_discovery_does_not_see_the_prompts_of_the_causal_test(small_demo, prompts, tmp_path):
    out = tmp_path / "demo"
    cli.main(["demo", "--out", str(out), "-k", "2", "--n-controls", "1", "--no-progress"])
    seen = tlm.ModuleSet.load(out / "modules.safetensors").samples
    held_out = prompts.groupby("category").tail(4)
    assert len(seen) == len(prompts) - len(held_out)
    assert not set(seen.index[seen["prompt"].isin(held_out["prompt"])])


@unsaid
def test_no_prompt_both_chooses_and_tests(small_demo, prompts, tmp_path, monkeypatch):
    given = {}
    found = demo.causal_cores

    def watched(model, modules, choosing, testing, **options):
        given.update(choosing=choosing, testing=testing)
        return found(model, modules, choosing, testing, **options)

    monkeypatch.setattr(demo, "causal_cores", watched)
    out = str(tmp_path / "demo")
    assert cli.main(["demo", "--out", out, "-k", "2", "--n-controls", "1", "--no-progress"]) == 0
    held_out = prompts.groupby("category").tail(4)
    assert len(given["choosing"]) == len(given["testing"]) == 4
    both = pd.concat([given["choosing"], given["testing"]])
    assert set(both["prompt"]) == set(held_out["prompt"])


@unsaid
def test_the_demo_ablates_at_every_token_if_asked(small_demo, tmp_path, capsys):
    words = ["demo", "--out", str(tmp_path / "demo"), "-k", "3", "--n-controls", "1"]
    assert cli.main([*words, "--positions", "all", "--no-progress"]) == 0
    assert (pd.read_csv(tmp_path / "demo" / "effects.csv")["positions"] == "all").all()
    assert "when a module is mean-ablated\nat every token;" in capsys.readouterr().out


@unsaid
def test_the_same_seed_gives_the_same_files(small_demo, tmp_path):
    for name in ("a", "b"):
        words = ["demo", "--out", str(tmp_path / name), "-k", "3", "--n-controls", "2"]
        assert cli.main([*words, "--seed", "3", "--no-progress"]) == 0
    names = ("effects.csv", "modules.safetensors", "cores.safetensors", "core_effects.csv")
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-k", "1"], "--n-modules should be at least 2; got 1"),
        (["--n-controls", "-1"], "--n-controls should be at least 0; got -1"),
        (["--core-controls", "0"], "--core-controls should be at least 1; got 0"),
        (["--max-tokens", "1"], "--max-tokens should be at least 2; got 1"),
        (["--positions", "first"], "--positions should be one of 'content', 'all'; got 'first'"),
        (["--seed", "-1"], "--seed should lie between 0 and 2**32 - 1; got -1"),
        (
            ["-k", "999"],
            "--n-modules should be at most the number of prompts, 259; got 999. 7 is usual",
        ),
    ],
)
def test_a_refusal_is_one_line_on_standard_error_before_the_model_loads(
    tmp_path, capsys, words, message
):
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), *words]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"tl-modules: {message}.\n"
    assert "Loading" not in captured.out
    assert not (tmp_path / "demo").exists()


def test_an_output_folder_that_cannot_be_made_is_refused_before_the_model_loads(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert cli.main(["demo", "--out", str(blocked / "demo")]) == 1
    captured = capsys.readouterr()
    assert "Cannot make the folder" in captured.err
    assert "Loading" not in captured.out


@pytest.mark.slow
def test_modules_of_the_real_model_hurt_their_own_topic_most(demo_model):
    """On a small budget and two clear topics; few controls of half of all neurons prove no more."""
    from tl_modules.data import load_prompts

    prompts = load_prompts()
    prompts = prompts[prompts["category"].isin(["coding", "translation"])]
    held_out = prompts.groupby("category").tail(4)
    acts = tlm.collect(demo_model, prompts.drop(held_out.index), max_tokens=32, progress=False)
    modules = tlm.discover(acts, 2)
    assert {module.category for module in modules} == {"coding", "translation"}
    effects = tlm.module_effects(
        demo_model, modules, held_out, n_controls=3, max_tokens=32, progress=False
    )
    each = effects.drop_duplicates("module")
    assert (each["selectivity"] > 0).all()
    assert (each["selectivity"] > each["selectivity_control_mean"]).all()
    assert np.isfinite(effects["effect"]).all()
