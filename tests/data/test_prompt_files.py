import codecs
import csv
import gzip
import io
import json
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tl_modules as tlm
from tl_modules.commands import options
from tl_modules.data import load_prompts, read_prompts

ROWS = [
    {"id": "007", "prompt": "Name a prime.", "category": "math"},
    {"id": "1", "prompt": "007", "category": "1"},
    {"id": "2", "prompt": "NA", "category": "null"},
    {"id": "3", "prompt": "null", "category": "NA"},
    {"id": "4", "prompt": 'He said: "a, b;\tc"', "category": "a,b"},
    {"id": "5", "prompt": "one\ntwo\r\nthree\u2028four", "category": "lines"},
    {"id": "6", "prompt": " Überprüfe 你好 👩\u200d🚀 ", "category": "Wörter"},
]


def as_csv(rows, **options):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_json_lines(rows, **options):
    return "\n".join(json.dumps(row, **options) for row in rows).encode()


def as_parquet(rows):
    content = io.BytesIO()
    pd.DataFrame(rows).to_parquet(content)
    return content.getvalue()


FILES = {
    "a.jsonl": as_json_lines(ROWS, ensure_ascii=False),
    "b.ndjson": as_json_lines(ROWS).replace(b"\n", b"\r\n\r\n"),
    "c.json": json.dumps(ROWS, indent=1).encode(),
    "d.csv": as_csv(ROWS),
    "e.tsv": as_csv(ROWS, delimiter="\t", lineterminator="\n"),
    "f.parquet": as_parquet(ROWS),
    # Without the time: the workers of a test run should name the same tests.
    "g.jsonl.gz": gzip.compress(as_json_lines(ROWS), mtime=0),
    "h.csv.gz": gzip.compress(as_csv(ROWS), mtime=0),
    "excel.csv": codecs.BOM_UTF8 + as_csv(ROWS, quoting=csv.QUOTE_ALL),
}


MANY_KEYS = "\n".join(f'{{"prompt": "a", "key {row}": 1}}' for row in range(4000)).encode()
MANY_ROWS = as_parquet({"prompt": pd.Categorical(["a"] * 3_000_000)})


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", FILES)
def test_the_same_rows_are_the_same_frame_from_every_format(name, tmp_path):
    frame = read_prompts(written(tmp_path, name, FILES[name]))
    pd.testing.assert_frame_equal(frame, pd.DataFrame(ROWS))


def test_a_frame_and_a_hugging_face_dataset_are_read_like_files():
    import datasets

    dataset = datasets.Dataset.from_list(ROWS)
    for source in (pd.DataFrame(ROWS), dataset):
        pd.testing.assert_frame_equal(read_prompts(source), pd.DataFrame(ROWS))
    with pytest.raises(tlm.ModulesError, match=r"one split .* \['train', 'test'\]"):
        read_prompts(datasets.DatasetDict({"train": dataset, "test": dataset}))


# What UTF-8 can hold. A CSV has no empty prompt: an empty cell is a missing value.
TEXTS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1)


@pytest.mark.parametrize(("suffix", "write"), [(".csv", as_csv), (".jsonl", as_json_lines)])
def test_any_text_survives_a_file(suffix, write, tmp_path):
    path = tmp_path / f"prompts{suffix}"

    @given(TEXTS)
    def survives(texts):
        path.write_bytes(write([{"prompt": text, "category": text} for text in texts]))
        frame = read_prompts(path)
        assert frame["prompt"].tolist() == texts
        assert frame["category"].tolist() == texts

    survives()


@pytest.mark.parametrize(
    "source",
    [
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        np.array(["a", "b"], dtype=object),
        pd.Series(["a", "b"], index=[7, 8]),
        {"prompt": ["a", "b"]},
        {"prompt": np.array(["a", "b"])},
        {"prompt": pd.Series(["a", "b"], index=[7, 8])},
    ],
)
def test_lists_and_columns_in_memory_are_read_like_files(source):
    pd.testing.assert_frame_equal(read_prompts(source), pd.DataFrame({"prompt": ["a", "b"]}))


