import html
import json
import re
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests import fake_hub
from tests.fake_hub import READER, WRITER, serving
from tl_modules.modules.labels import BACKGROUND
from tl_modules.modules.topic import Context, Word

# Of huggingface_hub's own uploads.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

NAME = "user/modules"
CODE = re.compile(r"^```py\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
HOSTILE = "a|b\nc <script>alert(1)</script> [x](http://evil) `*_~$\\"


@pytest.fixture
def hub(monkeypatch):
    """A hub of our own: online, without xet, without this machine's token, without waiting."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between its retries
    huggingface_hub.close_session()
    with serving() as hub:
        yield hub
        huggingface_hub.close_session()


def push(hub, modules, **options):
    return modules.push_to_hub(NAME, **{"endpoint": hub.endpoint, "token": WRITER, **options})


@pytest.fixture
def pull(hub, tmp_path):
    def load(name=NAME, **options):
        options = {"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache", **options}
        return tlm.ModuleSet.from_pretrained(name, **options)

    return load


@pytest.fixture
def same(tmp_path):
    """Whether two sets are equal in all that a file keeps: equal sets give equal files."""

    def check(one, other):
        for name, modules in (("one", one), ("other", other)):
            modules.save(tmp_path / name)
        return (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()

    return check


@pytest.fixture(scope="module")
def effects(model, modules, prompts):
    return tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)


@pytest.fixture(scope="module")
def told(modules):
    """The modules with prompts not to be found elsewhere, and topics of them."""
    prompts = [f"secr\u00eat {row}: {text}" for row, text in enumerate(modules.samples["prompt"])]
    modules = replace(modules, samples=modules.samples.assign(prompt=prompts))

    def topic(module):
        prompt = module.samples["prompt"].iloc[0]
        return tlm.Topic(
            label=f"{module.category} {module.label}: {HOSTILE}",
            categories={str(module.category): 1.0},
            words=(Word("cat", 0.5), Word(HOSTILE, 0.25)),
            prompts=(prompt,),
            contexts=(Context(prompt, "cat", prompt, 2.0, 0),),
        )

    return replace(modules, topics=tuple(topic(module) for module in modules))


def read_card(folder):
    return (folder / "README.md").read_text()


def rows(card, section):
    """The cells of a section's table, as a reader sees them."""
    part = card.split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[html.unescape(cell.strip()) for cell in line.strip("|").split("|")] for line in lines]


# A plain folder.


def test_a_folder_gives_back_the_same_set(told, tmp_path, same):
    told.save_pretrained(tmp_path / "new" / "shared")
    names = sorted(path.name for path in (tmp_path / "new" / "shared").iterdir())
    assert names == ["README.md", "modules.safetensors"]
    assert same(tlm.ModuleSet.from_pretrained(tmp_path / "new" / "shared"), told)
    assert same(tlm.ModuleSet.from_pretrained(str(tmp_path / "new" / "shared")), told)


def test_a_folder_is_preferred_to_a_repository(modules, tmp_path, monkeypatch, same):
    monkeypatch.chdir(tmp_path)
    modules.save_pretrained(NAME)
    assert same(tlm.ModuleSet.from_pretrained(NAME), modules)


def test_a_folder_without_modules_is_refused(tmp_path):
    with pytest.raises(tlm.ModulesError, match=r"should hold 'modules.safetensors'; it does not"):
        tlm.ModuleSet.from_pretrained(tmp_path)


def test_a_file_is_no_folder(modules, tmp_path):
    modules.save(tmp_path / "file")
    with pytest.raises(tlm.ModulesError, match=r"is a file. Use ModuleSet.load"):
        tlm.ModuleSet.from_pretrained(tmp_path / "file")
    with pytest.raises(tlm.ModulesError, match="Cannot write to the folder"):
        modules.save_pretrained(tmp_path / "file" / "folder")


def test_a_truncated_file_in_a_folder_is_refused(modules, tmp_path):
    modules.save_pretrained(tmp_path)
    path = tmp_path / "modules.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(tlm.ModulesError, match="not a readable safetensors file"):
        tlm.ModuleSet.from_pretrained(tmp_path)


