"""Public functions called on the tiny model, in little time.

Every one that draws, shows progress or makes a table is here. The first word of a
call's name is the function's.
"""

from dataclasses import fields, is_dataclass
from types import SimpleNamespace

import pandas as pd
import torch

import tl_modules as tlm

QUIET = {"progress": False}


def setting(model, prompts, acts, modules, folder):
    """What the calls are made with."""
    generator = torch.Generator().manual_seed(0)
    device = model.cfg.device
    clean, corrupted = (
        torch.randint(3, 40, (4, 6), generator=generator).to(device) for _ in range(2)
    )
    train, test = tlm.split_by_category(acts, test_share=0.5)
    return SimpleNamespace(
        model=model,
        prompts=prompts,
        acts=acts,
        modules=modules,
        coarser=tlm.discover(acts, 2, **QUIET),
        halves=(train, test),
        pair=(clean, corrupted),
        patched=(model, corrupted, model.run_with_cache(clean)[1]),
        effects=tlm.module_effects(model, modules, prompts, n_controls=2, **QUIET),
        page=folder / "report.html",
    )


def metric(logits):
    return logits[:, -1, 5] - logits[:, -1, 6]


def mean_metric(logits):
    return metric(logits).mean()


def patch(function, c):
    return function(*c.patched, mean_metric, c.modules, return_index_df=True, **QUIET)


def resampled(c):
    reference = tlm.collect_reference(c.model, c.prompts, n_tokens=9, **QUIET)
    options = {"method": "resample", "reference": reference, "n_controls": 2}
    return tlm.module_effects(c.model, c.modules, c.prompts, **options, **QUIET)


def compared(c):
    methods = ["iterd", "spectral"]
    runs = tlm.compare_methods(*c.halves, [2], methods=methods, n_seeds=1, **QUIET)
    return runs.drop(columns=["seconds", "peak_mb"])  # no seed decides these


def shifted(c):
    sets = halves_of(c.prompts)
    return tlm.related.eigenshift(c.model, *sets, n_new_tokens=2, category="animal", **QUIET)


def labelled(c):
    # As many as it takes for a label to be beyond chance; else it warns.
    others = pd.concat(
        [c.prompts.assign(prompt=f"{word} " + c.prompts["prompt"]) for word in ("the", "a")]
    )
    return tlm.with_labels(
        tlm.with_topics(c.modules, c.model, **QUIET),
        tlm.collect(c.model, others, **QUIET),
        labeller=lambda evidence: evidence.topic.label,
        judge=lambda label, prompts: [len(prompt) for prompt in prompts],
        n_permutations=999,
        **QUIET,
    )


def first_category(c):
    return c.prompts["category"].iloc[0]


def erased(c):
    sets = [group for _, group in c.prompts.groupby("category")]
    return tlm.related.leace(c.model, *sets, "blocks.1.hook_resid_post", category="animal", **QUIET)


ASK = "{question} ( {choices} ) why"


def questions():
    rows = [("the cat", ["a dog", "the mat"]), ("one plus", ["two", "three"])]
    return pd.DataFrame(
        [
            {"id": f"q{row}", "category": "c", "prompt": prompt, "choices": choices}
            for row, (prompt, choices) in enumerate(rows)
        ]
    ).assign(answer=["the mat", "two"])


def followed(c, **options):
    options = options or {"n_chains": 2, "temperature": 1.0}
    options = {"n_new_tokens": 6, "style": ASK} | options
    return tlm.thoughts.thought_states(c.model, questions(), modules=c.modules, **options, **QUIET)


def parted(c):
    reference = tlm.collect_reference(c.model, c.prompts, units="mlp+attn_heads", **QUIET)
    return tlm.specialised_parts(c.model, c.prompts, reference, metric="loss", **QUIET)


def unlearnt(c):
    done = tlm.training.unlearn(c.model, c.modules[0], *halves_of(c.prompts), n_steps=2, **QUIET)
    done.restore(c.model)
    return done


