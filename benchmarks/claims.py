"""The paper's three qualitative claims on real activations: space, hierarchy, comprehensiveness.

    python -m benchmarks.claims [--acts FILE] [--modules 5 10 20] [--out FOLDER]

Without ``--acts`` it collects the public prompts beside the project, cut at 128 tokens, with the
demo model, or the project's own prompts where those are absent. Figures go to the folder.
"""

import argparse
from pathlib import Path

import tl_modules as tlm
from benchmarks.search import given_or_collected


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--acts", type=Path, help="an ActivationMatrix saved before")
    parser.add_argument("--modules", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--out", type=Path, help="folder for figures (HTML)")
    args = parser.parse_args()
    ks = sorted(set(args.modules))
    if len(ks) < 2 or ks[len(ks) // 2] < 3:
        parser.error("--modules takes two Ks or more, the middle one at least 3")
    acts = given_or_collected(args.acts, 128)
    print(acts)
    sets = [tlm.discover(acts, k, method="ulcmod") for k in ks]
    middle = tlm.with_topics(sets[len(sets) // 2])
    depth = tlm.module_depth(middle)
    depth.insert(1, "label", [module.topic.label for module in middle])
    depth.insert(3, "n_layers", [len(module.layers) for module in middle])
    print(f"\nSpace, K = {len(middle)}\n{depth.round(3).to_string(index=False)}")
    layers = tlm.module_layers(middle)
    print(f"cells of the layer table with p_bh at most 0.05: {(layers['p_bh'] <= 0.05).mean():.0%}")
    for modules in sets:
        print(f"\nComprehensiveness, K = {len(modules)}")
        found = tlm.coverage(modules, acts)
        print(f"{found.categories.round(3).to_string(index=False)}\nuncovered: {found.uncovered}")
    nested = tlm.nestedness(sets)
    print(f"\nHierarchy: nestedness over K\n{nested.overall.round(3).to_string(index=False)}")
    tree = tlm.hierarchy(middle, acts)
    first, second = (middle[int(k)].topic.label for k in tree.linkage[0, :2])
    print(f"{tree}\nclosest: {first!r} and {second!r}\n3 branches: {tree.cut(3).tolist()}")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        for name, figure in (
            ("layers", tlm.plots.plot_layers(middle)),
            ("hierarchy", tlm.plots.plot_hierarchy(tree)),
            ("coverage", tlm.plots.plot_coverage(tlm.coverage(middle, acts), modules=middle)),
        ):
            figure.write_html(args.out / f"{name}.html", include_plotlyjs=True)


if __name__ == "__main__":
    main()
