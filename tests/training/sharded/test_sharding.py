"""A sharded student is the same student: its weights, its gradients, its ties."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from distill.callbacks import ExponentialMovingAverage, GradualMagnitudePruning, ResumeCheckpoint
from distill.core.model_spec import ModelSpec
from distill.core.utils.errors import UserError
from distill.losses import L1, CrossEntropy, DistillationLoss, FitNetHint
from distill.run.checkpoints.file import read
from distill.training.sharding import check_modules, gathered, shard, shard_run, without_weights
from distill.workflows.job.checks import check_sharding

TRAINED = runpy.run_path(str(Path(__file__).with_name("together.py")))["trained"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, script: Callable[..., Any]) -> Path:
    """What two ranks have trained together, by precision."""
    folder = tmp_path_factory.mktemp("together")
    script(Path(__file__).with_name("together.py"), folder)
    return folder


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-6), ("bf16-mixed", 1e-3)])
def test_two_ranks_train_the_weights_that_one_process_trains(precision: str, tolerance: float, folder: Path) -> None:
    both, alone = read(folder / precision), TRAINED(1, precision)
    assert both["student"].keys() == alone["student"].keys()
    for name, value in alone["student"].items():
        torch.testing.assert_close(both["student"][name], value, rtol=0, atol=tolerance, msg=name)
    for name, value in alone["regressors"].items():  # of the first rank, its part
        torch.testing.assert_close(both["regressors"][name], value[: len(value) // 2], rtol=0, atol=tolerance, msg=name)
    # Of the four micro-batches of a step in one process the ranks take two at a time; what is logged of each is the
    # mean over the step so far.
    expected = alone["losses"].view(-1, 4)[:, [1, 3]].flatten()
    torch.testing.assert_close(both["losses"], expected, rtol=0, atol=10 * tolerance)
    for what in ("plain", "tied", "trained", "zeros"):
        assert both[what] == alone[what]


class Stack(nn.Module):
    """Four blocks, of which the second and third share a matrix, over tied ends."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(4))
        self.blocks[2][0].weight = self.blocks[1][0].weight
        self.head = nn.Linear(3, 7)
        self.head.weight = self.embedding.weight
        self.register_buffer("seen", torch.ones(2))


def test_blocks_are_gathered_one_by_one_but_for_those_that_share_weights(mesh: DeviceMesh) -> None:
    model = Stack()
    shard(model, mesh["data_parallel"])
    names = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
    assert names == ["", "blocks.0", "blocks.3"]
    assert all(isinstance(p, DTensor) for p in model.parameters())


