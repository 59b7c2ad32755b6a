"""``distill report`` over a small run: its figures are those of validation, its file is read back, rules are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.cli.main import main
from distill.workflows.report.run import _file
from distill.workflows.report.schema import Report

ARGUMENTS = ("--trainer.limit_val_batches", "1.0", "--draws", "50")


@pytest.fixture(scope="module")
def made(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, with that of the same student without a teacher beside it."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "base.yaml").write_text(yaml.safe_dump(recipe))
    alone = ("--model.losses", '[{"class_path": "CrossEntropy"}]')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for run_id, more in (("alone", alone), ("taught", ())):
            assert main(["fit", "-c", "base.yaml", "--id", run_id, *ARGUMENTS[:2], *more]) == 0
    return folder / "runs" / "base" / "taught"


@pytest.fixture
def run(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That run, without a report, from the folder that it was made in."""
    monkeypatch.chdir(made.parents[2])
    (made / "report.json").unlink(missing_ok=True)
    return made


def test_a_report_has_the_figures_of_a_validation(run: Path, distill: Callable[..., Any]) -> None:
    code, out, err = distill("report", str(run), *ARGUMENTS, "--no-timing")
    assert code == 0, err
    found = Report.from_json((run / "report.json").read_text())
    result = json.loads((run / "result.json").read_text())
    assert found.keys == ["constant guess", "teacher", "without a teacher", "student"]
    rows = {"teacher": "teacher", "student": "student", "constant guess": "guess", "without a teacher": "alone"}
    for key, who in rows.items():
        for name, value in result["scores"][who].items():
            if name in found.model(key).scores:
                assert found.model(key).scores[name].value == pytest.approx(value, abs=1e-6), (key, name)
    accuracy = found.model("student").scores["accuracy"]
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert accuracy.low <= accuracy.value <= accuracy.high
    pair = next(one for one in found.pairs if (one.first, one.second) == ("teacher", "student"))
    assert pair.agreement == pytest.approx(result["scores"]["student"]["agreement"])
    assert pair.kept_percent == result["kept_percent"]["accuracy"]
    assert (found.samples.scored, found.samples.available) == (41, 41)
    assert sum(one.samples for one in found.model("student").lengths) == 41
    assert {one.name for one in found.model("student").classes} == {"negative", "positive"}
    assert found.model("student").size.parameters == result["parameters"]["student"]
    assert found.model("student").size.bytes == (run / "student" / "model.safetensors").stat().st_size
    assert "without a teacher" in out
    assert "constant guess" in out


def test_the_page_shows_the_run_and_its_samples(run: Path, distill: Callable[..., Any]) -> None:
    page = run.parent / "report.html"
    code, out, err = distill("report", str(run), *ARGUMENTS, "--no-timing", "--samples", "30", "--html", str(page))
    assert code == 0, err
    assert f"page: {page}" in out
    text = page.read_text()
    assert _file(page, "--html") == page  # an earlier one may be replaced
    assert _file(run / "report.json", "--json") == run / "report.json"
    shown = re.findall(r'<section id="([\w-]+)"', text)
    assert shown == [
        *("models", "pareto", "quality", "confusion"),
        *(["disagreements"] if "disagreements" in shown else []),  # of weights that are drawn by chance
        *("explained", "run0-curves", "run1-curves", "conditions"),
    ]
    report = Report.from_json((run / "report.json").read_text())
    assert f'<p class="verdict">{report.verdict[0]}' in text
    assert text.count("<svg") >= 12  # attention of both in four samples, curves of two runs, the front, calibration
    assert "could not be" not in text
    assert "teacher says" in text
    said = [
        table for table in text.split("<table") if "teacher says" in table
    ]  # a sample is looked into as it was scored
    for text_, first in re.findall(r'<th scope="row"[^>]*>([^<]+)</th>.*?"teacher says"[^>]*>([^<]+)<', "".join(said)):
        heading = text.find(f"<h3>{text_}</h3>")
        assert heading < 0 or f"<dt>teacher says {first}" in text[heading:]


@pytest.mark.parametrize(
    ("option", "file", "said"),
    [
        ("--json", "theirs.csv", "must end in .json"),
        ("--json", "theirs.json", "is none that this command has written"),
        ("--html", "theirs.html", "is none that this command has written"),
        ("--html", "page", "must end in .html"),
    ],
)
def test_what_lies_at_a_file_that_is_named_and_is_no_report_stays(
    run: Path, distill: Callable[..., Any], tmp_path: Path, option: str, file: str, said: str
) -> None:
    place = tmp_path / file
    place.write_text('{"version": 1}')
    code, _, err = distill("report", str(run), *ARGUMENTS, "--no-timing", option, str(place))
    assert code == 2
    assert said in err
    assert place.read_text() == '{"version": 1}'


def test_a_rule_that_is_broken_ends_with_code_3_and_the_figure(run: Path, distill: Callable[..., Any]) -> None:
    place = run.parent / "here.json"
    rules = ("--fail-below", "bytes <= 2 * teacher", "--fail-below", "parameters <= 0.001 * teacher")
    code, _, err = distill("report", str(run), *ARGUMENTS, "--no-timing", "--json", str(place), *rules)
    assert code == 3
    found = Report.from_json(place.read_text())
    assert f"parameters of student is {found.model('student').size.parameters:,}" in err
    assert "bytes" not in err
    assert not (run / "report.json").exists()


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (("--fail-below", "acuracy >= 0.9"), "'accuracy'"),
        (("--fail-below", "accuracy is fine"), "is no rule"),
        (("--fail-below", "accuracy >= 0.9 * exported"), "no such model"),
        (("--samples", "0"), "must be at least 1"),
        (("--json", "nowhere/report.json"), "lies in no folder"),
        (("--html", "nowhere/report.html"), "lies in no folder"),
        (("--no-timing", "--fail-below", "latency <= 3"), "nothing is timed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    run: Path, distill: Callable[..., Any], argument: tuple[str, ...], says: str
) -> None:
    code, _, err = distill("report", str(run), *argument)
    assert code == 2
    assert says in err
    assert not (run / "report.json").exists()


def test_runs_of_other_data_are_not_mixed(
    run: Path, distill: Callable[..., Any], tmp_path: Path, text_folder: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for split in ("train", "validation"):
        lines = (Path(text_folder) / f"{split}.jsonl").read_text().splitlines()
        (other / f"{split}.jsonl").write_text("\n".join(lines[1:]) + "\n")
    second = run.with_name("other")
    assert distill("fit", "-c", "base.yaml", "--id", "other", "--data.path", str(other)).code == 0
    code, _, err = distill("report", str(run), str(second), "--no-timing")
    assert code == 2
    assert "other data" in err
    assert not (run / "report.json").exists()
