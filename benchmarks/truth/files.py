"""Files of known truth: written with a header, read as hooked models of either TransformerLens."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import tl_modules as tlm
from benchmarks.truth.tasks import WORDS, Rules, draw_prompts, tokenizer

FOLDER = Path(__file__).parent
OWNERS = "truth.owners"


@dataclass(frozen=True, eq=False)
class Truth:
    """A model, and which task owns each of its neurons."""

    name: str
    kind: str
    model: tlm.HookedModel
    owners: Int[np.ndarray, " units"]
    """Layer after layer; -1 for a neuron that every task needs."""

    n_tasks: int
    draw: Callable[[Sequence[int], int], pd.DataFrame]
    """``draw(counts, seed)``: so many prompts of each task, with their categories."""

    def prompts(self, per_task: int, seed: int) -> pd.DataFrame:
        """Equally many prompts of each task."""
        return self.draw((per_task,) * self.n_tasks, seed)

    @property
    def categories(self) -> list[str]:
        """The categories of the prompts, in the order of the tasks."""
        return self.prompts(1, 0)["category"].tolist()


def shipped() -> list[Path]:
    """The files beside this one."""
    return sorted(FOLDER.glob("*.safetensors"))


def write(
    path: Path,
    network: LlamaForCausalLM,
    owners: Int[np.ndarray, "layers neurons"],
    rules: Rules,
    kind: str,
) -> None:
    """Write weights in half precision, the owners, and what else is needed to run the model."""
    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    tensors[OWNERS] = torch.from_numpy(owners.astype(np.int8))
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    kept += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    config = {name: getattr(network.config, name) for name in kept}
    header = {"kind": kind, "rules": json.dumps(rules), "config": json.dumps(config)}
    save_file(tensors, path, header)


def read(path: str | Path) -> Truth:
    """The model of a file that ``write`` wrote."""
    with safe_open(path, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    owners = tensors.pop(OWNERS).numpy().astype(np.int64).reshape(-1)
    rules = tuple((a, b) for a, b in json.loads(header["rules"]))

    def draw(counts: Sequence[int], seed: int) -> pd.DataFrame:
        return draw_prompts(rules, counts, seed)

    name = Path(path).stem
    network = llama(json.loads(header["config"]), tensors)
    model = hooked(network, WORDS, name)
    return Truth(name, header["kind"], model, owners, len(rules), draw)


def llama(config: dict, tensors: dict[str, torch.Tensor]) -> LlamaForCausalLM:
    """The network, in single precision."""
    made = LlamaConfig(
        **{"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False} | config
    )
    made.architectures = ["LlamaForCausalLM"]
    network = LlamaForCausalLM(made)
    network.load_state_dict({key: value.float() for key, value in tensors.items()})
    return network.eval()


def hooked(network: LlamaForCausalLM, words: Sequence[str], name: str) -> tlm.HookedModel:
    """A ``TransformerBridge``, or a ``HookedTransformer`` on TransformerLens 3.x."""
    words_of = tokenizer(words, name)
    if version("transformer-lens").startswith("3."):
        return _hooked_transformer(network, words_of, name)
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(name, hf_model=network, tokenizer=words_of).eval()


def _hooked_transformer(network: LlamaForCausalLM, words_of, name: str) -> tlm.HookedModel:
    from transformer_lens import HookedTransformer, HookedTransformerConfig  # noqa: TID251
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights

    sizes = network.config
    made = HookedTransformerConfig(
        n_layers=sizes.num_hidden_layers,
        d_model=sizes.hidden_size,
        d_head=sizes.hidden_size // sizes.num_attention_heads,
        n_heads=sizes.num_attention_heads,
        n_key_value_heads=sizes.num_key_value_heads,
        d_mlp=sizes.intermediate_size,
        n_ctx=sizes.max_position_embeddings,
        d_vocab=sizes.vocab_size,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=sizes.hidden_size // sizes.num_attention_heads,
        rotary_adjacent_pairs=False,
        eps=sizes.rms_norm_eps,
        model_name=name,
        original_architecture="LlamaForCausalLM",
    )
    model = HookedTransformer(made, tokenizer=words_of)
    model.load_and_process_state_dict(
        convert_llama_weights(network, made),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()
