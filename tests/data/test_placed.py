"""A model whose layers lie on several devices, here the CPU and the disk."""

import json
import re

import numpy as np
import pytest

import tl_modules as tlm
from tests.architectures import hugging_face_model
from tests.conftest import LEGACY, unsaid, word_tokenizer
from tl_modules.data.models import load_model

pytestmark = pytest.mark.skipif(LEGACY, reason="TransformerLens 3.9 puts no layer on the disk")

PLACES = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "disk",
    "lm_head": "disk",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("model")
    hugging_face_model("Llama").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


@unsaid
def test_layers_on_the_disk_give_the_same_activations_and_effects(folder, prompts):
    whole = load_model(folder)
    placed = load_model(folder, device_map=json.dumps(PLACES))
    lies = {str(tensor.device) for _, tensor in placed.named_parameters()}
    assert lies == {"cpu", "meta"}  # accelerate's word for what is not loaded
    acts = tlm.collect(whole, prompts, progress=False)
    found = tlm.collect(placed, prompts, progress=False)
    np.testing.assert_array_equal(found.values, acts.values)
    modules = tlm.discover(acts, 3, progress=False)
    of_whole, of_placed = (
        tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)
        for model in (whole, placed)
    )
    np.testing.assert_array_equal(of_placed["effect"], of_whole["effect"])


def test_a_dtype_is_what_the_weights_are_in(folder, prompts):
    model = load_model(folder, dtype="bfloat16")
    assert {str(tensor.dtype) for _, tensor in model.named_parameters()} == {"torch.bfloat16"}
    assert tlm.collect(model, prompts, progress=False).values.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype should be one of 'float32', 'bfloat16', 'float16'; got 'int8'"),
        ({"device_map": "{broken"}, "A device map should be a name such as 'auto', or a JSON"),
        ({"device_map": '{"model": "nowhere"}'}, "Cannot load the model"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(folder, options, message):
    with pytest.raises(tlm.ModulesError, match=re.escape(message)):
        load_model(folder, **options)


def test_the_demo_model_is_placed_whole():
    with pytest.raises(tlm.ModulesError, match="should run in float32 on one device"):
        load_model("demo", device_map="auto")
