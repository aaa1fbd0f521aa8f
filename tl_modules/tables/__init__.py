"""Frames of prompts and of results: columns, labels, text, statistics over rows.

Nothing here knows of models.
"""
