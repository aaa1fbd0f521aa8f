"""Under its null, every kind of p-value in the package is at most 0.05 in about 0.05 of cases."""

import importlib.util

import numpy as np
import pytest

from benchmarks.calibration import all_kinds
from benchmarks.calibration.levels import Level
from tests.conftest import long_once

N = {
    "layer": 500,
    "magnitude": 300,
    "attribution": 300,
    "keep_only": 300,
    "patch": 300,
    "sequential": 150,
    "dissociation": 150,
    "concepts": 40,
    "eigenshift": 400,
    "leace": 150,
    "graph": 100,
    "scores": 150,
    "greedy": 80,
    "matches": 150,
    "layers": 150,
    "nested": 150,
    "covered": 300,
    "trees": 300,
    "signs": 4000,
    "selectivities": 500,
    "rule": 10_000,
    "thoughts": 400,
    "detectors": 8,
    "forgetting": 20,
}
