"""Packages that not everybody needs: the extras of the distribution, and what is said where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from distill.core.utils.errors import UserError

__all__ = ["EXTRAS", "installing", "missing", "require"]

EXTRAS = {
    "evaluate": ("lm_eval", "accelerate", "tqdm"),
    "export": ("onnx", "onnx_ir", "onnxscript", "onnxruntime"),
    "genai": ("onnxruntime_genai", "onnx", "onnx_ir", "onnxscript", "onnxruntime"),
    "gguf": ("gguf", "accelerate"),
    "lora": ("peft",),
    "openvino": ("openvino", "onnx", "onnx_ir", "onnxscript", "onnxruntime"),
    "plots": ("matplotlib",),
    "search": ("optuna", "sklearn"),
    "sweep": ("sklearn", "scipy"),
    "tensorboard": ("tensorboard",),
    "vision": ("PIL",),
    "vllm": ("compressed_tensors",),
    "wandb": ("wandb",),
}
"""Name of an extra -> the packages that it brings, as they are imported."""


def missing(extra: str) -> str | None:
    """The first package of an extra that is not installed; ``None`` if all are. Nothing is imported."""
    for name in EXTRAS[extra]:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, such as W&B leaves behind, is no package
            return name
    return None


def installing(extra: str) -> str:
    """The command that installs an extra."""
    return f'pip install "lightning-distill[{extra}]"'


def require(extra: str, key: str) -> None:
    """Refuse to continue without the packages of an extra.

    Args:
        extra: Its name.
        key: What needs it: a key of the configuration, an option or a command.

    Raises:
        UserError: naming the package that is missing and the extra that brings it.
    """
    if (name := missing(extra)) is not None:
        raise UserError(f"needs {name}, which is not installed", key=key, hint=installing(extra))
