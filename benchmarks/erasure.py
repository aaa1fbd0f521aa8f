"""LEACE, EigenShift and a module's ablation: what each leaves of a concept, and what else it costs.

All are made from the first half of the contrast prompts, tested on the other half and on prompts of
other genres.

    python -m benchmarks.erasure
    python -m benchmarks.erasure --concept informal --other formal
    python -m benchmarks.erasure --figure docs/images/erasure.png
"""

import argparse
from dataclasses import replace
from pathlib import Path

import tl_modules as tlm
from benchmarks.neighbours import draw, halves
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model

NUMBERS = ("auc_clean", "auc", "auc_ci_low", "auc_ci_high", "auc_control_mean", "auc_p_value")
COSTS = ("lost", "lost_ci_low", "lost_ci_high", "lost_control_mean", "harm", "harm_control_mean")


def main() -> None:
    """Print the table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--concept", default="french")
    parser.add_argument("--other", default="english")
    parser.add_argument("--modules", type=int, default=4)
    parser.add_argument("--layer", type=int, help="of one erasure; the middle one by default")
    parser.add_argument("--controls", type=int, default=19)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    fit, held_out = halves(load_prompts("contrasts"))
    modules = tlm.discover(tlm.collect(model, fit), args.modules)
    module = max(modules, key=lambda it: it.category == args.concept)
    sets = [fit.loc[fit["category"] == name] for name in (args.concept, args.other)]
    n_layers = int(model.cfg.n_layers)
    layer = n_layers // 2 if args.layer is None else args.layer
    points = [f"blocks.{number}.hook_resid_post" for number in range(n_layers)]
    places = {
        "LEACE, the module's units": module.units,
        f"LEACE, layer {layer}": points[layer],
        "LEACE, all layers": points,
    }
    erasures = [
        replace(tlm.related.leace(model, *sets, at), label=label, category=args.concept)
        for label, at in places.items()
    ]
    shift = tlm.related.eigenshift(model, *sets, n_new_tokens=0, category=args.concept)
    named = [args.concept, args.other]
    tests = {"in distribution": held_out, "other genres": load_prompts("contrasts-ood")}
    effects = tlm.concept_effects(
        model,
        [module, *erasures, shift],
        args.concept,
        fit.loc[fit["category"].isin(named)],
        {name: frame.loc[frame["category"].isin(named)] for name, frame in tests.items()},
        n_controls=args.controls,
    )
    print(repr(module))
    print(effects[["label", "prompts", *NUMBERS]].round(3).to_string(index=False))
    print(effects[["label", "prompts", *COSTS]].round(3).to_string(index=False))
    if args.figure is not None:
        names = {str(module.label): f"module {module.label} ablated", "eigenshift": "EigenShift"}
        draw(tlm.plots.plot_concepts(effects.replace({"label": names})), args.figure)


if __name__ == "__main__":
    main()
