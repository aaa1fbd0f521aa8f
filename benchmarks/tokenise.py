"""Tokenising many prompts: as the package does it, beside ``to_tokens`` prompt by prompt.

    python -m benchmarks.tokenise [--prompts 10000] [--tokens 40] [--repeats 5]

Prints prompts a second, and the ratio to ``to_tokens`` in the same run. The tokenizer's own call,
which returns lists of ids and nothing else, is the bound. TransformerLens' tokenizers run on all
cores unless ``TOKENIZERS_PARALLELISM=false``.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import tl_modules as tlm
from benchmarks.device import long_prompts
from tl_modules.data.models import load_model
from tl_modules.models.tokens import tokenise


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=40, help="of each prompt, about")
    parser.add_argument("--alone", type=int, default=1000, help="prompts for to_tokens")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    model = load_model(args.model)
    texts = [
        f"{text[: 4 * args.tokens]} {number}"
        for number, text in enumerate(long_prompts(args.prompts, args.tokens))
    ]
    few = texts[: args.alone]
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "to_tokens, one by one": (len(few), lambda: alone(model, few)),
        "the package": (len(texts), lambda: tokenise(model, texts)),
        "the tokenizer's own call": (len(texts), lambda: model.tokenizer(texts)["input_ids"]),
    }
    same = all(
        own.tolist() == model.to_tokens(text)[0].tolist()
        for own, text in zip(tokenise(model, few), few, strict=True)
    )
    lengths = [len(tokens) for tokens in tokenise(model, few)]
    print(f"{len(texts):,} prompts of {statistics.mean(lengths):.0f} tokens; same ids: {same}")
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, (n_texts, run) in ways.items():
            rates[name].append(n_texts / seconds(run))
    slowest = rates["to_tokens, one by one"]
    for name, found in rates.items():
        ratios = sorted(one / other for one, other in zip(found, slowest, strict=True))
        print(
            f"{name}: {statistics.median(found):,.0f} prompts a second, "
            f"{statistics.median(ratios):.1f} times ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        )


def alone(model: tlm.HookedModel, texts: list[str]) -> list[list[int]]:
    """The ids of each text by itself."""
    return [model.to_tokens(text)[0].tolist() for text in texts]


def seconds(run: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
