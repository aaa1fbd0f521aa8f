"""A chunk's first prompts outlive an interruption."""

import numpy as np
import pytest

import tl_modules as tlm
from tests.activations.test_resume import collected, contents
from tests.conftest import WORDS
from tl_modules.activations import batch_runner, pieces
from tl_modules.activations.interrupted import Interrupted
from tl_modules.saving import files

N_PROMPTS, BATCH = 72, 6


@pytest.fixture
def questions():
    """One chunk's worth of prompts: four pieces of 18."""
    return [" ".join(WORDS[(k * 7 + j) % 40] for j in range(k % 11 + 2)) for k in range(N_PROMPTS)]


def gathered(model, questions, folder, **options):
    return collected(model, questions, folder, batch_size=BATCH, **options)


@pytest.fixture
def ran(monkeypatch):
    """How many prompts each batch held that ran."""
    values, sizes = batch_runner.batch_values, []

    def counted(model, batch, *args):
        sizes.append(len(batch.rows))
        return values(model, batch, *args)

    monkeypatch.setattr(batch_runner, "batch_values", counted)
    return sizes


@pytest.fixture
def interrupted(model, questions, tmp_path):
    """A folder whose run was stopped after 60 prompts, 54 of which are kept; and what it said."""
    values, ran = batch_runner.batch_values, []

    def stopping(*args):
        if len(ran) == 10:
            raise KeyboardInterrupt
        ran.append(args)
        return values(*args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batch_runner, "batch_values", stopping)
        with pytest.raises(Interrupted) as stopped:
            gathered(model, questions, tmp_path / "acts")
    return tmp_path / "acts", str(stopped.value)


@pytest.fixture
def undisturbed(model, questions, tmp_path):
    gathered(model, questions, tmp_path / "undisturbed")
    return contents(tmp_path / "undisturbed")


def test_a_run_resumes_inside_a_chunk(model, questions, interrupted, undisturbed, ran):
    folder, said = interrupted
    assert said == "Interrupted after 54 of 72 prompts"
    names = sorted(path.name for path in folder.glob(pieces.EVERY))
    assert names == [f"piece-00000-{first:07d}.safetensors" for first in (0, 18, 36)]
    gathered(model, questions, folder)
    assert sum(ran) == N_PROMPTS - 54
    assert contents(folder) == undisturbed  # and no piece is left


@pytest.mark.parametrize(
    ("damaged", "n_kept"), [(0, 0), (1, 18), (2, 36)], ids=["first", "second", "last"]
)
@pytest.mark.parametrize("damage", ["truncated", "missing", "shifted", "nan", "not whole batches"])
def test_a_damaged_piece_is_collected_anew(
    model, questions, interrupted, undisturbed, ran, damaged, n_kept, damage
):
    folder, _ = interrupted
    path = sorted(folder.glob(pieces.EVERY))[damaged]
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "missing":
        path.unlink()
    else:
        largest = {"values": (18, 36), "totals": (2, 36)}
        header, arrays = files.read(path, pieces._FILE_KIND, lambda *p: p, lambda _: largest)
        if damage == "shifted":
            header["first"] += 6
        elif damage == "nan":
            arrays["values"][3, 3] = np.nan
        else:
            arrays["values"] = arrays["values"][:5]
        files.write(path, pieces._FILE_KIND, header, arrays)
    gathered(model, questions, folder)
    assert sum(ran) == N_PROMPTS - n_kept
    assert contents(folder) == undisturbed


def test_pieces_of_other_settings_are_not_used(model, questions, interrupted):
    folder, _ = interrupted
    before = contents(folder)
    with pytest.raises(tlm.ModulesError, match="begun with other settings: reading differ"):
        gathered(model, questions, folder, aggregate="rms")
    assert contents(folder) == before


def test_attributions_need_a_store_of_float32(model, questions, tmp_path):
    with pytest.raises(tlm.ModulesError, match=r"should be float32.* Pass dtype='float32'"):
        gathered(model, questions, tmp_path / "acts", weight="attribution")
    assert not (tmp_path / "acts").exists()
    options = {"weight": "attribution", "batch_size": BATCH, "progress": False}
    store = tlm.collect(model, questions, store=tmp_path / "acts", dtype="float32", **options)
    expected = tlm.collect(model, questions, **options)
    order = np.argsort(store.samples["row"].to_numpy())
    np.testing.assert_array_equal(store.matrix(order).values, expected.values)
    np.testing.assert_array_equal(store.unit_means, expected.unit_means)
