"""Which tokens count, in which form prompts stand, and what becomes of their activations."""

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import byte_tokenizer, tiny_model
from tl_modules.activations.prompt_tokens import prompt_tokens
from tl_modules.activations.reading import Reading
from tl_modules.models.gradients import loss_gradients
from tl_modules.saving import files

CHAT = (
    "{% for m in messages %}why {{ m['content'] | trim }} how {% endfor %}"
    "{% if add_generation_prompt %}def {% endif %}"
)
PROMPTS = ["the cat sat", "  one plus two equals three ", "why how why"]
NAME = "blocks.1.mlp.hook_post"


@pytest.fixture(scope="module")
def chatty():
    """A model whose tokenizer has a chat template; it adds a BOS to plain prompts."""
    model = tiny_model()
    model.tokenizer.chat_template = CHAT
    return model


def collected(model, prompts=PROMPTS, **options):
    return tlm.collect(model, prompts, progress=False, **options)


def neurons(model, tokens):
    """The second layer's activations at each token."""
    with torch.inference_mode():
        return model.run_with_cache(tokens)[1][NAME][0].numpy()


def chat_text(prompt, answer=""):
    return f"why {prompt.strip()} how def {answer}".strip()


def in_chat(model, prompt, answer=""):
    return model.tokenizer(chat_text(prompt, answer), return_tensors="pt")["input_ids"]


def test_content_leaves_bos_out(chatty):
    assert int(chatty.to_tokens("the cat")[0, 0]) == chatty.tokenizer.bos_token_id
    acts = collected(chatty, tokens="content")
    for row, prompt in enumerate(PROMPTS):
        a = neurons(chatty, chatty.to_tokens(prompt))[1:]
        np.testing.assert_allclose(acts.values[row, 12:24], np.abs(a).mean(0), rtol=1e-4)
    assert acts.samples["n_tokens"].tolist() == [3, 5, 3]
    assert not np.allclose(acts.values, collected(chatty).values)