def test_a_disk_that_is_full_leaves_the_old_files(modules, told, tmp_path, monkeypatch):
    modules.save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(tlm.ModulesError, match="No space left"):
        told.save_pretrained(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_effects_of_an_earlier_set_do_not_stay(modules, effects, tmp_path):
    modules.save_pretrained(tmp_path, effects=effects)
    assert (tmp_path / "effects.csv").is_file()
    modules.save_pretrained(tmp_path)
    assert not (tmp_path / "effects.csv").exists()


# The card.


def test_the_card_has_the_numbers_of_the_set(modules, tmp_path):
    modules.save_pretrained(tmp_path)
    card = read_card(tmp_path)
    head, *found = rows(card, "Modules")
    frame = modules.to_frame()
    assert head[:3] == ["module", "n units", "n samples"]
    assert found[0][0] == "---:"
    for name in ("n_units", "n_samples", "n_layers"):
        column = head.index(name.replace("_", " "))
        assert [int(row[column]) for row in found[1:]] == frame[name].tolist()
    assert [row[head.index("category")] for row in found[1:]] == frame["category"].tolist()
    for line in (
        "# Functional modules of tiny",
        "- units: 36 at 3 hook points, blocks.0.mlp.hook&#95;post to blocks.2.mlp.hook&#95;post",
        "- samples: 16 (animal 8, code 8)",
        "- activations: mean &#124;activation&#124;; normalisation: zscore",
        f"- method: topics&#95;first; K = 3; seed = {modules.seed}",
        f"L = {modules.objective.L:,.3f}, xi = {modules.objective.xi:,.3f}, "
        f"B = {modules.objective.B:,.3f}",
        f"torch {modules.versions['torch']}",
        'modules = tlm.discover(acts, 3, method="topics_first", seed=0)',
        "2603.17823",
        "holds the text of every prompt",
        "`tlm.module_effects` runs them",
    ):
        assert line in card
    assert "\n\n\n" not in card
    assert "Topics hold" not in card


def test_the_card_of_the_papers_method_has_its_rounds_and_starts(acts, tmp_path):
    modules = tlm.discover(acts, 3, n_starts=2)
    modules.save_pretrained(tmp_path)
    card = read_card(tmp_path)
    for line in (
        "- method: ulcmod; K = 3; seed = 0; starts = 2",
        f"- rounds: {len(modules.history)}; converged",
        'modules = tlm.discover(acts, 3, method="ulcmod", seed=0, n_starts=2)',
    ):
        assert line in card


def test_the_cards_code_is_python(modules, tmp_path):
    strange = replace(modules, model_name='user/"""\n```\nname')
    strange.save_pretrained(tmp_path / "it's")
    blocks = CODE.findall(read_card(tmp_path / "it's"))
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "card", "exec")


def test_the_cards_metadata_is_what_the_hub_reads(modules, tmp_path):
    from huggingface_hub import ModelCard

    replace(modules, model_name="user/model").save_pretrained(tmp_path, licence="cc-by-4.0")
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.license, data.base_model) == (
        "tl_modules",
        "cc-by-4.0",
        "user/model",
    )
    assert {"transformer-lens", "mechanistic-interpretability"} <= set(data.tags)


@pytest.mark.parametrize("model_name", ["tiny", "../user/model", "/home/user/model", "a: b", "."])
def test_only_a_repository_is_a_base_model(modules, tmp_path, model_name):
    replace(modules, model_name=model_name).save_pretrained(tmp_path)
    metadata = read_card(tmp_path).split("---\n")[1]
    assert "base_model" not in metadata
    assert "license" not in metadata


def test_text_of_prompts_stays_text_in_one_cell(told, tmp_path):
    samples = told.samples.assign(category=HOSTILE)
    replace(told, samples=samples, model_name=HOSTILE).save_pretrained(tmp_path)
    card = read_card(tmp_path)
    seen = " ".join(HOSTILE.split())
    head, *found = rows(card, "Modules")
    assert all(len(row) == len(head) for row in found)
    for row in found[1:]:
        assert row[head.index("category")] == seen
        assert row[head.index("words")] == f"cat, {seen}"
        assert row[head.index("label")].endswith(seen)
    prose = CODE.sub("", card)
    assert "<script" not in prose
    assert "http://evil" not in prose
    assert "Topics hold single words" in card


