"""The bench of integers measures what its table says."""

from __future__ import annotations

import gzip
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("bench_integers")


def test_files_take_turns_and_the_time_of_their_thread_counts(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    called, clock = list[str](), [0.0]

    class Session:
        def __init__(self, name: str, takes: float) -> None:
            self.name, self.takes = name, takes

        def run(self, _: None, feed: dict[str, Any]) -> None:
            called.append(self.name)
            clock[0] += self.takes * feed["input"].size

    monkeypatch.setattr(bench.time, "thread_time", lambda: clock[0])
    sessions = {"a": Session("a", 0.5), "b": Session("b", 0.25)}
    taken = bench.cpu_time(sessions, {name: {"input": torch.ones(2)} for name in sessions}, 3)
    assert called == ["a", "b"] * 5
    assert taken == {"a": 1000.0, "b": 500.0}


def test_images_are_read_with_their_labels_and_learned(bench: Any, tmp_path: Path) -> None:
    x = torch.arange(2 * 784, dtype=torch.uint8).view(2, 784)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + bytes(x.flatten().tolist())))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + bytes([3, 7])))
    images, labels = bench.fashion(tmp_path, "train", 2)
    assert images.shape == (2, 1, 28, 28)
    assert torch.allclose(images[1, 0].flatten() * 0.353 + 0.286, x[1] / 255, atol=1e-6)
    assert labels.tolist() == [3, 7]
    torch.manual_seed(0)
    net, loss = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), nn.functional.cross_entropy
    before = loss(net(images), labels).item()
    assert loss(bench.trained(net, images, labels, epochs=12)(images), labels) < 0.1 * before
