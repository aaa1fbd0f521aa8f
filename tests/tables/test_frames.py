"""Text from outside, wherever it ends: cut, spelled out, kept apart, saved."""

import contextlib
import datetime as dt
import html
import unicodedata
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tl_modules as tlm
from tl_modules.tables.frames import frame_to_json, plain_frame
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.text import isolated, shortened, visible

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
FLAG = "\U0001f1e8\U0001f1ed"
WAVE = "\U0001f44b\U0001f3fd"


@pytest.mark.parametrize(
    "letter",
    [
        "e\u0301",  # e with an accent of its own
        "a" + "\u0300\u0316\u0321" * 3,  # Zalgo
        "\u0915\u094d\u200d\u0937",  # Devanagari, joined
        "\u0915\u094d\u0937\u093f",  # Devanagari: two consonants and a vowel, one syllable
        "\u1112\u1161\u11ab",  # Hangul in three jamo
        "\r\n",
        "\u0e01\u0e34\u0e48",  # Thai: a vowel and a tone above
        "\u0627\u064e",  # Arabic with a vowel
        "\u2764\ufe0f",  # a heart, red
        FAMILY,
        FLAG,
        WAVE,
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # Scotland's
    ],
)
def test_a_text_is_cut_between_letters(letter):
    text = "ab" + letter * 3 + "cd" * 20
    for longest in range(4, len(text)):
        cut = shortened(text, longest)
        assert len(cut) <= longest
        rest = cut.removesuffix("…").removeprefix("ab")
        assert rest.startswith(letter * 3) or len(rest) % len(letter) == 0, (longest, ascii(cut))


@pytest.mark.parametrize(
    ("text", "longest", "cut"),
    [
        (f"ab{FAMILY}cd", 6, "ab…"),  # an emoji of five characters
        (f"ab{FAMILY}cd", 8, f"ab{FAMILY}…"),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", 5, "\u1112\u1161\u11ab…"),  # two syllables in jamo
        (
            "\u0928\u092e\u0938\u094d\u0924\u0947",
            4,
            "\u0928\u092e…",
        ),  # namaste ends in one syllable
        ("a\n\u0301\u0301\u0301", 4, "a\n…"),  # no mark belongs to a line end
    ],
)
def test_a_text_is_cut_where_unicode_ends_a_letter(text, longest, cut):
    assert shortened(text, longest) == cut


def test_flags_are_counted_from_their_first():
    assert shortened(f"x{FLAG * 3} and so on", 5) == f"x{FLAG}…"
    assert shortened(f"{FLAG * 3} and so on", 6) == f"{FLAG * 2}…"


@given(st.text(max_size=60), st.integers(2, 30))
def test_a_cut_text_is_short_and_the_beginning_of_the_whole(text, longest):
    cut = shortened(text, longest)
    assert len(cut) <= longest
    assert cut == text or (cut.endswith("…") and text.startswith(cut[:-1]))
    if cut != text and len(cut) > 2:
        before, follows = text[len(cut) - 2], text[len(cut) - 1]
        # A mark belongs to the letter before it, but to no line end or other control.
        alone = unicodedata.category(before) in ("Cc", "Cf", "Zl", "Zp")
        assert not unicodedata.combining(follows) or alone or len(cut) == longest


def test_a_letter_longer_than_the_limit_is_cut():
    assert shortened("a" + "\u0301" * 100, 10) == "a" + "\u0301" * 8 + "…"


@pytest.mark.parametrize(
    "acting",
    list("\x00\x07\x08\x0b\x0c\r\x1b\x7f\x85\x9b\u2028\u2029\u202a\u202b\u202c\u202d\u202e")
    + list("\u2066\u2067\u2068\u2069"),
)
def test_characters_that_act_on_their_neighbours_are_spelled_out(acting):
    said = visible(f"red{acting}der")
    assert said.isprintable()
    assert said == f"red{acting.encode('unicode_escape').decode()}der"


@pytest.mark.parametrize(
    "text",
    ["two\nlines\tand a tab", "قطة שלום", "e\u0301", FAMILY, "\ufeff", "\u200b\u200c\u200e", "กำ"],
)
def test_text_of_any_script_stays_as_it_is(text):
    assert visible(text) == text
    assert visible(text.replace("\n", "\r\n")) == text


def test_names_from_right_to_left_are_held_apart():
    assert isolated("قطة") == "\u2068قطة\u2069"
    assert isolated("the שלום") == "\u2068the שלום\u2069"
    assert isolated("the cat 12") == "the cat 12"


def test_tables_hold_nothing_that_acts(modules):
    hostile = "a\x1b[31m\u202e<b>"
    frame = pd.DataFrame(
        {hostile: [hostile, [hostile * 50]]}, index=pd.Index([hostile, 1], name="x")
    )
    table = html.unescape(html_table(hostile, frame))
    assert "\x1b" not in table
    assert "\u202e" not in table
    assert table.count(r"a\x1b[31m\u202e<b>") >= 4


