"""What a model writes, and what stays as it was."""

import pytest
import torch

import tl_modules as tlm
from tl_modules.models.generation import continued, decoded, generated_rows, up_to_end


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


def test_a_text_ends_with_its_first_special_token(model):
    end = model.tokenizer.eos_token_id
    tokens = torch.tensor([end, 5, 6, end, 7])
    assert up_to_end(model, tokens, 1).tolist() == [end, 5, 6, end]
    assert up_to_end(model, tokens[:3], 1).tolist() == [end, 5, 6]
    assert decoded(model, up_to_end(model, tokens, 1)[1:]) == model.tokenizer.decode([5, 6])
