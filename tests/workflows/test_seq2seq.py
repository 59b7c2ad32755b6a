"""Commands on encoder-decoders: a teacher that was recorded, students that are compressed."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Distill = Callable[..., Any]

SMALL: Any = runpy.run_path(str(Path(__file__).parents[1] / "encoder_decoders.py"))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a recipe into the current folder."""
    monkeypatch.chdir(tmp_path)

    def written(callbacks: Any = (), **model: Any) -> str:
        Path("pairs.yaml").write_text(json.dumps(SMALL["recipe"](tmp_path, **model) | {"callbacks": [*callbacks]}))
        return "pairs.yaml"

    return written


def student_of(run: str) -> dict[str, Any]:
    return load_file(Path("runs", run, "student", "model.safetensors"))


@pytest.mark.parametrize("kept", [("hidden", "--dtype", "float32"), pytest.param(("logits",), marks=pytest.mark.slow)])
def test_a_recorded_teacher_teaches_as_the_one_that_runs(
    write: Callable[..., str], distill: Distill, kept: tuple[str, ...]
) -> None:
    recipe = write(optimizer={"lr": 1e-3})
    done = distill("record", "-c", recipe, "--to", "kept", "--as", *kept)
    assert done.code == 0, done.err
    read = ("--model.teacher", "{recorded: kept}")
    for name, more in (("live", ()), ("read", read), ("alone", ("--model.losses", "[CrossEntropy]"))):
        done = distill("fit", "-c", recipe, "--id", name, *more)
        assert done.code == 0, done.err
    live, found, alone = (student_of(f"pairs/{name}") for name in ("live", "read", "alone"))
    for name, weight in live.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-5)
    assert any(float((alone[name] - weight).abs().max()) > 1e-3 for name, weight in live.items())
    done = distill("fit", "-c", recipe, "--id", "other", *read, "--data.max_target_length", "5")
    assert done.code == 2
    assert "max_target_length" in done.err


SPECS = {
    "heads": ("callbacks.+", "{class_path: StructuredPruning, init_args: {heads: 0.5}}", "this is t5"),
    "sharing": ("callbacks.+", "{class_path: ShareParameters, init_args: {groups: 2}}", "an encoder and a decoder"),
    "width": ("model.student.hidden_size", "8", "this is t5"),
    "on policy": ("model.on_policy", "{share: 0.5}", "is for language models that go on with a text"),
    "packing": ("data.pack_length", "32", "cannot be packed"),
    "another tokenizer": ("data.teacher_tokenizer", "teacher", "no causal language model"),
    "which stack": ("model.losses", "[RelationalKD]", "stack: encoder, or stack: decoder"),
}


@pytest.mark.parametrize("name", SPECS)
def test_what_is_not_for_encoder_decoders_is_refused_before_training(
    write: Callable[..., str], distill: Distill, name: str
) -> None:
    key, value, reason = SPECS[name]
    done = distill("fit", "-c", write(), "--id", "one", "--model.student.path", "teacher", f"--{key}", value)
    assert done.code == 2
    assert reason in done.err
    assert key.removesuffix(".+").split(".")[0] in done.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("target", ["gguf", "onnx-genai"])
@pytest.mark.slow
def test_targets_for_language_models_alone_say_so(write: Callable[..., str], distill: Distill, target: str) -> None:
    assert distill("fit", "-c", write(), "--id", "one").code == 0
    done = distill("export", "runs/pairs/one", "--to", target)
    assert done.code == 2
    assert "T5ForConditionalGeneration" in done.err
    done = distill("evaluate", "runs/pairs/one", "--tasks", "x.jsonl")
    assert done.code == 2
    assert "seq2seq" in done.err
