import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules.interpret.landscape import landscape
from tl_modules.tables.columns import beside, free_name

KEPT = "They stay unchanged"


def test_a_column_of_the_same_numbers_is_the_same_column():
    frame = pd.DataFrame({"n": ["2", "3"], "text": ["a", "b"]})
    assert free_name(frame, "n", np.array([2, 3])) == "n"  # from a CSV file
    assert free_name(frame, "n", np.array([2, 4])) == "tlm_n"
    assert free_name(frame, "text", np.array([2, 3])) == "tlm_text"
    assert free_name(frame.assign(tlm_n=0), "n", np.array([2, 4])) == "tlm_n_2"
    assert free_name(frame.assign(tlm_n=[2, 4]), "n", np.array([2, 4])) == "tlm_n"
    assert beside(frame, {"n": np.array([2, 3])})["n"].tolist() == [2, 3]


def test_collect_keeps_a_users_own_n_tokens(model):
    frame = pd.DataFrame({"prompt": ["the cat", "a dog ran"], "n_tokens": ["few", "many"]})
    with pytest.warns(UserWarning, match=f"named 'n_tokens', with other values. {KEPT}"):
        acts = tlm.collect(model, frame, progress=False)
    assert acts.samples["n_tokens"].tolist() == ["few", "many"]
    lengths = [model.to_tokens(prompt).shape[1] for prompt in frame["prompt"]]
    assert acts.samples["tlm_n_tokens"].tolist() == lengths
    assert "tlm_n_tokens" not in frame


def test_samples_that_collect_returned_are_prompts_again(model, tmp_path):
    acts = tlm.collect(model, ["the cat", "a dog ran"], progress=False)
    again = tlm.collect(model, acts.samples, progress=False)
    pd.testing.assert_frame_equal(again.samples, acts.samples)
    path = tmp_path / "samples.csv"
    acts.samples.to_csv(path, index=False)
    read = tlm.collect(model, tlm.data.read_prompts(path), progress=False)
    assert read.samples["n_tokens"].tolist() == acts.samples["n_tokens"].tolist()


def test_a_store_keeps_a_users_own_row(model, tmp_path):
    frame = pd.DataFrame({"prompt": ["the cat", "a dog ran over"], "row": ["x", "y"]})
    with pytest.warns(UserWarning, match=KEPT):
        store = tlm.collect(model, frame, store=tmp_path / "acts", progress=False)
    assert store.samples["row"].tolist() == ["y", "x"]  # longest first
    assert store.samples["tlm_row"].tolist() == [1, 0]
    with pytest.warns(UserWarning, match=KEPT):  # the same call again is the same run
        assert tlm.collect(model, frame, store=tmp_path / "acts", progress=False).shape[0] == 2


def test_a_collector_keeps_a_users_own_n_tokens(model):
    collector = tlm.Collector(model)
    tokens = model.to_tokens("the cat")
    for own in (tokens.shape[1], 99):  # the first is what will be counted, the second is not
        _, cache = model.run_with_cache(tokens, names_filter=collector.names_filter)
        collector.add(cache, samples=pd.DataFrame({"prompt": ["the cat"], "n_tokens": [own]}))
    with pytest.warns(UserWarning, match=KEPT):
        found = collector.matrix().samples
    assert found["n_tokens"].tolist() == [tokens.shape[1], 99]
    assert found["tlm_n_tokens"].tolist() == [tokens.shape[1]] * 2


def test_modules_keep_a_users_own_score(planted, tmp_path):
    own = [f"grade {row}" for row in range(60)]
    samples = pd.DataFrame({"prompt": [f"p{row}" for row in range(60)], "score": own})
    acts = tlm.ActivationMatrix.from_arrays(planted[0], samples=samples)
    with pytest.warns(UserWarning, match=f"named 'score', with other values. {KEPT}"):
        modules = tlm.discover(acts, 4)
    assert modules.score_column == "tlm_score"
    plain = tlm.discover(tlm.ActivationMatrix.from_arrays(planted[0]), 4)
    for module, same in zip(modules, plain, strict=True):
        assert module.samples["score"].tolist() == [own[row] for row in module.samples.index]
        assert module.samples["tlm_score"].tolist() == same.samples["score"].tolist()
    np.testing.assert_array_equal(
        modules.to_frame()["mean_activation"], plain.to_frame()["mean_activation"]
    )
    modules.save(tmp_path / "modules.safetensors")
    found = tlm.ModuleSet.load(tmp_path / "modules.safetensors")
    assert found[0].samples["score"].tolist() == modules[0].samples["score"].tolist()


def test_a_landscape_keeps_a_users_own_places(planted):
    samples = pd.DataFrame({"x": ["left"] * 60, "strongest": range(60)})
    acts = tlm.ActivationMatrix.from_arrays(planted[0], samples=samples)
    modules = tlm.discover(acts, 4)
    found = landscape(modules, acts)
    assert found.columns == ("tlm_x", "y", "tlm_strongest")
    assert found.points[["x", "strongest"]].equals(samples)
    bare = tlm.ActivationMatrix.from_arrays(planted[0])
    expected = landscape(modules, bare)
    np.testing.assert_array_equal(found.points["tlm_x"], expected.points["x"])
    figure, plain = (tlm.plots.plot_landscape(modules, each) for each in (acts, bare))
    assert figure.data[0].x.tolist() == plain.data[0].x.tolist()


def test_prompts_that_have_corrupted_ones_are_refused(model):
    frame = pd.DataFrame({"prompt": ["the cat", "a dog"], "corrupted": ["mine", "mine too"]})
    with pytest.raises(tlm.ModulesError, match="no column 'corrupted', which would be replaced"):
        tlm.with_corrupted(model, frame)
