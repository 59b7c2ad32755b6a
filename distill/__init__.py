"""Knowledge distillation, gradual pruning and quantization-aware training in one PyTorch Lightning run."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.artifact import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # On demand: this package is imported for ``--help`` too, and torch takes seconds.
    if name == "load":
        from distill.artifact import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