def test_a_columns_name_of_half_a_character_is_refused(acts, tmp_path):
    from dataclasses import replace

    name = "half \ud83d"
    samples = acts.samples.set_axis(
        pd.Index([*acts.samples.columns[:-1], name], dtype=object), axis=1
    )
    with pytest.raises(tlm.ModulesError, match=r"'half \\ud83d' holds half of a character"):
        replace(acts, samples=samples).save(tmp_path / "acts.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_halves_of_characters_in_values_are_saved_as_they_are(acts, tmp_path):
    from dataclasses import replace

    notes = pd.Series(["half \ud83d"] * len(acts.samples), dtype=object)
    replace(acts, samples=acts.samples.assign(note=notes)).save(tmp_path / "acts.safetensors")
    found = tlm.ActivationMatrix.load(tmp_path / "acts.safetensors").samples
    assert found["note"].tolist() == notes.tolist()


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([pd.Timestamp("2024-01-31"), None], ["2024-01-31T00:00:00", None]),
        ([pd.Timestamp("2024-01-31 12:30", tz="UTC")], ["2024-01-31T12:30:00+00:00"]),
        ([dt.date(2024, 1, 31), dt.date(2024, 2, 1)], ["2024-01-31", "2024-02-01"]),
        ([np.datetime64("2024-01-31", "ns")], ["2024-01-31T00:00:00"]),
        ([dt.time(1, 2), pd.NaT], ["01:02:00", None]),
        ([dt.timedelta(days=1)], ["P1DT0H0M0S"]),
        ([pd.Period("2024-01")], ["2024-01"]),
        ([np.int64(1), None, np.int64(2)], [1, None, 2]),
        ([np.float32(0.5), np.bool_(True), np.str_("a")], [0.5, True, "a"]),
        ([(1, (2, 3)), np.arange(2)], [[1, [2, 3]], [0, 1]]),
        ([{"a": np.int64(1)}], [{"a": 1}]),
    ],
)
def test_values_that_json_lacks_are_kept_as_documented_and_load_as_they_are_kept(
    values, kept, tmp_path
):
    samples = pd.DataFrame({"x": pd.Series(values, dtype=object)})
    acts = tlm.ActivationMatrix.from_arrays(np.ones((len(values), 2)), samples=samples)
    assert listed(acts.samples["x"]) == kept
    acts.save(tmp_path / "acts.safetensors")
    loaded = tlm.ActivationMatrix.load(tmp_path / "acts.safetensors").samples
    assert listed(loaded["x"]) == kept


def listed(column):
    """A column's values, None where one is missing."""
    return column.astype(object).where(column.notna(), None).tolist()


def _itself():
    held = []
    held.append(held)
    return held


@pytest.mark.parametrize(
    "value",
    [
        *(b"bytes", 1j, Decimal(1), pd.Interval(0, 1), object(), {1, 2}, {1: "a"}, 10**5000),
        *(_itself(), np.array(object())),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_no_file_holds_are_refused_before_anything_runs(value, model, modules, prompts):
    frame = prompts.assign(odd=pd.Series([value] * len(prompts), dtype=object))
    _, cache = model.run_with_cache(model.to_tokens("the cat"))
    with untouched(model):
        for take in (
            lambda: tlm.collect(model, frame, progress=False),
            lambda: tlm.module_effects(model, modules, frame, progress=False),
            lambda: tlm.Collector(model).add(cache, samples=frame[:1]),
            lambda: tlm.ActivationMatrix.from_arrays(np.ones((16, 2)), samples=frame),
        ):
            with pytest.raises(
                tlm.ModulesError, match="column 'odd' should hold values that JSON can save"
            ):
                take()


@contextlib.contextmanager
def untouched(model):
    """Fail where the model runs."""

    def run(activation, hook):
        raise AssertionError("the model ran")

    with model.hooks(fwd_hooks=[("hook_embed", run)]):
        yield


def test_plain_columns_stay_as_they_are_and_no_frame_is_changed():
    frame = pd.DataFrame(
        {0: [1, 2], "d": pd.to_datetime(["2024-01-31", None]), "c": pd.Categorical(["a", "b"])},
        index=[5, 6],
    )
    before = frame.copy()
    kept = plain_frame(frame)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(kept[[0, "c"]], frame[[0, "c"]])
    assert kept["d"].tolist()[0] == "2024-01-31T00:00:00"
    assert plain_frame(frame[[0, "c"]]).equals(frame[[0, "c"]])


def test_missing_values_are_none():
    frame = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": [pd.NaT, pd.NaT]})
    assert frame_to_json(frame) == {"a": [1, None], "b": [None, None]}
