"""Without a package that not everybody needs, the extra that brings it is named, or what it does is left out."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from distill.core.utils import extras
from distill.core.utils.errors import UserError
from distill.core.utils.extras import EXTRAS, missing, require
from distill.export.targets import find_target


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes packages be as if they were not installed."""

    hidden: set[str] = set()
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in hidden else find_spec(name))

    def hide(*names: str) -> None:
        hidden.update(names)

    return hide


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_of_its_packages_is_missed(extra: str, without: Callable[..., None]) -> None:
    assert missing(extra) is None
    for name in reversed(EXTRAS[extra]):
        without(name)
        assert missing(extra) == name
    with pytest.raises(UserError, match=rf'^here: needs {EXTRAS[extra][0]}.*"lightning-distill\[{extra}\]"\.$'):
        require(extra, "here")


def test_a_folder_of_the_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "left_by_a_run").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(EXTRAS, "wandb", ("left_by_a_run",))
    assert missing("wandb") == "left_by_a_run"


def test_a_run_without_pictures_and_tensorboard_says_what_is_missing(
    base: dict[str, Any], distill: Callable[..., Any], without: Callable[..., None]
) -> None:
    without("matplotlib", "tensorboard")
    code, out, err = distill("fit", "-c", "base.yaml", "--id", "bare", "--logging.tensorboard", "true")
    assert code == 0, err
    assert 'No TensorBoard: tensorboard is not installed (pip install "lightning-distill[tensorboard]").' in out
    assert 'No timeline.png: matplotlib is not installed (pip install "lightning-distill[plots]").' in out
    written = {path.name for path in Path("runs/base/bare").iterdir()}
    assert written & {"timeline.png", "tensorboard"} == set()
    assert {"student", "metrics.csv", "result.json"} <= written


@pytest.mark.parametrize(
    ("mode", "code"),
    [("offline", 2), ("disabled", 0)],
)
def test_a_run_that_asks_for_wandb_is_refused_before_anything_is_written(
    mode: str, code: int, base: dict[str, Any], distill: Callable[..., Any], without: Callable[..., None]
) -> None:
    without("wandb")
    result = distill("fit", "-c", "base.yaml", "--logging.wandb.mode", mode, "--dry-run")
    assert result.code == code, result.err
    refusal = 'logging.wandb: needs wandb, which is not installed. pip install "lightning-distill[wandb]"'
    assert (refusal in result.err) is (code == 2)
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", EXTRAS["export"])
def test_an_export_to_onnx_is_refused(name: str, without: Callable[..., None]) -> None:
    without(name)
    find_target("hf")
    with pytest.raises(UserError, match=rf"^--to: needs {name}, which is not installed") as raised:
        find_target("onnx")
    assert raised.value.hint == 'pip install "lightning-distill[export]"'
