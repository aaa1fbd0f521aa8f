"""Share module sets in folders and on the Hugging Face hub.

A model card describes the modules and the causal tests of them.
"""
