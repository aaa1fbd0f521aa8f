"""Explore modules in a notebook: intervene on them, and edit the set by hand.

The session, the runs of the model and the page each have their own file.
"""