def test_units_set_aside_are_counted(modules, tmp_path):
    labels = modules.unit_labels.copy()
    labels[:5] = -1
    replace(modules, unit_labels=labels).save_pretrained(tmp_path)
    assert "5 units belong to no module" in read_card(tmp_path)


def test_shared_units_and_modules_are_said_in_the_card(told, effects, tmp_path):
    is_shared = np.arange(len(told.units)) < 5
    labels = np.where(is_shared, BACKGROUND, told.unit_labels)
    aside = replace(told, unit_labels=labels, is_shared=is_shared)
    found = effects.assign(shared_by_all=effects["module"] == 2)
    aside.save_pretrained(tmp_path / "shared", effects=found)
    card = (tmp_path / "shared" / "README.md").read_text()
    assert "5 of them are shared by all" in card
    assert "shared=modules.shared.units)" in card
    (row,) = re.findall(r"^\| 2 \|.*shared by all.*$", card, flags=re.MULTILINE)
    assert told[2].topic.label not in row
    again = tlm.ModuleSet.from_pretrained(tmp_path / "shared")
    assert again.shared_by_all == (False, False, True)
    assert again.shared.n_units == 5


def test_many_categories_do_not_flood_the_card(modules, tmp_path):
    samples = pd.concat([modules.samples] * 2, ignore_index=True)
    many = replace(
        modules,
        samples=samples.assign(category=[f"c{row:02}" for row in range(31)] + [None]),
        sample_labels=np.tile(modules.sample_labels, 2),
        sample_scores=np.tile(modules.sample_scores, 2),
    )
    many.save_pretrained(tmp_path)
    assert "c19 1 and 11 more)" in read_card(tmp_path)


# Effects, beside their controls.


def test_effects_stand_beside_their_controls(modules, effects, tmp_path):
    modules.save_pretrained(tmp_path, effects=effects)
    card = read_card(tmp_path)
    head, _, *found = rows(card, "Causal effects")
    assert len(found) == len(effects) == 6
    for name in ("effect", "control_mean", "control_std", "p_value"):
        column = head.index(name.replace("_", " "))
        assert [row[column] for row in found] == [f"{value:,.3f}" for value in effects[name]]
    assert "tlm.module_effects" not in card
    assert "The module's units were changed at content tokens." in card
    assert f"**{tlm.verdict_sentence(effects)}**" in card
    again = pd.read_csv(tmp_path / "effects.csv")
    assert again["effect"].to_numpy() == pytest.approx(effects["effect"].to_numpy())


def test_the_card_says_that_earlier_effects_are_of_every_token(modules, effects, tmp_path):
    modules.save_pretrained(tmp_path, effects=effects.drop(columns="positions"))
    assert "The module's units were changed at every token." in read_card(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="control_mean"), r"lacks \['control_mean'\]"),
        (
            lambda table: table.drop(columns=["control_std", "p_value"]),
            r"lacks \['control_std', 'p_value'\]",
        ),
        (lambda table: table.assign(control_mean=float("nan")), "n_controls of at least 1"),
        (lambda table: table.head(0), "this table has 0 rows"),
        (lambda table: table.assign(module=7), r"these 3 modules; it has rows of \[7\]"),
    ],
)
def test_effects_without_controls_are_refused(modules, effects, tmp_path, change, message):
    with pytest.raises(tlm.ModulesError, match=message):
        modules.save_pretrained(tmp_path / "shared", effects=change(effects))
    assert not (tmp_path / "shared").exists()


# Without prompts.


def holds_a_prompt(data, modules):
    """As it is, or as JSON escapes it."""
    texts = [form for text in modules.samples["prompt"] for form in (text, json.dumps(text)[1:-1])]
    return any(text.encode() in data for text in texts) or b"secr" in data


def without_prompts(modules, tmp_path):
    samples = modules.samples.assign(answer=modules.samples["prompt"], row=range(16))
    replace(modules, samples=samples).save_pretrained(tmp_path, prompts=False)
    return tlm.ModuleSet.from_pretrained(tmp_path)


