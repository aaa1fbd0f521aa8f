"""Causal tests on modules, each beside its controls."""
