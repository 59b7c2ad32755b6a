"""Knowledge distillation, gradual pruning and quantization-aware training in one PyTorch Lightning run."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distill.core.utils.version import VERSION

if TYPE_CHECKING:
    from distill.data import TextData as TextData
    from distill.models.artifact import load as load
    from distill.training.module import Distillation as Distillation

__version__ = VERSION

_HOME = {"Distillation": "distill.training.module", "TextData": "distill.data", "load": "distill.models.artifact"}


def __getattr__(name: str) -> Any:
    # On demand: this package is imported for ``--help`` too, and torch takes seconds.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
