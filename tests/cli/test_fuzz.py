"""Commands made from valid ones by chance end with a result or one message, in time, and leave nothing on a mistake."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from distill.cli.main import main

SEED = 20261129
LIMIT = 40.0  # seconds a command may take on a busy machine

VALID = (
    "fit -c base.yaml --dry-run",
    "fit -c base.yaml --dry-run --id two",
    "fit -c base.yaml --dry-run --seed 1 --model.losses.0.temperature=3",
    "fit --from runs/base/one -c base.yaml --dry-run",
    "fit -c base.yaml --id one --resume auto",
    "resume runs/base/one",
    "validate runs/base/one --data.eval_batch_size 8",
    "test runs/base/one --data.splits.test validation",
    "init data --output mine.yaml",
    "init data/train.jsonl --task text-classification --data.columns.text sentence --force --output base.yaml",
    "predict runs/base/one data/validation.jsonl --top 2 --batch-size 8",
    "predict runs/base/one/student - --jsonl --data.max_length 16",
    "quantize runs/base/one --calibrate 8 --bits 4 --id q",
    "export runs/base/one --to hf",
    "export runs/base/one --to hf --output out",
    "sensitivity runs/base/one --samples 8 --sparsity 0.5 --bits 6",
    "sweep sweep.yml -c base.yaml --dry-run",
    "runs --json",
    "runs --compare runs/base/one runs/base/one",
    "list losses schedules",
)
VALUES = (
    *("", "null", "true", "false", "0", "-1", "1", "2.5", "1e309", ".nan", "-.inf", "99999999999999999999", "0x10"),
    *("[]", "{}", "[null]", "[1, 2]", "[[1]]", "{a: 1}", "{1: 2}", "{null: null}", "nope", "nope/nope/nope", "..", "/"),
    *("~", "-", "--", "é", "a b", "*x", "&a [*a]", "!!python/name:os.system", "2024-01-01", "[[[[", "'", "${HOME}"),
    *("{class_path: Nope}", "{class_path: torch.nn.Linear}", "{class_path: 3}", "{class_path: Linear}", "n" * 300),
    *("{class_path: HintonKL, init_args: null}", "{init_args: {}}", "[HintonKL, HintonKL]", "torch.load", "runs/base"),
    *(
        "base.yaml",
        "teacher",
        "%s",
        "\x1b[2J",
        "1_000",
        "auto",
        "val/accuracy",
        "{path: teacher}",
        "text-classification",
        *("0.5", "3", "1e-3", "first"),
    ),
)
FILES = (
    *("base.yaml", "sweep.yml", "data/train.jsonl", "data/validation.jsonl", "teacher/config.json"),
    *("runs/base/one/config.yaml", "runs/base/one/result.json", "runs/base/one/plan.json"),
    *("runs/base/one/student/config.json", "runs/base/one/student/compression.json"),
    *("runs/base/one/student/task.json", "runs/base/one/student/tokenizer.json"),
)
# Of these any larger number starts as many processes, or waits for as many machines.
PROCESSES = ("trainer.devices", "trainer.num_nodes", "data.num_workers")


class Command(NamedTuple):
    """A command, and what stands in a file instead of what it held."""

    argv: list[str]
    file: str = ""
    content: bytes = b""


class TooLong(BaseException):
    """A command did not end."""


# ---------------------------------------------------------------------- mutations


def known_keys() -> list[str]:
    """The keys of a configuration, and of the arguments of every loss and callback of ours in a list."""
    import distill.callbacks
    import distill.losses
    from distill.workflows.job.explain import class_arguments
    from distill.workflows.job.key_reference import _SECTIONS

    keys = ["name", "runs", "seed", "model", "data", "trainer", "callbacks", "logging", "model.losses", "callbacks.0"]
    keys += [f"{section}.{name}" for section, cls, _ in _SECTIONS for name in class_arguments(cls)]
    for module, place in ((distill.callbacks, "callbacks=[{}]"), (distill.losses, "model.losses=[{}]")):
        for name in module.__all__:
            cls = getattr(module, name)
            if isinstance(cls, type):
                keys += [f"{place.format(name)}.{argument}" for argument in class_arguments(cls)]
    return keys


def mutated(draw: random.Random, keys: list[str], contents: dict[str, bytes]) -> Command:
    """One valid command with one to three mistakes in it."""
    argv = draw.choice(VALID).split()
    file, content = "", b""
    for _ in range(draw.choice((1, 1, 2, 3))):
        kind = draw.choice(("key", "key", "key", "key", "value", "typo", "drop", "twice", "swap", "file", "file"))
        at = draw.randrange(len(argv))
        if kind == "key" and argv[0] not in ("runs", "list"):
            argv += override(draw, keys, argv[0])
        elif kind == "value":
            argv[at] = draw.choice(VALUES)
        elif kind == "typo" and argv[at]:
            place = draw.randrange(len(argv[at]))
            argv[at] = argv[at][:place] + draw.choice(("", "x", ".", "-", "=", "_")) + argv[at][place + 1 :]
        elif kind == "drop" and len(argv) > 1:
            del argv[at]
        elif kind == "twice":
            argv.insert(at, argv[at])
        elif kind == "swap":
            other = draw.randrange(len(argv))
            argv[at], argv[other] = argv[other], argv[at]
        elif kind == "file":
            file = draw.choice(FILES)
            content = spoiled(draw, contents[file])
    if argv[:1] == ["fit"] and "--dry-run" not in argv and "--resume" not in argv:
        argv.append("--dry-run")
    if argv[:1] == ["sweep"] and "--dry-run" not in argv:
        argv.append("--dry-run")
    return Command(argv, file, content)


def override(draw: random.Random, keys: list[str], command: str) -> list[str]:
    """``--key value``, and before it the list that the key needs."""
    key, value = draw.choice(keys), draw.choice(VALUES)
    if draw.random() < 0.1:
        key = key[: draw.randrange(1, len(key))] + draw.choice("xyz.") + key[draw.randrange(len(key)) :]
    if key.startswith(PROCESSES) and value not in ("", "0", "-1", "nope", "null", "[]", "{}"):
        value = "nope"
    listed, _, argument = key.partition("]")
    if not argument or "=" not in listed:
        return [f"--{key}", value]
    place, names = listed.split("=", 1)
    return [f"--{place}", f"{names}]", f"--{place}.0{argument}", value]


def spoiled(draw: random.Random, content: bytes) -> bytes:
    """A file's content, damaged."""
    kind = draw.choice(("cut", "empty", "byte", "line", "value", "twice", "null"))
    lines = content.splitlines(keepends=True)
    at = draw.randrange(max(1, len(lines)))
    if kind == "cut":
        return content[: draw.randrange(max(1, len(content)))]
    if kind == "byte":
        place = draw.randrange(max(1, len(content)))
        return content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :]
    if kind == "line":
        return b"".join(lines[:at] + lines[at + 1 :])
    if kind == "twice":
        return b"".join(lines[: at + 1] + lines[at:])
    if kind == "value" and lines:
        before, colon, _ = lines[at].partition(b":")
        return b"".join([*lines[:at], before, colon, b" ", draw.choice(VALUES).encode(), b"\n", *lines[at + 1 :]])
    return {"empty": b"", "null": b"null"}.get(kind, content)