def test_without_prompts_no_text_of_one_is_in_the_folder(told, tmp_path):
    found = without_prompts(told, tmp_path)
    assert not holds_a_prompt(b"".join(path.read_bytes() for path in tmp_path.iterdir()), told)
    assert list(found.samples) == ["category", "n_tokens", "row"]
    assert "holds no prompts" in read_card(tmp_path)
    assert [topic.prompts + topic.contexts for topic in found.topics] == [()] * 3
    assert [topic.words for topic in found.topics] == [topic.words for topic in told.topics]


def test_a_set_without_prompts_works(modules, told, model, prompts, tmp_path):
    found = without_prompts(told, tmp_path)
    pd.testing.assert_frame_equal(found.to_frame(), modules.to_frame())
    assert found.describe()["top_prompt"].isna().all()
    assert "16 samples" in repr(found)
    assert "Module(0" in found[0]._repr_html_()
    text = prompts["prompt"].iloc[0]
    losses = []
    for one in (modules, found):
        with one[0].ablated(model):
            losses.append(float(model(text, return_type="loss").detach()))
    assert losses[0] == losses[1]
    with pytest.raises(tlm.ModulesError, match="prompt"):
        tlm.with_topics(found, model)


def test_samples_of_nothing_but_prompts_keep_their_number(modules, tmp_path):
    replace(modules, samples=modules.samples[["prompt"]]).save_pretrained(tmp_path, prompts=False)
    found = tlm.ModuleSet.from_pretrained(tmp_path)
    assert found.samples["sample"].tolist() == list(range(16))


def test_without_prompts_nothing_that_is_sent_holds_one(hub, told, pull):
    push(hub, told, prompts=False)
    assert not holds_a_prompt(hub.sent + b"".join(hub.files(NAME).values()), told)
    assert "prompt" not in pull().samples
    push(hub, told)
    assert holds_a_prompt(hub.sent, told)


# The hub.


def test_what_is_pushed_comes_back(hub, told, effects, pull, same):
    address = push(hub, told, effects=effects, commit_message="Mine")
    assert address == f"{hub.endpoint}/{NAME}/commit/{'1' * 40}"
    assert sorted(hub.files(NAME)) == ["README.md", "effects.csv", "modules.safetensors"]
    assert hub.repositories[NAME].summaries == ["Mine"]
    assert f'from_pretrained("{NAME}")' in hub.files(NAME)["README.md"].decode()
    assert same(pull(), told.with_effects(effects))  # which says what modules are shared by all


def test_pushing_again_replaces_the_set_and_its_effects(hub, modules, told, effects, pull, same):
    push(hub, modules, effects=effects)
    push(hub, told)
    assert sorted(hub.files(NAME)) == ["README.md", "modules.safetensors"]
    assert same(pull(), told)


def test_what_was_downloaded_needs_no_server(hub, modules, pull, same, monkeypatch):
    push(hub, modules)
    with pytest.raises(tlm.ModulesError, match=r"not in the cache. Load it once without"):
        pull(local_files_only=True)
    pull()
    n_requests = len(hub.requests)
    assert same(pull(local_files_only=True), modules)
    assert len(hub.requests) == n_requests
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(pull(), modules)


def test_a_private_repository_opens_to_a_token_alone(hub, modules, pull, same):
    push(hub, modules, private=True)
    assert hub.repositories[NAME].private
    with pytest.raises(tlm.ModulesError, match=r"asks for a token.*hf auth login"):
        pull()
    assert same(pull(token=READER), modules)


def test_private_is_not_pushed_to_what_is_public_already(hub, modules):
    push(hub, modules)
    n_requests = len(hub.requests)
    with pytest.raises(tlm.ModulesError, match=r"is public. Nothing was sent"):
        push(hub, modules, private=True)
    assert not any(
        modules.samples["prompt"][0].encode() in sent for _, _, sent in hub.requests[n_requests:]
    )
    assert len(hub.repositories[NAME].summaries) == 1


def test_a_revision_is_a_branch_of_its_own(hub, modules, told, pull, same):
    push(hub, modules)
    push(hub, told, revision="topics")
    push(hub, told, revision="topics")
    assert same(pull(), modules)
    assert same(pull(revision="topics"), told)
    assert 'revision="topics")' in hub.files(NAME, "topics")["README.md"].decode()
    with pytest.raises(tlm.ModulesError, match="no such revision"):
        pull(revision="absent")


