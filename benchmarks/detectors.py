"""Single neurons, layers and modules as detectors of each contrast, and on prompts of other genres.

python -m benchmarks.detectors
python -m benchmarks.detectors --concepts formal --figure docs/images/detectors.png
"""

import argparse
from pathlib import Path

import tl_modules as tlm
from benchmarks.neighbours import draw
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model

SHOWN = (
    "detector",
    "auc",
    "auc_ci_low",
    "auc_ci_high",
    "auc_in",
    "auc_shuffled",
    "p_value",
    "auc_test",
    "same_pick",
)


def main() -> None:
    """Print a table a concept, and draw the last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--concepts", nargs="+", default=["french", "informal", "formal"])
    parser.add_argument("--modules", type=int, default=4)
    parser.add_argument("--resamples", type=int, default=50)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    train, test = (
        tlm.collect(model, load_prompts(name)) for name in ("contrasts", "contrasts-ood")
    )
    modules = tlm.discover(train, args.modules)
    found = None
    for concept in args.concepts:
        options = {"test": test, "n_resamples": args.resamples}
        found = tlm.compare_detectors(train, concept, modules, **options)
        n_with = int((train.samples["category"] == concept).sum())
        print(f"{concept}: {n_with} of {len(train.samples)}")
        print(found.table[[*SHOWN]].round(3).to_string(index=False))
    if args.figure is not None:
        draw(tlm.plots.plot_detectors(found), args.figure)


if __name__ == "__main__":
    main()
