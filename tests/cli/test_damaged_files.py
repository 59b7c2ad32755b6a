"""A run whose small files were cut off, altered, or put there by somebody else: one message, or a line of the list."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.core.utils.json_file import Unreadable, read_mapping

Distill = Callable[..., Any]

ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def holds(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def huge(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(1 << 25)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut off": cut,
    "empty": holds(b""),
    "deep": holds(b"[" * 100_000),
    "deeper mappings": holds(b'{"a":' * 100_000),
    "a list": holds(b"[1, 2]"),
    "no text": holds(b"\xff\xfe\x00{"),
    "huge": huge,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any]) -> Path:
    """A finished run that tests copy."""
    from distill.config.files import long_form
    from distill.workflows.fit import fit

    place = tmp_path_factory.mktemp("whole")
    return fit({**long_form(recipe), "runs": str(place), "name": "base"}, run_id="one").folder


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, "runs/base/one")
    return Path("runs/base/one")


def check_message(done: Any, name: str) -> None:
    """One message that names the file and what to do, and nothing else."""
    assert done.code == 2, done
    lines = done.err.strip().splitlines()
    assert [line for line in lines if line.startswith("distill: error:")] == lines[-1:]
    assert name in lines[-1]


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_of_a_run_is_one_message(run: Path, distill: Distill, how: str) -> None:
    for name, command in (
        ("plan.json", ["validate"]),
        ("config.yaml", ["validate"]),
        ("result.json", ["resume"]),
        ("student/compression.json", ["validate"]),
    ):
        path = run / name
        kept = path.read_bytes()
        DAMAGE[how](path)
        done = distill(command[0], str(run), *command[1:])
        half = name == "config.yaml" and how == "cut off"  # a configuration that lacks some keys
        check_message(done, "" if half else Path(name).name)
        path.write_bytes(kept)


@pytest.mark.parametrize("how", [pipe, folder], ids=["a pipe", "a folder"])
def test_what_is_no_file_where_one_is_written_is_refused_or_replaced(
    run: Path, distill: Distill, how: Callable[[Path], object]
) -> None:
    for name in ("plan.json", "result.json", "metrics.csv"):
        path, aside = run / name, run.parent / "aside"
        shutil.copy(path, aside)
        how(path)
        check_message(distill("resume", str(run), "--max-steps", "4"), name)
        assert distill("runs").code == 0
        path.rmdir() if path.is_dir() else path.unlink()
        aside.rename(path)


ODD: list[tuple[str, Any]] = [
    ("result.json", {"scores": []}),
    ("result.json", {"scores": {"student": {"accuracy": "high"}}, "parameters": [], "name": "x", "id": "y"}),
    ("plan.json", {"id": 7}),
    ("plan.json", {"id": "../../x"}),
]


@pytest.mark.parametrize(("name", "content"), ODD, ids=str)
def test_values_of_another_kind_are_one_message(run: Path, distill: Distill, name: str, content: Any) -> None:
    (run / name).write_text(json.dumps(content))
    check_message(distill("resume", str(run)), name)


@pytest.mark.parametrize(
    "measured", [5, {"hurried": 5}, {"hurried": [{}, {"what": ESCAPES, "steps": 10**400, "needed": 1}]}], ids=type
)
def test_what_a_result_says_of_the_training_is_taken_or_left(run: Path, distill: Distill, measured: Any) -> None:
    found = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(found | {"measured": measured}))
    done = distill("validate", str(run))
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    assert distill("runs").code == 0


@pytest.mark.parametrize("section", ["model: {}", "model:", "model: [1]", "model: {student: null}", "trainer: 3"])
def test_a_run_without_a_model_is_one_message(run: Path, distill: Distill, section: str) -> None:
    key = section.split(":")[0]
    text = (run / "config.yaml").read_text().replace(f"\n{key}:", f"\nwas_{key}:")
    (run / "config.yaml").write_text(f"{text}{section}\n")
    for command in (["validate"], ["resume"], ["quantize"], ["export", "--to", "hf"], ["sensitivity"]):
        check_message(distill(command[0], str(run), *command[1:]), f"config.yaml: {key}")


def test_a_result_that_is_removed_as_the_message_says_is_written_anew(run: Path, distill: Distill) -> None:
    before = json.loads((run / "result.json").read_text())
    cut(run / "result.json")
    assert "remove it" in distill("resume", str(run)).err
    (run / "result.json").unlink()
    assert distill("resume", str(run)).code == 0
    after = json.loads((run / "result.json").read_text())
    assert after["scores"] == before["scores"]


@pytest.mark.parametrize("how", [*DAMAGE, "infinite"])
def test_one_bad_run_never_hides_the_list(run: Path, distill: Distill, how: str) -> None:
    shutil.copytree(run, "runs/base/two")
    for name in ("plan.json", "result.json", "failure.json", "metrics.csv"):
        path = Path("runs/base/two", name)
        path.touch()
        DAMAGE.get(how, holds(json.dumps({"steps": 10**400, "train_seconds": 1e999}).encode()))(path)
    code, out, err = distill("runs")
    assert (code, err) == (0, "")
    assert "runs/base/one" in out
    assert "runs/base/two" in out
    if how not in ("empty", "infinite"):
        assert "result.json cannot be read" in out


STRANGE: list[Any] = [None, True, -1, 10**400, 1e308, float("nan"), "", ESCAPES, [], [[1]], {}, {"accuracy": None}]


def altered(value: Any, draw: random.Random) -> Any:
    """``value`` with one of its parts, however deep, gone or another."""
    if not isinstance(value, dict) or not value or draw.random() < 0.2:
        return draw.choice(STRANGE)
    key = draw.choice(list(value))
    rest = {name: item for name, item in value.items() if name != key}
    return rest if draw.random() < 0.2 else rest | {key: altered(value[key], draw)}


def test_whatever_the_files_say_runs_are_listed_and_compared(run: Path, distill: Distill) -> None:
    shutil.copytree(run, "runs/base/two")
    whole = {name: json.loads((run / f"{name}.json").read_text()) for name in ("result", "plan")}
    whole["failure"] = {"message": "why"}
    compared = ["runs", "--compare", str(run), "runs/base/two"]
    for seed in range(25):
        draw = random.Random(seed)
        for name, content in whole.items():
            (run / f"{name}.json").write_text(json.dumps(altered(altered(content, draw), draw)))
        if draw.random() < 0.3:
            (run / "result.json").unlink()
        for argv in (["runs"], ["runs", "--json"], compared, *([["resume", str(run)]] if seed % 5 == 0 else [])):
            code, out, err = distill(*argv)
            assert code in ((0,) if argv != compared and argv[0] == "runs" else (0, 2)), (seed, argv, err)
            assert "\x1b" not in out + err, (seed, argv)
            if "--json" in argv:
                assert len(json.loads(out, parse_constant=pytest.fail)) == 2


def test_what_a_run_says_does_not_command_the_terminal(run: Path, distill: Distill) -> None:
    (run / "failure.json").write_text(json.dumps({"message": f"so {ESCAPES} it ended"}))
    (run / "result.json").unlink()
    named = Path("runs") / f"evil{ESCAPES}" / os.fsdecode(b"id\xff")
    shutil.copytree(run, named)
    (run.parent / "two").mkdir()
    (run.parent / "two" / "config.yaml").write_text(f'name: "x"\n"model{ESCAPES!r}": 1\n')
    assert r"so \x1b[2J\x1b]0;title\x07\x9b31m\u202e it ended" in distill("runs", "runs/base").out
    for argv in (
        ["runs"],
        ["runs", "--compare", str(run), str(run)],
        ["validate", str(named)],
        ["resume", str(named)],
        ["validate", f"runs/{ESCAPES}"],
        ["fit", f"--{ESCAPES}", "1"],
        [ESCAPES],
    ):
        done = distill(*argv)
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\udcff"} & set(done.out + done.err), argv


def test_a_file_that_names_a_key_twice_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"id": "one", "deeper": {"a": 1, "a": 2}}')
    with pytest.raises(Unreadable, match="names a key twice"):
        read_mapping(tmp_path / "plan.json")
