"""Operations of a pass are known by the module whose forward calls them, and by their place in its pass."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from distill.compression.operations import Places, aside, contained_operations, places_of, set_places, unwatch, watch
from distill.compression.tracing import RESULT, Recorder, recorded
from distill.core.internals.torch import hooks
from distill.core.utils.errors import UserError


class Half(nn.Module):
    """Two operations, and what is called of a module within."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y += x
        return F.relu(self.norm(y), inplace=True)


class Whole(nn.Module):
    def __init__(self, again: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.again = Half(), Half(), again

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.a, x, use_reentrant=False) if self.again else self.a(x)
        return torch.cat([self.b(x), x], 1).flatten(1)


def trace(model: nn.Module, opaque: set[nn.Module]) -> Recorder:
    watch(model, opaque)
    return recorded(lambda: model(torch.randn(2, 2, 3, 3)))


@pytest.mark.parametrize("training", [True, False])
def test_each_module_counts_what_its_own_forward_calls(training: bool) -> None:
    model = Whole().train(training)
    traced = trace(model, {model.a.conv})
    assert traced.passes[model.a] == [("layer", "add", "batch_norm", "relu")]
    assert traced.passes[model.b] == [("conv", "add", "batch_norm", "relu")]
    assert traced.passes[model] == [("cat",)]


def test_what_reads_what_is_known_by_tensors_also_where_they_are_changed_in_place() -> None:
    model = Whole().eval()
    operations = trace(model, set()).operations
    [joined] = [one for one in operations if one.kind == "cat"]
    assert [one.kind for one in joined.inputs] == ["relu", "relu"]
    relu = joined.inputs[1]
    assert (relu.module, relu.place, relu.inputs[0].kind) == (model.a, 3, "batch_norm")
    assert relu.inputs[0].inputs[0].kind == "add"
    assert operations[-1].kind == RESULT
    assert operations[-1].inputs[0].kind == ".flatten"


def test_a_tensor_that_was_added_to_in_place_is_no_longer_what_it_was() -> None:
    class Bare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.relu()
            y.add_(1)
            return y.sigmoid()

    operations = trace(Bare(), set()).operations
    [sigmoid] = [one for one in operations if one.kind == "sigmoid"]
    assert sigmoid.inputs[0].kind == ""


def rounded(model: nn.Module, module: str, kinds: tuple[str, ...], place: int) -> list[Tensor]:
    seen: list[Tensor] = []

    def point(x: Tensor) -> Tensor:
        seen.append(x)
        return (x * 4).round() / 4

    set_places(model, [Places(module, kinds, {place: point}, "callbacks")])
    return seen


KINDS = ("conv", "add", "batch_norm", "relu")


@pytest.mark.parametrize("again", [False, True])
def test_a_result_is_exchanged_at_its_place_alone_and_again_where_it_is_computed_again(again: bool) -> None:
    torch.manual_seed(0)
    model = Whole(again)
    plain, x = copy.deepcopy(model), torch.randn(2, 2, 3, 3, requires_grad=True)
    watch(model, set())
    seen = rounded(model, "a", KINDS, 1)
    result = model(x)
    half = plain.a.norm(((plain.a.conv(x) + x) * 4).round() / 4).relu()
    assert torch.equal(result, torch.cat([plain.b(half), half], 1).flatten(1))
    result.square().sum().backward()
    assert len(seen) == 1 + again
    assert torch.equal(seen[0], seen[-1])
    unwatch(model)
    assert not any(hooks(module) for module in model.modules())
    assert not places_of(model)


@pytest.mark.parametrize("change", ["other", "more", "fewer"])
def test_a_pass_that_differs_from_the_traced_one_is_refused_by_name(change: str) -> None:
    model = Whole()
    watch(model, set())
    kinds = {"other": ("conv", "mul", *KINDS[2:]), "more": KINDS[:3], "fewer": (*KINDS, "add")}[change]
    rounded(model, "b", kinds, 0)
    with pytest.raises(UserError, match="'b': its pass is another"):
        model(torch.randn(2, 2, 3, 3))
    unwatch(model)
    model(torch.randn(2, 2, 3, 3))  # nothing is left of the pass that was cut off


def test_hooks_that_look_on_are_not_counted() -> None:
    model = Whole()
    watch(model, set())
    rounded(model, "a", KINDS, 1)

    def look(module: nn.Module, args: Any, output: Tensor) -> None:
        with aside():
            (output + 1).relu()

    model.a.conv.register_forward_hook(look)
    model(torch.randn(2, 2, 3, 3))


def test_a_copy_counts_by_itself() -> None:
    model = Whole()
    watch(model, set())
    seen = rounded(model, "a", KINDS, 1)
    other = copy.deepcopy(model)
    other.a.__dict__["_places"].points[1] = lambda x: x * 0
    assert other(torch.randn(2, 2, 3, 3)).abs().sum() < model(torch.randn(2, 2, 3, 3)).abs().sum()
    assert len(seen) == 1


def test_what_was_cut_off_without_its_hooks_is_forgotten() -> None:
    model = Whole()
    watch(model, set())
    with contained_operations():
        hooks(model)[0](model, ())
        x = torch.ones(2) + 1
    rounded(model, "", ("cat",), 0)
    assert torch.equal(torch.ones(2) + 1, x)
    model(torch.randn(2, 2, 3, 3))
