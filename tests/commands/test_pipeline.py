"""collect, discover and evaluate, one after the other, as a user types them."""

import io
import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.architectures import hooked_model, hugging_face_model
from tests.conftest import tiny_model, unsaid
from tl_modules import cli
from tl_modules.commands import collect
from tl_modules.commands import test as commands_test
from tl_modules.evaluation import comparison


@pytest.fixture
def prompt_file(prompts, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(prompts.to_json(orient="records", lines=True))
    return path


@pytest.fixture
def saved(model, prompt_file, tmp_path, monkeypatch):
    """Activations that ``collect`` wrote, of the tiny model."""
    monkeypatch.setattr(collect, "load_model", lambda name, **_placed: {"tiny": model}[name])
    out = tmp_path / "new" / "acts.safetensors"
    words = ["collect", "--model", "tiny", "--prompts", str(prompt_file), "--out", str(out)]
    assert cli.main([*words, "--max-tokens", "12", "--no-progress"]) == 0
    return out


def test_collect_and_discover_read_and_normalise_as_asked(
    model, prompt_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(collect, "load_model", lambda name, **_placed: model)
    out = tmp_path / "acts.safetensors"
    words = ["collect", "--prompts", str(prompt_file), "--tokens", "content", "--aggregate", "max"]
    assert cli.main([*words, "--out", str(out), "--no-progress"]) == 0
    acts = tlm.ActivationMatrix.load(out)
    assert acts.reading == tlm.Reading(tokens="content", aggregate="max")
    found = tmp_path / "modules.safetensors"
    words = ["discover", str(out), "--normalise", "rank", "-k", "2", "--out", str(found)]
    assert cli.main(words) == 0
    expected = tlm.discover(acts.normalise("rank"), 2)
    assert tlm.ModuleSet.load(found).objective == expected.objective
    store = tlm.collect(model, ["the cat", "a dog ran"], store=tmp_path / "store", progress=False)
    assert (
        cli.main(["discover", str(store.path), "--normalise", "rank", "--out", "x.safetensors"])
        == 1
    )
    assert "for a store, which is z-scored as it is read" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["acts.safetensors", "store"])
def test_collect_runs_long_prompts_in_stretches(out, prompt_file, tmp_path, monkeypatch):
    llama = hooked_model(hugging_face_model("Llama"), "Llama")
    monkeypatch.setattr(collect, "load_model", lambda name, **_placed: llama)
    words = ["collect", "--prompts", str(prompt_file), "--chunk-tokens", "9", "--no-progress"]
    run, lengths = llama.run_with_hooks, []

    def recorded(tokens, **options):
        lengths.append(tokens.shape[1])
        return run(tokens, **options)

    monkeypatch.setattr(llama, "run_with_hooks", recorded)
    assert cli.main([*words, "--out", str(tmp_path / out)]) == 0
    tried, *of_prompts = lengths  # the longest prompt's first tokens run both ways
    assert tried > 9
    assert max(of_prompts[8:]) == 9


def test_collect_takes_a_system_prompt(tmp_path, monkeypatch, capsys):
    chatty = tiny_model()
    chatty.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    monkeypatch.setattr(collect, "load_model", lambda name, **_placed: chatty)
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "the cat"}')
    words = ["collect", "--prompts", str(file), "--chat", "--no-progress"]
    out = tmp_path / "acts.safetensors"
    assert cli.main([*words, "--system", "a big dog", "--out", str(out)]) == 0
    assert "in chat form with system prompt 'a big dog'" in capsys.readouterr().out
    acts = tlm.ActivationMatrix.load(out)
    assert acts.reading == tlm.Reading(chat=True, system="a big dog")
    assert acts.samples["n_tokens"].tolist() == [5]
    store = [*words, "--out", str(tmp_path / "store"), "--store", "--system"]
    assert cli.main([*store, "a big dog"]) == 0
    assert cli.main([*store, "a big cat"]) == 1
    assert "begun with other settings: reading, tokens differ" in capsys.readouterr().err


