"""Share module sets in folders and on the Hugging Face hub.

A model card describes the modules and their causal tests.
"""
