"""The promises of how modules of one's own are called, and which of their outputs are the logits."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.modeling_outputs import SequenceClassifierOutput

from distill.core.forward import forward
from distill.core.model_spec import ModelSpec
from distill.core.signals import Request
from distill.core.utils.errors import UserError

X, LOGITS = torch.ones(2, 3), torch.arange(8.0).view(2, 4)
LOSS, FEATURES = torch.tensor(0.5), torch.zeros(2, 7)


class Gives(nn.Module):
    """A module whose output is given, and whose ``config`` is none of transformers'."""

    def __init__(self, output: Any, config: Any = None) -> None:
        super().__init__()
        self.output, self.config = output, config

    def forward(self, x: Tensor) -> Any:
        return self.output


def logits(model: nn.Module, **inputs: Tensor) -> Any:
    return forward(model, inputs or {"input": X}, Request(logits=True)).logits


@pytest.mark.parametrize("config", [None, {"width": 4}, SimpleNamespace(use_cache=True, hidden_size=4), BertConfig()])
def test_a_config_does_not_make_a_model_of_transformers(config: Any) -> None:
    assert logits(Gives(LOGITS, config)) is LOGITS
    with pytest.raises(UserError, match="does not give its hidden_size"):
        _ = ModelSpec(Gives(LOGITS, config), "model.student").hidden_size


Named = namedtuple("Named", "features logits")


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        {"features": FEATURES, "logits": LOGITS},
        SimpleNamespace(features=FEATURES, logits=LOGITS),
        Named(FEATURES, LOGITS),
        SequenceClassifierOutput(loss=LOSS, logits=LOGITS),  # type: ignore[arg-type]
        (LOGITS,),
        [LOSS, LOGITS],
        (LOGITS, {"of": "note"}, None),
    ],
)
def test_the_logits_are_the_tensor_what_is_called_so_or_the_one_tensor_that_is_no_scalar(output: Any) -> None:
    assert logits(Gives(output)) is LOGITS


@pytest.mark.parametrize(
    ("output", "described"),
    [
        ((LOGITS, FEATURES), r"a tuple of \[2, 4\], \[2, 7\]"),
        ({"scores": LOGITS}, "a mapping of scores"),
        ((LOSS,), r"a tuple of \[\]"),
        (None, "a NoneType"),
    ],
)
def test_outputs_that_tell_no_logits_are_refused(output: Any, described: str) -> None:
    with pytest.raises(UserError, match=f"Gives gives {described}, and nothing says which"):
        logits(Gives(output))


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (LOGITS.argmax(-1), r"int64 \[2\]"),
        ({"logits": LOGITS.argmax(-1)}, r"int64 \[2\]"),
        ((LOSS, LOGITS.int()), r"int32 \[2, 4\]"),
        (LOGITS > 0, r"bool \[2, 4\]"),
        (LOGITS.to(torch.complex64), r"complex64 \[2, 4\]"),
    ],
)
def test_decisions_in_place_of_logits_are_refused(output: Any, kind: str) -> None:
    with pytest.raises(UserError, match=f"Gives gives a tensor of {kind}, and logits are floating-point"):
        logits(Gives(output))
    for held in (torch.float16, torch.bfloat16, torch.float64):
        assert logits(Gives(LOGITS.to(held))).dtype is held


class Text(nn.Module):
    """Takes its inputs in another order than a batch has them."""

    def forward(self, attention_mask: Tensor, input_ids: Tensor, **more: Tensor) -> Tensor:
        return input_ids - attention_mask + more["bias"]


class Part(nn.Module):
    def forward(self, mask: Tensor, input_ids: Tensor) -> Tensor:
        return input_ids


class Keyword(nn.Module):
    def forward(self, input_ids: Tensor, *, attention_mask: Tensor) -> Tensor:
        return input_ids - attention_mask


def test_inputs_are_passed_by_name_where_forward_has_their_names() -> None:
    bias = torch.full_like(X, 10)
    assert torch.equal(logits(Text(), input_ids=3 * X, attention_mask=X, bias=bias), 12 * X)
    assert torch.equal(logits(Keyword(), input_ids=3 * X, attention_mask=X), 2 * X)


def test_inputs_are_passed_by_position_where_that_is_the_same() -> None:
    model, seen = nn.Sequential(nn.Identity()), []
    model.register_forward_pre_hook(lambda _module, args: seen.append(len(args)))
    logits(model, input=X)
    logits(model, x=X)
    assert seen == [1, 1]


def test_an_input_that_would_be_taken_for_another_is_refused() -> None:
    with pytest.raises(UserError, match=r"Part.forward takes mask, input_ids.*input_ids would be taken for another"):
        logits(Part(), input_ids=X, attention_mask=X)


def test_a_model_without_a_head_gives_hidden_states_and_no_logits() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=9, **sizes)).eval()
    inputs = {"input_ids": torch.tensor([[1, 2, 3]])}
    assert forward(model, inputs, Request(hidden_states=frozenset({1}))).hidden_states[1].shape == (1, 3, 8)
    with pytest.raises(UserError, match="nothing says which of it are the logits"):
        forward(model, inputs, Request(logits=True))


class Inside(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.inner = Gives(output)

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        return LOGITS


@pytest.mark.parametrize("output", [FEATURES, (FEATURES, None), {"features": FEATURES}])
def test_a_tap_keeps_the_first_tensor_of_a_module(output: Any) -> None:
    signals = forward(Inside(output), {"input": X}, Request(taps=frozenset({"inner"})))
    assert signals.taps["inner"] is FEATURES


def test_a_tap_on_what_gives_no_tensor_is_refused() -> None:
    with pytest.raises(UserError, match=r"inner.*gives a NoneType, and no tensor"):
        forward(Inside(None), {"input": X}, Request(taps=frozenset({"inner"})))
