"""Diffusion: one language of noise, networks that take it away, and what they tell of an image."""
