"""The command: a language model is trained with rounding, and written for llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from gguf import GGUFReader
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from distill.export.gguf.target import FILE

GROUPS = {"granularity": "group", "group_size": 32}


def test_a_run_becomes_a_file_of_its_integers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_tokenizers: Any, distill: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tokenizer = small_tokenizers.byte_level(300)
    sizes: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, initializer_range=0.2, **sizes)
    LlamaForCausalLM(config).save_pretrained("model")
    tokenizer.save_pretrained("model")
    rows = [{"text": f"The weather in the north was cold, and {row}."} for row in range(16)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rounding = {
        "weights": {"bits": 4, **GROUPS},
        "embeddings": {"bits": 8, **GROUPS},
        "activations": None,
        "begin": 0.0,
    }
    mine = {
        "model": {"task": "causal-lm", "student": {"path": "model"}, "losses": [{"class_path": "CrossEntropy"}]},
        "data": {"files": {"train": "rows.jsonl", "validation": "rows.jsonl"}, "pack_length": 32, "batch_size": 4},
        "callbacks": [{"class_path": "QuantizationAwareTraining", "init_args": rounding}],
        "trainer": {"max_steps": 3, "accelerator": "cpu"},
    }
    Path("my.yaml").write_text(yaml.safe_dump(mine))
    code, _, err = distill("fit", "-c", "my.yaml", "--name", "chat", "--id", "int4")
    assert code == 0, err
    code, _, err = distill("export", "runs/chat/int4", "--to", "gguf")
    assert code == 0, err
    folder = Path("runs/chat/int4/exports/gguf")
    report = json.loads((folder / "export.json").read_text())
    assert report["verified"]["divergence"] < 1e-4
    assert {"Q4_0": 7, "Q8_0": 1}.items() <= report["tensors"].items()
    stored = {tensor.name: tensor for tensor in GGUFReader(folder / FILE).tensors}
    trained = load_file("runs/chat/int4/student/model.safetensors")
    assert stored["blk.0.ffn_up.weight"].n_bytes == trained["model.layers.0.mlp.up_proj.weight"].numel() // 32 * 18
    assert (folder / "README.md").is_file()
