"""Folders of models come from others: one that is broken is refused, and none of its code runs."""

import json

import pytest
import torch

import tl_modules as tlm
from tests.conftest import word_tokenizer
from tests.fuzz.high_water import HighWater
from tl_modules.data.models import load_model
from tl_modules.runtime import memory


@pytest.fixture
def folder(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=44, **sizes, **heads)).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_is_loaded(folder):
    assert load_model(str(folder)).cfg.d_mlp == 24


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"["),
        ("config.json", b"[]"),
        ("config.json", b"[" * 100_000),
        ("config.json", b'{"model_type": "llama", "num_hidden_layers": "2"}'),
        ("config.json", b'{"model_type": "llama", "hidden_act": "../../x"}'),
        ("config.json", b'{"model_type": ["llama"]}'),
        ("config.json", b"\xff\xfe"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b'{"model": {"type": "no such"}}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x80\x04\x95pickle"),
    ],
)
def test_a_broken_folder_is_refused(name, content, folder):
    (folder / name).write_bytes(content)
    with pytest.raises(tlm.ModulesError, match="Cannot load the model"):
        load_model(str(folder))


def changed(folder, **settings):
    """The folder, with another config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return str(folder)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("num_hidden_layers", 10**9, "says num_hidden_layers = 1,000,000,000"),
        ("attention_types", [[["global"], 10**9]], "says layers = 1,000,000,000"),
        ("attribute_map", {"num_hidden_layers": "evil"}, "it sets attribute_map"),
        ("num_labels", 10**9, "says num_labels = 1,000,000,000"),
        ("vision_config", {"num_layers": 10**9}, "says num_layers = 1,000,000,000"),
        ("num_hidden_layers", 3, "hold the 8,048 weights .*; they hold 5,840"),
        ("vocab_size", 10**12, "should hold the .* weights"),
        ("intermediate_size", 10**9, "should hold the .* weights"),
    ],
)
def test_a_config_that_describes_more_than_the_weights_is_refused_before_any_is_made(
    setting, value, said, folder
):
    with HighWater() as high, pytest.raises(tlm.ModulesError, match=said):
        load_model(changed(folder, **{setting: value}))
    assert high.rise < 100 * 1024**2


def test_a_model_larger_than_memory_is_refused(folder, monkeypatch):
    monkeypatch.setattr(memory, "budget", lambda _: 10_000)
    with pytest.raises(
        tlm.ModulesError, match=r"takes about .* is free here\. Load it in bfloat16"
    ):
        load_model(str(folder))
    assert load_model(str(folder), device_map="cpu").cfg.d_mlp == 24


def test_what_a_config_of_another_version_says_counts(folder):
    changed(folder, configuration_files=["config.4.0.0.json"])
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 10**9}
    (folder / "config.4.0.0.json").write_text(json.dumps(config))
    with pytest.raises(tlm.ModulesError, match="says num_hidden_layers"):
        load_model(str(folder))


def test_a_quantisation_that_is_none_excuses_no_missing_weights(folder):
    unknown = {"quantization_config": {"quant_method": "x"}, "num_hidden_layers": 3}
    with pytest.raises(tlm.ModulesError, match="hold the 8,048 weights"):
        load_model(changed(folder, **unknown))


def test_weights_in_several_files_are_loaded_from_the_folder_alone(folder, tmp_path_factory):
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert load_model(str(folder)).cfg.d_mlp == 24
    index = folder / "model.safetensors.index.json"
    whole = index.read_text()
    for name in ("../w.safetensors", "/w.safetensors", "w.bin"):
        listed = json.loads(whole)
        listed["weight_map"] = dict.fromkeys(listed["weight_map"], name)
        index.write_text(json.dumps(listed))
        with pytest.raises(tlm.ModulesError, match="should have its weights in safetensors"):
            load_model(str(folder))


@pytest.mark.parametrize("beside", [None, "other.safetensors"])
def test_pickled_weights_are_refused_and_their_code_not_run(folder, beside):
    class Evil:
        def __reduce__(self):
            return open, (str(folder / "ran"), "w")

    if beside is None:
        (folder / "model.safetensors").unlink()
    else:
        (folder / "model.safetensors").rename(folder / beside)
    torch.save({"model.embed_tokens.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(tlm.ModulesError, match="should have its weights in safetensors"):
        load_model(str(folder))
    assert not (folder / "ran").exists()


def test_no_model_has_anything_installed(tmp_path, monkeypatch):
    """TransformerLens would have torchvision, and with it another torch, for a model that sees."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    commands = []
    monkeypatch.setattr("subprocess.check_call", lambda command, **_: commands.append(command))
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    text = {"vocab_size": 44, "hidden_size": 16, "intermediate_size": 24, "head_dim": 8}
    sizes = {"hidden_size": 8, "intermediate_size": 8, "image_size": 28, "patch_size": 14}
    sight = {**sizes, "num_hidden_layers": 1, "num_attention_heads": 1}
    sees = Gemma3Config(text_config=text | heads, vision_config=sight)
    Gemma3ForConditionalGeneration(sees).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).cfg.is_multimodal
    assert not commands


def test_a_folder_with_code_is_refused_and_the_code_not_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "evil"
    config["auto_map"] = {
        "AutoConfig": "evil.EvilConfig",
        "AutoModelForCausalLM": "evil.EvilModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    with pytest.raises(tlm.ModulesError, match="Cannot load the model"):
        load_model(str(folder))
    assert not (folder / "ran").exists()
