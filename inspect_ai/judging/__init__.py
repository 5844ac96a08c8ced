"""Judging generators: how near what a model draws is to good images that no weight has seen."""