def test_a_slice_of_a_dataset_is_read_and_a_stream_refused():
    import datasets

    dataset = datasets.Dataset.from_list(ROWS)
    pd.testing.assert_frame_equal(read_prompts(dataset[:3]), pd.DataFrame(ROWS[:3]))
    with pytest.raises(tlm.ModulesError, match=r"'id' is '007'\. Put the values of a single"):
        read_prompts(dataset[0])
    assert read_prompts(dataset["prompt"])["prompt"].tolist() == [row["prompt"] for row in ROWS]
    with pytest.raises(tlm.ModulesError, match=r"pd\.DataFrame\(list\(dataset\.take"):
        read_prompts(dataset.to_iterable_dataset())


@pytest.mark.parametrize("name", FILES)
def test_capitals_in_an_ending_do_not_matter(name, tmp_path):
    frame = read_prompts(written(tmp_path, name.upper(), FILES[name]))
    pd.testing.assert_frame_equal(frame, pd.DataFrame(ROWS))


def test_json_lines_named_json_are_read_as_lines(tmp_path):
    frame = read_prompts(written(tmp_path, "a.json", FILES["b.ndjson"]))
    pd.testing.assert_frame_equal(frame, pd.DataFrame(ROWS))
    with pytest.raises(tlm.ModulesError, match=r"Line 2 of .* is no JSON"):
        read_prompts(written(tmp_path, "b.json", b'{"prompt": "a"}\n{"prompt": "b"'))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_long_texts_are_read_and_the_csv_modules_limit_stays(name, tmp_path):
    texts = ["word " * 30_000, "x" * 131_073, "b"]
    rows = [{"prompt": text, "category": "a"} for text in texts]
    content = as_csv(rows, delimiter="," if name == "a.csv" else "\t")
    before = csv.field_size_limit()
    assert read_prompts(written(tmp_path, name, content))["prompt"].tolist() == texts
    with pytest.raises(tlm.ModulesError):
        read_prompts(written(tmp_path, name, content + b'"'))
    assert csv.field_size_limit() == before < len(texts[0])


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        (b"prompt,category\nhi,a\nyo,b\n,\n,\n", ["prompt", "category"]),
        (b"prompt,category\nhi,a\nyo,b\n,\n,,,\n", ["prompt", "category"]),
        (b"prompt,category,,\nhi,a,,\nyo,b,,\n,,,\n", ["prompt", "category"]),
        (b" prompt,category \nhi,a\nyo,b\n", ["prompt", "category"]),
    ],
)
def test_what_spreadsheets_leave_around_a_table_is_left_out(content, columns, tmp_path):
    frame = read_prompts(written(tmp_path, "excel.csv", content))
    assert frame.columns.tolist() == columns
    assert frame.to_numpy().tolist() == [["hi", "a"], ["yo", "b"]]


@pytest.mark.parametrize("text", [" ", "\x85", "\u3000"])
def test_a_last_row_of_white_space_is_a_prompt(text, tmp_path):
    frame = read_prompts(
        written(tmp_path, "blank.csv", as_csv([{"prompt": text, "category": text}]))
    )
    assert frame.to_numpy().tolist() == [[text, text]]


def test_columns_go_by_the_names_the_user_gives(tmp_path):
    path = written(tmp_path, "questions.csv", b"question,topic,answer\nWhy?,life,42\n")
    frame = read_prompts(str(path), prompt="question", category="topic")
    assert frame.to_dict("records") == [{"prompt": "Why?", "category": "life", "answer": "42"}]
    assert list(read_prompts(path, prompt="question").columns) == ["prompt", "topic", "answer"]


def test_the_column_that_holds_prompts_may_be_called_category():
    given = pd.DataFrame({"category": ["Why?"], "topic": ["life"]})
    frame = read_prompts(given, prompt="category", category="topic")
    assert frame.to_dict("records") == [{"prompt": "Why?", "category": "life"}]


def test_nested_columns_and_types_stay(tmp_path):
    row = {"prompt": "a", "turns": [{"from": "human"}], "n": 3}
    frame = read_prompts(written(tmp_path, "a.jsonl", as_json_lines([row])))
    assert frame.to_dict("records") == [row]
    nested = read_prompts(written(tmp_path, "a.parquet", as_parquet([row])))
    assert list(nested["turns"][0]) == row["turns"]
    assert nested["n"].tolist() == [3]


