"""Architectures whose published files have other names than their modules: what is saved is what is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.storage import Store
from distill.models import saved_student

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}
SIZES |= {"intermediate_size": 24, "bos_token_id": 1, "eos_token_id": 2}
KINDS: dict[str, dict[str, Any]] = {
    "gpt_neox": {},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
    "qwen3_moe": {
        "num_key_value_heads": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "head_dim": 8,
    },
}


@pytest.mark.parametrize("store", ["float", "integers"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_student_of_renamed_weights_is_what_was_saved(kind: str, store: Store, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **KINDS[kind])).eval()
    ids = torch.randint(3, 40, (2, 7))
    steps = quantize(model, store=store)
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
    saved_student.save(model, tmp_path / "student", steps=steps)
    opened = [saved_student.load(tmp_path / "student")]
    if store == "float":
        opened.append(AutoModelForCausalLM.from_pretrained(tmp_path / "student"))
    for other in opened:
        with torch.no_grad():
            assert torch.equal(other(input_ids=ids, use_cache=False).logits, expected)