def test_last_is_the_last_token_alone(chatty):
    acts = collected(chatty, tokens="last")
    for row, prompt in enumerate(PROMPTS):
        a = neurons(chatty, chatty.to_tokens(prompt))[-1]
        np.testing.assert_allclose(acts.values[row, 12:24], np.abs(a), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("tokens", ["all", "content", "last"])
def test_chat_puts_prompts_into_the_template(chatty, tokens):
    acts = collected(chatty, chat=True, tokens=tokens)
    for row, prompt in enumerate(PROMPTS):
        ids = in_chat(chatty, prompt)
        chosen = {"all": slice(None), "content": slice(1, -2), "last": slice(-1, None)}[tokens]
        a = np.abs(neurons(chatty, ids)[chosen])
        np.testing.assert_allclose(acts.values[row, 12:24], a.mean(0), rtol=1e-4, atol=1e-7)
        assert acts.samples["n_tokens"][row] == len(a)


@pytest.mark.parametrize("chat", [False, True])
def test_answers_alone_are_read(chatty, chat):
    answers = ["on the mat", "not", "is was"]
    frame = pd.DataFrame({"prompt": PROMPTS, "answer": answers, "separator": " "})
    acts = collected(chatty, frame, tokens="answer", chat=chat)
    for row, (prompt, answer) in enumerate(zip(frame["prompt"], frame["answer"], strict=True)):
        ids = in_chat(chatty, prompt, answer) if chat else None
        if ids is None:
            ids = chatty.to_tokens(f"{prompt} {answer}")
        a = np.abs(neurons(chatty, ids)[-len(answer.split()) :])
        np.testing.assert_allclose(acts.values[row, 12:24], a.mean(0), rtol=1e-4, atol=1e-7)
    for bad in (frame.drop(columns="answer"), frame.assign(answer=["", "a", "b"])):
        with pytest.raises(tlm.ModulesError, match="answer"):
            collected(chatty, bad, tokens="answer", chat=chat)
    with pytest.raises(tlm.ModulesError, match="would cut off the answers"):
        collected(chatty, frame, tokens="answer", chat=chat, max_tokens=3)


def test_in_chat_form_max_tokens_cuts_the_prompts_own_text(chatty):
    acts = collected(chatty, ["the cat sat on the mat"], chat=True, max_tokens=3)
    np.testing.assert_array_equal(acts.values, collected(chatty, ["the cat sat"], chat=True).values)


def test_means_for_ablation_are_over_the_tokens_that_count(chatty):
    acts = collected(chatty, tokens="last")
    lasts = [neurons(chatty, chatty.to_tokens(prompt))[-1] for prompt in PROMPTS]
    np.testing.assert_allclose(acts.unit_means[12:24], np.mean(lasts, axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("mean", lambda a: np.abs(a).mean(0)),
        ("rms", lambda a: np.sqrt((a**2).mean(0))),
        ("max", lambda a: np.abs(a).max(0)),
        ("fraction_active", lambda a: (a > 0).mean(0)),
    ],
)
def test_aggregates_are_what_they_say(chatty, aggregate, expected):
    acts = collected(chatty, aggregate=aggregate)
    collector = tlm.Collector(chatty, reading=tlm.Reading(aggregate=aggregate))
    for row, prompt in enumerate(PROMPTS):
        tokens = chatty.to_tokens(prompt)
        found = expected(neurons(chatty, tokens))
        np.testing.assert_allclose(acts.values[row, 12:24], found, rtol=1e-4, atol=1e-7)
        with torch.inference_mode():
            collector.add(chatty.run_with_cache(tokens)[1])
    np.testing.assert_allclose(collector.matrix().values, acts.values, rtol=1e-4, atol=1e-7)
    assert collector.matrix().reading == acts.reading == Reading(aggregate=aggregate)


def test_a_heads_size_is_its_length_under_every_aggregate(chatty):
    with torch.inference_mode():
        cache = chatty.run_with_cache(chatty.to_tokens(PROMPTS[1]))[1]
    lengths = cache["blocks.1.attn.hook_z"].reshape(-1, 2, 8).norm(dim=-1)
    expected = {
        "mean": lengths.mean(0),
        "rms": lengths.square().mean(0).sqrt(),
        "max": lengths.amax(0),
    }
    for aggregate, values in expected.items():
        acts = collected(chatty, units="attn_heads", aggregate=aggregate)
        np.testing.assert_allclose(acts.values[1, 2:4], values.numpy(), rtol=1e-4)
    with pytest.raises(tlm.ModulesError, match="needs units that can be inactive"):
        collected(chatty, units="attn_heads", aggregate="fraction_active")


def test_attributions_are_read_at_the_same_tokens(chatty):
    acts = collected(chatty, weight="attribution", tokens="content")
    for row, prompt in enumerate(PROMPTS):
        tokens = chatty.to_tokens(prompt)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        activations, gradients = loss_gradients(chatty, tokens, mask, [NAME])
        products = (activations[NAME] * gradients[NAME])[0, 1:].abs().mean(0)
        np.testing.assert_allclose(acts.values[row, 12:24], products.numpy(), rtol=1e-3, atol=1e-7)
    for which in ("last", "answer"):
        with pytest.raises(tlm.ModulesError, match="no token follows the last one"):
            collected(chatty, weight="attribution", tokens=which)
    with pytest.raises(tlm.ModulesError, match="counts tokens where a unit is active"):
        collected(chatty, weight="attribution", aggregate="fraction_active")


@pytest.mark.parametrize("options", [{"tokens": "last"}, {"chat": True, "aggregate": "rms"}])
def test_files_stores_and_modules_keep_the_reading(chatty, options, tmp_path):
    acts = collected(chatty, **options)
    acts.save(tmp_path / "acts.safetensors")
    assert tlm.ActivationMatrix.load(tmp_path / "acts.safetensors").reading == acts.reading
    store = collected(chatty, store=tmp_path / "store", **options)
    assert store.reading == store.matrix().reading == acts.reading
    modules = tlm.discover(acts, 2)
    modules.save(tmp_path / "modules.safetensors")
    assert tlm.ModuleSet.load(tmp_path / "modules.safetensors").reading == Reading(**options)
    assert str(acts.reading) in repr(acts)
    labelled = collected(chatty, pd.DataFrame({"prompt": PROMPTS, "category": list("aba")}))
    with pytest.raises(tlm.ModulesError, match="should have the reading of the modules"):
        tlm.probe(modules, labelled, labelled)


def test_what_cannot_be_read_is_refused(chatty, model, tmp_path):
    with pytest.raises(tlm.ModulesError, match="aggregate should be one of 'mean', 'rms'"):
        collected(chatty, aggregate="median")
    with pytest.raises(tlm.ModulesError, match="tokens should be one of 'all', 'content'"):
        collected(chatty, tokens="first")
    with pytest.raises(tlm.ModulesError, match="a tokenizer with a chat template"):
        collected(model, chat=True)
    with pytest.raises(tlm.ModulesError, match="at least one token; prompt"):
        collected(chatty, ["the", ""], store=tmp_path / "store")
    assert not (tmp_path / "store").exists()
    with pytest.raises(tlm.ModulesError, match=r"prompt 1 has none to read with tokens='c"):
        collected(chatty, ["the", " "], chat=True, tokens="content")
    with pytest.raises(tlm.ModulesError, match="prompt 0 has none to read with tokens='content'"):
        collected(chatty, tokens="content", max_tokens=1)  # only BOS is left
    with pytest.raises(
        tlm.ModulesError, match=r"prompt 0 should fit .* of 64 tokens; it has 83. Pass max"
    ):
        collected(chatty, ["the " * 80], chat=True)
    other = tiny_model()
    for template, message in (
        ("why how", "should hold the user's message"),
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] | length }}", "puts another"),
        ("{{ raise_exception('no system prompt') }}", "should take a single user's message"),
        ("{% for m in messages %}", "should take a single user's message"),
    ):
        other.tokenizer.chat_template = template
        with pytest.raises(tlm.ModulesError, match=message):
            collected(other, chat=True)


SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}if {{ m['content'] | trim }} else "
    "{% else %}why {{ m['content'] | trim }} how {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}def {% endif %}"
)


@pytest.fixture(scope="module")
def advised():
    """A model whose template has a place for a system prompt."""
    model = tiny_model()
    model.tokenizer.chat_template = SYSTEM
    return model


@pytest.mark.parametrize("tokens", ["all", "content", "last", "answer"])
def test_a_system_prompt_stands_in_the_template_and_is_no_content(advised, tokens):
    frame = pd.DataFrame({"prompt": PROMPTS, "answer": ["on the mat", "not", "is was"]})
    acts = collected(advised, frame, chat=True, system=" a big dog\n", tokens=tokens)
    for row, (prompt, answer) in enumerate(zip(frame["prompt"], frame["answer"], strict=True)):
        n_own, n_answer = len(prompt.split()), len(answer.split())
        text = f"if a big dog else why {prompt.strip()} how def"
        text += f" {answer}" * (tokens == "answer")
        chosen = {
            "all": slice(None),
            "content": slice(6, 6 + n_own),
            "last": slice(-1, None),
            "answer": slice(-n_answer, None),
        }[tokens]
        ids = advised.tokenizer(text, return_tensors="pt")["input_ids"]
        a = np.abs(neurons(advised, ids)[chosen])
        np.testing.assert_allclose(acts.values[row, 12:24], a.mean(0), rtol=1e-4, atol=1e-7)
        assert acts.samples["n_tokens"][row] == len(a)
    if tokens == "content":  # the system prompt moves them all the same
        alone = collected(advised, frame, chat=True, tokens=tokens)
        assert not np.allclose(acts.values, alone.values, rtol=1e-3)


def test_max_tokens_cuts_no_system_prompt(advised):
    options = {"chat": True, "system": "a big dog"}
    acts = collected(advised, ["the cat sat on the mat"], max_tokens=3, **options)
    whole = collected(advised, ["the cat sat"], **options)
    np.testing.assert_array_equal(acts.values, whole.values)


def test_a_system_prompt_is_kept_and_others_are_not_mixed_with_it(advised, tmp_path):
    prompts = pd.DataFrame({"prompt": PROMPTS, "category": list("aba")})
    acts = collected(advised, prompts, chat=True, system="a big dog")
    assert acts.reading == Reading(chat=True, system="a big dog")
    assert "in chat form with system prompt 'a big dog':" in repr(acts)
    acts.save(tmp_path / "acts.safetensors")
    assert tlm.ActivationMatrix.load(tmp_path / "acts.safetensors").reading == acts.reading
    modules = tlm.discover(acts, 2)
    modules.save(tmp_path / "modules.safetensors")
    modules = tlm.ModuleSet.load(tmp_path / "modules.safetensors")
    assert modules.reading == acts.reading
    for system in ("a small dog", "", None):
        other = collected(advised, prompts, chat=True, system=system)
        with pytest.raises(tlm.ModulesError, match=r"reading of the modules.*'a big dog'; they"):
            tlm.probe(modules, acts, other)
    into = {"store": tmp_path / "store", "chat": True}
    store = collected(advised, prompts, system="a big dog", **into)
    assert store.reading == acts.reading
    with pytest.raises(tlm.ModulesError, match="begun with other settings: reading, tokens differ"):
        collected(advised, prompts, system="a small dog", **into)
    # The template trims both to the same tokens.
    with pytest.raises(tlm.ModulesError, match="begun with other settings: reading differ"):
        collected(advised, prompts, system="a big dog ", **into)


