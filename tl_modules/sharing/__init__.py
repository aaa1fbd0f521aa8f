"""Module sets in folders and on the Hugging Face hub.

A card says what they are and how they were tested.
"""
