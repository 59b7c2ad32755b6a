"""Each thing that W&B documents nowhere does what its service's file and the reader of its files count on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import wandb

from distill.run.loggers import wandb_file, wandb_service


@pytest.fixture
def printing_again() -> Any:
    yield
    wandb_service._print_all()


def test_the_settings_are_known_and_ask_the_server_nothing() -> None:
    settings = wandb_service._settings()
    assert (settings.console, settings.disable_git, settings.save_code) == ("off", True, False)
    assert (settings.x_disable_meta, settings.x_save_requirements) == (True, False)
    assert settings.finish_timeout < wandb_service.FINISH_SECONDS
    assert settings.finish_timeout_raises
    assert settings.x_transaction_log_flush_interval == wandb_service.FLUSH_SECONDS


def test_what_wandb_would_print_goes_to_whom_it_is_told(
    printing_again: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = wandb_service.Troubles()
    wandb.termsetup(wandb.Settings(silent=True), troubles)
    wandb.termwarn("it rains. Take a coat")
    wandb.termlog("and nothing else")
    assert troubles._reasons == ["it rains"]
    wandb_service._print_all()
    wandb.termwarn("heard again")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb_service._print_all()
    wandb.termwarn("heard no more")
    assert troubles._reasons == ["it rains"]
    assert "heard again" in (printed := capsys.readouterr().err)
    assert "heard no more" not in printed


def test_a_record_of_the_history_is_read_from_the_bytes_of_its_file(tmp_path: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    record = Record()
    record.history.item.add(key="loss", value_json="0.5")
    record.history.item.add(nested_key=["val", "accuracy"], value_json="1")
    data = record.SerializeToString()
    head = b"0000" + len(data).to_bytes(2, sys.byteorder) + b"\x01"
    path = tmp_path / "run.wandb"
    path.write_bytes(b":W&B\0\0\0" + head + data)
    assert list(wandb_file.history(path)) == [{"loss": 0.5, "val.accuracy": 1}]
