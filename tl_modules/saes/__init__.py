"""Latents of sparse autoencoders as units of a model."""
