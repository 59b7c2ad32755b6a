"""A search for the smallest or fastest student that still meets a target: ``distill search``."""
