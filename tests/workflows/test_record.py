"""A teacher that was recorded teaches as one that runs; what does not belong is refused before training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from distill.cli.main import main
from distill.models.teachers import RecordedTeacher
from distill.training import objective
from distill.workflows.record import recorder

Distill = Callable[..., Any]

LOSSES = [
    {"class_path": "CrossEntropy", "init_args": {"weight": 0.3}},
    {"class_path": "HintonKL", "init_args": {"temperature": 1.5}},
    {"class_path": "ReverseKL"},
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are never there as a whole, and a recording has several shards."""
    monkeypatch.setattr(objective, "_LARGE", 64)
    monkeypatch.setattr(recorder, "_SHARD_TOKENS", 300)


@pytest.fixture(scope="module")
def base_config(chat_dir: Path, text_folder: str) -> dict[str, Any]:
    """A language model, and a student of one of its layers that needs no teacher for that."""
    return {
        "model": {
            "task": "causal-lm",
            "teacher": {"path": str(chat_dir)},
            "student": {"path": str(chat_dir), "layers": "first", "num_layers": 1},
            "losses": LOSSES,
            "optimizer": {"lr": 1e-2},
        },
        "data": {"path": text_folder, "pack_length": 24, "batch_size": 4, "eval_batch_size": 4, "train_samples": 120},
        "trainer": {"max_steps": 6, "accelerator": "cpu", "enable_progress_bar": False, "limit_val_batches": 4},
        "logging": {"tensorboard": False},
    }


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: Callable[..., Any]) -> Callable[..., str]:
    """Writes a changed configuration into the current folder."""
    monkeypatch.chdir(tmp_path)

    def written(config: dict[str, Any], changes: dict[str, Any] | None = None, name: str = "lm.yaml") -> str:
        Path(name).write_text(yaml.safe_dump(changed(config, changes or {})))
        return name

    return written


def student(run: str) -> dict[str, Any]:
    return load_file(Path("runs", run, "student", "model.safetensors"))


def scores(run: str) -> Any:
    return json.loads(Path("runs", run, "result.json").read_text())["scores"]


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-6), ("bf16", 2e-3), ("int8", 2e-3)])
def test_hidden_states_teach_as_the_model_that_runs(
    write: Callable[..., str],
    base_config: dict[str, Any],
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    near: float,
) -> None:
    recipe = write(base_config)
    if dtype == "int8":
        monkeypatch.setattr(objective, "_LARGE", 10**9)  # logits as a whole
    done = distill("record", "-c", recipe, "--to", "kept", "--as", "hidden", "--dtype", dtype)
    assert done.code == 0, done.err
    assert f"as hidden {dtype}: about" in done.out
    assert distill("fit", "-c", recipe, "--id", "live").code == 0
    options = ("--model.teacher.recorded", "kept", "--model.teacher.path", "null")
    done = distill("fit", "-c", recipe, "--id", "read", *options)
    assert done.code == 0, done.err
    assert "recorded in kept: hidden" in done.out
    if dtype == "float32":  # Adam makes steps of one size of gradients of any: rounding may turn the smallest
        read = student("lm/read")
        for name, weight in student("lm/live").items():
            torch.testing.assert_close(read[name], weight, rtol=near, atol=near, msg=name)
    assert scores("lm/read")["student"]["perplexity"] == pytest.approx(scores("lm/live")["student"]["perplexity"], near)
    assert scores("lm/read")["teacher"] == pytest.approx(scores("lm/live")["teacher"], 1e-6)


@pytest.mark.parametrize(("form", "near"), [(("topk", "--k", "200"), 0.02), (("sampled", "--draws", "60"), 0.1)])
def test_a_few_tokens_teach_nearly_as_the_model_that_runs(
    write: Callable[..., str], base_config: dict[str, Any], distill: Distill, form: tuple[str, ...], near: float
) -> None:
    shutil.copytree(base_config["model"]["teacher"]["path"], "sure")
    weights = load_file("sure/model.safetensors")
    weights["lm_head.weight"] *= 150.0
    save_file(weights, "sure/model.safetensors", {"format": "pt"})
    losses = [{"class_path": "HintonKL", "init_args": {"temperature": 1.0}}]
    changes = {"losses": losses, "teacher": {"path": "sure"}}
    recipe = write(base_config, {"model": changes, "trainer": {"max_steps": 20}})
    done = distill("record", "-c", recipe, "--to", "kept", "--as", *form)
    assert done.code == 0, done.err
    assert f"as {form[0]} {form[2]}: about" in done.out
    options = ("--model.teacher.recorded", "kept", "--model.teacher.path", "null")
    found = {}
    for name, more in (("live", ()), ("read", options), ("alone", ("--model.losses", "[CrossEntropy]"))):
        assert distill("fit", "-c", recipe, "--id", name, *more).code == 0
        found[name] = scores(f"lm/{name}")["student"]["perplexity"]
    assert found["read"] == pytest.approx(found["live"], near)
    assert abs(found["alone"] / found["live"] - 1) > 0.5  # so it is the teacher that they learn from
    if form[0] == "sampled":
        done = distill("fit", "-c", recipe, *options, "--model.losses.0.temperature", "2")
        assert (done.code, "right in the mean alone" in done.err) == (2, True)


