"""The documentation's examples run as they stand, on a tiny model in the place of the real one."""

import re
from collections import Counter
from pathlib import Path

import pytest

import tl_modules.data
from tests.conftest import LEGACY, tiny_model

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
NEEDS_4 = ("how-to/own-model.md", "how-to/patch-modules.md")
"""These use what TransformerLens has from 4 on, and say so."""


def examples(page):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


TESTED = [page for page in PAGES if examples(page)]


@pytest.fixture(scope="module")
def small_models():
    """By the names of the real ones; they know the words of the examples and common ones."""
    code = " ".join(example for page in TESTED for example in examples(page))
    prompts = Counter(" ".join(tl_modules.data.load_prompts()["prompt"]).split())
    common = [word for word, _ in prompts.most_common(300)]
    known = sorted({*common, *re.findall(r"\w+", code), *code.split()})
    first = tiny_model(d_mlp=32, known=known, n_ctx=256)
    first.tokenizer.chat_template = "{{ messages[0]['content'] }} how "
    return {
        "SmolLM2-135M-Instruct": first,
        "gemma-3-270m": tiny_model(n_layers=2, d_mlp=48, seed=1, known=known),
    }


# A tiny model's modules mix categories, so that ties are frequent. One of seven may have none of
# the few units: which one depends on the last bits of the processor's sums.
@pytest.mark.filterwarnings("ignore:The own category of some modules is a tie")
@pytest.mark.filterwarnings(r"ignore:Module \d+ has no units")
@pytest.mark.parametrize("page", TESTED)
def test_the_pages_examples_run(page, small_models, monkeypatch, tmp_path):
    if LEGACY and page in NEEDS_4:
        pytest.skip("needs TransformerLens 4")

    def load(name="SmolLM2-135M-Instruct"):
        return small_models[name]

    monkeypatch.setattr("tl_modules.data.load_demo_model", load)
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, example in enumerate(examples(page)):
        exec(compile(example, f"{page}, example {number}", "exec"), names)


def test_pages_with_tested_examples_are_found():
    assert {"tutorial.md", "how-to/ablate-in-a-notebook.md", *NEEDS_4} <= set(TESTED)


@pytest.mark.skipif(LEGACY, reason="needs TransformerLens 4")
def test_a_tokenizer_built_in_memory_adds_one_bos_as_documented(tmp_path, monkeypatch):
    [example] = [each for each in examples("how-to/own-model.md") if "tokenizer_object" in each]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, "own-model.md", "exec"), names)
    assert names["model"].to_tokens("the cat sat").tolist() == [[2, 3, 4, 5]]
    with_options = names["PreTrainedTokenizerFast"](
        tokenizer_object=names["built"],
        **names["special"],
        name_or_path="any name",
        add_bos_token=True,
    )
    found = names["TransformerBridge"].boot_transformers(
        "my-model", hf_model=names["LlamaForCausalLM"](names["config"]), tokenizer=with_options
    )
    assert found.to_tokens("the cat sat").tolist() == [[2, 3, 4, 5]]