def annotated(c):
    """Three annotators, of whom two err, and not on the same prompts."""
    truth = c.prompts["category"].tolist()
    names = sorted(set(truth))
    wrong = [names[label == names[0]] for label in truth]
    err = [[wrong[at] if at % 5 == by else truth[at] for at in range(len(truth))] for by in (1, 2)]
    answers = dict(zip(c.prompts["prompt"], truth, strict=True))
    return tlm.annotate(c.prompts, {"rule": answers.get, "a": err[0], "b": err[1]}, **QUIET)


def halves_of(prompts):
    return [group for _, group in prompts.groupby("category")]


def cored(c):
    half = len(c.prompts) // 2  # categories alternate
    halves = c.prompts.iloc[:half], c.prompts.iloc[half:]
    return tlm.causal_cores(c.model, c.modules, *halves, sizes=[4], n_controls=1, **QUIET)


def compared_parts(c):
    given = {"cores": c.modules, "n_controls": 2}
    return tlm.with_components(c.model, c.modules, c.prompts, **given, **QUIET)


def steered(c, **options):
    options = {"factors": [0.5, 3], "n_new_tokens": 2, "n_controls": 1} | options
    return tlm.steering_effects(c.model, c.modules, c.prompts, **options, **QUIET)


def curved(c):
    scores = tlm.attribute_modules(c.model, *c.pair, metric, c.modules, **QUIET)
    rankings = {first_category(c): scores.unit_scores, "modules": scores.by_module()}
    return tlm.faithfulness_curves(c.model, *c.pair, metric, rankings, n_random=2, **QUIET)


def explored(c):
    explorer = tlm.explore(c.model, c.modules, c.effects, prompt="the cat sat", seed=1)
    explorer.merge([0, 1])
    return explorer.run(n_new_tokens=3)


def parallel(prompts):
    """Each category as a language, and the prompts of one length as one meaning."""
    meanings = prompts.groupby("category").cumcount()
    return prompts.assign(meaning=meanings.astype(str))