def test_a_pull_request_leaves_the_branch(hub, modules, told, pull, same):
    push(hub, modules)
    assert push(hub, told, create_pr=True) == f"{hub.endpoint}/{NAME}/discussions/1"
    assert same(pull(), modules)
    assert same(pull(revision="refs/pr/1"), told)


@pytest.mark.parametrize(
    ("token", "message"), [(False, r"hf auth login"), (READER, r"lacks the permission \(403\)")]
)
def test_who_may_not_write_is_refused(hub, modules, token, message):
    with pytest.raises(tlm.ModulesError, match=f"Cannot share modules as '{NAME}'.*{message}"):
        push(hub, modules, token=token)
    assert not hub.blobs
    assert not hub.repositories


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"\(401\).*hf auth login"),
        (403, r"\(403\)"),
        (404, r"\(404\). Check the name"),
        (429, r"Wait a few minutes"),
        (500, r"\(500\). Try again later"),
        (503, r"\(503\). Try again later"),
        (418, r"rejected the request \(418\)"),
    ],
)
def test_a_server_that_refuses_is_quoted(hub, modules, pull, tmp_path, status, message):
    hub.status = status
    with pytest.raises(tlm.ModulesError, match=message):
        push(hub, modules)
    with pytest.raises(tlm.ModulesError, match=message):
        pull()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_the_hub_says_of_the_card_is_handed_on(hub, modules):
    with pytest.raises(
        tlm.ModulesError, match=r'rejected the request \(400\): "license" must be one of'
    ):
        push(hub, modules, licence="none-such")
    assert hub.files(NAME) == {}


def test_a_repository_of_something_else_is_refused(hub, modules, pull):
    push(hub, modules)
    del hub.files(NAME)["modules.safetensors"]
    with pytest.raises(tlm.ModulesError, match=r"has no modules.safetensors"):
        pull()
    with pytest.raises(tlm.ModulesError, match="no such repository"):
        pull("user/absent", token=READER)


def test_an_upload_that_breaks_commits_nothing(hub, modules, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse = ("PUT", "/lfs/.*", lambda handler, token: handler._answer(500, {}))
    monkeypatch.setattr(fake_hub, "ROUTES", [refuse, *fake_hub.ROUTES])
    with pytest.raises(tlm.ModulesError, match=r"\(500\). Try again later"):
        push(hub, modules)
    assert hub.files(NAME) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("served", [0, 0.5])
def test_a_server_that_hangs_up_is_refused_and_leaves_no_file(hub, modules, pull, served, tmp_path):
    push(hub, modules)
    hub.served = served
    with pytest.raises(tlm.ModulesError, match=r"Cannot load modules .* try again"):
        pull()
    hub.served = 1
    pull()


def test_an_altered_file_is_refused(hub, modules, pull):
    push(hub, modules)
    data = hub.files(NAME)["modules.safetensors"]
    hub.files(NAME)["modules.safetensors"] = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(tlm.ModulesError, match="was altered"):
        pull()


def test_nobody_answers(modules, hub, pull):
    nowhere = "http://127.0.0.1:9"  # the discard port: nothing listens
    with pytest.raises(tlm.ModulesError, match="Check the connection"):
        push(hub, modules, endpoint=nowhere)
    with pytest.raises(tlm.ModulesError, match="Check the connection"):
        pull(endpoint=nowhere)


def test_offline_mode_is_named(hub, modules, pull, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for call in (lambda: push(hub, modules), pull):
        with pytest.raises(tlm.ModulesError, match=r"offline mode is on. Unset HF_HUB_OFFLINE"):
            call()
    assert not hub.requests


@pytest.mark.parametrize("name", ["a/b/c", "user/na me", "-x", "../up", "user/a..b", "x" * 300])
def test_a_name_that_is_none_is_refused(hub, modules, pull, name):
    with pytest.raises(tlm.ModulesError, match=r"Use a name such as 'user/name'"):
        modules.push_to_hub(name, endpoint=hub.endpoint)
    with pytest.raises(tlm.ModulesError, match=r"no local folder.*Use a name such as"):
        pull(name)
    assert not hub.requests
