"""The samples that a run was trained and scored on: recorded in its result, since files change under a configuration.

No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.core.utils.json_file import number_at
from distill.core.utils.words import amount

__all__ = ["changes", "of_other_samples", "samples_of"]

_WORDS = {"train": ("training", "trained on"), "validation": ("validation", "scored on"), "test": ("test", "scored on")}


def samples_of(data: Any, uses: Sequence[str] = ("train", "validation")) -> dict[str, Any]:
    """What tells a data module's samples from others, of those that have been read.

    Args:
        data: Of :class:`~distill.data.TextData`; of another one nothing is known.
        uses: Of which splits.

    Returns:
        ``tokenizer`` (or image processor), a hash of what it does, and whether a teacher reads its own; of each split
        its count of ``samples`` and their ``checksum``, of all values that the batches are made of; it does not tell
        the samples' order.
    """
    from distill.core.processor import identity_of
    from distill.core.signals import ROUTE
    from distill.core.teacher_inputs import THEIRS

    read = getattr(data, "tokenized", {})
    found = {use: {"samples": len(read[use]), "checksum": read[use].checksum} for use in uses if use in read}
    if not found:
        return {}
    # Of rows that teachers read in their own way there are more values, and other ends of texts.
    theirs = any(name == ROUTE or name.startswith(THEIRS) for use in uses if use in read for name in read[use].features)
    return {"tokenizer": identity_of(data.tokenizer) + (", and a teacher's" if theirs else "")} | found


def changes(
    result: Mapping[str, Any], data: Any, uses: Sequence[str] = ("validation",), given: Sequence[str] = ()
) -> list[str]:
    """How the samples that are there now differ from those that a run was trained and scored on, a line a split.

    Args:
        result: The run's; one that says nothing of its samples, as an earlier version's, is not compared, nor are
            samples of another tokenizer.
        data: The data module of today, which has read them.
        uses: The splits that are compared.
        given: Keys of the data by which it is read otherwise today.
    """
    lines, found, recorded = [], samples_of(data, uses), result.get("data")
    if not isinstance(recorded, Mapping) or recorded.get("tokenizer") != found.pop("tokenizer", None):
        return []
    for use, now in found.items():
        then = _of(result, use)
        if then is None or then == now["checksum"]:
            continue
        what, done = _WORDS[use]
        count = number_at(result, "data", use, "samples")
        were = "as many, but not the same" if count == now["samples"] else f"there were {count or 0:,.0f}"
        read = f"; read by another {', '.join(given)}" if given else ""
        there = amount(now["samples"], "sample")
        lines.append(f"the {what} samples are not those that the run was {done}: {there}, {were}{read}")
    return lines


def of_other_samples(result: Mapping[str, Any], samples: Any) -> bool:
    """Whether a run's scores are certainly of other validation samples than these.

    Those of another tokenizer cannot be compared.

    Args:
        result: The run's.
        samples: As :func:`samples_of` gives them, or what a result holds of them.
    """
    then, now = result.get("data"), _of({"data": samples}, "validation")
    if not isinstance(then, Mapping) or now is None or then.get("tokenizer") != samples.get("tokenizer"):
        return False
    return _of(result, "validation") not in (None, now)


def _of(result: Mapping[str, Any], use: str) -> str | None:
    """The checksum that a file holds, if it does."""
    data = result.get("data")
    split = data.get(use) if isinstance(data, Mapping) else None
    found = split.get("checksum") if isinstance(split, Mapping) else None
    return found if isinstance(found, str) else None
