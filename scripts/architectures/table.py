"""The table of what came of every architecture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

__all__ = ["counts", "write"]

Row = Mapping[str, Any]

_TASKS = {
    "causal-lm": "causal",
    "masked-lm": "masked",
    "text-classification": "text",
    "token-classification": "token",
}
_COLUMNS = ("teacher", "padding", "left", "packing", "copied", "hints", "pruned", "quantized", "exported")

_HEAD = """# Architectures

Every model type of transformers {transformers} that has a head for one of the tasks, as a tiny random model with
torch {torch}, and what came of it. Made by

    python scripts/check_architectures.py --out docs/architectures.md

| column | what is done, and compared with the model itself |
|---|---|
| teacher | saved, loaded by path, run on padded rows |
| padding | a row alone and in a batch as a run pads it: the same logits to 1e-5; warned: padding counts |
| left | a row alone and padded on the left, as an export computes it; warned: its tokenizer pads on the right |
| packing | two documents in a packed block, and each alone: the same logits to 1e-5 |
| copied | a student of all layers: the same bits; of half of them (`layers: uniform`): exactly their weights |
| hints | `HintonKL`, `FitNetHint`, `CrossEntropy` and their gradient, for the copied student or a whole one |
| pruned | `StructuredPruning` of half the heads and neurons: what is left computes what masking them did |
| quantized | int8 weights, inputs and embeddings, without training: saved and loaded it gives the same bits |
| exported | ONNX: onnxruntime's logits, to 1e-4 of the largest; with one head of each type |

Slow is what did not end in 60 s (an export: 150 s) on a busy core. An empty place was not tried: packing is for
language models alone. A number is a reason below the table, by which a run, or its export, is refused before anything
is written.

Quantization while training (`QuantizationAwareTraining`) refuses two of those that work without: `rwkv` and `gemma3n`
write weights in their forward pass. The message names them, and all else is quantized when they are left out:
`exclude: ['attention\\.output', 'feed_forward\\.value']` and `exclude: [_coefs]`.
"""


def counts(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Column -> outcome -> how many."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        found[row["cell"]][row["state"]] += 1
    return found


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the table as Markdown.

    Args:
        rows: A mapping for each model type, task and column: ``type``, ``task``, ``cell``, ``state`` and ``why``.
        path: Where to.
    """
    columns = [column for column in _COLUMNS if any(row["cell"] == column for row in rows)]
    reasons: dict[str, int] = {}
    lines: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    left_out = {}
    for row in sorted(rows, key=lambda row: (row["type"], row["task"])):
        if row["cell"] == "model":
            left_out[row["type"]] = row["why"]
            continue
        said = row["state"]
        if said == "refused":
            said = str(reasons.setdefault(_general(row["why"], row["type"]), len(reasons) + 1))
        lines[row["type"], _TASKS[row["task"]]][row["cell"]] = said
    text = [_HEAD.format(transformers=transformers.__version__, torch=torch.__version__.partition("+")[0])]
    outcomes = counts(rows)
    text += [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for state in ("works", "warned", "refused", "slow", "wrong", "fails"):
        text.append(f"| {state} | " + " | ".join(str(outcomes[column].get(state, 0)) for column in columns) + " |")
    text += ["", f"| type | task | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    for (kind, task), cells in lines.items():
        text.append(f"| {kind} | {task} | " + " | ".join(cells.get(column, "") for column in columns) + " |")
    text += ["", "## Reasons", ""]
    text += [f"{number}. {reason}" for reason, number in reasons.items()]
    text += ["", "## Not tried", "", "Of these no small model that runs on text alone was made.", ""]
    text += [f"- {kind}: {why}".replace("[", r"\[") for kind, why in sorted(left_out.items())]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def _general(why: str, kind: str) -> str:
    """A reason without the names of one architecture, so that it stands once for all."""
    key, _, problem = why.partition(": ")
    problem = problem.split(" (", 1)[0] if "differ in structure" in problem else problem
    problem = problem.split("; ", 1)[0] if "where one list holds all" in problem else problem
    problem = problem.split(": its ", 1)[0] if "another kind of layer" in problem else problem
    words = [
        "..." if any(part in word for part in ("For", "Model", "Config", "LMHead")) and word[:1].isupper() else word
        for word in problem.split()
    ]
    return f"`{key}`: {' '.join(words)}".replace(f"this is {kind}", "this is another")
