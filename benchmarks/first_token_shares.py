"""How much of what steering, paired runs and training do comes from the first token.

``benchmarks.first_token`` compares ablations. Here are the other interventions:

- steering: the rise of the loss if a module's units are scaled at every token, or at content;
- paired runs whose first tokens differ (there is no BOS, and the prompts begin with other names):
  the first token's share of the squared change that a graph's edges are shares of;
- unlearning in a module, with gradients through every token or through content: how far the state
  of the first token and of the others moves, and how far the loss rises, also if the first token's
  states are put back;
- the states that EigenShift reads from prompts: the first one's norm beside the others'.

    python -m benchmarks.first_token_shares [--only unlearning]
"""

import argparse
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch

import tl_modules as tlm
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.models.output_layer import output_layer

NAMES = [("Mary", "John"), ("Tom", "Anna"), ("Sarah", "Paul"), ("Mark", "Kate"), ("Emma", "James")]
TASK = "{} and {} went to the shop, and {} gave a drink to"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=7)
    parser.add_argument("--collected", type=int, default=10, help="prompts per category (10)")
    parser.add_argument("--per-category", type=int, default=3, help="tested prompts (3)")
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--controls", type=int, default=3)
    parser.add_argument("--trained", type=int, default=2, help="modules to unlearn in (2)")
    parser.add_argument("--steps", type=int, default=20, help="steps of unlearning (20)")
    parser.add_argument("--only", choices=["states", "paired", "steering", "unlearning"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    model: Any = load_model(args.model)
    prompts = load_prompts().sample(frac=1, random_state=args.seed)
    tested = prompts.groupby("category").head(args.per_category)
    rest = prompts.drop(tested.index)
    collected = rest.groupby("category").head(args.collected)
    acts = tlm.collect(model, collected, max_tokens=args.max_tokens, progress=False)
    modules = tlm.discover(acts, args.modules, seed=args.seed, progress=False)
    if args.only in (None, "states"):
        _print("States that EigenShift reads", states(model, tested))
    if args.only in (None, "paired"):
        _print("Paired runs", paired(model, modules))
    if args.only in (None, "steering"):
        _print("Steering", steering(model, modules, tested, args))
    if args.only in (None, "unlearning"):
        for module in list(modules)[: args.trained]:
            _print("Unlearning", unlearning(model, module, rest, tested, args))


def _print(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title}\n\n{table.round(4).to_string(index=False)}", flush=True)


def steering(
    model: Any, modules: tlm.ModuleSet, tested: pd.DataFrame, args: argparse.Namespace
) -> pd.DataFrame:
    """Mean effects of scaled modules on their own categories, and their controls'."""
    rows = []
    for factor in (0.5, 2.0):
        for positions in ("all", "content"):
            found = tlm.module_effects(
                model,
                modules,
                tested,
                method="scale",
                factor=factor,
                positions=positions,
                n_controls=args.controls,
                batch_size=64,
                max_tokens=args.max_tokens,
                seed=args.seed,
                progress=False,
            )
            own = found[found["own"]]
            row: dict[str, object] = {"factor": factor, "positions": positions}
            row |= {name: own[name].mean() for name in ("effect", "control_mean")}
            rows.append(row | {"selectivity_z": own["selectivity_z"].mean()})
    return pd.DataFrame(rows)


def paired(model: Any, modules: tlm.ModuleSet) -> pd.DataFrame:
    """The first token's share of the squared change between the runs, by module."""
    clean, corrupted = (
        [TASK.format(*pair, pair[0]) for pair in some]
        for some in (NAMES, [(b, a) for a, b in NAMES])
    )
    rows = {}
    for bos in (True, False):
        runs = [model.to_tokens(texts, prepend_bos=bos) for texts in (clean, corrupted)]
        names = modules.units.hook_names
        caches = [model.run_with_cache(tokens, names_filter=list(names))[1] for tokens in runs]
        change = torch.cat([(caches[0][name] - caches[1][name]).float() for name in names], -1)
        for module in modules:
            squares = change[..., module.units.flat()].square().sum((0, 2))
            row = rows.setdefault(module.label, {"module": module.label})
            row[f"squares {'with' if bos else 'without'} BOS"] = float(squares[0] / squares.sum())
    return pd.DataFrame(rows.values())


def states(model: Any, tested: pd.DataFrame) -> pd.DataFrame:
    """The norms of states at the output layer's input and in the middle layer."""
    names = (f"blocks.{model.cfg.n_layers // 2}.hook_resid_post", output_layer(model).hook_name)
    rows = []
    for name in names:
        norms = [
            model.run_with_cache(model.to_tokens(text), names_filter=[name])[1][name][0].norm(dim=1)
            for text in tested["prompt"]
        ]
        first = float(np.mean([float(norm[0]) for norm in norms]))
        others = float(torch.cat([norm[1:] for norm in norms]).median())
        rows.append({"hook point": name, "first token": first, "others, median": others})
    return pd.DataFrame(rows)


def unlearning(
    model: Any,
    module: tlm.Module,
    rest: pd.DataFrame,
    tested: pd.DataFrame,
    args: argparse.Namespace,
) -> pd.DataFrame:
    """What unlearning a module's category does at the first token and elsewhere."""
    tokens = [model.to_tokens(text)[:, : args.max_tokens] for text in tested["prompt"]]
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    middle = names[len(names) // 2]
    before, losses = _runs(model, tokens, names)
    is_own = rest["category"] == module.category
    own = (tested["category"] == module.category).to_numpy()
    rows = []
    for positions in ("all", "content"):
        done = tlm.training.unlearn(
            model,
            module,
            rest[is_own].head(12),
            rest[~is_own].groupby("category").head(4),
            n_steps=args.steps,
            positions=positions,
            max_tokens=args.max_tokens,
            seed=args.seed,
            progress=False,
        )
        after, raised = _runs(model, tokens, names)
        kept = _runs(model, tokens, names, before)[1]
        done.restore(model)
        moved = [
            (one[middle] - other[middle]).norm(dim=1) / other[middle].norm(dim=1)
            for one, other in zip(after, before, strict=True)
        ]
        rows.append(
            {
                "module": module.category,
                "positions": positions,
                "first token moves by": float(np.mean([float(move[0]) for move in moved])),
                "others": float(torch.cat([move[1:] for move in moved]).mean()),
                "rise on own": (raised - losses)[own].mean(),
                "with the first token's states put back": (kept - losses)[own].mean(),
                "on other categories": (raised - losses)[~own].mean(),
                "put back": (kept - losses)[~own].mean(),
            }
        )
    return pd.DataFrame(rows)


def _runs(
    model: Any,
    tokens: list[torch.Tensor],
    names: list[str],
    first: list[dict[str, torch.Tensor]] | None = None,
) -> tuple[list[dict[str, torch.Tensor]], np.ndarray]:
    """Each prompt's states, and its loss after the first token; ``first`` puts states back."""
    states, losses = [], []
    for row, ids in enumerate(tokens):
        read: dict[str, torch.Tensor] = {}

        def hook_at(name: str, row: int = row, read: dict[str, torch.Tensor] = read) -> Any:
            def hook_fn(state: torch.Tensor, hook: object) -> torch.Tensor:
                if first is not None:
                    state = state.clone()
                    state[:, 0] = first[row][name][0]
                read[name] = state[0].clone()
                return state

            return hook_fn

        with torch.inference_mode():
            logits = model.run_with_hooks(ids, fwd_hooks=[(name, hook_at(name)) for name in names])
        scores = logits[0, 1:-1].log_softmax(-1)
        losses.append(-float(scores.gather(1, ids[0, 2:, None].to(scores.device)).mean()))
        states.append(read)
    return states, np.array(losses)


if __name__ == "__main__":
    main()
