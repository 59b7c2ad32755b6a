"""What tells the samples that a run trains on from others, named so that a difference can be explained."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from distill.core.processor import identity_of

if TYPE_CHECKING:
    from distill.data.text import TextData

__all__ = ["identity"]

_SETTINGS = (
    *("max_length", "pack_length", "isolate_documents", "completion_only_loss", "add_special_tokens"),
    *("document", "join", "teacher_system", "validation_fraction", "train_samples"),
)
"""Settings that decide which samples come of the same rows."""


def identity(data: TextData) -> dict[str, Any]:
    """Fingerprints by name: ``task``, ``tokenizer``, ``template``, ``settings``, and of what has been read ``samples``
    (of the training data) and ``validation``.

    Reads the data.
    """
    task: Any = data.task
    template = data.tokenizer.chat_template if getattr(task, "chat_template", None) else None
    found: dict[str, Any] = {
        "task": task.name,
        "tokenizer": identity_of(data.tokenizer),
        "template": "" if template is None else hashlib.sha256(str(template).encode()).hexdigest(),
        "settings": {name: getattr(data, name) for name in _SETTINGS},
    }
    if data.images is not None:
        found["settings"] = {**dict(found["settings"]), "images": asdict(data.images)}
    for name in ("prefix", "max_target_length"):
        if getattr(data, name) is not None:
            found["settings"][name] = getattr(data, name)
    read = {name: use for name, use in (("samples", "train"), ("validation", "validation")) if use in data.tokenized}
    if "samples" not in read:  # of another split's samples these say nothing
        found = {"task": task.name}
    return found | {name: data.tokenized[use].fingerprint for name, use in read.items()}
