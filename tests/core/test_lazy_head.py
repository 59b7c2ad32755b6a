"""A model's pass without its head gives the model's own logits, or says why it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from distill.core.forward import forward
from distill.core.lazy_head import can_be_lazy, logits_request, why_not_lazy
from distill.core.signals import Request

SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}


def made(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    settings = SMALL | more
    if kind == "gpt2":
        settings = {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32} | more
    auto = AutoModelForMaskedLM if kind in ("bert", "roberta", "distilbert") else AutoModelForCausalLM
    return auto.from_config(AutoConfig.for_model(kind, **settings)).eval()


IDS = {"input_ids": torch.arange(24).view(2, 12) * 7 % 61}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("gpt2", {}),
        ("qwen2", {}),
        ("gemma2", {"final_logit_softcapping": 3.0}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {"logit_scale": 0.0625}),
        ("bert", {}),
        ("roberta", {"max_position_embeddings": 40}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)) or "plain",
)
def test_lazy_logits_computed_are_the_models_own(kind: str, more: dict[str, Any]) -> None:
    model = made(kind, **more)
    with torch.no_grad():
        for parameter in model.parameters():  # logits large enough for what follows the head to matter
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    assert why_not_lazy(model) == ""
    plain = forward(model, IDS, Request(logits=True, hidden_states=frozenset({1})))
    lazy = forward(model, IDS, Request(logits=True, hidden_states=frozenset({1}), lazy=True))
    assert lazy.logits is None
    assert lazy.lazy_logits is not None
    assert lazy.width == plain.width == 61
    assert plain.logits is not None
    torch.testing.assert_close(lazy.lazy_logits.whole(), plain.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lazy.hidden_states[1], plain.hidden_states[1])


def test_the_pass_after_a_lazy_one_has_its_head_again() -> None:
    model = made("llama")
    assert why_not_lazy(model) == ""
    before = forward(model, IDS, Request(logits=True)).logits
    forward(model, IDS, logits_request(model))
    after = forward(model, IDS, Request(logits=True)).logits
    assert before is not None
    assert after is not None
    assert torch.equal(before, after)
    assert "forward" not in model.lm_head.__dict__


def test_trying_a_model_leaves_its_modes_and_random_numbers_alone() -> None:
    model = made("gpt2").train()
    model.transformer.h[0].eval()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert why_not_lazy(model) == ""
    assert torch.equal(torch.rand(2), expected)
    assert model.training
    assert not model.transformer.h[0].training


class Twice(nn.Linear):
    """A head of a class of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def test_a_head_that_is_no_plain_product_is_left_to_compute() -> None:
    model = made("llama")
    model.lm_head = Twice(16, 61, bias=False)
    assert why_not_lazy(model) == "its head is a Twice"
    assert not can_be_lazy(model)
    assert forward(model, IDS, logits_request(model)).logits is not None


def test_a_model_that_does_more_with_the_product_is_found_by_trying() -> None:
    model = made("llama")
    own = model.forward

    def squared(*args: Any, **options: Any) -> Any:
        output = own(*args, **options)
        output.logits = output.logits**2
        return output

    model.forward = squared
    assert "none of a factor and a soft cap" in why_not_lazy(model)


def test_a_model_that_adds_what_is_not_its_heads_is_found_by_comparing() -> None:
    model = made("llama")
    own = model.forward

    def shifted(*args: Any, **options: Any) -> Any:
        output = own(*args, **options)
        if output.logits.shape[-1] == 61:
            output.logits = output.logits + torch.arange(61)
        return output

    model.forward = shifted
    assert why_not_lazy(model) == "its logits are not those of its head"


def test_a_head_with_hooks_is_left_to_compute() -> None:
    model = made("llama")
    model.lm_head.register_forward_hook(lambda module, args, output: output + 1)
    assert why_not_lazy(model) == "its head has hooks"


def test_a_head_that_is_given_a_hook_later_computes_from_then_on() -> None:
    model = made("llama")
    assert why_not_lazy(model) == ""
    reads = model.lm_head.register_forward_pre_hook(lambda module, args: None)
    assert can_be_lazy(model)  # what it reads is there as ever
    reads.remove()
    hook = model.lm_head.register_forward_hook(lambda module, args, output: output + 1)
    assert not can_be_lazy(model)
    hook.remove()
    assert can_be_lazy(model)


def test_a_plain_module_is_left_to_compute() -> None:
    assert why_not_lazy(nn.Linear(2, 3)) == "it is not a model of transformers"
