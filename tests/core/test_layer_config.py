"""Layers of different kinds keep their kind, or the student is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from distill.compression.structure.removal import remove_layers
from distill.core.architectures import layer_list
from distill.core.utils.errors import UserError
from distill.models.students.layers import keep_layers

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 40,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GQA = SIZES | {"num_key_value_heads": 2}
SLIDING = ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]
MIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "one word a layer": ("qwen2", GQA | {"layer_types": SLIDING, "use_sliding_window": True, "sliding_window": 2}),
    "one word a layer, of another place": ("smollm3", GQA | {"no_rope_layers": [1, 1, 0, 0]}),
    "words with how often they stand": (
        "gpt_neo",
        {**SIZES, "num_layers": 4, "attention_types": [[["global"], 2], [["local"], 2]], "window_size": 2},
    ),
    "one number a layer": ("longformer", SIZES | {"attention_window": [8, 8, 4, 4]}),
    "numbers of the layers of a kind": (
        "qwen2_moe",
        GQA | {"mlp_only_layers": [0, 1], "num_experts": 4, "moe_intermediate_size": 8, "num_experts_per_tok": 2}
        | {"shared_expert_intermediate_size": 8},
    ),
    "a beginning of another kind": (
        "ernie4_5_moe",
        GQA | {"moe_layer_start_index": 2, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 8},
    ),
}  # fmt: skip


def made(kind: str, entries: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    auto: Any = AutoModelForMaskedLM if kind == "longformer" else AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(AutoConfig.for_model(kind, **entries))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def logits(model: nn.Module) -> Tensor:
    ids = torch.randint(3, 40, (2, 16), generator=torch.Generator().manual_seed(1))
    flags = {} if model.config.model_type == "longformer" else {"use_cache": False}  # type: ignore[union-attr]
    with torch.no_grad():
        return model.eval()(input_ids=ids, **flags).logits  # type: ignore[no-any-return]


@contextmanager
def skipping(model: PreTrainedModel, numbers: list[int]) -> Iterator[None]:
    """Layers (1 is the first) hand on what they were given."""

    def hand_on(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        return given if isinstance(output, Tensor) else (given, *output[1:])

    layers: Any = model.get_submodule(layer_list(model))
    handles = [layers[n - 1].register_forward_hook(hand_on, with_kwargs=True) for n in numbers]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(("kind", "entries"), MIXED.values(), ids=MIXED)
def test_layers_of_different_kinds_keep_their_kind(kind: str, entries: dict[str, Any], tmp_path: Path) -> None:
    """Cut off behind the second, what stands layer by layer would make both layers of the first kind."""
    teacher = made(kind, entries)
    student = keep_layers(teacher, [2, 4])
    with skipping(teacher, [1, 3]):
        expected = logits(teacher)
    assert not torch.equal(expected, logits(teacher))
    assert torch.equal(logits(student), expected)
    student.save_pretrained(tmp_path)
    assert torch.equal(logits(type(student).from_pretrained(tmp_path)), expected)


def test_the_test_above_can_tell_the_kinds_apart() -> None:
    kind, entries = MIXED["one word a layer"]
    cut = made(kind, entries | {"layer_types": ["full_attention"] * 4})
    teacher = made(kind, entries)
    cut.load_state_dict(teacher.state_dict())
    with skipping(teacher, [1, 3]), skipping(cut, [1, 3]):
        assert not torch.equal(logits(cut), logits(teacher))


def test_layers_that_are_removed_leave_the_others_of_their_kind(tmp_path: Path) -> None:
    teacher = made(*MIXED["one word a layer"])
    with skipping(teacher, [1, 3]):
        expected = logits(teacher)
    remove_layers(teacher, [2, 4], "key")
    assert torch.equal(logits(teacher), expected)
    teacher.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), expected)


@pytest.mark.parametrize(
    ("kind", "entries", "said"),
    [
        ("gpt2", SIZES | {"scale_attn_by_inverse_layer_idx": True}, r"layer 2 would be another .*place 1.*scaling"),
        ("diffllama", GQA, r"layer 2 would be another kind of layer in place 1.*lambda_init would be 0\.2\d* and not"),
        ("jamba", GQA | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4}, "differ in structure"),
        ("t5", SIZES | {"num_layers": 4, "num_decoder_layers": 2, "d_kv": 4}, "an encoder and a decoder"),
    ],
)
def test_layers_that_would_be_others_in_their_new_place_are_refused(
    kind: str, entries: dict[str, Any], said: str
) -> None:
    if kind == "t5":
        from transformers import T5ForConditionalGeneration

        model: Any = T5ForConditionalGeneration(AutoConfig.for_model(kind, **entries))
    else:
        model = made(kind, entries)
    with pytest.raises(UserError, match=said):
        keep_layers(model, [2, 3])
