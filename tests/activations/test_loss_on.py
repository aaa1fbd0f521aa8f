"""Attribution to the loss of prompts, of answers and of both, against autograd on one prompt."""

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model
from tl_modules.activations import batch_runner
from tl_modules.activations.reading import Reading
from tl_modules.models.batches import batches
from tl_modules.saving import files

ROWS = pd.DataFrame(
    {
        "prompt": ["the cat sat on the", "one plus two", "not", "if a red bird flew over the big"],
        "answer": ["mat", "equals three", "is was why", "house"],
        "separator": " ",
    }
)
JOINED = (ROWS["prompt"] + " " + ROWS["answer"]).tolist()
CHOICES = ("prompt", "answer", "all")
CLOSE = {"rtol": 1e-3, "atol": 1e-6}


def collected(model, prompts=ROWS, **options):
    return tlm.collect(model, prompts, weight="attribution", progress=False, **options)


def by_hand(model, tokens, scored):
    """Activation times gradient at each token, of the neurons of all layers.

    Args:
        model: The model.
        tokens: One text's tokens.
        scored: The positions of the tokens whose loss is summed.
    """
    kept = []

    def keep(activation, hook):
        activation.retain_grad()
        kept.append(activation)

    hooks = [(f"blocks.{layer}.mlp.hook_post", keep) for layer in range(3)]
    logits = model.run_with_hooks(tokens[None], fwd_hooks=hooks)[0]
    places = torch.tensor(list(scored))
    (-logits.log_softmax(-1)[places - 1, tokens[places]]).sum().backward()
    model.zero_grad()
    return torch.cat([(each * each.grad)[0] for each in kept], dim=1).detach().numpy()


def parts_of(model, row):
    """A prompt's tokens with its answer's, and where the answer begins."""
    start = model.to_tokens(ROWS["prompt"][row]).shape[1]
    return model.to_tokens(JOINED[row])[0], start


def expected(model, loss_on, tokens="all"):
    found = []
    for row in range(len(ROWS)):
        both, start = parts_of(model, row)
        if loss_on == "prompt":
            both = both[:start]
        scored = range(start if loss_on == "answer" else 1, len(both))
        # The tokenizer of the tiny model writes one special token, BOS.
        counted = slice(1, start) if tokens == "content" else slice(None)
        found.append(np.abs(by_hand(model, both, scored)[counted]).mean(0))
    return np.array(found)


@pytest.mark.parametrize("loss_on", CHOICES)
def test_a_value_is_activation_times_gradient_of_the_named_tokens_loss(model, loss_on, monkeypatch):
    for tokens in ("all", "content"):
        by_autograd = expected(model, loss_on, tokens)
        for side, on_device in (("left", tokens == "all"), ("right", tokens != "all")):
            monkeypatch.setattr(model.tokenizer, "padding_side", side)
            monkeypatch.setattr(batch_runner, "reads_on_device", lambda _, it=on_device: it)
            found = collected(model, loss_on=loss_on, tokens=tokens, batch_size=3)
            np.testing.assert_allclose(found.values, by_autograd, **CLOSE)
    # A prompt of one word has no content whose loss follows it.
    assert (by_autograd > 1e-5).mean() > 0.7


def test_the_default_reads_no_answer(model):
    bare = collected(model, ROWS["prompt"].tolist(), batch_size=2)
    for given in ({}, {"loss_on": "prompt"}):
        found = collected(model, batch_size=2, **given)
        assert found.reading == Reading(weight="attribution")
        np.testing.assert_array_equal(found.values, bare.values)


def test_all_tokens_are_those_of_prompts_and_answers_as_one_text(model):
    joined = collected(model, JOINED)
    for loss_on in ("answer", "all"):
        found = collected(model, loss_on=loss_on)
        assert found.samples["n_tokens"].equals(joined.samples["n_tokens"])
        # What mean ablation puts in the place of activations, at the tokens that count.
        np.testing.assert_allclose(found.unit_means, joined.unit_means, **CLOSE)
    np.testing.assert_allclose(found.values, joined.values, **CLOSE)


def test_content_is_the_prompts_own_text_whichever_loss_is_taken(model):
    prompts = [collected(model, loss_on=loss_on, tokens="content") for loss_on in CHOICES]
    own = [len(text.split()) for text in ROWS["prompt"]]
    for found in prompts:
        assert found.samples["n_tokens"].tolist() == own
        np.testing.assert_allclose(found.unit_means, prompts[0].unit_means, **CLOSE)


