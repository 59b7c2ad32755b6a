"""Each thing that torch keeps to itself does what we count on."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.core.internals.torch import (
    BatchNorm,
    ConvNd,
    ConvTransposeNd,
    Moved,
    OperatorMode,
    RunningNorm,
    TorchLoss,
    clip_despite_fusing,
    convolution,
    flat_weights,
    graph_is_kept,
    hooks,
    in_backward,
    interpolate,
    multiplies_in,
    not_sent_by_ddp,
    output_padding,
    own_buffers,
    own_modules,
    own_parameters,
    pre_hooks,
    remove_hooks,
    scale,
    softmax_into,
    tensors_in,
    unsaved_buffers,
    version,
    written_arguments,
)


def test_tables_hold_what_a_module_has_itself_and_take_another() -> None:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    linear, norm = module
    module.register_buffer("kept", torch.ones(1))
    module.register_buffer("unsaved", torch.ones(1), persistent=False)
    assert list(own_parameters(linear)) == ["weight", "bias"]
    assert own_parameters(linear)["weight"] is linear.weight
    assert own_parameters(linear)["bias"] is None
    assert own_parameters(module) == {}
    assert own_buffers(norm).keys() == {"running_mean", "running_var", "num_batches_tracked"}
    assert own_buffers(module).keys() == {"kept", "unsaved"}
    assert unsaved_buffers(module) == {"unsaved"}
    assert own_modules(module) == {"0": linear, "1": norm}

    other = nn.Parameter(torch.zeros(2, 2))
    own_parameters(linear)["weight"] = other
    assert linear.weight is other
    assert dict(linear.named_parameters()) == {"weight": other}
    own_modules(module).clear()
    own_modules(module).update({"0": norm})
    assert list(module) == [norm]
    assert list(module.state_dict()) == ["kept", *(f"0.{name}" for name in norm.state_dict())]


def test_hooks_before_a_pass_are_found_in_order() -> None:
    def one(*_: object) -> None: ...

    def other(*_: object) -> None: ...

    module = nn.Linear(1, 1)
    assert pre_hooks(module) == []
    module.register_forward_pre_hook(one)
    module.register_forward_pre_hook(other)
    module.register_forward_hook(one)
    assert pre_hooks(module) == [one, other]
    assert hooks(module) == [one, other, one]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_weights_of_a_recurrent_module_have_their_names(kind: Any) -> None:
    module = kind(3, 4, num_layers=2, bidirectional=True)
    names = flat_weights(module)
    assert names == [name for name, _ in module.named_parameters()]
    assert names[0] == "weight_ih_l0"


def test_a_module_is_told_of_a_state_before_it_takes_it() -> None:
    class Grows(Moved):
        def awaits(self, state: Mapping[str, Any], prefix: str) -> None:
            self.register_buffer("more", torch.zeros_like(state[f"{prefix}more"]))

    module = nn.Sequential(Grows())
    module.load_state_dict({"0.more": torch.ones(3)})
    assert torch.equal(module.state_dict()["0.more"], torch.ones(3))


def test_hooks_are_taken_away_by_what_they_are() -> None:
    module, called = nn.Identity(), list[str]()

    def before(*_: Any) -> None:
        called.append("before")

    def after(*_: Any) -> None:
        called.append("after")

    for hook in (before, after):
        module.register_forward_pre_hook(hook)
        module.register_forward_hook(hook, always_call=True)
    remove_hooks(module, {before})
    module(torch.ones(1))
    assert called == ["after", "after"]
    assert hooks(module) == [after, after]


def test_a_module_is_told_of_each_move_with_what_its_buffers_were() -> None:
    class Told(Moved, nn.Linear):
        def moved(self, before: dict[str, Tensor | None]) -> None:
            told.append({name: buffer.dtype for name, buffer in before.items() if buffer is not None})
            assert self.weight.dtype == torch.float16

    told: list[dict[str, torch.dtype]] = []
    module = nn.Sequential(Told(1, 1))
    module[0].register_buffer("b", torch.ones(1))
    assert module.half() is module
    assert told == [{"b": torch.float32}]
    assert module[0].b.dtype == torch.float16


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_of_all_dimensions_have_one_kind_and_one_formula(dims: int) -> None:
    torch.manual_seed(0)
    layer = getattr(nn, f"Conv{dims}d")(2, 4, 3, stride=2, padding=1, groups=2, padding_mode="reflect")
    assert isinstance(layer, ConvNd)
    x = torch.randn(2, 2, *[5] * dims)
    assert torch.equal(convolution(layer)(x, layer.weight, layer.bias), layer(x))
    assert torch.allclose(convolution(layer)(x, 2 * layer.weight, None), 2 * (layer(x) - layer(torch.zeros_like(x))))

    turned = getattr(nn, f"ConvTranspose{dims}d")(2, 2, 3, stride=2)
    assert isinstance(turned, ConvTransposeNd)
    assert isinstance(turned, ConvNd)
    assert list(output_padding(turned, x, None)) == [0] * dims
    assert list(output_padding(turned, x, [12] * dims)) == [1] * dims  # 2 * (5 - 1) + 3 = 11


def test_norms_and_losses_have_their_kinds() -> None:
    assert isinstance(nn.BatchNorm2d(1), BatchNorm)
    assert isinstance(nn.SyncBatchNorm(1), BatchNorm)
    assert not isinstance(nn.InstanceNorm2d(1), BatchNorm)
    assert isinstance(nn.InstanceNorm2d(1), RunningNorm)
    assert isinstance(nn.BatchNorm1d(1), RunningNorm)
    assert not isinstance(nn.LayerNorm(1), RunningNorm)
    assert all(isinstance(loss(), TorchLoss) for loss in (nn.KLDivLoss, nn.MSELoss, nn.CrossEntropyLoss))


@pytest.mark.parametrize("keep", [False, True])
def test_a_backward_pass_knows_that_it_runs_and_whether_another_may_follow(keep: bool) -> None:
    class Seen(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            seen.append((in_backward(), None))
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            seen.append((in_backward(), graph_is_kept()))
            return grad

    seen: list[tuple[bool, bool | None]] = []
    Seen.apply(torch.ones(1, requires_grad=True)).backward(retain_graph=keep)
    assert seen == [(False, None), (True, keep)]
    assert not in_backward()


def test_a_change_in_place_is_seen_through_views() -> None:
    tensor = torch.zeros(4)
    with torch.inference_mode():
        assert version(torch.ones(1)) == 0
    before = version(tensor)
    tensor + 1
    assert version(tensor) == before
    tensor[:2].add_(1)
    assert version(tensor) > before


def test_what_an_operator_writes_to_is_named_and_found() -> None:
    class Watch(OperatorMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(written_arguments(func))
            return func(*args, **kwargs or {})

    seen: list[list[tuple[int, str]]] = []
    one = torch.ones(2)
    with Watch():
        one.add_(1)
        torch.add(one, one, out=one)
        torch._foreach_mul_([one], 2.0)
        one + 1
    assert seen == [[(0, "self")], [(3, "out")], [(0, "self")], []]
    assert [id(t) for t in tensors_in({"a": [one, 3], "b": ({"c": one}, None)})] == [id(one), id(one)]


def test_many_tensors_are_changed_in_place() -> None:
    tensors = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]
    scale(iter(tensors), torch.tensor(2.0))
    assert [t.tolist() for t in tensors] == [[2.0, 4.0], [[6.0]]]
    interpolate(tensors, [torch.tensor([4.0, 0.0]), torch.tensor([[6.0]])], 0.25)
    assert [t.tolist() for t in tensors] == [[2.5, 3.0], [[6.0]]]


def test_lightning_clips_the_gradients_of_a_fused_optimizer() -> None:
    from pytorch_lightning.plugins.precision import MixedPrecision

    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer = torch.optim.AdamW([weight], fused=True)
    assert optimizer._step_supports_amp_scaling, "torch no longer offers it, and there is nothing to undo"
    precision = MixedPrecision("bf16-mixed", "cpu")
    with pytest.raises(RuntimeError, match="clipping"):
        precision.clip_gradients(optimizer, 0.1)
    clip_despite_fusing(optimizer)
    precision.clip_gradients(optimizer, 0.1)
    assert weight.grad.item() == pytest.approx(0.1, rel=1e-4)


def test_what_ddp_is_not_to_send_is_added_to_what_it_is_told_already(leaves_no_trace: None) -> None:
    from torch import distributed

    module = nn.BatchNorm1d(2)
    not_sent_by_ddp(module, ["running_mean"])
    not_sent_by_ddp(module, iter(["running_var"]))
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    wrapped = nn.parallel.DistributedDataParallel(module)
    assert wrapped.parameters_to_ignore == {"running_mean", "running_var"}
    assert list(wrapped.named_module_buffers) == ["num_batches_tracked"]


def test_a_softmax_is_written_where_it_is_told() -> None:
    logits, out = torch.randn(3, 5), torch.empty(3, 5)
    assert softmax_into(logits, out) is out
    torch.testing.assert_close(out, logits.exp() / logits.exp().sum(-1, keepdim=True))


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="reads x86's flags")
def test_a_processor_multiplies_halves_where_it_says_so() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert multiplies_in(torch.bfloat16) == bool(flags & {"avx512_bf16", "amx_bf16"})
    assert multiplies_in(torch.float32)


@pytest.mark.parametrize(("machine", "multiplies"), [("x86_64", False), ("aarch64", True)])
def test_wide_registers_alone_multiply_no_halves(
    machine: str, multiplies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first processors with AVX-512: oneDNN takes bfloat16 there, and computes it in float32.
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert multiplies_in(torch.bfloat16) == multiplies
    assert multiplies_in(torch.float32)
