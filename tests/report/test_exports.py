"""Files for other viewers, against files written by hand from their published descriptions.

``attribution_graph.json``: circuit-tracer 0.5.0, ``frontend/graph_models.py``, and the JSON schema
of Neuronpedia's graphs (``apps/webapp/app/api/graph/graph-schema.json``).
``neuronpedia_list.json``: the features of ``POST /api/list/add-features``
(neuronpedia.org/api-doc). The graph's numbers are
the toy's, worked out in ``tests.toy``: at the second token a, b, c, d are 0.1, 0.2, 0.7, 0.1, and
2/3 of a change of the middle logit is left when the mean of the three is taken off.
"""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.conftest import unsaid
from tests.related.test_refusals import untyped
from tests.toy import Toy, toy_modules

HERE = Path(__file__).parent
REQUIRED = {
    "metadata": {"slug", "scan", "transcoder_list", "prompt_tokens", "prompt"},
    "qParams": {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"},
    "nodes": {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"},
    "links": {"source", "target", "weight"},
}
"""The keys that both descriptions together require."""


class ReadingToy(Toy):
    """The toy with a tokenizer of three words."""

    def __init__(self):
        """Make the tokenizer."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        super().__init__()
        words = Tokenizer(models.WordLevel({"zero": 0, "one": 1, "two": 2}))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)

    def to_tokens(self, text, truncate=True):
        """One token a word."""
        return torch.tensor([self.tokenizer.encode(text)])


@pytest.fixture
def toy():
    return ReadingToy()


def by_hand(name):
    return json.loads((HERE / name).read_text())


def alike(found, expected, where="file"):
    """Equal, but for rounding of numbers."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            alike(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            alike(found[number], value, f"{where}[{number}]")
    else:
        assert type(found) is type(expected), where
        assert found == (pytest.approx(expected, abs=1e-6) if type(found) is float else expected)


def written(path, *given, **options):
    file = tlm.write_attribution_graph(path, *given, **options)
    assert file == path
    return json.loads(file.read_text())


def test_a_graph_is_the_one_worked_out_by_hand(toy, tmp_path):
    graph = written(tmp_path / "two-one.json", toy_modules(), toy, "two one", n_logits=2)
    info = graph["metadata"].pop("info")
    assert info["generator"] == {"name": "tl-modules", "version": version("tl-modules")}
    assert "not features of transcoders" in info["description"]
    alike(graph, by_hand("attribution_graph.json"))


@pytest.mark.parametrize("of", ["modules", "cores"])
def test_a_graph_of_a_model_fits_both_descriptions(model, modules, tmp_path, of):
    if of == "cores":
        some = np.where(np.arange(36) % 2, modules.unit_labels, -1)
        modules = replace(modules, unit_labels=some)
    prompt = "the cat sat on the"
    graph = written(tmp_path / "cat.json", modules, model, prompt, n_neurons=4, model_id="m")
    for part, keys in REQUIRED.items():
        for each in graph[part] if isinstance(graph[part], list) else [graph[part]]:
            assert keys <= set(each)
    ids = [node["node_id"] for node in graph["nodes"]]
    assert len(set(ids)) == len(ids)
    shown = graph["qParams"]
    assert set(shown["pinnedIds"]) <= set(ids)
    assert {link[end] for link in graph["links"] for end in ("source", "target")} <= set(ids)
    assert graph["metadata"]["scan"] == "m"
    pieces = [piece.strip() for piece in graph["metadata"]["prompt_tokens"]]
    assert pieces == ["<eos>", *prompt.split()]
    for (label, *members), module in zip(shown["supernodes"], modules, strict=True):
        assert label == f"module {module.label}: {module.title}"
        assert 0 < len(members) <= 4
        held = {f"{row.layer}_{row.unit}" for row in module.units.to_frame().itertuples()}
        assert {member.rpartition("_")[0] for member in members} <= held
        assert not any(member.endswith("_0") for member in members)  # the first token is BOS


def test_a_weight_is_the_slope_of_the_logit_times_the_activation(model, modules, tmp_path):
    graph = written(tmp_path / "cat.json", modules, model, "the cat sat on", n_neurons=2)
    nodes = {node["node_id"]: node for node in graph["nodes"]}
    tokens, step = model.to_tokens("the cat sat on"), 1e-2

    def centred(scale, layer, unit, at, target):
        def scaled(activation, hook):
            changed = activation.clone()
            changed[:, at, unit] *= scale
            return changed

        hooks = [(f"blocks.{layer}.mlp.hook_post", scaled)]
        with torch.inference_mode():
            last = model.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1].double()
        return float(last[target] - last.mean())

    for link in graph["links"]:
        layer, unit, at = map(int, link["source"].split("_"))
        target = nodes[link["target"]]["feature"]
        rise = centred(1 + step, layer, unit, at, target) - centred(
            1 - step, layer, unit, at, target
        )
        assert link["weight"] == pytest.approx(rise / (2 * step), rel=0.02, abs=1e-4)
        _, cache = model.run_with_cache(tokens)
        activation = cache[f"blocks.{layer}.mlp.hook_post"][0, at, unit]
        assert nodes[link["source"]]["activation"] == pytest.approx(float(activation), abs=1e-5)
    sizes = [abs(link["weight"]) for link in graph["links"][:2]]
    assert sizes == sorted(sizes, reverse=True)


def test_a_list_is_the_one_written_by_hand(tmp_path):
    path = tmp_path / "list.json"
    assert tlm.write_neuronpedia_list(path, toy_modules(), model_id="gpt2-small") == path
    assert json.loads(path.read_text()) == by_hand("neuronpedia_list.json")


def test_one_module_or_some_may_be_listed(tmp_path):
    expected = by_hand("neuronpedia_list.json")
    for modules, kept in ((toy_modules()[1], expected[2:]), ([toy_modules()[0]], expected[:2])):
        tlm.write_neuronpedia_list(tmp_path / "list.json", modules, model_id="gpt2-small")
        assert json.loads((tmp_path / "list.json").read_text()) == kept


def test_a_module_without_neurons_has_no_supernode(toy, tmp_path):
    modules = replace(toy_modules(), unit_labels=np.array([0, 0, -1, -1]))
    graph = written(tmp_path / "one.json", modules, toy, "two one")
    assert graph["qParams"]["supernodes"] == [["module 0: one", "0_1_1", "0_0_1"]]


@unsaid
def test_what_is_no_neuron_is_refused(model, prompts, tmp_path):
    acts = tlm.collect(model, prompts, units="attn_heads", progress=False)
    heads = tlm.discover(acts, 2, progress=False)
    said = r"module \d has units at 'blocks.\d.attn.hook_z'. Pass modules of"
    with pytest.raises(tlm.ModulesError, match=said):
        tlm.write_neuronpedia_list(tmp_path / "list.json", heads, model_id="m")
    with pytest.raises(tlm.ModulesError, match=said):
        tlm.write_attribution_graph(tmp_path / "graph.json", heads, model, "the cat")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "graph.html"}, "path should end in .json.* Name it graph.json"),
        ({"prompt": "two"}, "at least two tokens"),
        ({"n_neurons": 100}, "n_neurons should be at most 99 for 2 modules"),
        ({"n_neurons": 0}, "n_neurons should be at least 1"),
        ({"n_logits": 0}, "n_logits should be at least 1"),
        ({"prompt": 7}, "prompt should be a text"),
    ],
)
def test_a_graph_that_cannot_be_is_refused(toy, tmp_path, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)
    given = {"path": "graph.json", "modules": toy_modules(), "model": toy, "prompt": "two one"}
    with untyped(), pytest.raises(tlm.ModulesError, match=said):
        tlm.write_attribution_graph(**(given | change))
    assert not list(tmp_path.iterdir())


