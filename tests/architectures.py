"""Tiny random models of many architectures, and where each keeps what our sites read."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from tests.conftest import LEGACY, WORDS, word_tokenizer

N_LAYERS = 2
_SHARED = {
    "vocab_size": len(WORDS) + 3,
    "hidden_size": 16,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
}
_SIZES = {**_SHARED, "intermediate_size": 24, "max_position_embeddings": 64}
_GROUPED = {**_SIZES, "num_key_value_heads": 1}
# OPT and BLOOM are four times as wide inside: TransformerLens' configuration says so unasked.
_FOURFOLD = {**_SHARED, "ffn_dim": 64, "word_embed_proj_dim": 16, "max_position_embeddings": 64}
_GPT2 = {"n_embd": 16, "n_layer": N_LAYERS, "n_head": 2, "n_inner": 24, "n_positions": 64}


@dataclass(frozen=True)
class Architecture:
    """One row of the matrix."""

    config: str
    """Name of its configuration class in transformers."""

    options: dict[str, Any]
    """What it is called with."""

    layer: str
    """A layer of the Hugging Face model, with ``{layer}`` in it."""

    down: str
    """The projection that reads the neurons, in a layer."""

    attention_out: str
    """The projection that reads the heads' outputs, in a layer."""

    d_mlp: int = 24
    """Neurons a layer; 0 where they are experts'."""


_LLAMA = ("model.layers.{layer}", "mlp.down_proj", "self_attn.o_proj")
ARCHITECTURES = {
    "GPT-2": Architecture(
        "GPT2Config",
        {"vocab_size": _SHARED["vocab_size"], **_GPT2},
        "transformer.h.{layer}",
        "mlp.c_proj",
        "attn.c_proj",
    ),
    "GPT-NeoX": Architecture(
        "GPTNeoXConfig",
        _SIZES,
        "gpt_neox.layers.{layer}",
        "mlp.dense_4h_to_h",
        "attention.dense",
    ),
    "Llama": Architecture("LlamaConfig", _GROUPED, *_LLAMA),
    "Qwen2": Architecture("Qwen2Config", _GROUPED, *_LLAMA),
    "Qwen3": Architecture("Qwen3Config", {**_GROUPED, "head_dim": 8}, *_LLAMA),
    "Gemma 2": Architecture("Gemma2Config", {**_GROUPED, "head_dim": 8}, *_LLAMA),
    "Gemma 3": Architecture("Gemma3TextConfig", {**_GROUPED, "head_dim": 8}, *_LLAMA),
    "Mistral": Architecture("MistralConfig", _GROUPED, *_LLAMA),
    "Phi": Architecture("PhiConfig", _SIZES, "model.layers.{layer}", "mlp.fc2", "self_attn.dense"),
    "OPT": Architecture(
        "OPTConfig",
        _FOURFOLD,
        "model.decoder.layers.{layer}",
        "fc2",
        "self_attn.out_proj",
        d_mlp=64,
    ),
    "BLOOM": Architecture(
        "BloomConfig",
        {
            "vocab_size": _SHARED["vocab_size"],
            "hidden_size": 16,
            "n_layer": N_LAYERS,
            "n_head": 2,
        },
        "transformer.h.{layer}",
        "mlp.dense_4h_to_h",
        "self_attention.dense",
        d_mlp=64,
    ),
    "Mixtral": Architecture(
        "MixtralConfig",
        {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
        *_LLAMA,
        d_mlp=0,
    ),
    "Qwen3-MoE": Architecture(
        "Qwen3MoeConfig",
        {
            **_GROUPED,
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
        },
        *_LLAMA,
        d_mlp=0,
    ),
}


def hugging_face_model(name: str) -> torch.nn.Module:
    """A random model from its configuration alone."""
    import transformers

    architecture = ARCHITECTURES[name]
    config = getattr(transformers, architecture.config)(**architecture.options)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 - transformers takes no generator
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # far enough from 0 that an ablation shows
                torch.nn.init.normal_(parameter, std=0.3)
    model.config.architectures = [type(model).__name__]
    return model.eval()


if LEGACY:  # the shapes that HookedTransformer is tested on
    ARCHITECTURES = {name: ARCHITECTURES[name] for name in ("GPT-2", "Llama")}


def hooked_model(model: torch.nn.Module, name: str) -> Any:
    """A TransformerBridge of a copy, so that the model itself stays to compare with.

    On TransformerLens 3.9, a HookedTransformer with its weights.
    """
    if LEGACY:
        return _hooked_transformer(model, name)
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        f"tiny {name}", hf_model=deepcopy(model), tokenizer=word_tokenizer()
    ).eval()


def _hooked_transformer(model: torch.nn.Module, name: str) -> Any:
    from transformer_lens import (
        HookedTransformer,  # noqa: TID251 - the real one, to test against
        HookedTransformerConfig,
    )
    from transformer_lens.pretrained import weight_conversions

    config = {
        "n_layers": N_LAYERS,
        "d_model": 16,
        "d_head": 8,
        "n_heads": 2,
        "d_mlp": ARCHITECTURES[name].d_mlp,
        "n_ctx": 64,
        "d_vocab": _SHARED["vocab_size"],
        "model_name": f"tiny {name}",
    }
    if name == "Llama":
        config |= {
            "act_fn": "silu",
            "gated_mlp": True,
            "normalization_type": "RMS",
            "positional_embedding_type": "rotary",
            "rotary_dim": 8,
            "rotary_adjacent_pairs": False,
            "n_key_value_heads": 1,
            "eps": model.config.rms_norm_eps,
            "original_architecture": "LlamaForCausalLM",
        }
        convert = weight_conversions.convert_llama_weights
    else:
        config |= {"act_fn": "gelu_new", "normalization_type": "LN", "eps": 1e-5}
        convert = weight_conversions.convert_gpt2_weights
    made = HookedTransformerConfig(**config)
    result = HookedTransformer(made, tokenizer=word_tokenizer())
    result.load_and_process_state_dict(
        convert(deepcopy(model), made),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return result.eval()
