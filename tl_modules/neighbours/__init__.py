"""Interventions that others have published, as targets beside modules."""
