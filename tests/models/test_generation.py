"""What a model writes, where its text ends, and what stays as it was."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import tl_modules as tlm
from tests.architectures import hooked_model, hugging_face_model
from tests.conftest import LEGACY, tiny_model
from tl_modules.models.generation import (
    continued,
    decoded,
    end_tokens,
    generated_rows,
    text_end,
    up_to_end,
)
from tl_modules.report.continuations import continuations
from tl_modules.thoughts.chains import written_chains


def test_sampling_is_seeded_and_puts_the_global_generator_back(model):
    tokens = model.to_tokens("the cat sat")[0]
    before = torch.get_rng_state()
    options = {"remedy": "", "temperature": 2.0}
    first, again, other = (
        continued(model, tokens, 12, seed=seed, **options).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_other_devices_are_not_seeded(model, monkeypatch):
    def seeded(*_):
        raise AssertionError("a model on the CPU needs no GPU's generator")

    monkeypatch.setattr("torch.cuda.manual_seed_all", seeded)
    monkeypatch.setattr("torch.manual_seed", seeded)
    assert len(continued(model, model.to_tokens("the cat")[0], 2, remedy="")) > 2


def test_what_does_not_fit_the_context_is_refused_before_it_is_written(model):
    tokens = model.to_tokens("the cat sat on the mat")[0]
    room = model.cfg.n_ctx - len(tokens)
    with pytest.raises(tlm.ModulesError, match="should fit the model's context of 64 tokens"):
        continued(model, tokens, room + 1, remedy="")
    assert len(continued(model, tokens, room, remedy="")) <= model.cfg.n_ctx


def test_several_prompts_of_one_length_are_continued_as_each_alone(model):
    rows = torch.cat([model.to_tokens(text) for text in ("the cat sat", "one plus two")])
    together = generated_rows(model, rows, 6, remedy="")
    for row, tokens in zip(together, rows, strict=True):
        alone = up_to_end(model, continued(model, tokens, 6, remedy=""), len(tokens))
        assert torch.equal(up_to_end(model, row, len(tokens)), alone)


PAD, UNK, EOS = 0, 1, 2


def test_eos_and_padding_end_a_text_and_unk_does_not(model):
    assert end_tokens(model) == {PAD, EOS}
    for end in (PAD, EOS):
        tokens = torch.tensor([EOS, 5, UNK, 6, end, 7])
        assert text_end(model, tokens, 1) == 4
        assert up_to_end(model, tokens, 1).tolist() == [EOS, 5, UNK, 6, end]
        assert up_to_end(model, tokens[:4], 1).tolist() == [EOS, 5, UNK, 6]
        assert text_end(model, tokens, 6) == 6


@pytest.mark.parametrize(
    ("names", "ends"),
    [
        ({"bos_token": "cat", "additional_special_tokens": ["dog"]}, {PAD, EOS}),
        ({"eos_token": "<unk>"}, {PAD, UNK}),  # as in GPT-2
        ({"pad_token": "<unk>"}, {EOS}),  # as in Llama
        ({"eos_token": "<no token of it>"}, {PAD}),  # it has the id of UNK
        ({"pad_token": None, "eos_token": None}, set()),
    ],
    ids=str,
)
def test_special_tokens_end_a_text_by_what_they_are(names, ends):
    model = tiny_model()  # TransformerLens gives its tokenizer what it lacks: it is changed later
    tokenizer = model.tokenizer
    for name, token in names.items():
        if name.startswith("additional"):
            tokenizer.add_special_tokens({name: token})
        else:
            setattr(tokenizer, name, token)
    assert end_tokens(model) == ends
    if LEGACY and not ends:
        return  # a HookedTransformer does not write without padding
    # TransformerLens refuses to write without EOS unless it is told that there is none.
    assert len(continued(model, torch.tensor([5, 6]), 2, remedy="")) >= 2


@pytest.mark.skipif(LEGACY, reason="a HookedTransformer has no generation config")
def test_the_generation_config_may_name_more_ends(model):
    bridge = hooked_model(hugging_face_model("Llama"), "Llama")
    tokens = torch.tensor([5, 6, 7])
    whole = continued(bridge, tokens, 8, remedy="")
    last = int(whole[5])
    bridge.original_model.generation_config = SimpleNamespace(eos_token_id=[last, 999])
    assert end_tokens(bridge) >= {PAD, EOS, last}
    first = whole[3:].tolist().index(last) + 3
    assert continued(bridge, tokens, 8, remedy="").tolist() == whole[: first + 1].tolist()
    assert text_end(bridge, whole, 3) == first


def test_all_that_write_end_a_text_at_the_same_token(model, modules, monkeypatch):
    prompt = " ".join(str(modules[0].samples["prompt"].iloc[0]).split()[:10])
    samples = modules.samples.assign(prompt=prompt)
    modules = replace(modules, samples=samples)
    tokens = model.to_tokens(prompt)[0]
    start = len(tokens)
    whole = continued(model, tokens, 24, remedy="")
    new = whole[start:].tolist()
    later = (at for at in range(1, len(new)) if new[at] > EOS and new[at] not in new[:at])
    end = start + next(later, 0)  # the first, if the model repeats one token
    monkeypatch.setattr(model.cfg, "eos_token_id", [int(whole[end])], raising=False)
    wanted = decoded(model, whole[start:end])
    shown = tlm.explore(model, modules, prompt=prompt).run(n_new_tokens=24).texts["text"]["clean"]
    assert shown.strip() == wanted
    options = {"n_chains": 1, "n_new_tokens": 24, "temperature": 0.0, "seed": 0}
    [chain] = written_chains(model, [tokens], **options, progress=False)
    assert chain.tokens.tolist() == whole[:end].tolist()
    found = continuations(model, modules, {0: modules[0]}, progress=False)
    assert found[0].unchanged == wanted
    assert up_to_end(model, whole, start).tolist() == whole[: end + 1].tolist()
