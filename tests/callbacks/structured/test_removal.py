"""What was masked is removed, and the saved student says what was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import distill
from distill.callbacks import StructuredPruning
from distill.core.record import note
from distill.models.saved_student import save

Make = Callable[..., Any]

FAMILIES = ["bert", "distilbert", "gpt2", "llama", "qwen2", "roberta"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_what_was_masked_is_removed_and_reloads_identical(
    tmp_path: Path, family: str, hidden: float, classifier: Make, pair: Make, fit: Make, logits: Make
) -> None:
    module = pair(classifier(family))
    pruning = StructuredPruning(heads=0.5, neurons=0.5, hidden=hidden, layers=1, end=4, every_n_steps=1)
    fit(module, pruning, max_steps=6)
    student = module.student
    masked, before = logits(student), sum(p.numel() for p in student.parameters())
    steps = pruning.finish(student)
    removed = logits(student)
    torch.testing.assert_close(removed, masked, rtol=1e-6, atol=1e-6)
    assert sum(p.numel() for p in student.parameters()) < 0.75 * before
    assert not any("mask" in name or "importance" in name for name, _ in student.named_buffers())
    assert [step["kind"] for step in steps] == ["layers", "remove"]
    assert [len(kept) for kept in steps[1]["heads"].values()] == [2, 2]
    assert [len(kept) for kept in steps[1]["neurons"].values()] == [10, 10]
    save(student, tmp_path / "student", steps=steps)
    assert json.loads((tmp_path / "student" / "compression.json").read_text())["steps"] == steps
    assert torch.equal(logits(distill.load(tmp_path / "student")), removed)


def test_a_causal_language_model_keeps_its_tied_head(tmp_path: Path, logits: Make) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4}
    config = AutoConfig.for_model("qwen2", intermediate_size=20, vocab_size=30, tie_word_embeddings=True, **sizes)
    student = AutoModelForCausalLM.from_config(config)
    pruning = StructuredPruning(heads=0.5, neurons=0.5)
    pruning.prepare(student)
    student.model.layers[0].head_mask[1] = False
    note(student, *pruning.finish(student))
    save(student, tmp_path / "student")
    loaded = distill.load(tmp_path / "student")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight  # type: ignore[union-attr]
    assert torch.equal(logits(loaded), logits(student))


def test_named_layers_go_and_no_others(classifier: Make, pair: Make, fit: Make, logits: Make) -> None:
    module = pair(classifier())
    pruning = StructuredPruning(layers=[3, 1], end=2, every_n_steps=1)
    fit(module, pruning, max_steps=3)
    masked = logits(module.student)
    assert pruning.finish(module.student) == [{"kind": "layers", "kept": [2], "of": 3}]
    assert module.student.config.num_hidden_layers == 1  # type: ignore[union-attr]
    assert torch.equal(logits(module.student), masked)


def test_it_works_under_bf16_autocast(classifier: Make, pair: Make, fit: Make, logits: Make) -> None:
    module = pair(classifier())
    pruning = StructuredPruning(0.5, 0.5, 0.25, 1, "activation", begin=1, end=2, every_n_steps=1)
    fit(module, pruning, precision="bf16-mixed", max_steps=3)
    masked = logits(module.student)
    pruning.finish(module.student)
    torch.testing.assert_close(logits(module.student), masked, rtol=1e-6, atol=1e-6)


def test_a_shrunken_student_can_be_shrunken_again(
    tmp_path: Path, classifier: Make, pair: Make, fit: Make, logits: Make
) -> None:
    student: Any = classifier()
    for part in (1, 2):
        module = pair(student)
        pruning = StructuredPruning(heads=0.5, neurons=0.5, end=2)
        fit(module, pruning, max_steps=3)
        note(student, *pruning.finish(student))
        save(student, tmp_path / f"student-{part}")
        student = distill.load(tmp_path / f"student-{part}")
        assert torch.equal(logits(student), logits(module.student))
    attention = student.bert.encoder.layer[0].attention
    assert (attention.self.query.out_features, student.bert.encoder.layer[0].output.dense.in_features) == (4, 5)