def test_modules_that_share_neurons_are_refused(tmp_path):
    modules = toy_modules()
    both = [modules[0], replace(modules[0], label=5)]
    with pytest.raises(tlm.ModulesError, match="modules should share no neuron"):
        tlm.write_neuronpedia_list(tmp_path / "list.json", both, model_id="m")


def test_a_list_needs_the_models_name(tmp_path):
    with pytest.raises(tlm.ModulesError, match="model_id should be Neuronpedia's name"):
        tlm.write_neuronpedia_list(tmp_path / "list.json", toy_modules(), model_id=" ")


def test_another_model_is_refused(other_model, modules, tmp_path):
    with pytest.raises(tlm.ModulesError, match="Use the model that"):
        tlm.write_attribution_graph(tmp_path / "graph.json", modules, other_model, "the cat")


def test_a_graph_keeps_to_what_the_viewers_read_of_it(model, modules, tmp_path):
    """As in circuit-tracer's ``util-cg.js`` and ``init-cg-subgraph.js``, and Neuronpedia's own."""
    graph = written(tmp_path / "cat.json", modules, model, "the cat sat on the", n_neurons=4)
    shown, tokens = graph["qParams"], graph["metadata"]["prompt_tokens"]
    nodes = {node["node_id"]: node for node in graph["nodes"]}
    labels = [label for label, *_ in shown["supernodes"]]
    # A supernode's label is its id: it should be no other's, and no node's.
    assert len(set(labels)) == len(labels)
    assert not set(labels) & set(nodes)
    assert len(shown["pinnedIds"]) <= 200
    members = [member for _, *held in shown["supernodes"] for member in held]
    assert len(set(members)) == len(members)
    assert set(members) < set(shown["pinnedIds"])  # what is not pinned is not drawn
    assert shown["clickedId"] in shown["pinnedIds"]
    assert shown["linkType"] in ("input", "output", "either", "both")
    assert not {"clerps", "gridsnap"} & set(shown)  # JSON texts, where they are given
    assert graph["metadata"]["schema_version"] == 1  # features are paired numbers
    for node in nodes.values():
        assert 0 <= node["ctx_idx"] < len(tokens)
        if node["feature_type"] == "logit":
            assert float(node["clerp"].split("(p=")[1].split(")")[0]) <= 1
        elif node["feature_type"] != "embedding":
            # Unpaired as in util.js: the layer and the neuron, which the label names.
            largest = int(((8 * node["feature"] + 1) ** 0.5 - 1) // 2)
            unit = node["feature"] - largest * (largest + 1) // 2
            assert node["clerp"] == f"neuron {largest - unit}/{unit}"
            assert node["layer"] == str(largest - unit)
