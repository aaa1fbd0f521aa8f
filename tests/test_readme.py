import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_the_readmes_examples_run(demo_model, monkeypatch, tmp_path, capsys):
    # The model that is already loaded, so as not to load it twice.
    monkeypatch.setattr("tl_modules.data.load_demo_model", lambda: demo_model)
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(examples) == 2
    names = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert "category_share" in capsys.readouterr().out
    assert names["acts"].values.shape == (2, 30 * 1536)
    assert len(names["effects"]) == 7 * 7