def test_in_chat_form_the_template_stands_before_the_answer():
    chatty = tiny_model()
    chatty.tokenizer.chat_template = "why {{ messages[0]['content'] }} how "
    prompt, answer = "the cat", "sat on the mat"
    frame = pd.DataFrame({"prompt": [prompt], "answer": [answer]})
    text = chatty.tokenizer(f"why {prompt} how {answer}", add_special_tokens=False)["input_ids"]
    for loss_on, scored in (("answer", range(4, 8)), ("all", range(1, 8))):
        products = np.abs(by_hand(chatty, torch.tensor(text), scored))
        for tokens, counted in (("all", slice(None)), ("content", slice(1, 3))):
            found = collected(chatty, frame, chat=True, loss_on=loss_on, tokens=tokens)
            np.testing.assert_allclose(found.values[0], products[counted].mean(0), **CLOSE)


def test_a_batch_that_memory_does_not_hold_keeps_its_places(model, monkeypatch):
    values = batch_runner.batch_values

    def short(model, batch, *rest):
        if len(batch.rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return values(model, batch, *rest)

    whole = collected(model, loss_on="answer").values
    monkeypatch.setattr(batch_runner, "batch_values", short)
    with pytest.warns(UserWarning, match="it in halves"):
        halved = collected(model, loss_on="answer", batch_size=4)
    np.testing.assert_allclose(halved.values, whole, **CLOSE)


def test_some_positions_of_a_batch_have_their_losses_where_the_prompts_had_them():
    (batch,) = batches([torch.arange(6), torch.arange(4)], 2, starts=np.array([3, 2]))
    assert batch.at(slice(2, 6)).starts.tolist() == [1, 0]
    assert batch.part(slice(1, 2)).starts.tolist() == [2]
    (plain,) = batches([torch.arange(6)], 1)
    assert plain.at(slice(2, 6)).starts is plain.part(slice(1)).starts is None


def test_a_file_remembers_the_choice(model, tmp_path):
    for loss_on, said in (
        ("answer", "the answer's loss"),
        ("all", "the loss of prompt and answer"),
    ):
        collected(model, loss_on=loss_on).save(tmp_path / "acts.safetensors")
        loaded = tlm.ActivationMatrix.load(tmp_path / "acts.safetensors")
        assert loaded.reading == Reading(weight="attribution", loss_on=loss_on)
        assert f"mean |attribution| to {said}" in repr(loaded)


def test_files_without_the_choice_are_those_of_earlier_versions(model, tmp_path):
    acts = collected(model)
    header, arrays = acts.parts()
    del header["reading"]["loss_on"]
    path = tmp_path / "acts.safetensors"
    files.write(path, "ActivationMatrix", header, arrays)
    assert tlm.ActivationMatrix.load(path).reading == acts.reading == Reading(weight="attribution")
    header["reading"]["loss_on"] = "answers"
    files.write(path, "ActivationMatrix", header, arrays)
    with pytest.raises(tlm.ModulesError, match="loss_on"):
        tlm.ActivationMatrix.load(path)


def test_a_store_is_resumed_with_the_same_choice_only(model, tmp_path):
    options = {"store": tmp_path / "store", "dtype": "float32", "batch_size": 2}
    store = collected(model, loss_on="answer", **options)
    rows = store.samples["row"].to_numpy()
    matrix = collected(model, loss_on="answer", batch_size=2)
    np.testing.assert_array_equal(store.matrix().values, matrix.values[rows])
    assert store.reading == matrix.reading
    again = collected(model, loss_on="answer", **options)
    np.testing.assert_array_equal(again.matrix().values, store.matrix().values)
    # The same texts run, and only the tokens whose loss counts differ.
    with pytest.raises(tlm.ModulesError, match="begun with other settings: reading differ"):
        collected(model, loss_on="all", **options)
    with pytest.raises(tlm.ModulesError, match=r"begun with other settings: .*reading"):
        collected(model, ROWS.drop(columns="separator"), **options)


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (
            ROWS[["prompt"]],
            {"loss_on": "answer"},
            "loss_on='answer' reads a column 'answer' beside 'prompt'; the prompts have 'prompt'"
            ".*Add it, or use loss_on='prompt'",
        ),
        (ROWS.assign(answer=["a", None, "b", "c"]), {"loss_on": "all"}, "prompt 1 has nan|None"),
        (ROWS, {"loss_on": "all", "max_tokens": 4}, "it would cut the answers off. Leave it out"),
        (ROWS, {"loss_on": "answers"}, "loss_on should be one of 'prompt', 'answer', 'all'"),
        (
            ROWS,
            {"loss_on": "all", "weight": "effect"},
            "weight='effect' takes none; got loss_on='all'. Leave loss_on out, or pass "
            "weight='attribution'",
        ),
        (ROWS, {"loss_on": "answer", "weight": "activation"}, "weight='activation' takes none"),
        (ROWS, {"loss_on": "answer", "tokens": "answer"}, "no token follows the last one"),
        (ROWS, {"separator": " "}, "separator should be left out where no answer is read"),
    ],
)
def test_what_does_not_fit_is_refused(model, frame, options, message, tmp_path):
    given = {"weight": "attribution", "store": tmp_path / "store", "dtype": "float32"} | options
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.collect(model, frame, progress=False, **given)
    assert not (tmp_path / "store").exists()
