"""Models are timed in turns, one process at a time, and memory is that of the tensors there are."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distill.core.utils.turns import timing
from distill.workflows.report.machine import watched
from distill.workflows.report.memory import resident_bytes, tensor_bytes
from distill.workflows.report.sizes import flops, nonzero
from distill.workflows.report.timing import BATCH, Call, Kind, kinds_of, latencies, turns


def test_models_take_turns_and_the_first_rounds_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], list[str]()
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def run(name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            order.append(name)
            now[0] += seconds * (10 if order.count(name) <= 2 else 1)  # cold at first

        return call

    taken = turns([run("a", 0.01), run("b", 0.03)], seconds=8.0)
    assert order == ["a", "b"] * (len(order) // 2)
    assert [len(times) for times in taken] == [18, 18]  # 8 s at 0.4 s a round, of which two are past
    assert taken[0] == pytest.approx([10.0] * 18)
    assert taken[1] == pytest.approx([30.0] * 18)
    assert turns([run("c", 9.0)], seconds=1.0, needed=False) == [[]]
    assert len(turns([run("d", 9.0)], seconds=1.0)[0]) == 5


def test_every_kind_of_call_is_given_its_threads_its_batch_and_its_length() -> None:
    seen: list[tuple[int, tuple[int, ...], int]] = []

    def prepare(inputs: Mapping[str, Tensor], threads: int) -> Callable[[], object]:
        return lambda: seen.append((threads, tuple(inputs["input_ids"].shape), torch.get_num_threads()))

    before = torch.get_num_threads()
    kinds = kinds_of(16, 2)
    notes: list[str] = []
    found = latencies([Call("a", "torch", prepare)], {"input_ids": torch.ones(1, 16).long()}, kinds, 0.01, notes)
    assert set(seen) == {(k.threads, (k.batch, k.length), k.threads) for k in kinds}
    assert torch.get_num_threads() == before
    assert kinds[0] == Kind(1, 1, 16)
    assert {(one.threads, one.batch, one.length) for one in found["a"]} == {
        (1, 1, 16), (1, 1, 4), (1, BATCH, 16), (2, 1, 16), (2, BATCH, 4), (2, BATCH, 16)
    }  # fmt: skip
    assert all(one.throughput == pytest.approx(1000 * one.batch / one.p50_ms) for one in found["a"])
    assert kinds_of(None, 1) == [Kind(1, 1, None), Kind(1, BATCH, None)]


def test_one_process_at_a_time_measures(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom distill.core.utils.turns import timing\n"
        "with timing(pathlib.Path(sys.argv[1])):\n    print('has it', flush=True)\n    sys.stdin.readline()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    with timing(tmp_path):
        assert child.stdout.readline().startswith("waiting for another process")
    assert child.stdout.readline() == "has it\n"
    child.communicate("\n")
    assert child.returncode == 0


def test_work_of_others_is_what_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, now = tmp_path / "stat", [100.0]
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2})
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    monkeypatch.setattr("os.times", lambda: (now[0], 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    line = "{} {} 0 0 0 0 0 0 0 0 0\n"
    stat.write_text("".join(line.format(f"cpu{i}", 0) for i in ("", 0, 1, 2)))
    with watched(stat) as others:
        now[0] += 10  # of which we worked ten
        stat.write_text("".join(line.format(f"cpu{i}", at) for i, at in (("", 9), (0, 1000), (1, 900), (2, 500))))
    assert others.cores == pytest.approx(0.5)  # 15 s on our two cores, 10 of them ours, in 10 s


def test_memory_is_of_weights_and_of_the_tensors_that_are_there_at_once() -> None:
    net = nn.Sequential(nn.Linear(100, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 10, bias=False))
    x = torch.randn(50, 100)
    weights = 4 * (100 * 1000 + 1000 * 10)
    assert tensor_bytes(net, lambda: net(x)) == weights + 2 * 4 * 50 * 1000  # before and after the ReLU


def test_memory_of_a_file_that_cannot_be_opened_is_not_known(tmp_path: Path) -> None:
    assert resident_bytes("onnxruntime", tmp_path / "no.onnx", {"x": torch.ones(1, 2)}) is None


def test_operations_are_two_for_each_weight_of_a_product_and_zeros_are_counted() -> None:
    net = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3, bias=False)).eval()
    with torch.no_grad():
        net[1].weight[0] = 0
    assert flops(net, {"input": torch.randn(1, 7)}) == 2 * (7 * 5 + 5 * 3)
    assert nonzero(net) == 7 * 5 + 5 + 10
    assert flops(net, {"input": torch.randn(1, 6)}) is None
