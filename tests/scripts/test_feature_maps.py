"""The promises of the comparison of losses over feature maps: one teacher, every way with the same rows."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "feature_maps.py"
    spec = importlib.util.spec_from_file_location("feature_maps_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of MNIST's format, with 80 images each."""
    place, draw = tmp_path_factory.mktemp("fashion"), np.random.default_rng(0)
    for split in ("train", "t10k"):
        for what, shape in (("images-idx3", (80, 28, 28)), ("labels-idx1", (80,))):
            values = draw.integers(0, 256 if len(shape) > 1 else 10, shape, dtype=np.uint8)
            header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
            (place / f"{split}-{what}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))
    return place


def test_images_and_labels_are_those_of_the_files(script: ModuleType, folder: Path) -> None:
    raw = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    x, y = script.images(folder, "train", 7).tensors
    assert (x.shape, y.shape) == ((7, 1, 28, 28), (7,))
    assert float(x[0, 0, 0, 1]) == pytest.approx((raw[16 + 1] / 255 - 0.286) / 0.353, rel=1e-5)
    assert y.tolist() == list(gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())[8:15])


def test_the_student_is_a_quarter_of_the_teacher_whose_stages_it_is_compared_with(script: ModuleType) -> None:
    teacher, student = (script.Net(width) for width in (script.TEACHER, script.STUDENT))
    sizes = [sum(p.numel() for p in net.parameters()) for net in (teacher, student)]
    assert 3.5 < sizes[0] / sizes[1] < 4.5
    modules = dict(student.named_modules())
    assert all(name in modules for name in (*script.STAGES, *script.LAST))
    assert student(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_each_way_trains_a_student_and_is_scored(script: ModuleType, folder: Path) -> None:
    ways = list(script.WAYS)
    scores = script.compare(folder, [0], ways, rows=8, epochs=1, test_rows=10, batch=4)
    assert list(scores) == ["teacher", *ways]
    assert all(0 <= score <= 1 for found in scores.values() for score in found)
