"""Commands on encoder-decoders: a teacher that was recorded, students that are compressed."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill import load
from distill.cli.main import main
from distill.training.module import Distillation

Distill = Callable[..., Any]

SMALL: Any = runpy.run_path(str(Path(__file__).parents[1] / "encoder_decoders.py"))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a recipe into the current folder."""
    monkeypatch.chdir(tmp_path)

    def written(callbacks: Any = (), **model: Any) -> str:
        Path("pairs.yaml").write_text(json.dumps(SMALL["recipe"](tmp_path, **model) | {"callbacks": [*callbacks]}))
        return "pairs.yaml"

    return written


def student_of(run: str) -> dict[str, Any]:
    return load_file(Path("runs", run, "student", "model.safetensors"))


@pytest.mark.parametrize("kept", [("hidden", "--dtype", "float32"), pytest.param(("logits",), marks=pytest.mark.slow)])
def test_a_recorded_teacher_teaches_as_the_one_that_runs(
    write: Callable[..., str], distill: Distill, kept: tuple[str, ...]
) -> None:
    recipe = write(optimizer={"lr": 1e-3})
    done = distill("record", "-c", recipe, "--to", "kept", "--as", *kept)
    assert done.code == 0, done.err
    read = ("--model.teacher", "{recorded: kept}")
    for name, more in (("live", ()), ("read", read), ("alone", ("--model.losses", "[CrossEntropy]"))):
        done = distill("fit", "-c", recipe, "--id", name, *more)
        assert done.code == 0, done.err
    live, found, alone = (student_of(f"pairs/{name}") for name in ("live", "read", "alone"))
    for name, weight in live.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-5)
    assert any(float((alone[name] - weight).abs().max()) > 1e-3 for name, weight in live.items())
    done = distill("fit", "-c", recipe, "--id", "other", *read, "--data.max_target_length", "5")
    assert done.code == 2
    assert "max_target_length" in done.err


SPECS = {
    "heads": ("callbacks.+", "{class_path: StructuredPruning, init_args: {heads: 0.5}}", "this is t5"),
    "sharing": ("callbacks.+", "{class_path: ShareParameters, init_args: {groups: 2}}", "an encoder and a decoder"),
    "width": ("model.student.hidden_size", "8", "this is t5"),
    "on policy": ("model.on_policy", "{share: 0.5}", "is for language models that go on with a text"),
    "packing": ("data.pack_length", "32", "cannot be packed"),
    "another tokenizer": ("data.teacher_tokenizer", "teacher", "no causal language model"),
    "which stack": ("model.losses", "[RelationalKD]", "stack: encoder, or stack: decoder"),
}


@pytest.mark.parametrize("name", SPECS)
def test_what_is_not_for_encoder_decoders_is_refused_before_training(
    write: Callable[..., str], distill: Distill, name: str
) -> None:
    key, value, reason = SPECS[name]
    done = distill("fit", "-c", write(), "--id", "one", "--model.student.path", "teacher", f"--{key}", value)
    assert done.code == 2
    assert reason in done.err
    assert key.removesuffix(".+").split(".")[0] in done.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("target", ["gguf", "onnx-genai"])
@pytest.mark.slow
def test_targets_for_language_models_alone_say_so(write: Callable[..., str], distill: Distill, target: str) -> None:
    assert distill("fit", "-c", write(), "--id", "one").code == 0
    done = distill("export", "runs/pairs/one", "--to", target)
    assert done.code == 2
    assert "T5ForConditionalGeneration" in done.err
    done = distill("evaluate", "runs/pairs/one", "--tasks", "x.jsonl")
    assert done.code == 2
    assert "seq2seq" in done.err


