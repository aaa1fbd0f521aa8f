"""Prompt files of any bytes are read or refused."""

import gzip
import io
import json

import pandas as pd
import pytest
from hypothesis import note

import tl_modules as tlm
from tests.fuzz import mutate
from tests.fuzz.examples import on_examples
from tests.fuzz.mutate import Choices
from tl_modules.data import read_prompts

ROWS = [
    {"prompt": f"prompt {row}, \u00fc", "category": "a", "n": row, "turns": [{"from": "x"}]}
    for row in range(6)
]
FRAME = pd.DataFrame(ROWS)
PLAIN = FRAME.drop(columns="turns")
SUFFIXES = ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz"]


def well_made(suffix, rows=None):
    rows = ROWS if rows is None else rows
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    if suffix == "parquet":
        content = io.BytesIO()
        FRAME.to_parquet(content)
        return content.getvalue()
    return {
        "jsonl": lambda: lines,
        "json": lambda: json.dumps(rows).encode(),
        "csv": lambda: PLAIN.to_csv(index=False).encode(),
        "tsv": lambda: PLAIN.to_csv(index=False, sep="\t").encode(),
        "jsonl.gz": lambda: gzip.compress(lines, mtime=0),
    }[suffix]()


def mutated(choose, suffix):
    if suffix in ("json", "jsonl") and choose.below(2):
        rows = mutate.json_value(choose, ROWS)
        return well_made(suffix, rows if isinstance(rows, list) else [rows])
    return mutate.raw_bytes(choose, well_made(suffix))


def read(path):
    try:
        frame = read_prompts(path)
    except tlm.ModulesError:
        return
    assert len(frame)
    assert all(isinstance(prompt, str) and prompt for prompt in frame["prompt"])
    assert repr(frame)
    assert frame._repr_html_()


@pytest.mark.parametrize(
    "n_examples", [60, pytest.param(600, marks=pytest.mark.slow)], ids=["some", "many"]
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_mutated_file_of_prompts_is_read_or_refused(suffix, n_examples, tmp_path):
    path = tmp_path / f"prompts.{suffix}"

    @on_examples(n_examples)
    def examples(data):
        choose = Choices(data)
        path.write_bytes(mutated(choose, suffix))
        note("; ".join(choose.said))
        read(path)

    examples()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1", "cp037", "utf-7", "gb18030"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
def test_other_encodings_are_read_or_refused(suffix, encoding, tmp_path):
    path = tmp_path / f"prompts.{suffix}"
    path.write_bytes(well_made(suffix).decode().encode(encoding))
    read(path)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
@pytest.mark.parametrize(
    "prompt", ["\0", "a\0b", "x" * 5_000_000, "=cmd()", "\u202e", "\r\n" * 1000, '"' * 999]
)
def test_odd_and_huge_texts_are_read_or_refused(suffix, prompt, tmp_path):
    path = tmp_path / f"prompts.{suffix}"
    delimiter = {"csv": ",", "tsv": "\t"}.get(suffix)
    if delimiter is None:
        path.write_bytes(well_made(suffix, [{"prompt": prompt}]))
        assert read_prompts(path)["prompt"].tolist() == [prompt]
    else:
        pd.DataFrame({"prompt": [prompt]}).to_csv(path, index=False, sep=delimiter)
        read(path)
