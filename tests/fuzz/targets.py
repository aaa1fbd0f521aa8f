"""What users do with each kind of file, as soon as they have it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tl_modules as tlm
from tests.fuzz import mutate, well_made
from tests.fuzz.mutate import Choices
from tl_modules.activations.resumable import UnfinishedStore
from tl_modules.saving import files
from tl_modules.tables.frames import frame_to_json


@dataclass(frozen=True)
class Target:
    """A kind of file."""

    name: str
    share: int
    """Of 100 examples, how many are of it."""

    prepare: Callable[[Path], object]
    """Writes well-made files; returns what the mutation needs."""

    write: Callable[[Choices, Path, object], None]
    """Writes the mutated ones."""

    use: Callable[[Path], None]
    """Loads, and uses what was loaded."""


def use_modules(path: Path) -> None:
    _use_module_set(tlm.ModuleSet.load(path / "file"))


def _use_module_set(modules: tlm.ModuleSet) -> None:
    assert modules._repr_html_()
    assert len(modules) == len(list(modules)) == len(modules.to_frame())
    for module in modules:
        assert repr(module)
        assert module._repr_html_()
        assert len(module.units.to_frame()) == module.n_units
        assert len(module.units.complement()) + module.n_units == len(modules.units)
        assert json.dumps(module.layers)
        if module.n_units and module.scores is not None:
            assert module.by_fit(0.5).n_units
    assert len(modules.background) <= len(modules.units)
    if modules.topics is not None:
        assert len(modules.describe()) == len(modules)
        assert modules.topics[0]._repr_html_()
    if modules.scored_labels is not None:
        modules.label_scores()
        assert all(map(repr, modules.scored_labels))
    if modules.normaliser is not None:
        modules.normaliser.apply(np.ones((2, len(modules.units)), dtype=np.float32))
    _saves_again("ModuleSet", *modules.parts())


def _saves_again(kind: str, header: dict, arrays: dict) -> None:
    assert files.encode(kind, header, arrays)


def use_matrix(path: Path) -> None:
    _use_matrix(tlm.ActivationMatrix.load(path / "file"))


def _use_matrix(acts: tlm.ActivationMatrix) -> None:
    assert repr(acts)
    assert acts._repr_html_()
    assert len(acts.select([0]).samples) == 1
    if acts.normaliser is None and len(acts.samples) > 1:
        assert acts.zscore().normaliser is not None
        assert acts.normalise("rank").normaliser is not None
    header = {"samples": frame_to_json(acts.samples), "units": acts.units.to_dict()}
    _saves_again("ActivationMatrix", header, {"values": acts.values})


def use_store(path: Path) -> None:
    store = tlm.ActivationStore(path)
    assert repr(store)
    assert store._repr_html_()
    _use_matrix(store.matrix([0]))
    store.fit_zscore()
    store.verify()
    assert store.matrix().values.shape == store.shape


def use_unfinished(path: Path) -> None:
    with UnfinishedStore(path, well_made.plan()) as unfinished:
        for number in unfinished.missing():
            well_made.write_part(unfinished, number)
        store = unfinished.finish()
    assert store.unit_means is not None
    store.verify()


def _one_file(thing):
    def prepare(folder: Path):
        thing().save(folder / "file")
        return well_made.parts(folder / "file")

    return prepare


def _write_file(choose: Choices, folder: Path, parts) -> None:
    (folder / "file").write_bytes(mutate.package_file(choose, parts))


def _one_folder(write):
    def prepare(folder: Path):
        write(folder)
        contents = {path.name: path.read_bytes() for path in folder.iterdir()}
        return contents, {path.name: well_made.parts(path) for path in folder.glob("*.safetensors")}

    return prepare


def _write_folder(choose: Choices, folder: Path, prepared) -> None:
    contents, parts = prepared
    shutil.rmtree(folder)
    folder.mkdir()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    name = choose.of(sorted(contents.keys() - {".lock"}) + sorted(parts) * 2)
    path = folder / name
    choose.say(name)
    if name in parts and choose.below(8):
        path.write_bytes(mutate.package_file(choose, parts[name]))
    elif name not in parts and choose.below(4):
        path.write_bytes(mutate.chunk_file(choose, contents[name]))
    else:
        path.unlink()
        instead = choose.of(("nothing", "folder", "link to a folder", "link to itself", "device"))
        choose.say(instead)
        if instead == "folder":
            path.mkdir()
        elif instead != "nothing":
            links = {"link to a folder": "/", "link to itself": name, "device": "/dev/zero"}
            path.symlink_to(links[instead])


TARGETS = [
    Target("modules", 30, _one_file(well_made.module_set), _write_file, use_modules),
    Target(
        "modules of ranks",
        5,
        _one_file(lambda: well_made.module_set("rank")),
        _write_file,
        use_modules,
    ),
    Target("matrix", 25, _one_file(well_made.matrix), _write_file, use_matrix),
    Target(
        "matrix of z-scores",
        10,
        _one_file(lambda: well_made.matrix("zscore")),
        _write_file,
        use_matrix,
    ),
    Target("store", 15, _one_folder(well_made.write_store), _write_folder, use_store),
    Target(
        "unfinished store",
        15,
        _one_folder(well_made.write_unfinished),
        _write_folder,
        use_unfinished,
    ),
]
