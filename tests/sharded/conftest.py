"""A process group of this one process, and the launching of two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Of one rank, under the names that Lightning gives."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    distributed.destroy_process_group()


@pytest.fixture(scope="session")
def on_two_ranks() -> Callable[..., str]:
    """Runs a script of this folder, which starts its second process itself; what it says."""

    def run(script: str, *arguments: str, code: int = 0) -> str:
        command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == code, done.stderr[-3000:]
        return done.stdout + done.stderr

    return run
