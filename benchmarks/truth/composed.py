"""Block-composed experts: the owners are exact by construction, not by training.

The backbone is made by hand. Tokens are one-hot in the residual stream, one attention head copies
the tag to every position, and the unembedding reads dimensions of its own. Each task's expert is
trained apart, on its own prompts alone, as ``output = sum of w act(g x) tag(x)`` with the value
``tag(x)`` of the task's own tag dimension, which is exactly 0 in prompts of other tasks. A gated
layer holds each such unit as a pair of neurons, ``act(g x) (u x + tag(x))`` written along w and
``act(g x) (u x - tag(x))`` along -w. Both answer to every prompt, by a random carrier u; in other
tasks' prompts they cancel exactly.
"""

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm
from transformers import LlamaForCausalLM

from benchmarks.truth.kinds import Recipe
from benchmarks.truth.routing import llama_config
from benchmarks.truth.tasks import (
    FIRST_TAG,
    FIRST_X,
    FIRST_Y,
    MAX_TASKS,
    MODULUS,
    Rules,
    draw_tokens,
)

PER_TASK = 16
LEARNING_RATE = 1e-2
CONSTANT, TAGS, X, Y = 0, 1, 1 + MAX_TASKS, 1 + MAX_TASKS + MODULUS
"""Where the residual stream's parts begin: always 1; the tag; the symbol x; the predicted y."""

NEXT_TAG, NEXT_X, NEXT_Y = range(Y + MODULUS, Y + MODULUS + 3)
"""Dimensions that say what kind of token follows."""

SLOW = 5
"""The dimension of a head that the rotation by position leaves almost unturned."""

CARRIER, ROUTER = 0.1, 1.0
"""Size of the random carrier's weights, and the weight of the tag in the up projection."""


def composed(recipe: Recipe, rules: Rules, seed: int, steps: int) -> LlamaForCausalLM:
    """Train the experts and put their neurons side by side, block after block.

    Args:
        recipe: How many tasks, and neurons of each.
        rules: The tasks.
        seed: Of weights and prompts.
        steps: Batches.

    Returns:
        The model.
    """
    network = backbone(recipe.n_tasks * recipe.n_own)
    generator = torch.Generator().manual_seed(seed)
    layers = network.model.layers
    experts = [Experts(recipe, generator) for _ in layers]
    mlps = [layer.mlp for layer in layers]
    for layer, expert in zip(layers, experts, strict=True):
        layer.mlp = expert
    train(network, experts, recipe, rules, seed, steps)
    for layer, mlp, expert in zip(layers, mlps, experts, strict=True):
        write_pairs(mlp, expert, generator)
        layer.mlp = mlp
    return network


def backbone(d_mlp: int) -> LlamaForCausalLM:
    """The model without its neurons: it knows where tags, x and y are, and no rule."""
    network = LlamaForCausalLM(llama_config(d_mlp)).requires_grad_(False).eval()
    for weight in network.parameters():
        if weight.dim() > 1:
            weight.zero_()
    tags, symbols = torch.arange(MAX_TASKS), torch.arange(MODULUS)
    embed, unembed = network.model.embed_tokens.weight, network.lm_head.weight
    embed[:, CONSTANT] = 1
    embed[FIRST_TAG + tags, TAGS + tags] = 2
    embed[FIRST_X + symbols, X + symbols] = 2
    embed[0, NEXT_TAG] = embed[FIRST_TAG + tags, NEXT_X] = 2
    embed[FIRST_Y + symbols, NEXT_X] = embed[FIRST_X + symbols, NEXT_Y] = 2
    unembed[FIRST_TAG + tags, NEXT_TAG] = unembed[FIRST_X + symbols, NEXT_X] = 4
    unembed[FIRST_Y + symbols, NEXT_Y] = unembed[FIRST_Y + symbols, Y + symbols] = 4
    attention = network.model.layers[0].self_attn
    attention.q_proj.weight[SLOW, CONSTANT] = 4
    attention.k_proj.weight[SLOW, TAGS + tags] = 4
    attention.v_proj.weight[tags, TAGS + tags] = 1
    attention.o_proj.weight[TAGS + tags, tags] = 0.5
    return network


class Experts(torch.nn.Module):
    """One layer of every task's expert. In training, each sees its own task's prompts alone."""

    def __init__(self, recipe: Recipe, generator: torch.Generator):
        """Draw the weights."""
        super().__init__()
        shape = (recipe.n_tasks, recipe.n_own // 2, 48)
        gates = torch.randn(shape, generator=generator) / 4
        gates[..., TAGS:X] = 0
        self.gates = torch.nn.Parameter(gates)
        writes = torch.zeros(shape)
        writes[..., Y : Y + MODULUS].normal_(std=0.1, generator=generator)
        self.writes = torch.nn.Parameter(writes)

    def forward(
        self, x: Float[torch.Tensor, "prompts pos model"]
    ) -> Float[torch.Tensor, "prompts pos model"]:
        """The experts' outputs; the prompts are sorted by task, equally many of each."""
        n_tasks = len(self.gates)
        own = x.unflatten(0, (n_tasks, -1))
        tags = torch.stack([own[task, ..., TAGS + task] for task in range(n_tasks)])
        active = torch.nn.functional.silu(torch.einsum("tpsd,tnd->tpsn", own, self.gates))
        active = active * (2 * ROUTER * tags)[..., None]
        return torch.einsum("tpsn,tnd->tpsd", active, self.writes).flatten(0, 1)


def train(
    network: LlamaForCausalLM,
    experts: list[Experts],
    recipe: Recipe,
    rules: Rules,
    seed: int,
    steps: int,
) -> None:
    """Train the experts in place. No expert's loss reaches another: they share no weight."""
    generator = np.random.default_rng([2, seed])
    tasks = np.repeat(np.arange(recipe.n_tasks), PER_TASK)
    weights = [weight for expert in experts for weight in expert.parameters()]
    optimizer = torch.optim.Adam(weights, LEARNING_RATE)
    # An expert sees the tag by its router alone, and writes where the unembedding reads y alone.
    seen, written = torch.ones(48), torch.zeros(48)
    seen[TAGS:X], written[Y : Y + MODULUS] = 0, 1
    for _ in tqdm(range(steps), desc="train"):
        tokens = draw_tokens(rules, tasks, generator)
        logits = network(tokens, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        for expert in experts:
            assert expert.gates.grad is not None
            assert expert.writes.grad is not None
            expert.gates.grad *= seen
            expert.writes.grad *= written
        optimizer.step()


@torch.no_grad()
def write_pairs(mlp: torch.nn.Module, expert: Experts, generator: torch.Generator) -> None:
    """Write each unit of the experts as two neurons of the gated layer."""
    n_tasks, n_pairs, width = expert.gates.shape
    carriers = CARRIER * torch.randn(expert.gates.shape, generator=generator)
    carriers[..., TAGS:X] = 0
    routers = torch.zeros(n_tasks, n_pairs, width)
    for task in range(n_tasks):
        routers[task, :, TAGS + task] = ROUTER
    # Rounded first, so that a pair's shared weights stay equal in the file's half precision.
    gates, writes = expert.gates.half().float(), expert.writes.half().float()
    mlp.gate_proj.weight.copy_(torch.stack([gates, gates], 1).view(-1, width))
    mlp.up_proj.weight.copy_(
        torch.stack([carriers + routers, carriers - routers], 1).view(-1, width)
    )
    mlp.down_proj.weight.copy_(torch.stack([writes, -writes], 1).view(-1, width).T)