def test_the_given_frame_is_not_changed():
    given_frame = pd.DataFrame({"text": ["a", "b"]}, index=[5, 3])
    before = given_frame.copy()
    frame = read_prompts(given_frame, prompt="text")
    frame.loc[0, "prompt"] = "c"
    pd.testing.assert_frame_equal(given_frame, before)
    assert frame.index.tolist() == [0, 1]


def test_an_empty_cell_is_a_missing_value_and_a_blank_line_is_none(tmp_path):
    path = written(tmp_path, "a.csv", b"prompt,category\n\na,\nb,x\n\n")
    frame = read_prompts(path)
    assert frame["prompt"].tolist() == ["a", "b"]
    assert frame["category"].isna().tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"a", r"should end in \.jsonl, .*, \.tsv or \.parquet; got '.*a\.txt'"),
        ("a.parquet.gz", b"a", "should end in"),
        ("a.csv", b"", "should hold at least one prompt; it is empty"),
        ("a.csv", b"prompt,category\r\n", "should hold at least one prompt; it is empty"),
        ("a.json", b"[]", "should hold at least one prompt; it is empty"),
        ("a.parquet", as_parquet([{"prompt": "a"}])[:-9], "Cannot read the prompts .*Parquet"),
        ("a.csv.gz", b"prompt\na", "Cannot read the prompts .*Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b"{}", mtime=0)[:-5], "Cannot read the prompts"),
        (
            "a.jsonl.gz",
            gzip.compress(b"{}", mtime=0)[:10] + b"\xff" * 20,
            "Cannot read the prompts",
        ),
        ("a.csv", "prompt\nÜ".encode("latin-1"), "should be in UTF-8: .*Excel: 'CSV UTF-8'"),
        ("a.jsonl", '{"prompt": "a"}'.encode("utf-16"), "should be in UTF-8"),
        ("a.csv", b"text\na", r"should have a column 'prompt'; got \['text'\]. Pass the names"),
        ("a.csv", b"prompt,x,x\na,b,c", "columns of different names"),
        ("a.csv", b'prompt,x\n"a\nb",c\nd,e,f', "Line 4 of .* should have 2 cells, .*; got 3"),
        ("a.csv", b'prompt,x\n"a\nb",c\nd', "Line 4 of .* should have 2 cells, .*; got 1"),
        (
            "a.csv",
            b'prompt,x\na,b\n"c,d\n',
            "record at line 3 of .* is not valid CSV: unexpected end",
        ),
        ("a.csv", b'prompt\n"a" b', "record at line 2 of .* is not valid CSV"),
        (
            "a.tsv",
            b'prompt\tx\n"Hi" she said\ta',
            "line 2 of .* is not valid TSV.*inside it should be",
        ),
        ("a.csv", b"prompt,x\na,b\n,\nc,d", "Line 3 of .* should have a text 'prompt'"),
        ("a.csv", b"prompt,x\na,b,\n", "Line 2 of .* should have 2 cells, .*; got 3"),
        ("a.csv", b"prompt,x,\na,b,c\n", "Line 2 of .* should have 2 cells, .*; got 3"),
        ("a.csv", b"prompt,x, x\na,b,c", "columns of different names"),
        ("a.csv", b",,\na,b,c", r"should have a column 'prompt'; got \[\]"),
        ("a.csv", b"prompt,x\na,b\n,c", "Line 3 of .* should have a text 'prompt'; got"),
        ("a.parquet", as_parquet([{"prompt": "a"}, {"prompt": None}]), "Row 1 of .* should have"),
        ("a.parquet", as_parquet([{"prompt": 3}]), "Row 0 of .* should have a text 'prompt'"),
        ("a.parquet", as_parquet([{"text": "a"}]), "should have a column 'prompt'"),
        (
            "a.json",
            b'{"prompt": {"0": "a"}}',
            r"keys 'prompt'\..*to_json\(path, orient='records'\)",
        ),
        (
            "a.json",
            b'{"prompt": ["a", "b"]}',
            "one object with the keys 'prompt'.*orient='records'",
        ),
        ("a.json", b'{"data": [{"prompt": "a"}]}', "keys 'data'. Save the list under 'data' alone"),
        ("a.json", b"3", "should hold a list of objects; got 3"),
        ("a.csv", b"prompt;category\na;b", r"have commas between .* has semicolons.*sep=';'"),
        ("a.csv", b'"prompt";"category"\n"a";"b"', "first line has semicolons"),
        ("a.csv", b"prompt\tx\na\tb", "first line has tabs.*replace each tab"),
        ("a.tsv", b"x,prompt\na,b", "have tabs between .* has commas"),
        ("a.json", b'{"prompt": "a"}', "should hold a list of objects; .* end in .jsonl"),
        ("a.json", b'[{"prompt": "a"}, {"text": "a"}]', "Row 1 of .* should be an object with"),
        ("a.json", b"[", "is no JSON"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": ""}', "Line 2 of .* with a text 'prompt'"),
        ("a.jsonl", b'{"prompt": NaN}', "Line 1 of .* with a text 'prompt'"),
        ("a.jsonl", b'\n{"prompt": "a", "b": "\\ud83d"}', "Line 2 of .* surrogates not allowed"),
        ("a.jsonl", b"[" * 100_000, "Line 1 of .* is no JSON"),
        ("a.jsonl", b'{"prompt": "a", "b": ' + b"[" * 120 + b"]" * 120 + b"}", "100 levels deep"),
        (
            "a.jsonl.gz",
            gzip.compress(b" " * 20_000_000, mtime=0),
            "at most 10,000,000 bytes, 100 times",
        ),
        ("a.jsonl", MANY_KEYS, "16,004,000 cells, of which 8,000 are filled"),
        ("a.parquet", MANY_ROWS, "3,000,000 rows in .* bytes cannot all be prompts"),
    ],
)
def test_a_broken_file_is_refused_with_its_place_and_a_remedy(name, content, message, tmp_path):
    with pytest.raises(tlm.ModulesError, match=message):
        read_prompts(written(tmp_path, name, content))


