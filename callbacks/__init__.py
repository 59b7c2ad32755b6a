"""Lightning callbacks, importable as ``distill.callbacks``."""

from distill.callbacks.determinism import Determinism

__all__ = ["Determinism"]
