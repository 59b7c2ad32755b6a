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
from distill.models.teachers import LiveTeacher, RecordedTeacher
from distill.training import objective
from distill.workflows.record import origin, recorder

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


def student_of(run: str) -> dict[str, Any]:
    return load_file(Path("runs", run, "student", "model.safetensors"))


def scores(run: str) -> Any:
    return json.loads(Path("runs", run, "result.json").read_text())["scores"]


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("dtype", "near"),
    [
        ("float32", 1e-6),
        pytest.param("bf16", 2e-3, marks=pytest.mark.slow),
        pytest.param("int8", 2e-3, marks=pytest.mark.slow),
    ],
)
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
        read = student_of("lm/read")
        for name, weight in student_of("lm/live").items():
            torch.testing.assert_close(read[name], weight, rtol=near, atol=near, msg=name)
    assert scores("lm/read")["student"]["perplexity"] == pytest.approx(scores("lm/live")["student"]["perplexity"], near)
    assert scores("lm/read")["teacher"] == pytest.approx(scores("lm/live")["teacher"], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "near"),
    [(("topk", "--k", "200"), 0.02), pytest.param(("sampled", "--draws", "60"), 0.1, marks=pytest.mark.slow)],
)
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


@pytest.mark.slow
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
    form = ("--as", "hidden", "--dtype", "int8")
    assert distill("record", "-c", recipe, "--to", "rounded", *form).code == 0
    for part in ("2/2", "1/2"):
        monkeypatch.setattr(recorder, "_FIRST", 8 if part == "2/2" else 5)  # another machine finds other channels
        done = distill("record", "-c", recipe, "--to", "parts", *form, "--part", part)
        assert done.code == 0
        assert ("left to the other parts" in done.out) == (part == "2/2")
    assert contents("parts") == contents("rounded")


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
    one, other = student_of("lm/undisturbed"), student_of("lm/killed")
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
    for name, weight in student_of("classes/live").items():
        torch.testing.assert_close(student_of("classes/read")[name], weight, rtol=1e-4, atol=1e-5)
    assert scores("classes/read").keys() == scores("classes/live").keys()
    done = distill("record", "-c", config, "--to", "none", "--as", "hidden")
    assert (done.code, "predicts no tokens" in done.err) == (2, True)


@pytest.mark.slow
def test_processes_that_torchrun_starts_share_the_work(
    write: Callable[..., str], base_config: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(base_config, {"trainer": {"devices": 2}})
    assert distill("record", "-c", recipe, "--to", "whole", "--as", "topk", "--k", "5").code == 0
    for rank in ("1", "0"):
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("GROUP_RANK", "0"), ("WORLD_SIZE", "2")):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
        done = distill("record", "-c", recipe, "--to", "shared", "--as", "topk", "--k", "5")
        assert done.code == 0, done.err
        assert ("left to the other parts" in done.out) == (rank == "1")
    assert contents("shared") == contents("whole")