def test_collect_goes_on_with_a_store(model, prompts, prompt_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collect, "load_model", lambda name, **_placed: model)
    words = ["collect", "--prompts", str(prompt_file), "--max-tokens", "12", "--no-progress"]
    for _ in range(2):
        assert cli.main([*words, "--out", str(tmp_path / "acts"), "--store"]) == 0
        assert capsys.readouterr().out.endswith(f"Written to {tmp_path / 'acts'}/\n")
    store = tlm.ActivationStore(tmp_path / "acts")
    expected = tlm.collect(model, prompts, max_tokens=12, progress=False)
    rows = store.samples["row"].to_numpy()
    np.testing.assert_allclose(store.matrix().values, expected.values[rows], rtol=1e-3, atol=1e-6)
    assert (
        cli.main([*words, "--out", str(tmp_path / "acts"), "--store", "--dtype", "bfloat16"]) == 1
    )
    assert "begun with other settings: dtype differ" in capsys.readouterr().err


def test_collect_writes_what_the_library_collects(saved, model, prompts):
    acts = tlm.ActivationMatrix.load(saved)
    expected = tlm.collect(model, prompts, max_tokens=12, progress=False)
    assert acts.values.tolist() == expected.values.tolist()
    assert acts.samples["category"].tolist() == prompts["category"].tolist()


def test_discover_writes_what_the_library_discovers(saved, tmp_path, capsys):
    out = tmp_path / "modules" / "found.safetensors"
    words = ["discover", str(saved), "--out", str(out), "-k", "3", "--n-starts", "3"]
    assert cli.main([*words, "--n-kicks", "4", "--seed", "5", "--no-progress"]) == 0
    found = tlm.ModuleSet.load(out)
    acts = tlm.ActivationMatrix.load(saved)
    expected = tlm.discover(acts, 3, seed=5, n_starts=3, n_kicks=4, progress=False)
    assert found.unit_labels.tolist() == expected.unit_labels.tolist()
    assert found.starts.equals(expected.starts)
    printed, bars = capsys.readouterr()
    assert bars == ""
    assert "spectral" in printed
    assert "category_share" in printed


def test_discover_reads_a_store(saved, tmp_path):
    acts = tlm.ActivationMatrix.load(saved)
    with tlm.ActivationStore.create(tmp_path / "store", acts.units) as writer:
        writer.add(acts.values, acts.samples)
    out = tmp_path / "found.safetensors"
    words = ["discover", str(tmp_path / "store"), "--out", str(out), "-k", "3", "--no-progress"]
    assert cli.main(words) == 0
    assert tlm.ModuleSet.load(out).n_modules == 3