CALLS = {
    "collect": lambda c: tlm.collect(c.model, c.prompts, **QUIET),
    "collect_reference": lambda c: tlm.collect_reference(c.model, c.prompts, n_tokens=9, **QUIET),
    "discover": lambda c: tlm.discover(c.acts, 3, **QUIET),
    "discover starts": lambda c: tlm.discover(c.acts, 3, n_starts=3, n_kicks=2, **QUIET),
    "discover topics": lambda c: tlm.discover(c.acts, 3, method="topics_first", **QUIET),
    "iterd": lambda c: tlm.iterd(c.acts.zscore().values, 3),
    "set_aside_background": lambda c: tlm.set_aside_background(c.acts, c.modules, **QUIET),
    "merge_modules": lambda c: tlm.merge_modules(c.acts, c.modules, [[0, 1]]),
    "discover_baseline kmeans": lambda c: tlm.discover_baseline(c.acts, "kmeans", 3),
    "discover_baseline spectral": lambda c: tlm.discover_baseline(c.acts, "spectral", 3),
    "discover_baseline both": lambda c: tlm.discover_baseline(c.acts, "spectral_coclustering", 3),
    "stability": lambda c: tlm.stability(c.acts, 2, n_seeds=2, n_halves=1, **QUIET),
    "best_n_modules": lambda c: tlm.best_n_modules(
        tlm.choose_n_modules(c.acts, (2, 3), n_seeds=2, n_halves=1, **QUIET)
    ),
    "choose_n_modules": lambda c: tlm.choose_n_modules(
        c.acts, [2, 3], n_seeds=2, n_halves=1, **QUIET
    ),
    "compare_methods": compared,
    "split_by_category": lambda c: tlm.split_by_category(c.acts),
    "probe svc": lambda c: tlm.probe(c.modules, *c.halves, "svc"),
    "probe lr": lambda c: tlm.probe(c.modules, *c.halves, "lr"),
    "probe_confusion": lambda c: tlm.probe_confusion(c.modules, *c.halves),
    "label_audit": lambda c: tlm.evaluation.label_audit(c.acts, modules=c.modules, n_folds=2),
    "annotate": lambda c: annotated(c),
    "embedding_annotator": lambda c: tlm.embedding_annotator(c.model, c.prompts, 3, **QUIET),
    "match_modules": lambda c: tlm.match_modules(c.modules, c.coarser),
    "module_effects": lambda c: tlm.module_effects(
        c.model, c.modules, c.prompts, n_controls=2, **QUIET
    ),
    "module_effects resampled": resampled,
    "module_effects labels": lambda c: tlm.module_effects(
        c.model, c.modules, c.prompts, labels=annotated(c), n_controls=2, **QUIET
    ),
    "steering_effects": lambda c: steered(c),
    "steering_effects sampled": lambda c: steered(
        c, starts=["the cat", "def print ("], temperature=1.0, scorer=len, positions="all"
    ),
    "selectivity": lambda c: tlm.selectivity(c.effects),
    "dissociation": lambda c: tlm.dissociation(
        c.model, *list(c.modules)[:2], c.prompts[::2], c.prompts[1::2], n_controls=19, **QUIET
    ),
    "eigenshift": shifted,
    "leace": erased,
    "compare_detectors": lambda c: tlm.compare_detectors(
        c.acts, first_category(c), c.modules, test=c.acts, n_resamples=2, **QUIET
    ),
    "concept_effects": lambda c: tlm.concept_effects(
        c.model,
        erased(c),
        first_category(c),
        c.prompts[::3],
        c.prompts[1::3],
        n_controls=2,
        **QUIET,
    ),
    "specialised_parts": parted,
    "with_components": lambda c: compared_parts(c),
    "with_corrupted": lambda c: tlm.with_corrupted(c.model, c.prompts),
    "unlearn": unlearnt,
    "forgetting": lambda c: tlm.training.forgetting(
        c.model, c.modules[0], *halves_of(c.prompts), n_controls=2, n_steps=2, **QUIET
    ),
    "fuse_pathways": lambda c: tlm.training.fuse_pathways(c.model, c.model, c.modules[0]),
    "shared_units": lambda c: tlm.shared_units(c.model, c.prompts, c.modules, n_units=2, **QUIET),
    "unit_estimates": lambda c: tlm.unit_estimates(
        c.model, c.prompts, c.modules, estimate="relp", **QUIET
    ),
    "causal_cores": lambda c: cored(c),
    "untrained_twin": lambda c: tlm.collect(tlm.untrained_twin(c.model), c.prompts, **QUIET),
    "get_act_patch_module": lambda c: patch(tlm.get_act_patch_module, c),
    "get_act_patch_module_by_pos": lambda c: patch(tlm.get_act_patch_module_by_pos, c),
    "get_act_patch_module_by_layer": lambda c: patch(tlm.get_act_patch_module_by_layer, c),
    "attribute_modules": lambda c: tlm.attribute_modules(
        c.model, *c.pair, metric, c.modules, n_steps=2, exact=True, **QUIET
    ),
    "module_graph": lambda c: tlm.module_graph(
        c.model, *c.pair, metric, c.modules, n_controls=2, **QUIET
    ),
    "plan_interventions": lambda c: tlm.plan_interventions(
        c.model,
        *c.pair,
        c.modules,
        budget=4,
        n_prompts=2,
        n_controls=2,
        propose=lambda question: "1",
        **QUIET,
    ),
    "circuit_scores": lambda c: tlm.circuit_scores(
        c.model, *c.pair, metric, c.modules, [0], n_controls=2, **QUIET
    ),
    "greedy_circuit": lambda c: tlm.greedy_circuit(
        c.model, *c.pair, metric, c.modules, n_controls=2, **QUIET
    ),
    "faithfulness_curves": curved,
    "content_positions": lambda c: tlm.content_positions(c.model, c.pair[0]),
    "module_effects everywhere": lambda c: tlm.module_effects(
        c.model, c.modules, c.prompts, n_controls=2, positions="all", **QUIET
    ),
    "with_topics": lambda c: tlm.with_topics(c.modules, c.model, **QUIET),
    "with_labels": labelled,
    "token_values windows": lambda c: tlm.token_values(
        c.model, c.modules, c.prompts, aggregate_over=4, **QUIET
    ),
    "token_values": lambda c: tlm.token_values(c.model, c.modules, c.prompts, **QUIET),
    "language_consistency": lambda c: tlm.language_consistency(
        c.model, c.modules, parallel(c.prompts), cores=c.modules, n_permutations=9, **QUIET
    ),
    "language_neurons": lambda c: tlm.interpret.language_neurons(
        c.model, c.prompts, n_neurons=5, quantile=0.5, **QUIET
    ),
    "thought_states": followed,
    "thoughts.beside": lambda c: followed(c).beside(followed(c, style="{question} why")),
    "plot_thoughts": lambda c: tlm.plots.plot_thoughts(followed(c), modules=c.modules),
    "plot_thoughts tsne": lambda c: tlm.plots.plot_thoughts(followed(c), projection="tsne"),
    "describe_units": lambda c: tlm.describe_units(
        c.model, cored(c).units, c.prompts, c.modules, n_contexts=1, **QUIET
    ),
    "module_layers": lambda c: tlm.module_layers(c.modules),
    "module_depth": lambda c: tlm.module_depth(c.modules, n_draws=99),
    "hierarchy": lambda c: tlm.hierarchy(c.modules, c.acts, n_permutations=9),
    "nestedness": lambda c: tlm.nestedness([c.modules, c.coarser], n_permutations=9, **QUIET),
    "coverage": lambda c: tlm.coverage(c.modules, c.acts, n_permutations=9),
    "category_similarity": lambda c: tlm.category_similarity(c.modules, c.acts),
    "plot_categories": lambda c: tlm.plots.plot_categories(
        tlm.probe_confusion(c.modules, *c.halves)
    ),
    "control_selectivities": lambda c: tlm.control_selectivities(c.effects),
    "verdicts": lambda c: tlm.verdicts(c.effects),
    "plot_selectivity": lambda c: tlm.plots.plot_selectivity(c.effects, modules=c.modules),
    "plot_components": lambda c: tlm.plots.plot_components(compared_parts(c)),
    "plot_steering": lambda c: tlm.plots.plot_steering(steered(c), modules=c.modules),
    "core_curve": lambda c: tlm.plots.core_curve(cored(c).table),
    "faithfulness_curve": lambda c: tlm.plots.faithfulness_curve(curved(c).table),
    "plot_concepts": lambda c: tlm.plots.plot_concepts(
        tlm.concept_effects(c.model, erased(c), first_category(c), c.prompts, c.prompts, **QUIET)
    ),
    "plot_detectors": lambda c: tlm.plots.plot_detectors(
        tlm.compare_detectors(c.acts, first_category(c), n_resamples=2, **QUIET)
    ),
    "plot_landscape": lambda c: tlm.plots.plot_landscape(c.modules, c.acts, projection="tsne"),
    "write_attribution_graph": lambda c: tlm.write_attribution_graph(
        c.page.with_suffix(".json"), c.modules, c.model, "the cat sat on", n_neurons=3
    ),
    "write_neuronpedia_list": lambda c: tlm.write_neuronpedia_list(
        c.page.with_suffix(".json"), c.modules, model_id="tiny"
    ),
    "explore": lambda c: explored(c),
    "write_report": lambda c: tlm.write_report(
        c.page, c.modules, acts=c.acts, model=c.model, **QUIET
    ),
}


def frames_of(thing, name=""):
    """All frames in a result, and those that its methods give, by name."""
    if isinstance(thing, pd.DataFrame):
        yield name, thing
    elif isinstance(thing, list | tuple):
        for number, part in enumerate(thing):
            yield from frames_of(part, f"{name}[{number}]")
    elif is_dataclass(thing):
        for field in fields(thing):
            yield from frames_of(getattr(thing, field.name), f"{name}.{field.name}")
        for method in ("to_frame", "diff", "moved_units", "matrix", "chains", "steps", "smallest"):
            if hasattr(thing, method):
                yield from frames_of(getattr(thing, method)(), f"{name}.{method}()")
        if getattr(thing, "topics", None):
            yield f"{name}.describe()", thing.describe()
        if getattr(thing, "scored_labels", None) and isinstance(thing, tlm.ModuleSet):
            yield f"{name}.label_scores()", thing.label_scores()
