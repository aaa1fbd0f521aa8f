"""Models and matrices that the tests share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports huggingface_hub

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from tests.planted import planted_matrix

SHARED = Path(__file__).parents[2] / "shared"
LEGACY = version("transformer-lens").startswith("3.")
once = pytest.mark.skipif(LEGACY, reason="no model is in it: it runs with TransformerLens 4 alone")
"""Of tests that take long."""

long_once = pytest.mark.skipif(
    LEGACY, reason="it takes minutes, and shorter tests cover the same code on TransformerLens 3.9"
)

LONGEST = [
    "test_calibration_of_all.py",  # ten minutes
    *("test_notebooks.py", "test_wheel_models.py", "test_resume.py", "test_files.py"),
    *("test_several.py", "test_docs_commands.py", "test_wrong_objects.py", "test_calibration.py"),
    *("test_demo.py", "test_readme.py", "test_processes.py", "test_wheel.py"),
]
"""The files that take longest, in the order in which they begin."""


def pytest_collection_modifyitems(items):
    """Begin with the longest files, so that no worker ends alone with one of them."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


unsaid = pytest.mark.filterwarnings(
    "ignore:The own category of some modules is a tie",
    "ignore:No module's own category is among the prompts'",
    "ignore:Module .* every control is the module itself",
)
"""Of tests on small models and prompts, whose modules' categories are not what is tested."""

unequal = pytest.mark.filterwarnings("ignore:Category .* prompts and .* has")
"""Of tests whose few samples happen to be unequally many of each category."""

WORDS = [
    "the",
    "a",
    "one",
    "two",
    "three",
    "plus",
    "minus",
    "equals",
    "cat",
    "dog",
    "bird",
    "sat",
    "ran",
    "flew",
    "on",
    "over",
    "under",
    "mat",
    "house",
    "tree",
    "red",
    "green",
    "blue",
    "big",
    "small",
    "and",
    "or",
    "not",
    "is",
    "was",
    "why",
    "how",
    "def",
    "return",
    "if",
    "else",
    "print",
    "(",
    ")",
    ":",
    "=",
]


def word_tokenizer(known=WORDS):
    """A word-level tokenizer made in memory: no download. One a model, which adds a BOS to it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", "<eos>", *known])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    )


def byte_tokenizer(texts):
    """A byte-level tokenizer that merges what these texts hold often; BOS is ``<s>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    pieces.train_from_iterator(texts * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        # Without these TransformerLens would load it again from its name.
        name_or_path="bytes",
        add_bos_token=True,
    )


def tiny_model(
    *,
    n_layers=3,
    d_mlp=12,
    gated=True,
    seed=0,
    normalization_type="RMS",
    known=WORDS,
    n_ctx=64,
    tokenizer=None,
):
    """A small random model: a TransformerBridge on 4.x, a HookedTransformer on 3.9."""
    tokenizer = tokenizer or word_tokenizer(known)
    config = {
        "n_layers": n_layers,
        "d_model": 16,
        "d_head": 8,
        "n_heads": 2,
        "d_mlp": d_mlp,
        "n_ctx": n_ctx,
        "d_vocab": len(tokenizer),
        "act_fn": "silu",
        "gated_mlp": gated,
        "normalization_type": normalization_type,
        "positional_embedding_type": "rotary",
        "rotary_dim": 8,
        "seed": seed,
        "model_name": "tiny",
        "initializer_range": 0.3,
    }
    if LEGACY:
        # The real one, to test against.
        from transformer_lens import (
            HookedTransformer,  # noqa: TID251
            HookedTransformerConfig,
        )

        model = HookedTransformer(HookedTransformerConfig(**config), tokenizer=tokenizer)
    else:
        from transformer_lens.model_bridge import TransformerBridge

        model = TransformerBridge.boot_native(config, tokenizer=tokenizer, model_name="tiny")
    return model.eval()


@pytest.fixture(scope="session")
def model():
    """Three layers of twelve gated neurons."""
    return tiny_model()


@pytest.fixture(scope="session")
def other_model():
    """A model of another shape."""
    return tiny_model(n_layers=2, d_mlp=8, gated=False)


@pytest.fixture(scope="session")
def prompts():
    """Prompts of two categories and many lengths."""
    import pandas as pd

    generator = np.random.default_rng(0)
    halves = {"animal": WORDS[:22], "code": WORDS[22:]}
    rows = [
        {"category": category, "prompt": " ".join(generator.choice(words, size=length))}
        for length in (2, 3, 5, 8, 8, 13, 21, 30)
        for category, words in halves.items()
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def acts(model, prompts):
    """The tiny model's activations over the prompts."""
    import tl_modules as tlm

    return tlm.collect(model, prompts, progress=False)


@pytest.fixture(scope="session")
def modules(acts):
    """Three modules of them."""
    import tl_modules as tlm

    return tlm.discover(acts, 3)


@pytest.fixture(scope="session")
def planted():
    """A matrix with four planted blocks, and its labels."""
    return planted_matrix(n_samples=60, n_units=160, n_modules=4, seed=0, strength=1.5)


@pytest.fixture(scope="session")
def demo_model():
    """The real demo model, loaded once."""
    from tl_modules.data import load_demo_model

    return load_demo_model()


@pytest.fixture(scope="session")
def shared():
    """Test data beside the project; the project itself does not need it."""
    if not SHARED.is_dir():
        pytest.skip("the reference data beside the project (../shared) is absent")
    return SHARED
