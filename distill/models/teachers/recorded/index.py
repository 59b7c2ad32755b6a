"""What a recording is of: who said it, of which data, in which form, and the hash of each of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.core.ranks import is_rank_zero
from distill.core.utils.console import wide
from distill.core.utils.errors import UserError
from distill.core.utils.files import opened, replace
from distill.core.utils.json_file import Unreadable, read_mapping
from distill.core.utils.progress import spoken

__all__ = [
    "COMMON",
    "INDEX",
    "PLAN",
    "TEACHER",
    "File",
    "Index",
    "Plan",
    "describe",
    "different",
    "form_of",
    "shard_name",
]

PLAN, INDEX, COMMON, TEACHER = "plan.json", "index.json", "common.safetensors", "teacher"
"""What a recording is to be; what it is, written last; what all of its samples share; configuration and tokenizer."""

_FORMAT = 1
_CHUNK = 16 << 20

_SAID = {
    "task": "another task",
    "teacher": "another teacher (its weights or its vocabulary differ)",
    "precision": "a teacher that computed in another precision",
    "tokenizer": "another tokenizer",
    "template": "another chat template",
    "settings": "data that is read or cut otherwise",
    "samples": "other training data",
    "kind": "another kind of recording",
    "codec": "a recording of other settings",
    "size": "shards of another size",
}
"""Fingerprint -> what is there where it differs; the first that differs explains those after it."""


@dataclass(frozen=True)
class File:
    """A file of a recording."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> File:
        """The file at ``path``, read as a whole, a part at a time."""
        digest, size = hashlib.sha256(), 0
        with opened(path) as file:
            while part := file.read(_CHUNK):
                digest.update(part)
                size += len(part)
        return cls(path.name, size, digest.hexdigest())


@dataclass(frozen=True)
class Plan:
    """What a recording is to be, known before its first shard.

    Attributes:
        fingerprints: Of all that the shards depend on, by name (:data:`_SAID`).
        codec: Kind and settings of the codec (:mod:`~distill.models.teachers.recorded.codecs`).
        samples: How many there are.
        positions: How many of their positions count.
        per_shard: Samples of a shard; the last one has what is left.
        teacher: Of the model: its class, ``parameters``, ``megabytes``.
    """

    fingerprints: Mapping[str, Any]
    codec: Mapping[str, Any]
    samples: int
    positions: int
    per_shard: int
    teacher: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shards(self) -> list[range]:
        """The samples of each shard."""
        starts = range(0, self.samples, self.per_shard)
        return [range(start, min(self.samples, start + self.per_shard)) for start in starts]

    def record(self) -> dict[str, Any]:
        """As it is written."""
        return {"format": _FORMAT, **{name: getattr(self, name) for name in Plan.__dataclass_fields__}}

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Plan:
        """What :meth:`record` gave.

        Raises:
            ValueError: if it is of another version, or none at all.
        """
        if found.get("format") != _FORMAT:
            raise ValueError(f"format {found.get('format')!r}, and this version reads {_FORMAT}")
        try:
            plan = cls(**{name: found[name] for name in Plan.__dataclass_fields__})
        except KeyError as error:
            raise ValueError(f"it lacks {error}") from None
        counts = plan.samples, plan.positions, plan.per_shard
        if not all(isinstance(n, int) and n > 0 for n in counts) or not isinstance(plan.fingerprints, dict):
            raise ValueError("its numbers are none")
        return plan