@pytest.mark.parametrize(
    ("source", "names", "message"),
    [
        ({"a", "b"}, {}, r"a list of strings, .*; got set. .* sorted\(source\)"),
        ((text for text in "ab"), {}, r"got a generator, .* only once. .* list\(source\)"),
        (None, {}, "source should be a list of strings, .*; got None"),
        (["a", 1], {}, "Every prompt should be a string; prompt 1 is 1"),
        ([{"prompt": "a"}], {}, r"prompt 0 is dict. .* pd.DataFrame\(rows\)"),
        ({"prompt": "a", "n": 1}, {}, "Each column of source should be a list, .*'prompt' is 'a'"),
        ({"prompt": ["a"], "n": [1, 2]}, {}, "columns of source should be of one length"),
        ({"text": ["a"]}, {}, r"source should have a column 'prompt'; got \['text'\]. Pass the"),
        (pd.DataFrame({"text": ["a"]}), {}, "source should have a column 'prompt'"),
        (pd.DataFrame({"prompt": []}), {}, "should hold at least one prompt"),
        (pd.DataFrame({"prompt": ["a", None]}), {}, "Row 1 of source should have a text"),
        (pd.DataFrame({"prompt": ["a"]}), {"category": "topic"}, "should have a column 'topic'"),
        (pd.DataFrame([["a", "b"]], columns=["prompt"] * 2), {}, "columns of different names"),
        (pd.DataFrame(ROWS), {"prompt": "id"}, "one column for the prompt; .* 'id'"),
        (pd.DataFrame(ROWS), {"category": "prompt"}, "different columns; both are 'prompt'"),
    ],
)
def test_what_is_no_prompts_is_refused(source, names, message):
    with pytest.raises(tlm.ModulesError, match=message):
        read_prompts(source, **names)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere.csv", "nowhere.parquet"])
def test_a_file_that_is_not_there_is_refused(name, tmp_path):
    with pytest.raises(tlm.ModulesError, match=f"Cannot read the prompts '.*{name}'"):
        read_prompts(tmp_path / name)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(tlm.ModulesError, match="Run: pip install pyarrow"):
        read_prompts(tmp_path / "a.parquet")


def test_the_command_line_reads_the_same_files_and_the_corpora(tmp_path):
    for name, content in FILES.items():
        frame = options.prompts_named(str(written(tmp_path, name, content)))
        pd.testing.assert_frame_equal(frame, pd.DataFrame(ROWS))
    pd.testing.assert_frame_equal(options.prompts_named("recall"), load_prompts("recall"))
    with pytest.raises(tlm.ModulesError, match=r"one of abilities, choices, .*; got 'abilties'"):
        options.prompts_named("abilties")