PRUNE = {"class_path": "GradualMagnitudePruning", "init_args": {"final_sparsity": 0.5, "begin": 0.0, "end": 0.4}}
EVERY_TABLE: dict[str, Any] = {"begin": 0.5, "observe": 0.3, "freeze_observers": 0.9, "embeddings": {"bits": 8}}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a student that was pruned and rounded to 8 bits, its embedding with it."""
    folder = tmp_path_factory.mktemp("small")
    quantize = {"class_path": "QuantizationAwareTraining", "init_args": EVERY_TABLE}
    made = SMALL["recipe"](folder, optimizer={"lr": 1e-2}, completions={"scored": 4, "shown": 3, "max_new_tokens": 12})
    made |= {"callbacks": [PRUNE, quantize], "name": "pairs"}
    made["trainer"]["max_epochs"] = 5
    (folder / "pairs.yaml").write_text(json.dumps(made))
    assert main(["fit", "-c", str(folder / "pairs.yaml"), "--id", "small"]) == 0
    return folder / "runs/pairs/small"


def test_attention_to_the_encoder_is_pruned_and_rounded_and_the_shared_embedding_once(small: Path) -> None:
    sparsity, quantized = json.loads((small / "student/compression.json").read_text())["steps"]
    weights = load_file(small / "student/model.safetensors")
    crossing = [f"decoder.block.0.layer.1.EncDecAttention.{part}" for part in "qkvo"]
    assert {*crossing} <= sparsity["layers"].keys() & quantized["modules"].keys()
    masked = sum(float((weights[f"{name}.weight"] == 0).float().sum()) for name in sparsity["layers"])
    assert masked / sum(weights[f"{name}.weight"].numel() for name in sparsity["layers"]) == pytest.approx(
        0.5, abs=0.01
    )
    tied = {"shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"}
    assert tied <= quantized["modules"].keys()
    student: Any = load(small)
    assert len({student.get_submodule(name).weight.data_ptr() for name in tied}) == 1
    for row in student.shared.weight:  # rounded once: on a grid of 255 steps
        steps = row / (row.abs().max() / 127)
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)


def test_integers_decide_as_the_student_does_and_write_what_it_writes(
    small: Path, distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = distill("export", str(small), "--to", "onnx-int8", "--output", "integers", "--no-timing")
    assert done.code == 0, done.err
    report = json.loads(Path("integers/export.json").read_text())
    assert report["verified"]["agreement"] == 1.0
    assert report["verified"]["mean_error"] < 1e-2
    Path("words.txt").write_text("abc\nfed\nbadcab\nf\n")
    said = [distill("predict", folder, "words.txt", "--max-new-tokens", "12") for folder in (str(small), "integers")]
    assert [one.code for one in said] == [0, 0]
    assert said[0].out == said[1].out
    assert len(said[0].out.splitlines()) == 4


def test_its_card_says_how_it_writes(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (small / "student/README.md").read_text()
    assert "Texts are cut to 16 tokens, and those that it was taught to write to 12." in text
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "'p: ' + " in code
    monkeypatch.chdir(small / "student")
    exec(compile(code, "README.md", "exec"), {})
    student, tokenizer = load(small), SMALL["letters"]()
    written = student.generate(**tokenizer("p: a text", return_tensors="pt"), max_new_tokens=12)
    assert capsys.readouterr().out == tokenizer.decode(written[0], skip_special_tokens=True) + "\n"


@pytest.mark.slow
def test_layers_of_both_stacks_are_scanned_and_every_model_is_reported(
    small: Path, distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ("fit", "-c", str(small.parents[2] / "pairs.yaml"), "--callbacks", "[]", "--id", "one", "--runs", "runs")
    assert distill(*fit).code == 0
    done = distill("sensitivity", "runs/pairs/one", "--sparsity", "0.5", "--bits", "4")
    assert done.code == 0, done.err
    points = Path("runs/pairs/one/sensitivity/points.csv").read_text()
    for name in ("encoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.1.EncDecAttention.k", "shared"):
        assert f"\n{name}," in points
    assert "\nlm_head," not in points
    done = distill("report", str(small), "--html", "page.html", "--no-timing")
    assert done.code == 0, done.err
    page = Path("page.html").read_text()
    for line in (small / "completions.jsonl").read_text().splitlines():
        shown = json.loads(line)
        assert all(shown[who] in page for who in ("prompt", "expected", "teacher", "student"))


def test_what_a_teacher_writes_is_the_same_every_time_and_teaches_a_student(
    write: Callable[..., str], distill: Distill
) -> None:
    recipe = write()
    lines = [json.loads(line)["source"] for line in Path("train.jsonl").read_text().splitlines()]
    Path("sources.jsonl").write_text("".join(json.dumps({"source": f"p: {line}"}) + "\n" for line in lines))
    made = []
    for name, size in (("a", "16"), ("b", "5")):
        argv = ("--max-new-tokens", "8", "--beams", "2", "--keep-unfinished", "--batch-size", size)
        done = distill("generate", "teacher", "sources.jsonl", "--to", f"{name}.jsonl", *argv)
        assert done.code == 0, done.err
        made.append([json.loads(line) for line in Path(f"{name}.jsonl").read_text().splitlines()])
    assert made[0] == made[1]
    assert [row["source"].removeprefix("p: ") for row in made[0]] == lines
    for name, data in (("a", "a.jsonl"), ("again", "a.jsonl"), ("true", "train.jsonl")):
        chosen = () if name == "true" else ("--data.prefix", "null")
        argv = ("--id", name, "--data.files.train", data, "--model.losses", "[CrossEntropy]", *chosen)
        done = distill("fit", "-c", recipe, *argv)
        assert done.code == 0, done.err
    one, again, true = (student_of(f"pairs/{name}") for name in ("a", "again", "true"))
    assert all(weight.equal(again[name]) for name, weight in one.items())
    assert not all(weight.equal(true[name]) for name, weight in one.items())


def test_a_text_that_a_teacher_leaves_empty_is_no_target_and_columns_are_called_as_asked(
    write: Callable[..., str], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(model: Any, prompts: list[torch.Tensor], *_: Any, **__: Any) -> list[torch.Tensor]:
        return [torch.tensor([1] if len(prompt) < 3 else [3, 1]) for prompt in prompts]

    write()
    monkeypatch.setattr("distill.workflows.generate.continuations", short)
    Path("words.csv").write_text("document,summary\nabc,x\nf,x\nb,x\ncab,x\n")
    argv = ("generate", "teacher", "words.csv", "--to", "made.jsonl", "--data.columns")
    done = distill(*argv, "{text: document, target: summary}")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in Path("made.jsonl").read_text().splitlines()]
    assert rows == [{"document": word, "summary": "a"} for word in ("abc", "cab")]
    assert "2 answers to 4 prompts; empty, and left out: 2 answers" in done.out


def test_a_run_that_was_killed_ends_with_the_same_student_which_writes_the_same(
    write: Callable[..., str], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"scored": 6, "shown": 6, "max_new_tokens": 8, "beams": 3, "scores": ["bleu", "word_error_rate"]}
    recipe = write([PRUNE], completions=asked, optimizer={"lr": 1e-2})
    often = (
        "--trainer.val_check_interval",
        "2",
        "--callbacks.+",
        "{class_path: ResumeCheckpoint, init_args: {every_n_steps: 1}}",
    )
    assert distill("fit", "-c", recipe, "--id", "whole", *often).code == 0
    original, calls = Distillation.training_step, iter(range(1, 100))

    def killed(self: Any, *given: Any) -> Any:
        if next(calls) == 4:
            raise SystemExit(9)
        return original(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "training_step", killed)
        assert distill("fit", "-c", recipe, "--id", "killed", *often).code != 0
    assert not Path("runs/pairs/killed/result.json").exists()
    done = distill("resume", "runs/pairs/killed")
    assert done.code == 0, done.err
    for file in ("student/model.safetensors", "completions.jsonl", "metrics.csv"):
        assert Path("runs/pairs/killed", file).read_bytes() == Path("runs/pairs/whole", file).read_bytes(), file
    results = [json.loads(Path("runs/pairs", run, "result.json").read_text()) for run in ("killed", "whole")]
    assert results[0]["scores"] == results[1]["scores"]
    assert {"bleu", "word_error_rate"} <= results[0]["scores"]["student"].keys() & results[0]["scores"][
        "teacher"
    ].keys()
    assert results[0]["completions"]["beams"] == 3