class Stage(nn.Module):
    """As Swin's, which are called layers, and hold blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[1](self.blocks[0](x))


def test_blocks_of_a_block_are_gathered_with_it_and_a_mere_list_of_them_is_none(mesh: DeviceMesh) -> None:
    model = nn.Sequential()
    model.layers = nn.ModuleList([Stage(), nn.ModuleList([nn.Linear(3, 3)])])
    shard(model, mesh["data_parallel"])
    names = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
    assert names == ["", "layers.0"]


def test_what_is_gathered_is_the_plain_model_with_its_ties_and_buffers(mesh: DeviceMesh) -> None:
    model = Stack()
    model.embedding.weight.requires_grad_(False)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    empty = without_weights(model)
    shard(model, mesh["data_parallel"])
    model.seen.mul_(3)
    whole = gathered(model, empty)
    assert type(whole) is Stack
    assert not any(isinstance(module, FSDPModule) for module in whole.modules())
    assert whole.head.weight is whole.embedding.weight
    assert whole.blocks[2][0].weight is whole.blocks[1][0].weight
    assert not whole.embedding.weight.requires_grad
    assert whole.seen.tolist() == [3, 3]
    for name, value in expected.items():
        assert name == "seen" or torch.equal(whole.state_dict()[name], value)


def test_a_loss_with_parameters_of_its_own_is_sharded_too(mesh: DeviceMesh) -> None:
    student, teacher = (nn.Sequential(nn.Linear(4, width)) for width in (2, 3))
    loss = FitNetHint(taps={"0": "0"})
    loss.bind(ModelSpec(student, "student"), ModelSpec(teacher, "teacher"))
    shard_run(student, [loss], mesh)
    assert all(isinstance(p, DTensor) for p in loss.parameters())


def test_tensor_parallelism_is_refused() -> None:
    class Mesh(dict[str, Any]):
        pass

    class Two:
        def size(self) -> int:
            return 2

    with pytest.raises(UserError, match=r"trainer\.strategy.*write trainer\.strategy: sharded"):
        shard_run(nn.Linear(2, 2), [], Mesh(tensor_parallel=Two()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "strategy",
    [
        "fsdp",
        "fsdp_cpu_offload",
        {"class_path": "FSDPStrategy"},
        {"class_path": "pytorch_lightning.strategies.ModelParallelStrategy", "init_args": {}},
        {"class_path": "distill.training.sharding.Sharded"},
    ],
)
def test_other_spellings_are_told_the_one_that_works(strategy: Any) -> None:
    with pytest.raises(UserError, match=r"write trainer\.strategy: sharded") as caught:
        check_sharding({"strategy": strategy}, [])
    assert caught.value.key == "trainer.strategy"


@pytest.mark.parametrize("callback", [GradualMagnitudePruning(0.5), ExponentialMovingAverage()])
def test_callbacks_that_need_unsharded_weights_are_refused(callback: Any) -> None:
    with pytest.raises(UserError, match=r"set trainer\.strategy: ddp") as caught:
        check_sharding({"strategy": "sharded"}, [ResumeCheckpoint(), callback])
    assert caught.value.key == "callbacks.1"
    check_sharding({"strategy": "ddp"}, [ResumeCheckpoint(), callback])


class Scaled(nn.Linear):
    """With a parameter of no dimension."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.scale = nn.Parameter(torch.tensor(1.0))


@pytest.mark.parametrize(
    ("student", "losses", "key"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), [], "model.student"),
        (nn.InstanceNorm1d(3, affine=True, track_running_stats=True), [], "model.student"),
        (nn.Sequential(Scaled()), [], "model.student"),
        (nn.Linear(3, 3), [CrossEntropy(), L1()], "model.losses.1"),
    ],
)
def test_modules_that_would_be_trained_otherwise_are_refused(
    student: nn.Module, losses: list[DistillationLoss], key: str, mesh: DeviceMesh
) -> None:
    for refuse in (check_modules, partial(shard_run, mesh=mesh)):
        with pytest.raises(UserError, match=r"set trainer\.strategy: ddp") as caught:
            refuse(student, losses)
        assert caught.value.key == key
    assert not any(isinstance(p, DTensor) for p in student.parameters())


def test_norms_without_running_statistics_are_not_refused() -> None:
    check_modules(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.LayerNorm(3)), [CrossEntropy()])


def test_precisions_that_were_not_tried_are_refused() -> None:
    check_sharding({"strategy": "sharded", "precision": "bf16-mixed"}, [])
    with pytest.raises(UserError, match="write bf16-mixed or 32-true") as caught:
        check_sharding({"strategy": "sharded", "precision": "16-mixed"}, [])
    assert caught.value.key == "trainer.precision"


def test_a_refusal_comes_before_anything_is_written(base: dict[str, Any], distill: Callable[..., Any]) -> None:
    result = distill("fit", "-c", "base.yaml", "--trainer.strategy", "fsdp")
    assert result.code == 2
    assert "write trainer.strategy: sharded" in result.err
    losses = json.dumps(["CrossEntropy", "L1"])
    result = distill("fit", "-c", "base.yaml", "--trainer.strategy", "sharded", "--model.losses", losses)
    assert result.code == 2
    assert "model.losses.1" in result.err
    assert not Path("runs").exists()