# ---------------------------------------------------------------------- running them


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any], teacher_dir: str, text_folder: str
) -> Iterator[Path]:
    """A folder with models, data, configurations and a finished run, the current one for as long as these tests run."""
    import yaml

    folder, before = tmp_path_factory.mktemp("fuzz"), Path.cwd()
    shutil.copytree(teacher_dir, folder / "teacher")
    shutil.copytree(text_folder, folder / "data")
    data, model = {**recipe["data"], "path": "data"}, {**recipe["model"], "teacher": {"path": "teacher"}}
    (folder / "base.yaml").write_text(yaml.safe_dump({**recipe, "data": data, "model": model}, sort_keys=False))
    sweep = {"method": "grid", "parameters": {"seed": {"values": [1, 2]}}, "metric": {"name": "val/f1"}}
    sweep["metric"]["goal"] = "maximize"  # type: ignore[index]
    (folder / "sweep.yml").write_text(yaml.safe_dump(sweep))
    os.chdir(folder)
    try:
        assert main(["fit", "-c", "base.yaml", "--id", "one"]) == 0
        yield folder
    finally:
        os.chdir(before)


def found_in(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies in a folder: size and time of every file; of folders, and of a lock that is held, the names."""
    kept = {path: path.is_file() and path.name != ".lock" for path in folder.rglob("*")}
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) if whole else (0, 0) for p, whole in kept.items()}


def fault(command: Command, capsys: pytest.CaptureFixture[str], before: dict[str, tuple[int, int]]) -> tuple[str, str]:
    """How a command ended: its exit code, and what is wrong with that, if anything is."""
    place, before_stdin = Path.cwd(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"a good film\n\ndull\n"))
    handler = signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        code = main(command.argv)
    except TooLong:
        return "late", "did not end"
    except BaseException as error:
        return "raised", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        sys.stdin = before_stdin
        os.chdir(place)
    err = capsys.readouterr().err
    if code not in (0, 1, 2):
        return str(code), "ends with no code of ours"
    if code and err.count("distill: error: ") != 1:
        return str(code), "is not one message"
    if "Traceback" in err:
        return str(code), "shows a traceback"
    if code == 2 and (now := found_in(place)) != before:
        return "2", f"left {sorted(now.keys() ^ before.keys())[:3] or 'a file changed'}"
    return str(code), ""


def _late(*_: object) -> None:
    raise TooLong


@pytest.fixture(scope="module")
def drive(place: Path) -> Callable[..., tuple[Counter[str], list[str]]]:
    """Runs so many commands, and gives the counts of their ends, and the faults."""
    kept = place.with_name("fuzz-kept")
    shutil.copytree(place, kept, symlinks=True)
    contents = {file: Path(file).read_bytes() for file in FILES}
    keys = known_keys()

    def run(capsys: pytest.CaptureFixture[str], first: int, count: int) -> tuple[Counter[str], list[str]]:
        ends: Counter[str] = Counter()
        faults = []
        for number in range(first, first + count):
            command = mutated(random.Random(SEED + number), keys, contents)
            if command.file:
                Path(command.file).write_bytes(command.content)
            before = found_in(place)
            environment = dict(os.environ)
            end, wrong = fault(command, capsys, before)
            os.environ.clear()
            os.environ.update(environment)
            ends["fault" if wrong else end] += 1
            if wrong:
                faults.append(f"{number}: {command.argv} {command.file} {command.content[:80]!r}: {wrong}")
            if command.file or found_in(place) != before:
                _restore(place, kept)
        return ends, faults

    return run


def _restore(place: Path, kept: Path) -> None:
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True)


def test_mistakes_made_by_chance_are_reported(
    drive: Callable[..., tuple[Counter[str], list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    ends, faults = drive(capsys, 0, 150)
    assert not faults, "\n".join(faults)
    assert ends["2"] >= 60, ends  # else nothing was tried


@pytest.mark.slow
def test_a_thousand_mistakes_made_by_chance_are_reported(
    drive: Callable[..., tuple[Counter[str], list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    ends, faults = drive(capsys, 1000, 1000)
    with capsys.disabled():
        print(f"\n{sum(ends.values())} commands: {dict(ends)}")
    assert not faults, f"{ends}\n" + "\n".join(faults)
    assert ends["2"] >= 400, ends