@dataclass(frozen=True)
class Index:
    """A recording that is complete.

    Attributes:
        plan: What it is.
        files: Every file but this one.
        scores: The teacher's metrics on validation data; empty where it was not validated.
        validation: The fingerprint of these data.
        sha256: Of the index itself, which tells one recording from another.
    """

    plan: Plan
    files: tuple[File, ...]
    scores: Mapping[str, float]
    validation: str
    sha256: str = ""

    def write(self, folder: Path) -> None:
        """Write it, which makes the recording complete."""
        files = [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in self.files]
        found = {**self.plan.record(), "scores": self.scores, "validation": self.validation, "files": files}
        replace(folder / INDEX, json.dumps(found, indent=1).encode())

    @classmethod
    def open(cls, folder: Path, key: str) -> Index:
        """That of the recording in ``folder``.

        Raises:
            UserError: if there is none, or it is not complete.
        """
        try:
            found = read_mapping(folder / INDEX)
            files = tuple(File(str(f["name"]), int(f["size"]), str(f["sha256"])) for f in found["files"])
            plan, scores = Plan.read(found), {str(k): float(v) for k, v in found["scores"].items()}
            if any(Path(file.name).name != file.name for file in files):
                raise ValueError("it names files elsewhere")
            return cls(plan, files, scores, str(found["validation"]), File.of(folder / INDEX).sha256)
        except FileNotFoundError:
            if (folder / PLAN).is_file():
                problem = "this recording is not complete"
                hint = f"go on with it: distill record -c RECIPE --to {folder} --as KIND"
            else:
                problem, hint = "holds no recording", f"make one: distill record -c RECIPE --to {folder} --as KIND"
            raise UserError(problem, key=key, value=str(folder), hint=hint) from None
        except (Unreadable, ValueError, KeyError, TypeError, AttributeError) as error:
            hint = "record it anew"
            raise UserError(f"its {INDEX} cannot be used ({error})", key=key, value=str(folder), hint=hint) from None

    def verify(self, folder: Path, key: str) -> None:
        """Read every file, and compare its hash: 0.6 s of one core a gigabyte, in four threads; slow disks take longer.

        So an altered shard is found before training. Where that takes long, lines say how far it is.

        Raises:
            UserError: naming the first that is missing, cut off or altered.
        """
        with ThreadPoolExecutor(4) as pool:
            found = zip(self.files, pool.map(lambda file: _wrong(folder, file), self.files), strict=True)
            said = (
                spoken(found, "files of the recording compared:", len(self.files), wide()) if is_rank_zero() else found
            )
            for file, wrong in said:
                if wrong:
                    hint = f"remove {file.name} and {INDEX}, and record again: what is intact stays"
                    raise UserError(f"{file.name} {wrong}", key=key, value=str(folder), hint=hint)


def _wrong(folder: Path, file: File) -> str:
    try:
        size = (folder / file.name).stat().st_size
        if size != file.size:
            return f"was cut off or altered ({size:,} bytes of {file.size:,})"
        return "" if File.of(folder / file.name).sha256 == file.sha256 else "was altered (its hash differs)"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05d}.safetensors"


def different(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What ``recorded`` is of, in words, where it is not of what ``now`` is; empty where they agree.

    Args:
        recorded: Fingerprints by name.
        now: Likewise; those that are not known are not compared.
    """
    for name, said in _SAID.items():
        if name in now and recorded.get(name) != now[name]:
            details = list(_details(recorded.get(name), now[name]))
            return f"{said}{': ' + '; '.join(details) if details else ''}"
    return ""


def _details(recorded: Any, now: Any) -> Iterator[str]:
    """The settings that differ, with both values."""
    if isinstance(recorded, Mapping) and isinstance(now, Mapping):
        for key in sorted({*recorded, *now}):
            if recorded.get(key) != now.get(key):
                yield f"{key} was {recorded.get(key)}, and is {now.get(key)}"


def form_of(codec: Mapping[str, Any]) -> str:
    """``hidden int8``, ``topk 50``."""
    return " ".join(str(value) for key, value in codec.items() if key in ("kind", "dtype", "k", "draws"))


def describe(plan: Plan, files: tuple[File, ...]) -> str:
    """``hidden int8, 315,904 positions of 1,234 samples, 580 bytes a position``."""
    each = sum(file.size for file in files if file.name != COMMON) / plan.positions
    return (
        f"{form_of(plan.codec)}, {plan.positions:,} positions of {plan.samples:,} samples, {each:,.0f} bytes a position"
    )
