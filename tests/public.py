"""Every public name: what the rooms' faces export, and the package's own few."""

import importlib
import inspect
import pkgutil

import tl_modules as tlm

FACES = {
    module.name: importlib.import_module(f"tl_modules.{module.name}")
    for module in pkgutil.iter_modules(tlm.__path__)
    if module.ispkg
}
"""Each room's face, by the room's name."""

HOMES = {name: room for room, face in FACES.items() for name in getattr(face, "__all__", ())}
"""The room that each public name is from."""

PUBLIC = {name: getattr(FACES[room], name) for name, room in HOMES.items()} | {
    name: getattr(tlm, name) for name in ("ModulesError", "Site", "Units")
}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
OF_DATA = set(FACES["data"].__all__)
"""Prompts and small models, which ``tl_modules`` itself does not import."""
