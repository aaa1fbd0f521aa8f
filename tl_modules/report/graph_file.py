"""Write modules as the supernodes of a prompt's attribution graph."""

import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError, check_at_least
from tl_modules.interpret.token_texts import pieces_of
from tl_modules.interventions.measuring import measures
from tl_modules.models.hooked_model import HookedModel, check_causal, model_name
from tl_modules.models.tokens import tokenise
from tl_modules.modules.module import Module
from tl_modules.report.graph_nodes import PromptRun
from tl_modules.report.neurons import name_of, neurons_of
from tl_modules.runtime.arguments import checked
from tl_modules.saving import files

MOST_PINNED = 200
"""The viewers draw so many pinned nodes and no more."""

_SAID = (
    "Nodes are MLP neurons, not features of transcoders: of each module those with the largest "
    "estimated effect on the next token. Links lead to the most likely next token alone; a weight "
    "is activation times gradient of its logit less the mean logit. There are no links between "
    "neurons, and no error nodes."
)


@checked
@measures
def write_attribution_graph(
    path: str | Path,
    modules: Module | Iterable[Module],
    model: HookedModel,
    prompt: str,
    *,
    model_id: str | None = None,
    n_neurons: int = 10,
    n_logits: int = 5,
) -> Path:
    """Write modules or cores as supernodes of a prompt's graph, for viewers of attribution graphs.

    The file has the JSON form of the graphs that circuit-tracer writes
    (``circuit_tracer.frontend.graph_models`` of version 0.5.0;
    https://github.com/safety-research/circuit-tracer) and Neuronpedia validates. It holds:

    - A node per token of the prompt, and one per next token, the ``n_logits`` most likely.
    - Of each module, the ``n_neurons`` pairs of a neuron and a token with the largest estimated
      effect on the most likely next token, each with its activation. Special tokens and attention
      sinks are left out, whose activations are thousands of times larger.
    - A supernode per module, with its number and title, which groups these nodes. All are pinned.
    - A link from each of them to the most likely next token. Its weight is the estimate: activation
      times the gradient of that token's logit less the mean logit. This is the effect by all ways
      through the model to first order, while a link of circuit-tracer is the direct effect in a
      replacement model.

    Neuronpedia takes the supernodes from the file. The page that circuit-tracer 0.5.0 serves takes
    them from its address alone: the how-to of patching has the lines that make it.

    It does not hold links between neurons or from the prompt's tokens, error nodes, or examples of
    what drives a neuron. The format has no type of node for neurons: they have that of transcoders'
    features, with ``neuron layer/number`` as label (``clerp``).

    Args:
        path: The file, ``NAME.json``; NAME is the graph's own (``slug``).
        modules: A ``ModuleSet`` (``causal_cores(...).cores`` is one), some modules of one, or one.
        model: The model that they were discovered in.
        prompt: The prompt, of two tokens or more.
        model_id: The viewer's name of the model (``scan``); by default the model's own.
        n_neurons: Pairs of a neuron and a token per module. Those without an effect are left out.
        n_logits: Next tokens.

    Returns:
        The path of the file.

    Raises:
        ModulesError: If a unit is no neuron, modules share neurons or belong to another model,
            there would be more than 200 pinned nodes, the name does not end in ``.json``, a value
            is not finite, or the file cannot be written.

    Example::

        tlm.write_attribution_graph("capital.json", found.cores, model, "The capital of France is")
    """
    file = files.checked_path(path)
    if file.suffix != ".json":
        raise ModulesError(
            f"path should end in .json, as the viewers expect; it is {file.name!r}. Name it "
            f"{file.stem or 'graph'}.json."
        )
    check_at_least("n_neurons", n_neurons, 1)
    check_at_least("n_logits", n_logits, 1)
    listed = neurons_of(modules)
    most = (MOST_PINNED - 1) // len(listed)
    if n_neurons > most:
        raise ModulesError(
            f"n_neurons should be at most {most} for {len(listed)} modules, since viewers draw "
            f"{MOST_PINNED} pinned nodes; got {n_neurons}. Lower it, or write fewer modules."
        )
    check_causal(model, "An attribution graph")
    for module, _ in listed:
        module.check_model(model)
    tokens = tokenise(model, [prompt], least=2)[0]
    run = PromptRun.of(model, tokens, listed[0][0].units.hook_names)
    graph = _graph(run, model, listed, n_neurons, n_logits)
    graph["metadata"] = _metadata(file.stem, model, prompt, run.tokens, model_id)
    order = ("metadata", "qParams", "nodes", "links")
    files.write_bytes(file, json.dumps({name: graph[name] for name in order}, indent=1).encode())
    return file


def _graph(
    run: PromptRun,
    model: HookedModel,
    listed: list[tuple[Module, pd.DataFrame]],
    n_neurons: int,
    n_logits: int,
) -> dict[str, Any]:
    """Nodes, links, and what is pinned and grouped."""
    likely = np.argsort(-run.probabilities, kind="stable")[:n_logits].tolist()
    texts = {token: pieces_of(model, [token])[0] for token in likely}
    logits = run.logit_nodes(int(model.cfg.n_layers), texts)
    target = logits[0]["node_id"]
    nodes, links, supernodes = run.token_nodes(), [], []
    for module, neurons in listed:
        members = []
        for row, at, estimate in _strongest(run, neurons, n_neurons):
            layer, hook_name, unit = neurons.loc[row, ["layer", "hook_name", "unit"]]
            node = run.neuron_node(int(layer), str(hook_name), int(unit), at)
            members.append(node["node_id"])
            nodes.append(node)
            links.append({"source": node["node_id"], "target": target, "weight": estimate})
        if members:
            supernodes.append([name_of(module), *members])
    pinned = [node_id for _, *members in supernodes for node_id in members]
    shown = {
        "pinnedIds": [*pinned, target],
        "supernodes": supernodes,
        "linkType": "both",
        "clickedId": target,
        "sg_pos": "",
    }
    return {"qParams": shown, "nodes": [*nodes, *logits], "links": links}


def _strongest(
    run: PromptRun, neurons: pd.DataFrame, n_neurons: int
) -> list[tuple[int, int, float]]:
    """The rows of the neurons and the tokens with the largest estimates, and these."""
    if not len(neurons):
        return []
    pairs = zip(neurons["hook_name"], neurons["unit"], strict=True)
    estimates = np.stack([run.estimates[name][:, unit] for name, unit in pairs])
    sizes = np.where(run.content, np.abs(estimates), 0.0)
    order = np.argsort(-sizes, axis=None, kind="stable")[:n_neurons]
    rows, places = np.unravel_index(order, sizes.shape)
    return [
        (row, at, float(estimates[row, at]))
        for row, at in zip(rows.tolist(), places.tolist(), strict=True)
        if sizes[row, at] > 0
    ]


def _metadata(
    slug: str, model: HookedModel, prompt: str, tokens: list[int], model_id: str | None
) -> dict[str, Any]:
    """What the graph is of, and what made it."""
    return {
        "slug": slug,
        "scan": model_name(model) if model_id is None else model_id,
        "transcoder_list": [],
        "prompt_tokens": pieces_of(model, tokens),
        "prompt": prompt,
        "schema_version": 1,
        "info": {
            "description": _SAID,
            "generator": {"name": "tl-modules", "version": version("tl-modules")},
        },
    }
