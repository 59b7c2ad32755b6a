"""What a command leaves, as hashes by name, without what it may differ in: times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import distill.run.checkpoints.file
from distill.export.folder import CHECKSUMS, REPORT
from distill.run.checkpoints.names import resume_checkpoints

__all__ = ["Digest", "different", "of_folder", "of_search", "of_sweep", "of_training"]

_TIMES = ("seconds", "train_seconds", "started", "latency_ms", "latency_ms_of_32", "verdict")
"""Keys of what was measured in time, and what a report says of that."""

Digest = Callable[[Path], dict[str, str]]


def of_training(run: Path) -> dict[str, str]:
    """Of all that a run leaves: what its last checkpoint holds, the history, the student, and the scores."""
    newest = next(iter(resume_checkpoints(run / "checkpoints").values()))
    found = dict(_hashes(distill.run.checkpoints.file.read(newest), newest.name))
    found["metrics.csv"] = _hash(run / "metrics.csv")
    found |= {f"student/{name}": value for name, value in of_folder(run / "student").items()}
    result = json.loads((run / "result.json").read_text())
    return found | {f"result.{name}": json.dumps(result[name]) for name in ("scores", "steps", "saved_step")}


def of_folder(folder: Path) -> dict[str, str]:
    """Of every file, those of JSON without their times; an absent folder has none, a half one lacks some."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): _hash(path) for path in files}


def of_sweep(folder: Path) -> dict[str, str]:
    """Of the trials, and of the file that says what they are."""
    trials = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    found = {f"{run.name}/{name}": value for run in trials for name, value in of_training(run).items()}
    return found | {"sweep.json": _hash(folder / "sweep.json")}


def of_search(folder: Path) -> dict[str, str]:
    """Of the trials' students, exports and scores, of the front, and of the file that says what was found."""
    kept = [folder / "front", *(run / part for run in sorted(folder.iterdir()) for part in ("student", "exports"))]
    found = {str(of.relative_to(folder) / name): value for of in kept for name, value in of_folder(of).items()}
    return found | {"search.json": _hash(folder / "search.json")}


def _hash(file: Path) -> str:
    if file.name == CHECKSUMS:  # times are in export.json
        return "\n".join(line for line in file.read_text().splitlines() if not line.endswith(REPORT))
    if file.suffix != ".json":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return json.dumps(_timeless(json.loads(file.read_text())), sort_keys=True)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(item) for name, item in value.items() if name not in _TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _hashes(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Tensor):
        data = value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        yield place, f"{value.dtype} {list(value.shape)} {hashlib.sha256(data).hexdigest()}"
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if name not in _TIMES:  # how long it took is no part of what was trained
                yield from _hashes(item, f"{place}/{name}")
    elif isinstance(value, (list, tuple)):
        yield place, f"{type(value).__name__} of {len(value)}"
        for index, item in enumerate(value):
            yield from _hashes(item, f"{place}/{index}")
    else:
        yield place, repr(value)


def different(found: Mapping[str, str], reference: Mapping[str, str]) -> list[str]:
    """The names of what is not as in the reference."""
    return [name for name in {**reference, **found} if found.get(name) != reference.get(name)]