def test_files_without_a_system_prompt_are_those_of_earlier_versions(chatty, tmp_path):
    acts = collected(chatty, chat=True)
    header, arrays = acts.parts()
    del header["reading"]["system"]
    path = tmp_path / "acts.safetensors"
    files.write(path, "ActivationMatrix", header, arrays)
    assert tlm.ActivationMatrix.load(path).reading == acts.reading == Reading(chat=True)
    header["reading"]["system"] = ["be brief"]
    files.write(path, "ActivationMatrix", header, arrays)
    with pytest.raises(tlm.ModulesError, match="system"):
        tlm.ActivationMatrix.load(path)


def test_a_long_system_prompt_is_shortened_where_it_is_shown():
    said = str(Reading(chat=True, system="Be brief. " * 100))
    assert said.startswith("mean |activation| in chat form with system prompt 'Be brief. Be")
    assert said.endswith("…'")
    assert len(said) < 120


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not "
            "supported') }}{% endif %}{{ messages[0]['content'] }}",
            "should take a system prompt and a user's message; got System role not supported. "
            "Leave system out",
        ),
        ("{{ messages[-1]['content'] }} how", "it leaves the system prompt out. Leave system out"),
        ("{{ messages[0]['content'] }} how", "should hold the user's message"),
    ],
)
def test_a_template_without_a_place_for_a_system_prompt_is_refused(template, message):
    model = tiny_model()
    model.tokenizer.chat_template = template
    collected(model, chat=True)
    with pytest.raises(tlm.ModulesError, match=message):
        collected(model, chat=True, system="a big dog")


def test_a_system_prompt_without_chat_form_is_refused(chatty):
    with pytest.raises(tlm.ModulesError, match=r"system should come with chat=True.*'a dog' alone"):
        collected(chatty, system="a dog")
    with pytest.raises(tlm.ModulesError, match="system prompt 0 holds half of a character"):
        collected(chatty, chat=True, system="\ud800")
    with pytest.raises(tlm.ModulesError, match="system should be"):
        collected(chatty, chat=True, system=3)


@pytest.mark.parametrize(
    ("template", "merges"), [("how: ", True), ("how:\n", False), ("how:x", True)]
)
def test_an_answer_in_chat_form_follows_the_templates_own_tokens(template, merges):
    """Of "how: sat" and "how:xsat" the tokenizer makes " sat" and "xsat"."""
    tokenizer = byte_tokenizer(["how: sat", "how:xsat", "sat"])
    model = tiny_model(tokenizer=tokenizer)
    ending = template.replace("\n", "{{'\\n'}}")
    tokenizer.chat_template = "{{ messages[0]['content'] }} " + ending
    frame = pd.DataFrame({"prompt": ["the cat"], "answer": ["sat"]})
    reading = tlm.Reading(tokens="answer", chat=True)
    said = r"with 1 of 1 prompts; the first is prompt 0: 'the cat how:.' \+ 'sat'"
    with pytest.warns(UserWarning, match=said) if merges else nullcontext():
        found = prompt_tokens(model, frame, reading, None)
    (tokens,), (chosen,) = found.token_lists, found.counted
    assert found.answer_starts.tolist() == [int((~chosen).sum())]
    before = tokenizer(f"the cat {template}", add_special_tokens=False)["input_ids"]
    assert tokens[~chosen].tolist() == before
    assert [tokenizer.decode([token]) for token in tokens[chosen].tolist()] == ["sat"]


@pytest.mark.slow
def test_the_real_models_template_stands_around_the_prompt(demo_model):
    prompt = "Name the capital of France."
    text = demo_model.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    tokens = demo_model.to_tokens(text, prepend_bos=False)
    assert "<|im_start|>assistant" in text
    acts = tlm.collect(demo_model, [prompt], chat=True, progress=False)
    assert acts.samples["n_tokens"].tolist() == [tokens.shape[1]]
    content = tlm.collect(demo_model, [prompt], chat=True, tokens="content", progress=False)
    alone = demo_model.to_tokens(prompt, prepend_bos=False)
    assert content.samples["n_tokens"].tolist() == [alone.shape[1]]
    with torch.inference_mode():
        cached = demo_model.run_with_cache(tokens, names_filter="blocks.7.mlp.hook_post")[1]
    expected = cached["blocks.7.mlp.hook_post"][0].abs().mean(0)
    np.testing.assert_allclose(
        acts.values[0, 7 * 1536 : 8 * 1536], expected.numpy(), rtol=1e-3, atol=1e-5
    )
