"""The nodes of an attribution graph: tokens, neurons and the next tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.errors import ModulesError
from tl_modules.models.content_tokens import content_tokens
from tl_modules.models.gradients import Taps, differentiable
from tl_modules.models.hooked_model import HookedModel

NEURON = "cross layer transcoder"
"""The type of the nodes of neurons. The format has none for neurons, and this one, of transcoders'
features, is the only one that the viewers draw as a feature."""


@dataclass(frozen=True, eq=False)
class PromptRun:
    """One prompt's run: activations, and what they are estimated to do to the next token."""

    tokens: list[int]
    """The prompt's tokens."""

    content: Bool[np.ndarray, " _pos"]
    """The tokens that are neither special nor attention sinks."""

    activations: dict[str, Float[np.ndarray, "_pos _units"]]
    """Activations by hook point."""

    estimates: dict[str, Float[np.ndarray, "_pos _units"]]
    """Activation times gradient of the next token's logit, less the mean logit, by hook point."""

    probabilities: Float[np.ndarray, " _vocab"]
    """The probability of each next token."""

    @classmethod
    def of(
        cls, model: HookedModel, tokens: Int[torch.Tensor, " _pos"], hook_names: Sequence[str]
    ) -> "PromptRun":
        """Run a prompt, once forward and once backward.

        Raises:
            ModulesError: If an activation, an estimate or a logit is not finite.
        """
        mask = torch.ones(1, len(tokens), dtype=torch.bool)
        content = content_tokens(model, tokens[None], mask)[0]
        device = getattr(model.cfg, "device", None)
        taps = Taps(hook_names)
        with differentiable():
            logits = model.run_with_hooks(
                tokens[None].clone().to(device),
                attention_mask=mask.clone().long().to(device),
                fwd_hooks=taps.fwd_hooks,
            )
            last = logits[0, -1].float()
            gradients = taps.gradients(last.max() - last.mean())
        activations = {name: _array(taps.activations[name]) for name in hook_names}
        estimates = {name: activations[name] * _array(gradients[name]) for name in hook_names}
        probabilities = _array(last.detach().double().softmax(-1)[None])
        taps.release()
        if not all(np.isfinite(each).all() for each in (probabilities, *estimates.values())):
            raise ModulesError(
                "Activations, their gradients and logits should be finite; on this prompt they are "
                "not. Run the model in a wider dtype (float32)."
            )
        return cls(tokens.tolist(), content.numpy(), activations, estimates, probabilities)

    @property
    def last(self) -> int:
        """The last token's position."""
        return len(self.tokens) - 1

    def token_nodes(self) -> list[dict[str, Any]]:
        """A node per token of the prompt."""
        return [
            _node(f"E_{token}_{at}", at, "E", at, "embedding", f"E_{token}-{at}", "")
            for at, token in enumerate(self.tokens)
        ]

    def neuron_node(self, layer: int, hook_name: str, unit: int, at: int) -> dict[str, Any]:
        """The node of a neuron at a token."""
        named = f"{layer}_{unit}"
        clerp = f"neuron {layer}/{unit}"
        node = _node(
            *(f"{named}_{at}", paired(layer, unit), str(layer), at, NEURON, f"{named}-0", clerp)
        )
        return node | {"activation": float(self.activations[hook_name][at, unit])}

    def logit_nodes(self, n_layers: int, texts: dict[int, str]) -> list[dict[str, Any]]:
        """A node per next token, the most likely first.

        Args:
            n_layers: The layers of the model: the nodes lie above them.
            texts: The tokens, and how each is written.
        """
        nodes = []
        for token, text in texts.items():
            probability = float(self.probabilities[token])
            layer = str(n_layers + 1)
            ids = (f"{layer}_{token}_{self.last}", f"L_{token}-{self.last}")
            clerp = f'Output "{text}" (p={probability:.3f})'
            node = _node(ids[0], token, layer, self.last, "logit", ids[1], clerp)
            nodes.append(node | {"token_prob": probability, "is_target_logit": not nodes})
        return nodes


def paired(layer: int, unit: int) -> int:
    """The number of a neuron among those of all layers, by Cantor's pairing of two numbers.

    >>> paired(0, 3), paired(2, 1)
    (9, 7)
    """
    return (layer + unit) * (layer + unit + 1) // 2 + unit


def _node(
    node_id: str, feature: int, layer: str, at: int, kind: str, js_id: str, clerp: str
) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "feature": feature,
        "layer": layer,
        "ctx_idx": at,
        "feature_type": kind,
        "jsNodeId": js_id,
        "clerp": clerp,
    }


def _array(values: torch.Tensor) -> np.ndarray:
    """One prompt's values, ``[pos, units]`` or ``[vocab]``, on the CPU."""
    return values.detach()[0].double().cpu().numpy()
