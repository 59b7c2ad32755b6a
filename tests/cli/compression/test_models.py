"""Models of other kinds are compressed too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import distill as package
from distill.callbacks import GradualMagnitudePruning, QuantizationAwareTraining
from distill.core.record import note
from distill.models.saved_student import save

Train = Callable[..., Any]
Zeros = Callable[..., tuple[int, int]]


def test_a_causal_language_model_is_distilled_pruned_and_quantized(
    tmp_path: Path, train: Train, pruning: dict[str, Any], quantization: dict[str, Any], zeros: Zeros
) -> None:
    llama = {
        "model_type": "llama",
        "vocab_size": 2048,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    teacher = tmp_path / "teacher"
    tokenizer = _tokenizer()
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    wide = AutoConfig.for_model(**(llama | {"hidden_size": 32}))
    AutoModelForCausalLM.from_config(wide).save_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    model = {"task": "causal-lm", "teacher": str(teacher), "student": {"config": llama}, "losses": ["HintonKL"]}
    data = {"pack_length": 32, "columns": {"text": "sentence"}}
    found = train(tmp_path, [pruning, quantization], model=model, data=data)
    state = load_file(found.run.student / "model.safetensors")
    pruned = [name for name in state if "proj" in name and name.endswith("weight")]
    count, total = zeros(state, pruned)
    assert len(pruned) == 2 * 7
    assert count == round(0.8 * total)
    assert torch.equal(found.logits(package.load(found.run.student)), found.logits())


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    from distill.core.utils.paths import resolve

    return AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))


def test_a_plain_pair_of_convolutions_is_compressed_in_python(tmp_path: Path, convolutions: Any) -> None:
    callbacks = [
        GradualMagnitudePruning(0.75, end=6, every_n_steps=1),
        QuantizationAwareTraining(begin=6, observe=2, freeze_observers=10),
    ]
    student = convolutions.fit(tmp_path, *callbacks, max_steps=12)
    for callback in callbacks:
        note(student, *callback.finish(student))
    weights = torch.cat([student.get_parameter(name).flatten() for name in ("0.weight", "3.weight")])
    assert int((weights == 0).sum()) == round(0.75 * weights.numel())
    save(student, tmp_path / "student")
    reloaded = package.load(tmp_path / "student", convolutions.net())
    images = convolutions.images()
    with torch.no_grad():
        assert torch.equal(reloaded(images), student.eval()(images))