def test_a_recording_that_was_killed_goes_on_and_comes_to_the_same_bytes(
    write: Callable[..., str], base_config: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, packed = write(base_config), recorder.pack
    form = ("--as", "hidden")
    assert distill("record", "-c", recipe, "--to", "whole", *form).code == 0
    made: list[bytes] = []

    def killed(*given: Any) -> bytes:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(packed(*given))
        return made[-1]

    monkeypatch.setattr(recorder, "pack", killed)
    assert distill("record", "-c", recipe, "--to", "kept", *form).code == 130
    assert sorted(path.name for path in Path("kept").glob("shard*")) == [f"shard-0000{i}.safetensors" for i in (0, 1)]
    assert "not complete" in distill("fit", "-c", recipe, "--model.teacher.recorded", "kept").err
    monkeypatch.setattr(recorder, "pack", packed)
    Path("kept/shard-00001.safetensors").write_bytes(made[1][:-9])  # a disk that lost its end
    done = distill("record", "-c", recipe, "--to", "kept", *form)
    assert done.code == 0
    assert "resuming: 1 of " in done.out
    assert contents("kept") == contents("whole")
    for part in ("2/2", "1/2"):
        done = distill("record", "-c", recipe, "--to", "parts", *form, "--part", part)
        assert done.code == 0
        assert ("left to the other parts" in done.out) == (part == "2/2")
    assert contents("parts") == contents("whole")


def test_what_does_not_belong_is_refused_and_named(
    write: Callable[..., str], base_config: dict[str, Any], distill: Distill, chat_dir: Path
) -> None:
    recipe = write(base_config)
    assert distill("record", "-c", recipe, "--to", "kept", "--as", "hidden").code == 0

    def refused(*options: str) -> str:
        done = distill("fit", "-c", recipe, "--model.teacher.recorded", "kept", *options)
        assert done.code == 2, done.out
        assert not Path("runs").exists()
        return " ".join(done.err.split())

    cut = refused("--data.pack_length", "20")
    assert "was recorded of data that is read or cut otherwise: pack_length was 24, and is 20" in cut
    other = Path("texts.jsonl")
    other.write_text("".join(json.dumps({"text": f"story {i} was good"}) + "\n" for i in range(120)))
    files = ("--data.path", "null", "--data.files", json.dumps({"train": str(other), "validation": str(other)}))
    assert "was recorded of other training data" in refused(*files)
    shutil.copytree(chat_dir, "other")
    weights = load_file(chat_dir / "model.safetensors")
    save_file({name: weight + 1e-3 for name, weight in weights.items()}, "other/model.safetensors", {"format": "pt"})
    assert "another teacher" in refused("--model.teacher.path", "other")
    hint = json.dumps([{"class_path": "FitNetHint", "init_args": {"layers": {1: 1}}}])
    assert "reads hidden states" in refused("--model.losses", hint)
    assert "nowhere': holds no recording" in refused("--model.teacher", "{recorded: nowhere}")
    shard = Path("kept/shard-00001.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "shard-00001.safetensors was altered" in refused()
    shard.write_bytes(content[:-1])
    assert "shard-00001.safetensors was cut off" in refused()
    shard.unlink()
    assert "shard-00001.safetensors cannot be read" in refused()
    assert "holds a recording of another kind" in " ".join(
        distill("record", "-c", recipe, "--to", "kept", "--as", "logits").err.split()
    )
    done = distill("record", "-c", recipe, "--to", ".", "--as", "hidden")
    assert (done.code, "holds other files" in done.err) == (2, True)


def test_a_run_on_a_recording_resumes_to_the_same_bits(
    write: Callable[..., str], base_config: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = [{"class_path": "ResumeCheckpoint", "init_args": {"every_n_steps": 1}}]
    recipe = write(base_config, {"callbacks": every})
    assert distill("record", "-c", recipe, "--to", "kept", "--as", "hidden", "--dtype", "int8").code == 0
    options = ("--model.teacher.recorded", "kept", "--model.teacher.path", "null")
    assert distill("fit", "-c", recipe, "--id", "undisturbed", *options).code == 0
    read, calls = RecordedTeacher.signals, iter(range(100))

    def killed(*given: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return read(*given)

    monkeypatch.setattr(RecordedTeacher, "signals", killed)
    assert main(["fit", "-c", recipe, "--id", "killed", *options]) == 130
    monkeypatch.setattr(RecordedTeacher, "signals", read)
    assert distill("resume", "runs/lm/killed").code == 0
    one, other = student("lm/undisturbed"), student("lm/killed")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert scores("lm/killed") == scores("lm/undisturbed")


def test_logits_of_a_classifier_teach_as_the_model_that_runs(
    write: Callable[..., str], recipe: dict[str, Any], distill: Distill
) -> None:
    config = write(recipe, {"model": {"student": {"layers": "uniform", "num_layers": 2}}}, "classes.yaml")
    done = distill("record", "-c", config, "--to", "kept", "--as", "logits")
    assert done.code == 0, done.err
    assert "8 bytes a position" in done.out
    assert distill("fit", "-c", config, "--id", "live").code == 0
    done = distill("fit", "-c", config, "--id", "read", "--model.teacher.recorded", "kept")
    assert done.code == 0, done.err
    for name, weight in student("classes/live").items():
        torch.testing.assert_close(student("classes/read")[name], weight, rtol=1e-4, atol=1e-5)
    assert scores("classes/read").keys() == scores("classes/live").keys()
    done = distill("record", "-c", config, "--to", "none", "--as", "hidden")
    assert (done.code, "predicts no tokens" in done.err) == (2, True)