@pytest.mark.parametrize("from_file", [True, False])
def test_evaluate_writes_one_table_of_every_method(
    from_file, saved, prompt_file, model, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "table"
    words = ["evaluate", "--out", str(out), "-k", "2", "3", "--n-seeds", "2", "--no-progress"]
    source = ["--acts", str(saved)]
    if not from_file:
        monkeypatch.setattr(collect, "load_model", lambda _, **_placed: model)
        source = ["--prompts", str(prompt_file), "--max-tokens", "12"]
    methods = ["iterd", "kmeans", "agglomerative"]
    assert cli.main([*words, *source, "--methods", *methods]) == 0
    table = pd.read_csv(out / "evaluation.csv")
    runs = pd.read_csv(out / "runs.csv")
    assert table["method"].tolist() == methods * 2
    assert table["n_modules"].tolist() == [2] * 3 + [3] * 3
    assert len(runs) == 12
    own = runs[(runs["method"] == "kmeans") & (runs["n_modules"] == 3)]["B"]
    row = table[(table["method"] == "kmeans") & (table["n_modules"] == 3)].iloc[0]
    assert row["B_mean"] == pytest.approx(own.mean())
    assert np.isfinite(table["seconds_mean"]).all()
    printed = capsys.readouterr().out
    assert "12 prompts to discover on, 4 held out" in printed
    assert f"{row['xi_mean']:.3f}" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["collect", "--prompts", "nowhere.jsonl"], "Cannot read the prompts 'nowhere.jsonl'"),
        (["collect", "--max-tokens", "0"], "--max-tokens should be at least 1; got 0"),
        (["collect", "--chunk-tokens", "0"], "--chunk-tokens should be at least 1; got 0"),
        (
            ["collect", "--chunk-tokens", "8", "--weight", "attribution"],
            "gradients need a pass through the whole prompt",
        ),
        (["collect", "--batch-size", "0"], "--batch-size should be at least 1; got 0"),
        (["collect", "--units", "mlp+keys"], "--units should be one of 'mlp'"),
        (["collect", "--units", "attn_heads+attn_z"], "should have different hook points"),
        (["collect", "--units", "sae"], "Use tlm.with_saes in Python"),
        (["collect", "--tokens", "answer"], "needs prompts with an 'answer'"),
        (["collect", "--tokens", "first"], "--tokens should be one of 'all'"),
        (["collect", "--separator", " "], "no answer is read; got ' '"),
        (
            ["collect", "--prompts", "recall", "--tokens", "answer", "--separator", "-"],
            "--separator should be given once; --separator - differs",
        ),
        (
            ["collect", "--prompts", "recall", "--tokens", "answer", "--chat", "--separator", " "],
            "In chat form the template stands between",
        ),
        (
            ["collect", "--system", "Be brief."],
            "--system should come with --chat, for it stands in the chat template",
        ),
        (
            ["collect", "--aggregate", "fraction_active", "--units", "mlp+attn_heads"],
            "needs units that can be inactive; those of 'attn_heads'",
        ),
        (["discover", "nowhere"], "There is no file 'nowhere'"),
        (["collect", "--max-memory", "much"], "--max-memory should be a number of bytes above 0"),
        (["discover", "nowhere", "--normalise", "minmax"], "--normalise should be one of 'zscore'"),
        (
            ["test", "nowhere", "--positions", "last"],
            "--positions should be one of 'content', 'all'",
        ),
        (["evaluate", "--methods", "guess"], "--methods should be one of 'iterd'"),
        (["evaluate", "-k", "1"], "--n-modules should be at least 2; got 1"),
        (["evaluate", "--seed", "-1"], "--seed should lie between"),
        (["evaluate", "--n-seeds", "0"], "--n-seeds should be at least 1; got 0"),
        (["evaluate", "--seed", "4294967295"], "--seed should lie between"),
        (["evaluate", "-k", "5", "5000"], "--n-modules should be at most the number of prompts"),
    ],
)
def test_what_is_asked_for_is_checked_before_the_model_loads(
    words, message, tmp_path, monkeypatch, capsys
):
    def load(name, **_placed):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(collect, "load_model", load)
    ending = ".safetensors" if words[0] == "discover" else ""
    assert cli.main([*words, "--out", str(tmp_path / f"out{ending}")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "should hold at least one prompt; it is empty"),
        ('{"prompt": "a"}\nnot json', "Line 2 of .* is no JSON"),
        ('{"text": "a"}', "Line 1 of .* should be an object with a text 'prompt'"),
        ('{"prompt": 3}', "should be an object with a text 'prompt'"),
        ("[1, 2]", "should be an object with a text 'prompt'"),
    ],
)
def test_broken_prompt_files_are_refused(text, message, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(tlm.ModulesError, match=message):
        collect.prompts_named(str(path))


def test_prompts_keep_every_column(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        json.dumps({"prompt": "a\u2028b", "category": "x", "source": "y"}, ensure_ascii=False)
        + "\r\n\n",
        encoding="utf-8",
        newline="",
    )
    frame = collect.prompts_named(str(path))
    assert frame.to_dict("records") == [{"prompt": "a\u2028b", "category": "x", "source": "y"}]


def test_the_projects_own_corpora_go_by_name():
    assert set(collect.prompts_named("recall").columns) >= {"prompt", "answer"}


@pytest.mark.slow
def test_any_model_folder_can_be_collected_from(tmp_path, prompts):
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.conftest import word_tokenizer

    tokenizer = word_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    file = tmp_path / "prompts.jsonl"
    file.write_text(prompts.to_json(orient="records", lines=True))
    out = tmp_path / "acts.safetensors"
    words = ["collect", "--model", str(tmp_path / "llama"), "--prompts", str(file)]
    assert cli.main([*words, "--out", str(out), "--no-progress"]) == 0
    assert tlm.ActivationMatrix.load(out).values.shape == (len(prompts), 48)
    (tmp_path / "empty").mkdir()
    words = ["collect", "--model", str(tmp_path / "empty"), "--out", str(out)]
    assert cli.main(words) == 1


def test_prompts_without_categories_and_a_folder_as_a_file_are_refused_at_once(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        collect, "load_model", lambda name, **_placed: pytest.fail("the model was loaded")
    )
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "a"}')
    words = ["evaluate", "--prompts", str(bare), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 1
    assert "should have a category" in capsys.readouterr().err
    folder = tmp_path / "acts.safetensors"
    folder.mkdir()
    assert cli.main(["collect", "--out", str(folder)]) == 1
    assert "is a folder" in capsys.readouterr().err


def test_an_interrupted_evaluation_keeps_its_runs(saved, tmp_path, monkeypatch):
    fitted = comparison._fitted

    def interrupted(acts, method, n_modules, *rest):
        if method == "kmeans" and len(acts.samples) > 12 - 1 and n_modules == 3:
            raise KeyboardInterrupt
        return fitted(acts, method, n_modules, *rest)

    monkeypatch.setattr(comparison, "_fitted", interrupted)
    words = ["evaluate", "--acts", str(saved), "--out", str(tmp_path), "-k", "2", "3"]
    words += ["--methods", "iterd", "kmeans", "--n-seeds", "1", "--no-progress"]
    assert cli.main(words) == 130
    assert pd.read_csv(tmp_path / "runs.csv")["method"].tolist() == ["iterd", "kmeans", "iterd"]


@pytest.fixture
def two_sets(saved, tmp_path, model, prompt_file, monkeypatch):
    """Modules of activations and of attributions, a quarter of the prompts held out."""
    monkeypatch.setattr(commands_test, "load_model", lambda _, **_placed: model)
    weighted = tmp_path / "weighted.safetensors"
    words = ["collect", "--prompts", str(prompt_file), "--weight", "attribution"]
    assert cli.main([*words, "--model", "tiny", "--out", str(weighted), "--no-progress"]) == 0
    paths = []
    for name, acts in (("plain", saved), ("attributed", weighted)):
        paths.append(str(tmp_path / f"{name}.safetensors"))
        words = ["discover", str(acts), "-k", "3", "--held-out", "0.5", "--no-progress"]
        assert cli.main([*words, "--method", "ulcmod", "--out", paths[-1]]) == 0
    return paths


@pytest.mark.filterwarnings("ignore:The own category of some modules is a tie")
def test_test_compares_sets_and_controls_on_unseen_prompts(
    two_sets, prompt_file, prompts, model, tmp_path, capsys
):
    out = tmp_path / "tested"
    words = ["test", *two_sets, "--prompts", str(prompt_file), "--out", str(out), "--no-progress"]
    words += ["--per-category", "2", "--n-controls", "3", "--max-tokens", "9", "--n-shared", "4"]
    assert cli.main([*words, "--controls", "layer", "magnitude"]) == 0
    effects = pd.read_csv(out / "effects.csv", keep_default_na=False, na_values=[""])
    table = pd.read_csv(out / "summary.csv", keep_default_na=False, na_values=[""])
    assert len(table) == 2 * 2 * 2
    assert table["reading"].tolist() == ["mean |activation|"] * 4 + ["mean |attribution|"] * 4
    assert table["excluded"].tolist() == ["none", "none", "4 shared", "4 shared"] * 2
    assert len(effects) == 8 * 3 * 2
    assert len(pd.read_csv(out / "shared.csv")) == 4
    # The same numbers as the library's, of prompts that discovery did not see.
    plain = tlm.ModuleSet.load(two_sets[0])
    unseen = prompts[~prompts["prompt"].isin(plain.samples["prompt"].tolist())]
    mixed = unseen.sample(frac=1, random_state=0)
    tested = mixed[mixed.groupby("category").cumcount() < 2].sort_index()
    expected = tlm.module_effects(model, plain, tested, n_controls=3, max_tokens=9, progress=False)
    np.testing.assert_allclose(effects["effect"][:6], expected["effect"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        effects["control_mean"][:6], expected["control_mean"], rtol=1e-3, atol=1e-6
    )
    found = tlm.selectivity(expected)
    assert table["dominance"][0] == pytest.approx(found.dominance, rel=1e-3)
    assert table["dominance_p"][0] == found.p_value
    each = expected.drop_duplicates("module")
    beyond = (each["selectivity"] > each["selectivity_control_max"]).sum()
    assert table["n_beyond_all"][0] == beyond
    assert table["verdict"][0] == tlm.verdict_sentence(expected)
    flagged = effects[effects["shared_by_all"]].drop_duplicates(
        ["modules", "excluded", "controls", "module"]
    )
    assert table["n_shared_by_all"].sum() == len(flagged)
    printed = capsys.readouterr().out
    assert "n_selective" in printed
    assert f"plain (layer controls, excluded: none): {table['verdict'][0]}" in printed


@pytest.mark.filterwarnings("ignore:The own category of some modules is a tie")
def test_test_ablates_at_every_token_if_asked(two_sets, prompt_file, tmp_path):
    words = ["test", two_sets[0], "--prompts", str(prompt_file), "--no-progress"]
    words += ["--per-category", "1", "--n-controls", "1", "--n-shared", "2"]
    tables = []
    for positions in ("content", "all"):
        out = tmp_path / positions
        assert cli.main([*words, "--out", str(out), "--positions", positions]) == 0
        tables.append([pd.read_csv(out / f"{name}.csv") for name in ("effects", "shared")])
        assert (tables[-1][0]["positions"] == positions).all()
    for of_content, of_all in zip(*tables, strict=True):
        assert not np.allclose(of_content["effect"], of_all["effect"], rtol=1e-3)


def test_modules_at_the_level_count_as_selective():
    effects = pd.DataFrame(
        {
            "module": [0, 0, 1, 1],
            "category": ["a", "b"] * 2,
            "own": [True, False, False, True],
            "effect": [2.0, 0.0, 0.0, 1.0],
            "control_max": [3.0, 0.0, 0.0, 0.5],
            "selectivity": [2.0, 2.0, 1.0, 1.0],
            "selectivity_control_max": [1.0, 1.0, 1.5, 1.5],
            "selectivity_control_mean": [0.5, 0.5, 0.0, 0.0],
            "selectivity_p_bh": [0.05, 0.05, 0.06, 0.06],
        }
    )
    found = commands_test.summary(effects)
    expected = {"n_modules": 2, "n_selective": 1, "n_beyond_all": 1, "n_raw": 1}
    assert {name: found[name] for name in expected} == expected
    assert (found["selectivity"], found["control_selectivity"]) == (1.5, 0.25)
    assert (found["dominance"], found["dominance_p"]) == (1.5, 0.5)
    flagged = effects.assign(shared_by_all=effects["module"] == 1)
    assert commands_test.summary(flagged)["n_shared_by_all"] == 1
    assert commands_test.summary(flagged)["n_selective"] == 1
    shared = effects.assign(shared_by_all=effects["module"] == 0)
    assert commands_test.summary(shared)["n_selective"] == 0


@pytest.mark.filterwarnings("ignore:The own category of some modules is a tie")
def test_the_order_of_the_files_does_not_matter(two_sets, prompt_file, tmp_path, capsys):
    words = ["--prompts", str(prompt_file), "--out", str(tmp_path / "out"), "--no-progress"]
    words += ["--per-category", "1", "--n-controls", "1", "--controls", "magnitude"]
    assert cli.main(["test", *two_sets[::-1], *words]) == 0
    assert cli.main(["test", two_sets[1], *words]) == 1
    assert "discovered on magnitudes" in capsys.readouterr().err
    assert cli.main(["test", two_sets[0], *words, "--metric", "answer_accuracy"]) == 1
    assert "needs prompts with an 'answer'" in capsys.readouterr().err


def test_collect_attributes_to_the_loss_of_answers(model, prompts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collect, "load_model", lambda _, **_placed: model)
    answered = prompts.assign(answer="cat", prompt="red " + prompts["prompt"])
    path, out = tmp_path / "answered.csv", tmp_path / "acts.safetensors"
    answered.to_csv(path, index=False)
    words = ["collect", "--prompts", str(path), "--out", str(out), "--no-progress"]
    words += ["--separator", " ", "--loss-on", "answer"]
    assert cli.main(words) == 1
    assert "Leave --loss-on out, or pass --weight attribution" in capsys.readouterr().err
    words += ["--weight", "attribution"]
    assert cli.main([*words, "--tokens", "answer"]) == 1  # no token follows the answer's last one
    assert "--loss-on answer for the loss of answers" in capsys.readouterr().err
    assert cli.main([*words, "--tokens", "content"]) == 0
    assert "their answers are read (--loss-on answer)" in capsys.readouterr().out
    options = {"weight": "attribution", "loss_on": "answer", "tokens": "content"}
    expected = tlm.collect(model, answered, separator=" ", progress=False, **options)
    found = tlm.ActivationMatrix.load(out)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-4, atol=1e-7)
    prompts.to_csv(path, index=False)
    assert cli.main(words) == 1
    assert "--loss-on answer needs prompts with an 'answer'" in capsys.readouterr().err


@unsaid
def test_the_commands_put_the_separator_between_prompts_and_answers(
    model, prompts, saved, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(commands_test, "load_model", lambda _, **_placed: model)
    answered = prompts.assign(answer="cat", prompt="red " + prompts["prompt"])
    path, found = tmp_path / "answered.csv", tmp_path / "modules.safetensors"
    answered.to_csv(path, index=False)
    out = str(tmp_path / "read.safetensors")
    words = ["collect", "--prompts", str(path), "--tokens", "answer", "--no-progress"]
    assert cli.main([*words, "--out", out, "--model", "tiny", "--separator", " "]) == 0
    expected = tlm.collect(model, answered, tokens="answer", separator=" ", progress=False)
    np.testing.assert_array_equal(tlm.ActivationMatrix.load(out).values, expected.values)
    words = ["discover", str(saved), "-k", "2", "--out", str(found), "--no-progress"]
    assert cli.main(words) == 0
    words = ["test", str(found), "--prompts", str(path), "--out", str(tmp_path / "out")]
    words += ["--metric", "answer_logprob", "--n-controls", "1", "--no-progress"]
    assert cli.main(words) == 1  # a word tokenizer needs the space
    assert "Put a separator between them" in capsys.readouterr().err
    assert cli.main([*words, "--separator", " "]) == 0
    assert set(pd.read_csv(tmp_path / "out" / "effects.csv")["separator"]) == {"' '"}
    assert cli.main([*words, "--separator", " ", "--loss-on", "all"]) == 1
    assert "--loss-on goes with --metric loss; got --loss-on all" in capsys.readouterr().err
    words[words.index("answer_logprob")] = "loss"
    assert cli.main([*words, "--separator", " "]) == 1
    assert "no answer is read" in capsys.readouterr().err
    on_answers = ["--separator", " ", "--loss-on", "answer", "--n-shared", "1"]
    asked, found_by = [], commands_test.shared_units

    def noted(*given, **options):
        asked.append((options["loss_on"], set(given[1]["separator"])))
        return found_by(*given, **options)

    monkeypatch.setattr(commands_test, "shared_units", noted)
    assert cli.main([*words, "--per-category", "2", *on_answers]) == 0
    assert asked == [("answer", {" "})]
    for name in ("effects.csv", "summary.csv"):
        assert set(pd.read_csv(tmp_path / "out" / name)["loss_on"]) == {"answer"}
    prompts.to_csv(path, index=False)
    assert cli.main([*words, "--loss-on", "answer"]) == 1
    assert "--loss-on answer needs prompts with an 'answer'" in capsys.readouterr().err


def test_test_refuses_prompts_that_discovery_saw(saved, prompt_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        commands_test, "load_model", lambda _, **_placed: pytest.fail("the model was loaded")
    )
    path = str(tmp_path / "all.safetensors")
    assert cli.main(["discover", str(saved), "-k", "3", "--out", path, "--no-progress"]) == 0
    words = ["test", path, "--prompts", str(prompt_file), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 1
    assert "discovery did not see; it saw every prompt" in capsys.readouterr().err
    assert cli.main([*words, "--controls", "size"]) == 1
    assert "--controls should be one of 'layer'" in capsys.readouterr().err
    assert cli.main(["test", path, path]) == 1
    assert "should have different names" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_samples_of_a_store_cannot_be_held_out(saved, tmp_path, capsys):
    acts = tlm.ActivationMatrix.load(saved)
    with tlm.ActivationStore.create(tmp_path / "store", acts.units) as writer:
        writer.add(acts.values, acts.samples)
    words = ["discover", str(tmp_path / "store"), "--out", str(tmp_path / "m.safetensors")]
    words += ["--held-out", "0.2"]
    assert cli.main(words) == 1
    assert "--held-out needs a file that 'collect' wrote" in capsys.readouterr().err


def test_a_terminal_is_sent_nothing_that_it_would_obey(saved, tmp_path, capsys):
    acts = tlm.ActivationMatrix.load(saved)
    hostile = "\x1b]0;title\x07\u202ered"
    path = tmp_path / "hostile.safetensors"
    odd = replace(acts, samples=acts.samples.assign(category=hostile), model_name=hostile)
    odd.save(path)
    out = tmp_path / "out.safetensors"
    assert cli.main(["discover", str(path), "--out", str(out), "-k", "2", "--no-progress"]) == 0
    assert cli.main(["discover", f"{path}{hostile}", "--out", str(out)]) == 1
    said, refused = capsys.readouterr()
    assert r"\x1b]0;title\x07\u202ered" in said
    assert not set(hostile[:1] + "\x07\u202e") & set(said + refused)


def test_an_output_that_lacks_a_letter_gets_its_number(saved, tmp_path, monkeypatch):
    acts = tlm.ActivationMatrix.load(saved)
    path = tmp_path / "arabic.safetensors"
    replace(acts, samples=acts.samples.assign(category="\u0642\u0637\u0629")).save(path)
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", stdout)
    words = ["discover", str(path), "--out", str(tmp_path / "out.safetensors"), "-k", "2"]
    assert cli.main([*words, "--no-progress"]) == 0
    stdout.flush()
    assert rb"\u0642\u0637\u0629" in stdout.buffer.getvalue()


@pytest.mark.parametrize(
    ("header", "labels", "message"),
    [
        ("category", ("Animal", "Code"), "are 'animal', 'code'; the prompts' are 'Animal', 'Code'"),
        ("category", ("Animal", "Code"), "'animal' and 'Animal', 'code' and 'Code'"),
        ("Category", ("animal", "code"), "Rename 'Category' to 'category'"),
        ("source", ("animal", "code"), "Add a column 'category'"),
        ("category", ("code", "code"), "at least two categories.*all are 'code'"),
    ],
)
def test_test_refuses_prompts_that_no_module_is_selective_on(
    header, labels, message, saved, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        commands_test, "load_model", lambda _, **_placed: pytest.fail("the model was loaded")
    )
    path = str(tmp_path / "all.safetensors")
    assert cli.main(["discover", str(saved), "-k", "3", "--out", path, "--no-progress"]) == 0
    prompts = tmp_path / "held.csv"
    prompts.write_text(f"prompt,{header}\nthe cat,{labels[0]}\nprint if,{labels[1]}\n")
    words = ["test", path, "--prompts", str(prompts), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_test_refuses_modules_without_categories(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands_test, "load_model", lambda _, **_placed: model)
    acts = tlm.collect(model, ["the cat", "a dog", "one plus two"], progress=False)
    modules = tlm.discover(acts, 2, progress=False)
    path = tmp_path / "bare.safetensors"
    modules.save(path)
    prompts = tmp_path / "held.csv"
    prompts.write_text("prompt,category\na red bird,animal\nprint if,code\n")
    words = ["test", str(path), "--prompts", str(prompts), "--n-controls", "1", "--no-progress"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 1
    assert "modules have no own category" in capsys.readouterr().err
    prompts.write_text("prompt,category\na red bird,animal\nprint if,code \n")
    modules.with_categories({0: "animal", 1: "code"}).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert said.startswith("tl-modules: warning: Space around categories is ignored")
    assert (said.count("warning"), said.count("\n")) == (1, 1)
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert summary["n_modules"].tolist() == [2]
