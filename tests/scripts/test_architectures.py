"""A sample of the architectures that ``scripts/check_architectures.py`` tries, and its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"

# Type, task -> what is refused or warned of, with words of the reason; all else works, padding included.
SAMPLE: dict[tuple[str, str], dict[str, str]] = {
    ("bert", "text-classification"): {"left": "behind 4 of padding"},  # it classifies at the first position
    ("qwen2", "causal-lm"): {},
    ("gpt2", "causal-lm"): {},
    ("mamba", "causal-lm"): {"packing": "would see each other", "pruned": "it is known how"},
    ("jamba", "causal-lm"): {
        "packing": "would see each other",
        "copied": "differ in structure",
        "pruned": "it is known how",
    },
    ("mixtral", "causal-lm"): {"pruned": "it is known how"},
    ("longformer", "masked-lm"): {"pruned": "it is known how"},
    ("squeezebert", "text-classification"): {"left": "behind 4 of padding", "pruned": "it is known how"},
    ("xlnet", "text-classification"): {"pruned": "it is known how"},
    ("xlnet", "token-classification"): {"pruned": "it is known how"},
    ("t5", "text-classification"): {
        "left": "behind 4 of padding",
        "pruned": "it is known how",
    },
    ("bart", "causal-lm"): {
        "left": "alone and behind 4 of padding",
        "packing": "would see each other",
        "pruned": "it is known how",
    },
}


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.mark.parametrize(("case", "refused"), SAMPLE.items(), ids=[" ".join(case) for case in SAMPLE])
def test_an_architecture_works_or_is_refused_with_the_true_reason(
    case: tuple[str, str], refused: dict[str, str]
) -> None:
    from architectures.cells import CELLS, Wrong, cells_of
    from architectures.tiny import task_of, tiny_model

    from distill.core.utils.errors import UserError

    kind, task = case
    model = tiny_model(kind, task)
    for cell in cells_of(task, [task])[:-1]:  # not exported, which takes seconds
        if cell in refused:
            with pytest.raises((UserError, Wrong), match=refused[cell]):
                CELLS[cell](model, task_of(task))
        else:
            CELLS[cell](model, task_of(task))


def test_the_checks_can_fail() -> None:
    from architectures.cells import Wrong, copied, packing, padding
    from architectures.tiny import task_of, tiny_model

    model = tiny_model("fnet", "text-classification")
    with pytest.raises(Wrong, match="alone and behind 4"):
        padding(model, task_of("text-classification"))
    model = tiny_model("gpt2", "causal-lm")
    packing(model, task_of("causal-lm"))  # finds that positions hide documents
    places = torch.arange(27)[None, :, None] * torch.arange(16) / 9
    model.transformer.wpe.forward = lambda given: places[:, : given.shape[1]]  # type: ignore[method-assign,union-attr,assignment,operator]
    with pytest.raises(Wrong, match="document 2 of 2 in a block"):
        packing(model, task_of("causal-lm"))
    model = tiny_model("bert", "text-classification")
    model.bert.encoder.layer[0].forward = lambda hidden_states, *_, **__: 2 * hidden_states  # type: ignore[method-assign,assignment,union-attr,index]
    with pytest.raises(Wrong, match="a student of all layers"):
        copied(model, task_of("text-classification"))


def test_the_table_says_what_works_and_why_not(tmp_path: Path) -> None:
    from architectures.table import write

    def row(kind: str, cell: str, state: str, why: str = "") -> dict[str, Any]:
        return {"type": kind, "task": "causal-lm", "cell": cell, "state": state, "why": why}

    rows = [
        row("llama", "teacher", "works"),
        row("llama", "pruned", "works"),
        row("mamba", "teacher", "works"),
        row("mamba", "pruned", "refused", "callbacks.StructuredPruning: it is known how x is built, and this is mamba"),
        row("blt", "model", "none", "ValueError: it has 48,042,464 parameters"),
    ]
    write(rows, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "| llama | causal | works | works |" in text
    assert "| mamba | causal | works | 1 |" in text
    assert "1. `callbacks.StructuredPruning`: it is known how x is built, and this is another" in text
    assert "- blt: ValueError" in text
    assert f"torch {torch.__version__.partition('+')[0]}" in text
