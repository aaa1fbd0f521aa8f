import html

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.conftest import unsaid
from tl_modules import cli
from tl_modules.commands import report


@pytest.fixture
def folder(modules, acts, model, prompts, tmp_path):
    """What collect, discover and test leave in one folder."""
    modules.save(tmp_path / "modules.safetensors")
    acts.save(tmp_path / "acts.safetensors")
    effects = tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)
    others = effects.assign(modules="others", n_units=1)
    table = pd.concat([effects.assign(modules="modules", controls="layer"), others])
    table.to_csv(tmp_path / "effects.csv", index=False)
    return tmp_path


def run(*words):
    return cli.main(["report", *map(str, words), "--no-progress"])


def test_a_folders_page_shows_all_that_is_in_it(folder, modules, capsys):
    assert run(folder) == 0
    page = (folder / "report.html").read_text()
    assert 'data-figure="data-activations"' in page
    assert "controls: layer" in page
    assert page.count("<article") == len(modules)
    assert capsys.readouterr().out == f"Written to {folder / 'report.html'} (without a model)\n"


def test_what_is_not_there_is_left_out(folder, capsys):
    (folder / "acts.safetensors").unlink()
    (folder / "effects.csv").unlink()
    assert run(folder, "--out", folder / "new" / "page.html") == 0
    assert "(without effects.csv, activations, a model)" in capsys.readouterr().out
    assert "were not tested here" in (folder / "new" / "page.html").read_text()


def test_a_store_will_do(folder, acts, capsys):
    (folder / "acts.safetensors").unlink()
    with tlm.ActivationStore.create(folder / "acts", acts.units, model_name="tiny") as writer:
        writer.add(acts.values.astype(np.float32), acts.samples)
    assert run(folder) == 0
    assert 'data-figure="data-landscape"' in (folder / "report.html").read_text()


def test_another_file_of_modules_takes_its_own_rows_of_effects(folder, modules, capsys):
    modules.save(folder / "mine.safetensors")
    assert run(folder, "--modules", folder / "mine.safetensors") == 0
    assert "without effects.csv" in capsys.readouterr().out


def test_with_the_model_it_finds_topics(folder, model, monkeypatch):
    monkeypatch.setattr(report, "load_model", lambda name: model)
    assert run(folder, "--model", "any", "--seed", "3") == 0
    assert "Tokens at which it is most active" in (folder / "report.html").read_text()


@unsaid
@pytest.mark.filterwarnings("ignore:No label can be shown to fit")
def test_labels_are_scored_on_prompts_that_discovery_did_not_see(folder, acts, capsys):
    assert run(folder, "--labels") == 1
    said = capsys.readouterr().err
    assert "--labels needs activations of prompts that discovery did not see" in said
    found = tlm.discover(acts.select(np.arange(8)), 2, progress=False)
    found.save(folder / "mine.safetensors")
    held_out = acts.select(np.arange(8, len(acts.samples)))
    assert run(folder, "--modules", folder / "mine.safetensors", "--labels") == 0
    labelled = tlm.with_labels(tlm.with_topics(found), held_out, progress=False)
    page = html.unescape((folder / "report.html").read_text())
    for module in labelled:
        assert "on 4 held-out prompts" in module.scored_labels.line
        assert f"Label: <bdi>{module.scored_labels.line}</bdi>" in page
        assert f"<bdi>{module.title}</bdi>" in page
    (folder / "acts.safetensors").unlink()
    assert run(folder, "--labels") == 1
    assert "there are none. Hold some out" in capsys.readouterr().err


def test_a_folders_cores_are_shown(folder, modules, model, prompts):
    found = tlm.causal_cores(
        model, modules, prompts[:8], prompts[8:], rankings=(), n_controls=0, progress=False
    )
    effects = tlm.module_effects(model, found.cores, prompts[8:], n_controls=2, progress=False)
    found.cores.save(folder / "cores.safetensors")
    found.table.to_csv(folder / "cores.csv", index=False)
    effects.to_csv(folder / "core_effects.csv", index=False)
    assert run(folder) == 0
    page = (folder / "report.html").read_text()
    assert tlm.verdict_sentence(effects, of="cores") in html.unescape(page)
    assert 'class="units"' not in page  # one of their files is missing
    found.units.to_csv(folder / "core_units.csv", index=False)
    assert run(folder) == 0
    page = (folder / "report.html").read_text()
    assert page.count('class="units"') == len(modules)
    assert 'data-figure="data-core-curve"' in page
    assert run(folder, "--out", folder / "core_units.csv") == 1


def test_what_cannot_be_read_is_refused_before_anything_is_written(folder, capsys):
    for words, message in (
        ([folder / "nowhere"], "There is no folder"),
        ([folder, "--modules", folder / "no.safetensors"], "should hold modules.safetensors"),
        ([folder, "--seed", "-1"], "seed should lie between"),
        ([folder, "--out", folder], "--out should name a file"),
        ([folder, "--modules", folder / "acts.safetensors"], "should hold a ModuleSet"),
    ):
        assert run(*words) == 1
        assert message in capsys.readouterr().err
    for broken, message in (("", "cannot be parsed"), ("module\n0\n", "lacks")):
        (folder / "effects.csv").write_text(broken)
        assert run(folder) == 1
        assert message in capsys.readouterr().err
    assert not (folder / "report.html").exists()
