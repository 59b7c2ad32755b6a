"""``predict.py`` in an export's folder runs as it stands, and says what the student says."""

from __future__ import annotations

import hashlib
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from distill.core.signals import Batch
from distill.core.task import TextTask
from distill.export.folder import CHECKSUMS, write_checksums
from distill.export.hf import by_from_pretrained
from distill.export.script import SAMPLE, SCRIPT, Lines, Reading, predict_script, write_script
from distill.export.student import export
from distill.tasks import make_task

FAKE = Lines(("numpy",), ("import numpy",), ("model = numpy.array",), "model(inputs['x'])")
TASKS = ("text-classification", "multi-label-classification", "token-classification", "masked-lm", "causal-lm")


def _task(name: str) -> TextTask:
    task = make_task(name, ["a", "b"])
    assert isinstance(task, TextTask)
    return task


@pytest.mark.parametrize("task", [None, *TASKS])
@pytest.mark.parametrize("tensors", ["np", "pt"])
def test_it_is_short_python_with_every_name_imported(task: str | None, tensors: str) -> None:
    opened = Lines(FAKE.packages, FAKE.imports, FAKE.opens, FAKE.logits, tensors)
    text = predict_script(opened, None if task is None else Reading(_task(task), 16, pair=task == TASKS[0]))
    compile(text, SCRIPT, "exec")
    assert len(text.splitlines()) <= 22
    assert max(map(len, text.splitlines())) <= 120
    for module, used in (("json", "json."), ("sys", "sys."), ("numpy as np", "np.")):
        assert (f"import {module}\n" in text) is (used in text.split("folder =", 1)[1]), module


@pytest.fixture
def language_model(tmp_path: Path, chat_tokenizer: Any) -> Path:
    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2, "initializer_range": 0.5}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), eos_token_id=None, **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def ran(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *texts: str) -> str:
    monkeypatch.setattr("sys.argv", [SCRIPT, *texts])
    capsys.readouterr()
    runpy.run_path(str(folder / SCRIPT))
    return capsys.readouterr().out


@pytest.mark.parametrize("chat", [False, True])
def test_a_language_model_continues_as_generate_does(
    chat: bool, language_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(language_model),
        AutoTokenizer.from_pretrained(language_model),
    )
    alone = by_from_pretrained(model)
    assert alone is not None
    step = Lines((), ("import torch", *alone.imports), alone.opens, _of_arrays(alone.logits))
    for lines in (alone, step):  # by its own generate, and token by token
        write_script(language_model, lines, Reading(_task("causal-lm"), 32, chat=chat), {})
        text = ran(language_model, monkeypatch, capsys, "def a(self):")
        messages = [{"role": "user", "content": "def a(self):"}]
        ids = tokenizer("def a(self):", return_tensors="pt")["input_ids"]
        if chat:
            ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )["input_ids"]
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
        assert text == tokenizer.decode(expected[0]) + "\n"


def _of_arrays(logits: str) -> str:
    return logits.replace("**inputs", "**{name: torch.from_numpy(array) for name, array in inputs.items()}")


def test_what_reads_arrays_runs_from_made_up_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    data = [Batch({"input": torch.randn(8, 4) + 3}, labels=torch.arange(8) % 3)]
    export(student, "onnx", tmp_path / "out", data)
    sample = np.load(tmp_path / "out" / SAMPLE)["input"]
    assert sample.shape == (1, 4)
    assert not any(np.isclose(sample, row).all() for row in data[0].inputs["input"].numpy()), "no row of the data"
    with torch.no_grad():
        expected = student(torch.from_numpy(sample))[0].tolist()
    shown = [
        float(number) for number in re.findall(r"-?\d+\.\d*(?:e-?\d+)?", ran(tmp_path / "out", monkeypatch, capsys))
    ]
    assert shown == pytest.approx(expected, abs=1e-4)
    sums = dict(line.split("  ")[::-1] for line in (tmp_path / "out" / CHECKSUMS).read_text().splitlines())
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert sums.keys() == files - {CHECKSUMS}
    for name, digest in sums.items():
        assert digest == hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()


def test_checksums_name_files_in_folders_below(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"")
    write_checksums(tmp_path)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert (tmp_path / CHECKSUMS).read_text() == f"{empty}  a/b\n"
