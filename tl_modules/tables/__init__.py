"""Tables of prompts and of results: columns, labels, text, and statistics over rows.

Nothing here uses a model.
"""