def test_what_a_kill_leaves_before_the_first_shard_is_gone_on_with(
    write: Callable[..., str], base_config: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, saved = write(base_config), origin.Running.save

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(origin.Running, "save", killed)
    assert distill("record", "-c", recipe, "--to", "kept", "--as", "hidden").code == 130
    monkeypatch.setattr(origin.Running, "save", saved)
    assert distill("record", "-c", recipe, "--to", "kept", "--as", "hidden").code == 0


def test_another_tokenizer_and_another_template_are_refused(
    write: Callable[..., str], base_config: dict[str, Any], distill: Distill, chat_dir: Path
) -> None:
    chats = [[{"role": "user", "content": f"x = {i}"}, {"role": "assistant", "content": f"y{i}"}] for i in range(24)]
    Path("chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    data = {
        "files": {"train": "chats.jsonl", "validation": "chats.jsonl"},
        "path": None,
        "train_samples": None,
        "pack_length": 64,
    }
    recipe = write(base_config, {"data": data})
    assert distill("record", "-c", recipe, "--to", "kept", "--as", "topk", "--k", "5").code == 0
    for name in ("lower", "polite"):
        shutil.copytree(chat_dir, name)
    tokenizer = json.loads(Path("lower/tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}  # the same tokens, of other texts
    Path("lower/tokenizer.json").write_text(json.dumps(tokenizer))
    template = Path("polite/chat_template.jinja")
    template.write_text(template.read_text().replace("Be brief.", "Be polite."))

    def refused(other: str) -> str:
        student = ("--model.student.path", other, "--data.tokenizer", other)
        done = distill("fit", "-c", recipe, "--model.teacher", "{recorded: kept, path: null}", *student)
        assert (done.code, Path("runs").exists()) == (2, False), done.out
        return " ".join(done.err.split())

    assert "was recorded of another tokenizer" in refused("lower")
    assert "was recorded of another chat template" in refused("polite")


@pytest.mark.slow
def test_an_ensemble_is_recorded_as_one_teacher(
    write: Callable[..., str], recipe: dict[str, Any], distill: Distill
) -> None:
    path = recipe["model"]["teacher"]["path"]
    shutil.copytree(path, "other")
    weights = load_file("other/model.safetensors")
    save_file({name: weight * 1.5 for name, weight in weights.items()}, "other/model.safetensors", {"format": "pt"})
    teachers = [{"path": path, "weight": 2.0}, {"path": "other"}]
    student = {"path": path, "layers": "uniform", "num_layers": 2}
    config = write(recipe, {"model": {"teacher": teachers, "student": student}}, "both.yaml")
    done = distill("record", "-c", config, "--to", "kept", "--as", "logits")
    assert done.code == 0, done.err
    assert distill("fit", "-c", config, "--id", "live").code == 0
    done = distill("fit", "-c", config, "--id", "read", "--model.teacher", "{recorded: kept}")
    assert done.code == 0, done.err
    for name, weight in student_of("both/live").items():
        torch.testing.assert_close(student_of("both/read")[name], weight, rtol=1e-4, atol=1e-5)
    assert scores("both/read")["teacher"] == pytest.approx(scores("both/live")["teacher"])


@pytest.mark.slow
def test_a_model_beside_a_recording_judges_what_the_student_writes(
    write: Callable[..., str], base_config: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_policy = {"share": 0.5, "max_new_tokens": 4}
    recipe = write(base_config, {"model": {"on_policy": on_policy}, "trainer": {"max_steps": 8}})
    assert distill("record", "-c", recipe, "--to", "kept", "--as", "hidden").code == 0
    done = distill("fit", "-c", recipe, "--model.teacher", "{recorded: kept, path: null}")
    assert (done.code, "says nothing of what the student writes" in done.err) == (2, True)
    judged, asked = LiveTeacher.signals, list[bool]()

    def counted(self: LiveTeacher, batch: Any, request: Any) -> Any:
        asked.append(batch.ids is None)
        return judged(self, batch, request)

    monkeypatch.setattr(LiveTeacher, "signals", counted)
    done = distill("fit", "-c", recipe, "--id", "read", "--model.teacher.recorded", "kept")
    assert done.code == 0, done.err
    assert all(asked)  # of the student's own alone
    assert 0 < len(asked) < 8


@pytest.mark.slow
def test_two_ranks_learn_of_a_recording_what_one_does(
    write: Callable[..., str], base_config: dict[str, Any], distill: Distill, script: Callable[..., Any]
) -> None:
    changes = {"optimizer": {"name": "sgd", "lr": 0.5, "warmup": 0}, "teacher": {"path": None, "recorded": "kept"}}
    recipe = write(base_config, {"model": {"optimizer": changes["optimizer"]}})
    assert distill("record", "-c", recipe, "--to", "kept", "--as", "topk", "--k", "30").code == 0
    recipe = write(base_config, {"model": changes})
    assert distill("fit", "-c", recipe, "--id", "one").code == 0
    options = ("--trainer.devices", "2", "--data.batch_size", "2")
    fit = Path(__file__).parents[1] / "training/distributed/fit.py"
    script(fit, "plain", "-c", recipe, "--id", "two", *options)
    one, two = student_of("lm/one"), student_of("lm/two")
    begun = load_file(Path(base_config["model"]["student"]["path"], "model.safetensors"))
    assert any((one[name] - begun[name]).abs().max() > 1e-3 for name in one if name in begun)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5)
