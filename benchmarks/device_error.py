"""How far a device's reduction of activations is from the CPU's exact one.

Reads the demo model's activations on the project's prompts, rounds them to each dtype, and reduces
both ways. On a GPU: ``--device cuda``.

    python -m benchmarks.device_error
"""

import argparse
import itertools

import numpy as np
import pandas as pd
import torch

from benchmarks.device import long_prompts, where
from tl_modules.activations.aggregate import left_out, reduced
from tl_modules.activations.batch_values import read_hooks
from tl_modules.activations.device_reduction import CountedTokens, token_sizes
from tl_modules.activations.reading import AGGREGATES, Aggregate
from tl_modules.data import load_demo_model
from tl_modules.models.batches import Batch, batches
from tl_modules.models.content_tokens import ordinary_tokens
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.tokens import tokenise
from tl_modules.units import site_units

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> None:
    """Print a table of errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128, help="of the longest prompt")
    parser.add_argument("--units", nargs="+", default=["mlp", "attn_heads"])
    args = parser.parse_args()
    model = load_demo_model()
    prompts = long_prompts(args.prompts, args.tokens)
    # Of many lengths, for padding.
    lists = [tokens[: len(tokens) - 3 * k] for k, tokens in enumerate(tokenise(model, prompts))]
    (batch,) = batches([tokens[: args.tokens] for tokens in lists], args.prompts)
    content = ordinary_tokens(model, batch.tokens, batch.mask)
    rows = [row for site in args.units for row in rows_of(model, site, batch, content, args.device)]
    table = pd.DataFrame(rows).groupby(["units", "aggregate", "dtype"], sort=False)
    found = table.agg({"values, median": "median", "values, largest": "max", "sums": "max"})
    print(
        f"Relative errors on {where(args.device)}, {batch.tokens.numel():,} positions. Sums: "
        "relative to the sums of sizes."
    )
    print(found.to_string(float_format="{:.1e}".format))


def rows_of(
    model: HookedModel, site: str, batch: Batch, content: torch.Tensor, device: str
) -> list[dict[str, str | float]]:
    """The errors at each hook point of a site, by aggregate and dtype."""
    rows = []
    aggregates = [of for of in AGGREGATES if site == "mlp" or of != "fraction_active"]

    def take(name: str, activation: torch.Tensor, span: int) -> None:
        for (dtype, to), aggregate in itertools.product(DTYPES.items(), aggregates):
            errors = errors_of(activation.to(to), span, batch, content, aggregate, device)
            rows.append({"units": site, "aggregate": aggregate, "dtype": dtype} | errors)

    read_hooks(model, batch, site_units(model, site), take)
    return rows


def errors_of(
    activation: torch.Tensor,
    span: int,
    batch: Batch,
    content: torch.Tensor,
    aggregate: Aggregate,
    device: str,
) -> dict[str, float]:
    """One hook point's errors."""
    left = left_out(batch.counted, content)
    exact = reduced(activation, span, batch.counted, left, aggregate, wide=True)
    masks = (mask.to(device) for mask in (batch.counted, content))
    tokens = CountedTokens(*masks, all_count=False)
    masked = tokens.masked(activation.to(device))
    values = tokens.averaged(token_sizes(masked, span, aggregate), aggregate).cpu().double()
    sums = tokens.sums(masked).cpu()
    errors = ((values - exact.values).abs() / exact.values.clamp(min=1e-12)).numpy()
    sizes = activation.double().masked_fill(~batch.counted[..., None], 0).abs().sum((0, 1))
    gaps = (sums - exact.sums.sum(0)).abs() / sizes.clamp(min=1e-12)
    return {
        "values, median": float(np.median(errors)),
        "values, largest": float(errors.max()),
        "sums": float(gaps.max()),
    }


if __name__ == "__main__":
    main()
