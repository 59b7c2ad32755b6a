"""``metrics.csv`` of a run that was killed and resumed is, byte for byte, that of one that was not."""

from __future__ import annotations

import csv
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.run.folder import Run
from distill.run.listing import summary
from distill.run.loggers.make import CsvLogger

# As a run logs them: validation every third step, and at the seventh a term that was not there before.
ROWS: list[tuple[int, dict[str, Any]]] = []
for number in range(12):
    ROWS.append((number, {"train/loss": 1 / (number + 1), "epoch": number // 6}))
    if number % 3 == 2:
        ROWS.append((number, {"val/accuracy": 0.1 * number, 'odd "name", with a comma': float("nan"), "epoch": 0}))
    if number == 7:
        ROWS.append((number, {"train/late": 2.0, "train/loss": 0.5}))


def log(logger: CsvLogger, rows: list[tuple[int, dict[str, Any]]]) -> None:
    for step, row in rows:
        logger.log_metrics(row, step)
        logger.save()


@pytest.fixture
def undisturbed(tmp_path: Path) -> bytes:
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    logger = CsvLogger(folder)
    log(logger, ROWS)
    logger.finalize("success")
    return (folder / "metrics.csv").read_bytes()


def test_metrics_lie_in_the_runs_folder_itself(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_metrics({"b": 0.1 + 0.2}, 1)
    logger.finalize("success")
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"step": "1", "a": "1.0", "b": ""},
            {"step": "2", "a": "", "b": "0.30000000000000004"},
        ]


@pytest.mark.parametrize("at", range(12))
def test_a_resumed_run_leaves_the_same_bytes(at: int, undisturbed: bytes, tmp_path: Path) -> None:
    again = [(step, row) for step, row in ROWS if step >= at]
    for done in range(len(ROWS) - len(again), len(ROWS) + 1):  # killed anywhere after the checkpoint
        log(CsvLogger(tmp_path), ROWS[:done])
        log(CsvLogger(tmp_path, at), again)
        assert (tmp_path / "metrics.csv").read_bytes() == undisturbed
        (tmp_path / "metrics.csv").unlink()


def test_a_line_that_was_cut_off_is_written_again(undisturbed: bytes, tmp_path: Path) -> None:
    at = 6
    begin = undisturbed.index(b"\n6,") + 1
    whole = undisturbed.index(b"\n", undisturbed.index(b"\n6,", begin) + 1) + 1  # validation's row of step 6 included
    for size in range(whole, len(undisturbed) + 1, 3):
        (tmp_path / "metrics.csv").write_bytes(undisturbed[:size])
        log(CsvLogger(tmp_path, at), [(step, row) for step, row in ROWS if step >= at])
        assert (tmp_path / "metrics.csv").read_bytes() == undisturbed


def test_nonsense_beyond_the_checkpoint_is_dropped(undisturbed: bytes, tmp_path: Path) -> None:
    end = undisturbed.index(b"\n10,") + 1
    (tmp_path / "metrics.csv").write_bytes(undisturbed[:end] + b"\0" * 64 + b"\n\xff\xfe,\n")
    log(CsvLogger(tmp_path, 9), [(step, row) for step, row in ROWS if step >= 9])
    assert (tmp_path / "metrics.csv").read_bytes() == undisturbed


def test_a_run_resumed_twice_leaves_the_same_bytes(undisturbed: bytes, tmp_path: Path) -> None:
    log(CsvLogger(tmp_path), ROWS[:9])
    log(CsvLogger(tmp_path, 3), [(step, row) for step, row in ROWS if 3 <= step < 10])
    log(CsvLogger(tmp_path, 8), [(step, row) for step, row in ROWS if step >= 8])
    assert (tmp_path / "metrics.csv").read_bytes() == undisturbed


def test_columns_that_only_dropped_rows_had_are_dropped_with_them(tmp_path: Path) -> None:
    log(CsvLogger(tmp_path), [(0, {"a": 1.0}), (1, {"a": 2.0, "late": 3.0}), (2, {"gone": 4.0})])
    log(CsvLogger(tmp_path, 1), [(1, {"a": 2.0, "new": 5.0}), (2, {"late": 6.0})])  # as if it had never been otherwise
    assert (tmp_path / "metrics.csv").read_text() == "step,a,new,late\n1,1.0,,\n2,2.0,5.0,\n3,,,6.0\n"


def test_a_row_is_in_the_file_when_it_was_saved_and_on_the_disk_when_saved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []

    def fsync(number: int) -> None:
        path = Path(f"/proc/self/fd/{number}")
        if path.is_file():  # and no folder, which has its names synced
            synced.append(path.read_bytes())

    monkeypatch.setattr(os, "fsync", fsync)
    logger = CsvLogger(tmp_path)
    log(logger, [(0, {"a": 1.0}), (1, {"a": 2.0}), (2, {"a": 3.0})])
    assert (tmp_path / "metrics.csv").read_bytes() == b"step,a\n1,1.0\n2,2.0\n3,3.0\n"
    assert len(synced) == 1  # the new file
    logger.save()
    assert synced[1:] == [b"step,a\n1,1.0\n2,2.0\n3,3.0\n"]
    logger.save()
    assert len(synced) == 2


def test_a_disk_that_is_full_for_a_while_costs_one_warning_and_no_row(
    undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = CsvLogger(tmp_path)
    log(logger, ROWS[:2])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with monkeypatch.context() as full:
            full.setattr(Path, "open", _no_space)
            log(logger, ROWS[2:9])
        with (tmp_path / "metrics.csv").open("ab") as file:
            file.write(b"3,0.3")  # what a write that failed may leave
        log(logger, ROWS[9:])
    assert len(said) == 1
    assert "could not be written" in str(said[0].message)
    assert (tmp_path / "metrics.csv").read_bytes() == undisturbed


def test_a_folder_whose_names_cannot_be_kept_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(number: int) -> None:
        if Path(f"/proc/self/fd/{number}").is_dir():
            raise OSError(5, "Input/output error")

    logger = CsvLogger(tmp_path)
    log(logger, [(0, {"a": 1.0}), (1, {"a": 2.0})])
    monkeypatch.setattr(os, "fsync", fsync)
    log(logger, [(2, {"a": 3.0, "b": 1.0})])
    with pytest.warns(UserWarning, match="could not be written"):
        logger.save()
    log(logger, [(3, {"a": 4.0, "b": 2.0})])
    assert (tmp_path / "metrics.csv").read_text() == "step,a,b\n1,1.0,\n2,2.0,\n3,3.0,1.0\n4,4.0,2.0\n"


def _no_space(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_a_file_that_is_not_ours_costs_the_file_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("what,ever\n1,2\n")
    with pytest.warns(UserWarning, match=r"metrics\.csv is left out"):
        logger = CsvLogger(tmp_path, 3)
    log(logger, ROWS)
    assert (tmp_path / "metrics.csv").read_text() == "what,ever\n1,2\n"


@pytest.mark.parametrize("nonsense", ["12\n", "12,0.5,0.5,0.5\n", "-12,0.5\n", "\0\0\0\n"], ids=repr)
def test_a_row_that_a_resumed_run_drops_is_none_in_a_list_of_runs(nonsense: str, tmp_path: Path) -> None:
    run = Run.create(tmp_path, "mine", {}, "one")
    (run.folder / "metrics.csv").write_text("step,a\n3,1.0\n" + nonsense)
    found = summary(run.folder)
    assert (found.step, found.note) == (3, "metrics.csv cannot be read")
    log(CsvLogger(run.folder), [(3, {"a": 2.0})])
    assert (run.folder / "metrics.csv").read_text() == "step,a\n3,1.0\n4,2.0\n"
    assert (summary(run.folder).step, summary(run.folder).note) == (4, "")


def test_what_a_write_that_failed_has_left_is_written_over(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    log(logger, [(0, {"a": 1.0}), (1, {"a": 2.0})])
    with (tmp_path / "metrics.csv").open("ab") as file:
        file.write(b"3,3.0\n4,4")  # the disk was full then
    log(logger, [(2, {"a": 3.0})])
    assert (tmp_path / "metrics.csv").read_bytes() == b"step,a\n1,1.0\n2,2.0\n3,3.0\n"


WIDE = b"step," + b",".join(b"%d" % i for i in range(20_000)) + b"\n"
BEYOND = {
    "a long line": b"step,a\n" + b"3,1.0\n" + b"4," + b"1" * (2 << 20) + b"\n",
    "no line at all": b"step,a\n3,1.0\n" + b"\0" * (2 << 20),
    "an open quotation": b'step,a\n3,1.0\n4,"' + b"1\n" * (1 << 17),
    "many columns": WIDE + b"4" + b",1" * 20_000 + b"\n",
    "a step of many digits": b"step,a\n3,1.0\n" + b"9" * 5000 + b",1\n",
}


@pytest.fixture(params=[1 << 17, sys.maxsize], ids=["limit of csv", "limit raised by another library"])
def field_limit(request: pytest.FixtureRequest) -> Iterator[None]:
    before = csv.field_size_limit(request.param)
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("field_limit")
@pytest.mark.parametrize("content", BEYOND.values(), ids=BEYOND)
def test_a_history_beyond_all_bounds_is_read_as_far_as_it_is_one(content: bytes, tmp_path: Path) -> None:
    run = Run.create(tmp_path, "mine", {}, "one")
    (run.folder / "metrics.csv").write_bytes(content)
    whole = b"" if content is BEYOND["many columns"] else b"step,a\n3,1.0\n"
    found = summary(run.folder)
    assert (found.step, found.note) == (3 if whole else None, "metrics.csv cannot be read")
    with pytest.warns(UserWarning, match="the history that was written after it is lost"):
        log(CsvLogger(run.folder, 3), [(3, {"a": 2.0})])
    assert (run.folder / "metrics.csv").read_bytes() == (whole or b"step,a\n") + b"4,2.0\n"


def test_a_file_larger_than_any_history_is_left_as_it_is(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "mine", {}, "one")
    with (run.folder / "metrics.csv").open("wb") as file:
        file.write(b"step,a\n3,1.0\n")
        file.truncate(10 << 30)  # without taking room
    assert summary(run.folder).note == "metrics.csv cannot be read"
    with pytest.warns(UserWarning, match=r"metrics\.csv is left out.*larger than"):
        log(CsvLogger(run.folder, 3), [(3, {"a": 2.0})])
    assert (run.folder / "metrics.csv").stat().st_size == 10 << 30
