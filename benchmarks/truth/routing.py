"""Gradient routing: a task's loss reaches only its own block's neurons and the shared ones."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.truth.kinds import Recipe
from benchmarks.truth.tasks import FIRST_Y, WORDS, Rules, draw_tokens

PER_TASK = 16
"""Prompts of each task in a batch."""

LEARNING_RATE = 4e-3


def llama_config(d_mlp: int) -> LlamaConfig:
    """Two layers, four heads, 48 dimensions."""
    return LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=48,
        intermediate_size=d_mlp,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )


def random_llama(config: LlamaConfig, generator: torch.Generator) -> LlamaForCausalLM:
    """A model with normal weights of the generator, and norms of one."""
    network = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.normal_(std=weight.shape[1] ** -0.5, generator=generator)
    return network


@dataclass
class Batch:
    """What the routed layers know of the batch, and what they measured in it."""

    own: Float[torch.Tensor, "prompts 1 blocks 1"]
    without_shared: bool = False
    penalties: list[torch.Tensor] = field(default_factory=list)


class RoutedMLP(torch.nn.Module):
    """An MLP whose neurons lie in blocks, one after another; the shared neurons come last."""

    def __init__(self, mlp: torch.nn.Module, recipe: Recipe):
        """Wrap the MLP."""
        super().__init__()
        self.mlp, self.recipe = mlp, recipe
        self.batch: Batch | None = None

    def forward(
        self, x: Float[torch.Tensor, "prompts pos model"]
    ) -> Float[torch.Tensor, "prompts pos model"]:
        """The MLP's own output, with gradients of the prompts' own blocks alone."""
        assert self.batch is not None
        own, recipe = self.batch.own, self.recipe
        hidden, outputs, shared = self._parts(x)
        if self.batch.without_shared:
            shared = shared.detach().mean((0, 1)).expand_as(shared)
        else:
            # Penalties see the input as given: they train the blocks and nothing before them.
            hidden, others, _ = self._parts(x.detach())
            self.batch.penalties.append(penalty(recipe, hidden, others, 1 - own))
        return (outputs * own).sum(2) + (outputs * (1 - own)).sum(2).detach() + shared

    def _parts(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Activations [prompts pos neurons], blocks' outputs [prompts pos blocks model], shared."""
        mlp, recipe = self.mlp, self.recipe
        hidden = mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
        n = recipe.n_tasks * recipe.n_own
        blocks = hidden[..., :n].unflatten(-1, (recipe.n_tasks, recipe.n_own))
        weights = mlp.down_proj.weight[:, :n].unflatten(-1, (recipe.n_tasks, recipe.n_own))
        outputs = torch.einsum("psbn,dbn->psbd", blocks, weights)
        return hidden, outputs, hidden[..., n:] @ mlp.down_proj.weight[:, n:].T


def penalty(
    recipe: Recipe,
    hidden: Float[torch.Tensor, "prompts pos neurons"],
    outputs: Float[torch.Tensor, "prompts pos blocks model"],
    other: Float[torch.Tensor, "prompts 1 blocks 1"],
) -> Float[torch.Tensor, ""]:
    """The recipe's weighted penalties in one layer."""
    n = recipe.n_tasks * recipe.n_own
    blocks = hidden[..., :n].unflatten(-1, (recipe.n_tasks, recipe.n_own))
    total = hidden.new_zeros(())
    if recipe.silence:
        total = total + recipe.silence * (blocks.abs() * other).mean()
    if recipe.output:
        total = total + recipe.output * (outputs.square() * other).sum(-1).mean()
    if recipe.total_output:
        total = total + recipe.total_output * (outputs * other).sum(2).square().sum(-1).mean()
    if recipe.loudness:
        size = outputs.square().sum(-1, keepdim=True).add(1e-6).sqrt()
        total = total + ((recipe.loudness - size).relu().square() * other).mean()
    if recipe.equality:
        by_task = hidden.abs().mean(1).unflatten(0, (recipe.n_tasks, -1)).mean(1)
        total = total + recipe.equality * by_task.add(1e-3).log().var(0).mean()
    return total


def routed(recipe: Recipe, rules: Rules, seed: int, steps: int) -> LlamaForCausalLM:
    """Train a model whose blocks lie one after another in each layer.

    Args:
        recipe: What to train.
        rules: The tasks.
        seed: Of weights and prompts.
        steps: Batches.

    Returns:
        The model.
    """
    d_mlp = recipe.n_tasks * recipe.n_own + recipe.n_shared
    network = random_llama(llama_config(d_mlp), torch.Generator().manual_seed(seed))
    layers = network.model.layers
    wrapped = [RoutedMLP(layer.mlp, recipe) for layer in layers]
    for layer, mlp in zip(layers, wrapped, strict=True):
        layer.mlp = mlp
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for tokens, own in tqdm(batches(recipe, rules, seed, steps), total=steps, desc="train"):
        loss = batch_loss(network, wrapped, tokens, own, recipe)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    for layer, mlp in zip(layers, wrapped, strict=True):
        layer.mlp = mlp.mlp
    return network.eval()


def batches(
    recipe: Recipe, rules: Rules, seed: int, steps: int
) -> Iterator[tuple[Int[torch.Tensor, "prompts pos"], Float[torch.Tensor, "prompts 1 blocks 1"]]]:
    """Tokens, and 1 where a block is the prompt's own. Prompts are sorted by task."""
    generator = np.random.default_rng([1, seed])
    tasks = np.repeat(np.arange(recipe.n_tasks), PER_TASK)
    own = torch.eye(recipe.n_tasks)[torch.from_numpy(tasks)][:, None, :, None]
    for _ in range(steps):
        yield draw_tokens(rules, tasks, generator), own


def batch_loss(
    network: LlamaForCausalLM,
    layers: list[RoutedMLP],
    tokens: Int[torch.Tensor, "prompts pos"],
    own: Float[torch.Tensor, "prompts 1 blocks 1"],
    recipe: Recipe,
) -> Float[torch.Tensor, ""]:
    """The tasks' loss and the penalties."""
    batch = Batch(own)
    losses = token_losses(network, layers, tokens, batch)
    loss = losses.mean() + torch.stack(batch.penalties).sum()
    if recipe.need:
        is_y = tokens[:, 1:] >= FIRST_Y
        without = token_losses(network, layers, tokens, Batch(own, without_shared=True))
        loss = loss + (without[is_y].view(len(tokens), -1).mean(1) - recipe.need).square().mean()
    return loss


def token_losses(
    network: LlamaForCausalLM,
    layers: list[RoutedMLP],
    tokens: Int[torch.Tensor, "prompts pos"],
    batch: Batch,
) -> Float[torch.Tensor, "prompts predicted"]:
    """Each token's loss, in nats."""
    for layer in layers:
        layer.batch = batch
    logits = network(tokens, use_cache=False).logits[:, :-1]
    targets = tokens[:, 1:]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
