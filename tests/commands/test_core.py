"""``tl-modules core``: as a user types it, on the tiny model."""

import contextlib
import io
import json

import pandas as pd
import pytest

import tl_modules as tlm
from tests.conftest import unsaid
from tl_modules import cli
from tl_modules.commands import core
from tl_modules.commands.unseen import halves

pytestmark = unsaid
CHOICES = ["--per-category", "8", "--sizes", "4", "0.25", "--n-described", "3"]
CHOICES += ["--curve-controls", "1", "--n-controls", "3", "--max-tokens", "9", "--no-progress"]
FILES = {*core.FILES, ".tl-modules.json"}


def folder(path, model, prompts):
    """A folder with modules of half of the prompts, which are all in quiz.csv."""
    prompts.to_csv(path / "quiz.csv", index=False)
    acts = tlm.collect(model, prompts.iloc[:8], progress=False)
    tlm.discover(acts, 2, method="ulcmod", progress=False).save(path / "found.safetensors")
    return path


def run(*words):
    return cli.main(["core", "found.safetensors", "--prompts", "quiz.csv", *words])


@pytest.fixture
def here(model, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(core, "load_model", lambda name, **_placed: model)
    monkeypatch.chdir(tmp_path)
    return folder(tmp_path, model, prompts)


@pytest.fixture(scope="module")
def found(model, prompts, tmp_path_factory):
    """The folder of a run, and what it printed."""
    path = folder(tmp_path_factory.mktemp("core"), model, prompts)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(printed):
        patched.setattr(core, "load_model", lambda name, **_placed: model)
        patched.chdir(path)
        assert run(*CHOICES) == 0
    return path / "out" / "core", printed.getvalue()


@pytest.mark.slow
def test_the_tables_are_the_librarys_on_prompts_that_discovery_did_not_see(found, model, prompts):
    pytest.importorskip("plotly")
    out, printed = found
    assert {path.name for path in out.iterdir()} == FILES
    # Every unseen prompt is in one of the halves.
    mixed = prompts.iloc[8:].sample(frac=1, random_state=0)
    number = mixed.groupby("category").cumcount()
    choosing, testing = mixed[number < 2].sort_index(), mixed[number >= 2].sort_index()
    modules = tlm.ModuleSet.load(out.parents[1] / "found.safetensors")
    options = {"max_tokens": 9, "progress": False}
    expected = tlm.causal_cores(
        model, modules, choosing, testing, sizes=[4, 0.25], n_controls=1, **options
    )
    close = {"rtol": 1e-3, "atol": 1e-5, "check_dtype": False}
    table = pd.read_csv(out / "cores.csv")
    pd.testing.assert_frame_equal(table, expected.table, **close)
    pd.testing.assert_frame_equal(pd.read_csv(out / "choice.csv"), expected.choice, **close)
    cores = tlm.ModuleSet.load(out / "cores.safetensors")
    assert cores.unit_labels.tolist() == expected.cores.unit_labels.tolist()
    tests = tlm.module_effects(
        model, expected.cores, testing, reference=modules, n_controls=3, **options
    )
    effects = pd.read_csv(out / "effects.csv")
    assert effects["effect"].tolist() == pytest.approx(tests["effect"].tolist(), rel=1e-3, abs=1e-5)
    summary = pd.read_csv(out / "summary.csv")
    assert summary["n_units"].tolist() == [module.n_units for module in cores]
    chosen = table.loc[table["chosen"], "selectivity"]
    assert summary["selectivity"].tolist() == pytest.approx(chosen.tolist())
    own = tests.drop_duplicates("module")
    assert summary["p_value"].tolist() == own["selectivity_p_value"].tolist()
    whole = table[table["ranking"] == "core"].groupby("module")["selectivity"].last()
    assert summary["whole_selectivity"].tolist() == pytest.approx(whole.tolist())
    for text in ("whole_selectivity", "(95 %)", "4 prompts and measured on 4 others"):
        assert text in printed


@pytest.mark.slow
def test_the_first_units_of_each_core_are_described(found):
    out, _ = found
    units = pd.read_csv(out / "units.csv")
    cores = tlm.ModuleSet.load(out / "cores.safetensors")
    assert len(units) == sum(module.n_units for module in cores)
    described = units.groupby("module")["polarity"].count()
    assert described.tolist() == [min(3, module.n_units) for module in cores]
    first = units.groupby("module").head(3)
    assert first["contexts"].str.contains("<<").all()
    assert units["score"].notna().all()


@pytest.mark.slow
def test_the_page_and_the_report_need_no_network(found, tmp_path):
    pytest.importorskip("plotly")
    out, _ = found
    page = (out / "cores.html").read_text()
    assert page.count('class="plotly-graph-div"') == 3  # the mean, and two modules
    assert "<script src" not in page
    words = ["report", str(out), "--modules", str(out / "cores.safetensors"), "--no-progress"]
    assert cli.main([*words, "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").exists()


@pytest.mark.slow
def test_cores_of_attention_heads_are_tested_and_not_described(here, model, prompts):
    acts = tlm.collect(model, prompts.iloc[:8], units="attn_heads", progress=False)
    tlm.discover(acts, 2, method="ulcmod", progress=False).save("found.safetensors")
    assert run(*CHOICES, "--rankings", "core") == 0
    units = pd.read_csv("out/core/units.csv")
    assert set(units["hook_name"].str.split(".").str[2]) == {"attn"}
    assert "polarity" not in units
    assert len(pd.read_csv("out/core/effects.csv"))


@pytest.mark.slow
def test_a_second_run_replaces_its_own_files_and_no_others(here, capsys):
    assert run(*CHOICES, "--rankings", "core", "--out", "here") == 0
    assert json.loads((here / "here" / "settings.json").read_text())["rankings"] == "['core']"
    (here / "here" / "units.csv").write_text("mine")
    assert run(*CHOICES, "--out", "here") == 1
    assert "units.csv' exists" in capsys.readouterr().err
    assert (here / "here" / "units.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rankings", "luck"], "--rankings should be one of 'core'"),
        (["--by", "luck"], "--by should be one of 'path'"),
        (["--share", "1.5"], "--share should lie above 0"),
        (["--sizes", "1.5"], "--sizes should"),
        (["--per-category", "1"], "--per-category should be at least 2; got 1"),
        (["--per-category", "2"], "rankings has 't-contrast', which needs two prompts"),
        (["--n-described", "-1"], "--n-described should be at least 0; got -1"),
        (["--n-controls", "0"], "--n-controls should be at least 1; got 0"),
    ],
)
def test_what_is_asked_for_is_checked_before_the_model_loads(
    here, monkeypatch, capsys, words, message
):
    monkeypatch.setattr(core, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    assert run(*words) == 1
    assert message in capsys.readouterr().err
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("n_prompts", "message"),
    [
        (10, "two or more of a category, for two halves; there are 2"),
        (11, "testing should hold prompts of every module's own category"),
    ],
)
def test_prompts_that_cannot_be_halved_are_refused_before_the_model_loads(
    here, prompts, monkeypatch, capsys, n_prompts, message
):
    monkeypatch.setattr(core, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    prompts.iloc[:n_prompts].to_csv("quiz.csv", index=False)  # discovery saw eight of them
    assert run() == 1
    assert message in capsys.readouterr().err


def test_halves_share_no_prompt_and_have_equally_many_of_each_category():
    frame = pd.DataFrame({"prompt": [*"abcdefghij", "a"], "category": [*"xxxxxxxyyy", "x"]})
    choosing, testing = halves(frame, 6, 0)
    assert choosing["category"].tolist() == ["x", "x", "x", "y", "y"]
    assert testing["category"].tolist() == ["x", "x", "x", "y"]
    assert not set(choosing["prompt"]) & set(testing["prompt"])
    assert not halves(frame, 6, 1)[0].equals(choosing)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "kept"),
    [
        ("causal_cores", "nothing was written"),
        ("module_effects", "cores.safetensors, cores.csv, choice.csv, cores.html, units.csv"),
    ],
)
def test_an_interrupted_run_says_what_is_kept(here, monkeypatch, capsys, step, kept):
    pytest.importorskip("plotly")

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(core, step, stop)
    assert run(*CHOICES) == 130
    assert kept in capsys.readouterr().err
