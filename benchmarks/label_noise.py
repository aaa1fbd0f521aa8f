"""How well label_audit finds wrong labels, and what wrong labels do to effects.

The truth is known: right labels get noise at stated rates. Symmetric noise gives a share of all
prompts another label at random. Tail-to-head noise (after the abstract of arXiv 2503.11414) gives a
share of the prompts that are not of the largest category the label of a larger one.

    python -m benchmarks.label_noise --figure docs/images/label-noise.png
    python -m benchmarks.label_noise --only model --per-category 8
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit

import tl_modules as tlm
from benchmarks.calibration.planted import PlantedModel, module_set
from benchmarks.neighbours import draw
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.evaluation import label_audit
from tl_modules.evaluation.label_audit import Weights
from tl_modules.evaluation.module_means import module_means
from tl_modules.plots.style import COLOURS, GREY

Noise = Literal["symmetric", "tail-to-head"]
RATES = (0.05, 0.1, 0.2, 0.4)
SIZES = {"1 to 1": (60, 60, 60, 60), "20 to 1": (400, 147, 54, 20)}
EFFECT_SIZES = {"1 to 1": (24, 24, 24), "20 to 1": (120, 27, 6)}
PARTS = ("planted", "weights", "effects", "model")
FRESH = 101
"""The first seed of planted activations that chose no option of the audit."""


def noisy(
    truth: Int[np.ndarray, " prompts"], kind: Noise, rate: float, generator: np.random.Generator
) -> Int[np.ndarray, " prompts"]:
    """Wrong labels for a share of the prompts, or of those outside the largest category."""
    sizes = np.bincount(truth)
    outside = (truth != sizes.argmax()) if kind == "tail-to-head" else (truth >= 0)
    may_change = np.flatnonzero(outside)
    given = truth.copy()
    for row in generator.permutation(may_change)[: round(rate * len(may_change))]:
        own = truth[row]
        # Of equally large categories the first counts as the larger one.
        larger = (sizes > sizes[own]) | ((sizes == sizes[own]) & (np.arange(len(sizes)) < own))
        others = larger if kind == "tail-to-head" else np.arange(len(sizes)) != own
        weights = others * (sizes if kind == "tail-to-head" else 1.0)
        given[row] = generator.choice(len(sizes), p=weights / weights.sum())
    return given


def nearest_mean(
    profiles: Float[np.ndarray, "prompts features"], given: Int[np.ndarray, " prompts"]
) -> Bool[np.ndarray, " prompts"]:
    """The rival: flag prompts that lie nearer to another label's mean than to their own label's."""
    scaled = (profiles - profiles.mean(axis=0)) / np.maximum(profiles.std(axis=0), 1e-12)
    members = np.eye(given.max() + 1)[given]
    sums, counts = members.T @ scaled, members.sum(axis=0)
    means = sums / np.maximum(counts, 1)[:, None]
    distances = ((scaled[:, None] - means) ** 2).sum(axis=-1)
    # The own mean without the prompt itself.
    rest = np.maximum(counts[given] - 1, 1)[:, None]
    own = (sums[given] - scaled) / rest
    distances[np.arange(len(given)), given] = ((scaled - own) ** 2).sum(axis=1)
    return distances.argmin(axis=1) != given


def scores(
    acts: tlm.ActivationMatrix,
    truth: Int[np.ndarray, " prompts"],
    given: Int[np.ndarray, " prompts"],
    modules: tlm.ModuleSet | None,
    **options: Any,
) -> dict[str, float]:
    """Precision and recall of the audit and of the rival, and what chance would give."""
    wrong = given != truth
    names = np.array([f"task{code}" for code in range(truth.max() + 1)])
    audit = label_audit(acts, names[given], modules=modules, **options)
    table = audit.table.sort_values("row")
    flagged = table["issue"].to_numpy()
    right = (table["suggested"].to_numpy() == names[truth])[wrong & flagged]
    found = {
        "precision": _share(wrong[flagged]),
        "recall": _share(flagged[wrong]),
        "suggested_right": _share(right),
        "flagged": float(flagged.mean()),
    }
    if modules is not None:
        rival = nearest_mean(module_means(modules, acts), given)
        found |= {"rival_precision": _share(wrong[rival]), "rival_recall": _share(rival[wrong])}
    # Flags drawn at random are right as often as labels are wrong, and find as many as are drawn.
    return found | {"chance_precision": float(wrong.mean()), "chance_recall": float(flagged.mean())}


def _share(flags: Bool[np.ndarray, " _flags"]) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


def planted(
    sizes: tuple[int, ...], distance: float, seed: int
) -> tuple[tlm.ActivationMatrix, Int[np.ndarray, " prompts"], tlm.ModuleSet]:
    """Four modules of 30 units; a category raises its own by so many standard deviations.

    A prompt moves all units of a module together, so more units do not tell more.
    """
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    owner = np.repeat(np.arange(len(sizes)), 30)
    activity = generator.normal(size=(len(truth), len(sizes)))
    activity += distance * np.eye(len(sizes))[truth]
    values = activity[:, owner] + generator.normal(size=(len(truth), len(owner)))
    acts = tlm.ActivationMatrix.from_arrays(values).normalise("zscore")
    return acts, truth, module_set(acts, owner, truth, len(sizes))


def on_planted(n_draws: int) -> pd.DataFrame:
    """One row per kind of noise, rate, sizes, distance and profile: means over the draws."""
    rows = []
    for sizes_name, sizes in SIZES.items():
        for distance in (2.0, 4.0):
            for seed in range(FRESH, FRESH + n_draws):
                acts, truth, modules = planted(sizes, distance, seed)
                profiles = {
                    "modules": (modules, "root"),
                    "modules, equal weights": (modules, "equal"),
                    "modules, balanced": (modules, "balanced"),
                    "components": (None, "root"),
                }
                for kind, rate, given in _draws(truth, seed):
                    head = {"sizes": sizes_name, "distance": distance, "noise": kind, "rate": rate}
                    for name, (profile, weights) in profiles.items():
                        found = scores(acts, truth, given, profile, weights=weights)
                        rows.append(head | {"profile": name} | found)
    keys = ["profile", "distance", "sizes", "noise", "rate"]
    return pd.DataFrame(rows).groupby(keys, sort=False).mean().reset_index()


def on_weights(n_draws: int) -> pd.DataFrame:
    """How the classifier's weights matter where sizes differ, one row per noise and weights.

    Means over draws with the half width of their 95 % interval (Student's t), and ``gain``: the
    F1 of these weights minus that of ``"root"``, paired by draw.
    """
    rows = []
    *_, sizes = SIZES.values()
    for distance in (2.0, 4.0):
        for seed in range(FRESH, FRESH + n_draws):
            acts, truth, modules = planted(sizes, distance, seed)
            for noise, rate, given in _draws(truth, seed):
                head = {"distance": distance, "noise": noise, "rate": rate, "seed": seed}
                for weights in get_args(Weights):
                    found = scores(acts, truth, given, modules, weights=weights)
                    rows.append(head | {"weights": weights} | found)
    table = pd.DataFrame(rows)
    # Twice the wrong labels that are flagged, over the flagged labels and the wrong ones.
    wrong = table["chance_precision"]
    table["f1"] = 2 * table["recall"] * wrong / (table["flagged"] + wrong)
    of_draws = table["f1"].to_numpy().reshape(-1, len(get_args(Weights)))
    of_root = of_draws[:, [get_args(Weights).index("root")]]
    table["gain"] = (of_draws - of_root).ravel()
    shown = table.groupby(["distance", "noise", "rate", "weights"], sort=False)[
        ["precision", "recall", "f1", "gain"]
    ]
    half = shown.sem() * stdtrit(n_draws - 1, 0.975)
    return shown.mean().join(half.add_suffix("_error")).reset_index()


def _draws(
    truth: Int[np.ndarray, " prompts"], seed: int
) -> Iterator[tuple[Noise, float, Int[np.ndarray, " prompts"]]]:
    for kind in get_args(Noise):
        for rate in RATES:
            yield kind, rate, noisy(truth, kind, rate, np.random.default_rng([seed, 1]))


def on_effects(n_draws: int, n_controls: int) -> pd.DataFrame:
    """What noise does to names, selectivity and verdicts of modules whose owners are known.

    One row per kind of noise, rate, sizes and labels (``noisy``, or ``audited``: flagged ones
    replaced by the suggestion). ``named`` is the share of modules whose own category is their
    owner, ``selective`` the share whose verdict is "selective" and whose name is right.
    """
    rows = []
    for sizes_name, sizes in EFFECT_SIZES.items():
        for seed in range(n_draws):
            world = _World(sizes, seed)
            head: dict[str, Any] = {"sizes": sizes_name, "noise": "none", "rate": 0.0}
            rows.append(head | {"labels": "noisy"} | world.outcome(world.truth, n_controls))
            for kind, rate, given in _draws(world.truth, seed):
                head = {"sizes": sizes_name, "noise": kind, "rate": rate}
                audited = world.audited(given)
                rows.append(head | {"labels": "noisy"} | world.outcome(given, n_controls))
                rows.append(head | {"labels": "audited"} | world.outcome(audited, n_controls))
    keys = ["sizes", "noise", "rate", "labels"]
    return pd.DataFrame(rows).groupby(keys, sort=False).mean().reset_index()


class _World:
    """The planted model, its true modules, and prompts of unequally many of each category.

    Half of the prompts give the modules their names; effects are measured on the other half.
    """

    def __init__(self, sizes: tuple[int, ...], seed: int) -> None:
        self.model = PlantedModel(seed)
        parts = [self.model.prompts(40, seed, n_symbols=length) for length in range(3, 21)]
        every = pd.concat(parts).drop_duplicates("prompt")
        # At most 180 different prompts of each category.
        drawn = [
            every[every["category"] == f"task{k}"].sample(size, random_state=seed)
            for k, size in enumerate(sizes)
        ]
        self.prompts = pd.concat(drawn, ignore_index=True)
        self.truth = np.repeat(np.arange(len(sizes)), sizes)
        self.acts = tlm.collect(self.model, self.prompts, progress=False)
        self.first = np.arange(len(self.truth)) % 2 == 0

    def audited(self, given: Int[np.ndarray, " prompts"]) -> Int[np.ndarray, " prompts"]:
        """The labels, with the suggestions in place of flagged ones; unchanged if too few."""
        if np.bincount(given, minlength=3).min() < 3:
            return given
        table = label_audit(self.acts, given, n_folds=3).table.sort_values("row")
        return table["suggested"].where(table["issue"], table["given"]).astype(int).to_numpy()

    def outcome(self, given: Int[np.ndarray, " prompts"], n_controls: int) -> dict[str, float]:
        """Names, selectivity and verdicts with these labels."""
        names = np.array(["task0", "task1", "task2"])
        frame = self.prompts.assign(category=names[given])
        acts = self.acts.select(np.flatnonzero(self.first))
        acts.samples["category"] = frame["category"][self.first].to_numpy()
        modules = module_set(acts, self.model.owner, self.truth[self.first], 3)
        named = np.array([module.category for module in modules]) == names
        effects = tlm.module_effects(
            *(self.model, modules, frame[~self.first]),
            method="zero",
            n_controls=n_controls,
            progress=False,
        )
        verdicts = tlm.verdicts(effects)
        selective = (verdicts["verdict"] == "selective").to_numpy()
        return {
            "named": float(named.mean()),
            "selectivity": float(verdicts["selectivity"].mean()),
            "tail_selectivity": float(verdicts["selectivity"].iloc[-1]),
            "selective": float((selective & named).mean()),
        }


def on_model(name: str, per_category: int, max_tokens: int, n_draws: int) -> pd.DataFrame:
    """The audit on a real model's activations of the project's own prompts, equally many each."""
    model: Any = load_model(name)
    prompts = load_prompts().groupby("category", sort=False).head(per_category)
    acts = tlm.collect(model, prompts, max_tokens=max_tokens, progress=False)
    truth, categories = pd.factorize(acts.samples["category"], sort=True)
    modules = tlm.discover(acts, len(categories), progress=False)
    rows = []
    for profile in (modules, None):
        profile_name = "components" if profile is None else "modules"
        clean = label_audit(acts, modules=profile, n_folds=3)
        print(f"{profile_name}, labels as they are: {clean!r}")
        for seed in range(n_draws):
            for kind, rate, given in _draws(truth, seed):
                if np.bincount(given, minlength=len(categories)).min() < 3:
                    continue  # label_audit refuses a label of fewer prompts than folds
                found = scores(acts, truth, given, profile, n_folds=3)
                rows.append({"profile": profile_name, "noise": kind, "rate": rate} | found)
    keys = ["profile", "noise", "rate"]
    grouped = pd.DataFrame(rows).groupby(keys, sort=False)
    return grouped.mean().assign(n_draws=grouped.size()).reset_index()


def figure_of(table: pd.DataFrame) -> Any:
    """Precision and recall by the rate of noise, where categories lie four deviations apart."""
    from plotly.subplots import make_subplots

    shown = table[table["distance"] == 4]
    kinds = [(sizes, noise) for sizes in SIZES for noise in get_args(Noise)]
    titles = [f"{noise}, {sizes}" for sizes, noise in kinds]
    figure = make_subplots(2, 4, shared_yaxes=True, shared_xaxes=True, column_titles=titles)
    lines = {
        "label_audit": ("modules", "", COLOURS[0]),
        'weights="equal"': ("modules, equal weights", "", COLOURS[2]),
        'weights="balanced"': ("modules, balanced", "", COLOURS[3]),
        "nearest class mean": ("modules", "rival_", COLOURS[1]),
        "chance": ("modules", "chance_", GREY),
    }
    for column, (sizes, noise) in enumerate(kinds, start=1):
        rows = shown[(shown["sizes"] == sizes) & (shown["noise"] == noise)]
        for row, what in enumerate(("precision", "recall"), start=1):
            for name, (profile, prefix, colour) in lines.items():
                of_profile = rows[rows["profile"] == profile]
                figure.add_scatter(
                    x=of_profile["rate"],
                    y=of_profile[prefix + what],
                    name=name,
                    line_color=colour,
                    showlegend=row == column == 1,
                    row=row,
                    col=column,
                )
            figure.update_yaxes(title_text=what if column == 1 else None, row=row, col=column)
        figure.update_xaxes(title_text="rate of noise", row=2, col=column)
    figure.update_xaxes(tickformat=".0%", tickvals=(0.05, 0.2, 0.4), tickangle=0)
    figure.update_yaxes(range=[-0.03, 1.03])
    return figure.update_layout(template="simple_white", width=1000, height=460, margin_t=40)


def main() -> None:
    """Print the tables, and draw the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--weight-draws", type=int, default=20)
    parser.add_argument("--controls", type=int, default=99)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--per-category", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    if "planted" in args.only:
        table = on_planted(args.draws)
        _print("Planted activations", table)
        if args.figure is not None:
            draw(figure_of(table), args.figure)
    if "weights" in args.only:
        _print("Weights of rare labels", on_weights(args.weight_draws))
    if "effects" in args.only:
        _print("Effects of the planted model", on_effects(args.draws, args.controls))
    if "model" in args.only:
        found = on_model(args.model, args.per_category, args.max_tokens, args.draws)
        _print(f"Activations of {args.model}", found)


def _print(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title}\n\n{table.round(3).to_string(index=False)}", flush=True)


if __name__ == "__main__":
    main()
