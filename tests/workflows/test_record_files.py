"""Hidden states that vLLM's connector wrote are recorded as the model's own; those of another place are refused."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

connector: Any = runpy.run_path(str(Path(__file__).with_name("completions.py")))["connector"]

Distill = Callable[..., Any]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_dir: Path, text_folder: str) -> str:
    """Packed blocks of several documents."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(chat_dir, "teacher")
    weights = load_file("teacher/model.safetensors")
    generator = torch.Generator().manual_seed(0)
    weights["model.norm.weight"] = 0.5 + torch.rand(16, generator=generator)
    weights["lm_head.weight"] *= 8.0
    for name in weights:
        if "proj" in name:  # so that a layer changes much
            weights[name] *= 15.0
    save_file(weights, "teacher/model.safetensors", {"format": "pt"})
    model = {
        "task": "causal-lm",
        "teacher": {"path": "teacher"},
        "student": {"path": str(chat_dir), "layers": "first", "num_layers": 1},
        "losses": [{"class_path": "HintonKL"}],
        "optimizer": {"lr": 1e-2},
    }
    data = {"path": text_folder, "pack_length": 24, "batch_size": 4, "eval_batch_size": 4, "train_samples": 40}
    trainer = {"max_steps": 3, "accelerator": "cpu", "enable_progress_bar": False, "limit_val_batches": 2}
    config = {"model": model, "data": data, "trainer": trainer, "logging": {"tensorboard": False}}
    Path("lm.yaml").write_text(yaml.safe_dump(config))
    return "lm.yaml"


def rows(folder: str) -> torch.Tensor:
    return torch.cat([load_file(path)["rows.hidden"] for path in sorted(Path(folder).glob("shard*"))])


@pytest.mark.slow
def test_states_of_vllm_are_recorded_as_the_model_that_runs(recipe: str, distill: Distill) -> None:
    done = distill("record", "-c", recipe, "--write-prompts", "prompts.jsonl")
    assert done.code == 0, done.err
    connector("teacher", "prompts.jsonl", "states")
    shared = ("record", "-c", recipe, "--dtype", "float32")
    done = distill(*shared, "--to", "stored", "--from-hidden-states", "states", "--verify", "2")
    assert done.code == 0, done.err
    assert "verified: " in done.out
    assert distill(*shared, "--to", "run", "--as", "hidden").code == 0
    torch.testing.assert_close(rows("stored"), rows("run"), rtol=1e-4, atol=1e-5)
    index, expected = (json.loads(Path(name, "index.json").read_text()) for name in ("stored", "run"))
    assert index["scores"] == pytest.approx(expected["scores"], 1e-4)
    assert index["teacher"] == expected["teacher"]
    done = distill("fit", "-c", recipe, "--model.teacher", "{recorded: stored, path: null}")
    assert done.code == 0, done.err


def test_states_of_another_place_or_of_other_texts_are_refused(recipe: str, distill: Distill) -> None:
    assert distill("record", "-c", recipe, "--write-prompts", "prompts.jsonl").code == 0

    def refused(folder: str, *options: str) -> str:
        done = distill("record", "-c", recipe, "--to", "kept", "--from-hidden-states", folder, *options)
        assert (done.code, Path("kept").exists()) == (2, False), done.out
        return " ".join(done.err.split())

    connector("teacher", "prompts.jsonl", "normed", norm=True)
    assert "have been through the final norm already" in refused("normed")
    connector("teacher", "prompts.jsonl", "early", layers=(1,))
    assert "the teacher that runs says something else" in refused("early", "--verify", "1")
    assert "--verify = 0: has no effect" in refused("early", "--verify", "0")
    assert "holds no files of vLLM's connector" in refused("nowhere")
    assert "documents have no hidden states there" in refused("early", "--data.pack_length", "20")
    one = Path("early/cmpl-0.safetensors")
    tensors = load_file(one)
    save_file(tensors | {"hidden_states": tensors["hidden_states"][:-1].contiguous()}, one)
    assert "has hidden states of the shape" in refused("early")
    save_file(tensors | {"hidden_states": tensors["hidden_states"][..., :8].contiguous()}, one)
    one.rename("early/zzz.safetensors")
    assert "the teacher's head reads 16" in refused("early")
    assert "give --from-hidden-states too" in " ".join(
        distill("record", "-c", recipe, "--to", "kept", "--as", "hidden", "--verify", "1").err.split()
    )
