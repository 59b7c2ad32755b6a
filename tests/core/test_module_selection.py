"""The promises of which modules patterns and types choose."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers.pytorch_utils import Conv1D

from distill.core.module_selection import LINEAR, check_overrides, of_types, override, select
from distill.core.utils.errors import UserError

KINDS = (*LINEAR, nn.Conv1d, nn.Conv2d)


class Net(nn.Module):
    """One of each, in a block, and a head."""

    def __init__(self) -> None:
        super().__init__()
        parts = {"map": nn.Linear(4, 4), "turned": Conv1D(4, 4), "wave": nn.Conv1d(4, 4, 1), "norm": nn.LayerNorm(4)}
        self.block = nn.ModuleDict(parts)
        self.head = nn.Linear(4, 2)


def said(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (None, ["block.map", "block.turned", "block.wave"]),
        (["Conv1D"], ["block.turned"]),
        (["Conv1d"], ["block.wave"]),
        (["Conv1d", "Linear"], ["block.map", "block.wave"]),
    ],
)
def test_types_are_told_apart_to_the_letter(names: list[str] | None, chosen: list[str]) -> None:
    assert list(select(Net(), of_types(KINDS, names, "types"), key="")) == chosen


@pytest.mark.parametrize(("name", "near"), [("linear", "Linear"), ("Conv3D", "Conv1D"), ("Embedding", "Linear")])
def test_an_unknown_type_is_refused_with_the_nearest(name: str, near: str) -> None:
    message = said(lambda: of_types(KINDS, ["Linear", name], "callbacks.P.types"))
    assert message.startswith(f"callbacks.P.types.1 = '{name}': is no type that can be compressed here: Linear, Conv1D")
    assert f"'{near}'" in message.partition("Conv2d. ")[2]


def test_each_pattern_to_include_is_found_in_a_module_that_can_be_chosen() -> None:
    message = said(lambda: select(Net(), KINDS, ["map", "norm"], key="P"))
    assert message.startswith(
        "P.include.1 = 'norm': is found only in modules that are not compressed: block.norm. name"
    )
    assert "Linear or Conv1D or Conv1d or Conv2d" in message
    assert "P.include.0 = 'wave'" in said(lambda: select(Net(), LINEAR, ["wave", "map"], key="P"))
    assert list(select(Net(), KINDS, ["block"], key="P")) == ["block.map", "block.turned", "block.wave"]
    assert list(select(Net(), KINDS, ["head"], key="P")) == ["head"]


def test_a_student_without_such_layers_is_told_what_its_weights_are() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(9, 4), "cell": nn.LSTM(4, 8), "head": nn.Linear(8, 2)})
    message = said(lambda: select(model, KINDS, key="P"))
    assert message.endswith("exclude less; its weights are those of LSTM, Embedding, Linear.")


def test_what_is_left_out_may_be_anything_that_exists() -> None:
    assert list(select(Net(), LINEAR, exclude=["norm", "wave", "head", "turned"], key="P")) == ["block.map"]
    assert "found in no module's name" in said(lambda: select(Net(), LINEAR, exclude=["nrm"], key="P"))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("head", "is found only in modules that are not compressed: head."),
        ("block", "is found only in modules that are not compressed: block.map, block.turned and 2 more."),
        ("tuned", "found in no module's name. did you mean 'turned' or 'block.turned'?"),
        ("(", "not a regular expression"),
    ],
)
def test_a_pattern_without_effect_is_refused(pattern: str, words: str) -> None:
    message = said(lambda: check_overrides(Net(), {pattern: 0.5}, ["nothing"], "P.overrides"))
    assert re.search(rf"^P\.overrides\.{re.escape(pattern)}: {re.escape(words)}", message)


@pytest.mark.parametrize("nothing", [None, 0, 0.0])
def test_what_is_left_as_it_is_need_not_be_chosen(nothing: float | None) -> None:
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    check_overrides(model, {"head": nothing}, {"body"}, "P.overrides")
    with pytest.raises(UserError, match=r"P\.overrides\.heed: found in no module's name"):
        check_overrides(model, {"heed": nothing}, {"body"}, "P.overrides")


def test_of_several_patterns_in_a_name_the_last_holds() -> None:
    overrides = {"layer": 1, "query": 2, "key": 3}
    assert override("layer.0.query", overrides, 0) == 2
    assert override("layer.0.value", overrides, 0) == 1
    assert override("head", overrides, 0) == 0
    assert override("head", None, 0) == 0


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_head_of_an_encoder_decoder_is_left_alone_though_it_is_its_embedding(kind: str) -> None:
    small: Any = runpy.run_path(str(Path(__file__).parents[1] / "encoder_decoders.py"))
    model = small["encoder_decoder"](kind)
    chosen = select(model, key="callbacks.0")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert "lm_head" not in chosen
    assert sum("EncDecAttention" in name or "encoder_attn" in name for name in chosen) == 2 * 4
    assert set(select(model, include=["lm_head"], key="callbacks.0")) == {"lm_head"}
