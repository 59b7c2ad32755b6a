"""The promises of layers that share their parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import distill
from distill.compression.structure.sharing import (
    average,
    blocks,
    check_alike,
    check_groups,
    rebuild,
    share,
    shared_layers,
)
from distill.core.utils.errors import UserError
from distill.models.saved_student import save


def test_blocks_are_of_neighbours() -> None:
    assert blocks(6, 2) == [[1, 2], [3, 4], [5, 6]]
    assert blocks(7, 3) == [[1, 2, 3], [4, 5, 6]]
    assert blocks(5, 3) == [[1, 2, 3], [4, 5]]
    assert blocks(3, 5) == [[1, 2, 3]]


@pytest.mark.parametrize("groups", [[], [[1]], [[1, 2], [2, 3]], [[1, 1]], [[0, 1]], [[3, 4]]])
def test_groups_that_cannot_be_are_refused(groups: list[list[int]]) -> None:
    with pytest.raises(UserError, match="layers 1 to 3"):
        check_groups(groups, 3, "key")


def test_the_mean_is_over_the_layers_of_the_group(tiny: Callable[..., Any]) -> None:
    layers = shared_layers(tiny("bert"), "key")
    expected = {
        name: (p.double() + dict(layers[2].named_parameters())[name].double()) / 2
        for name, p in layers[0].named_parameters()
    }
    untouched = layers[1].output.dense.weight.clone()  # type: ignore[union-attr, operator]
    average(layers, [[1, 3]])
    for name, parameter in layers[0].named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-6, atol=1e-7)
    assert torch.equal(layers[1].output.dense.weight, untouched)  # type: ignore[union-attr, arg-type]


def test_averaging_shared_layers_changes_nothing(tiny: Callable[..., Any]) -> None:
    layers = shared_layers(tiny("bert"), "key")
    share(layers, [[1, 2, 3]])
    before = layers[0].output.dense.weight.clone()  # type: ignore[union-attr, operator]
    average(layers, [[1, 2, 3]])
    assert torch.equal(layers[0].output.dense.weight, before)  # type: ignore[union-attr, arg-type]


def test_shared_layers_are_saved_once_and_reload_shared(
    tiny: Callable[..., Any], family: str, inputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = tiny(family)
    step = {"kind": "share", "groups": [[1, 3]]}
    before = sum(p.numel() for p in model.parameters())
    rebuild(model, step)
    of_a_layer = sum(p.numel() for p in shared_layers(model, "key")[1].parameters())
    assert before - sum(p.numel() for p in model.parameters()) == of_a_layer
    save(model, tmp_path / "student", steps=[step])
    held = load_file(tmp_path / "student" / "model.safetensors")
    assert sum(value.numel() for value in held.values()) == sum(p.numel() for p in model.parameters())
    loaded = distill.load(tmp_path / "student")
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model.eval()(**inputs).logits)


def test_layers_of_other_shapes_do_not_share(tiny: Callable[..., Any]) -> None:
    layers = shared_layers(tiny("bert"), "key")
    layers[1].output.dense = nn.Linear(5, 16)
    with pytest.raises(UserError, match="layers 1 and 2"):
        check_alike(layers, [[1, 2]], "key")
    with pytest.raises(UserError, match="transformers"):
        shared_layers(nn.Linear(2, 2), "key")
