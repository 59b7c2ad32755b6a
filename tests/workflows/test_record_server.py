"""A teacher behind a server is recorded as one that runs here; what its answers lack is said before time is spent."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill.models.teachers.recorded.sparse import TopKCodec
from distill.models.teachers.server import client
from distill.training import objective
from distill.workflows.record import recorder

served: Any = runpy.run_path(str(Path(__file__).with_name("completions.py")))["served"]

Distill = Callable[..., Any]
Completions = Any

LOSSES = [{"class_path": "HintonKL"}, {"class_path": "CrossEntropy", "init_args": {"weight": 0.3}}]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "_LARGE", 64)
    monkeypatch.setattr(recorder, "_SHARD_TOKENS", 800)
    monkeypatch.setattr(client, "_FIRST_DELAY", 0.001)
    monkeypatch.setattr(client, "_LONGEST_DELAY", 0.002)


@pytest.fixture
def server(chat_dir: Path) -> Iterator[Completions]:
    with served(chat_dir) as completions:
        yield completions


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_dir: Path, text_folder: str) -> str:
    """Packed blocks of several documents, which must not see each other; without a teacher that runs."""
    monkeypatch.chdir(tmp_path)
    model = {
        "task": "causal-lm",
        "student": {"path": str(chat_dir), "layers": "first", "num_layers": 1},
        "losses": LOSSES,
        "optimizer": {"lr": 1e-2},
    }
    data = {"path": text_folder, "pack_length": 24, "batch_size": 4, "eval_batch_size": 4, "train_samples": 60}
    trainer = {"max_steps": 4, "accelerator": "cpu", "enable_progress_bar": False, "limit_val_batches": 2}
    config = {"model": model, "data": data, "trainer": trainer, "logging": {"tensorboard": False}}
    Path("lm.yaml").write_text(yaml.safe_dump(config))
    return "lm.yaml"


def distributions(folder: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """What a recording says of every position, ``[N, V]``, which tokens it names, ``[N, K]``, and its index."""
    from distill.core.signals import Batch, Request

    index = json.loads(Path(folder, "index.json").read_text())
    codec = TopKCodec.read(index["codec"], load_file(Path(folder, "common.safetensors")))
    found, named = [], []
    for path in sorted(Path(folder).glob("shard*")):
        shard = load_file(path)
        rows = {name.removeprefix("rows."): shard[name] for name in shard if name.startswith("rows.")}
        counts = shard["offsets.levels"].diff().tolist()
        sparse = codec.decode(rows, counts, Batch({}), Request(logits=True, lazy=True)).sparse_logits
        assert sparse is not None
        found.append(sparse.block(slice(0, len(sparse))))
        named.append(sparse.ids)
    return torch.cat(found).softmax(-1), torch.cat(named), index


def scores(run: str) -> Any:
    return json.loads(Path("runs", run, "result.json").read_text())["scores"]


@pytest.mark.parametrize("form", ["vllm", pytest.param("echo", marks=pytest.mark.slow)])
def test_a_server_is_recorded_as_the_model_that_runs_and_trains_without_it(
    server: Completions, recipe: str, distill: Distill, chat_dir: Path, form: str
) -> None:
    server.form = form
    done = distill("record", "-c", recipe, "--to", "asked", "--from-server", server.url, "--k", "12")
    assert done.code == 0, done.err
    assert "as topk 12: about" in done.out
    local = ("--as", "topk", "--k", "12", "--model.teacher", str(chat_dir))
    assert distill("record", "-c", recipe, "--to", "run", *local).code == 0
    (asked, _, index), (run, named, expected) = distributions("asked"), distributions("run")
    assert len(asked) == len(run) == index["positions"]
    same = torch.ones(len(run), dtype=torch.bool)
    if form == "echo":  # where it named a part of a character, nobody can say which one
        texts = [server.tokenizer.decode([i]) for i in range(run.shape[1])]
        told = torch.tensor([texts.count(text) == 1 and "\ufffd" not in text for text in texts])
        same = told[named].all(1)
        assert same.sum() > 100
    torch.testing.assert_close(asked[same], run[same], rtol=0.08, atol=1e-7)  # a level differs by rounding, if any
    assert (asked - run)[same].abs().mean() < 1e-6
    assert index["scores"] == pytest.approx(expected["scores"], 1e-4)
    start = server.tokenizer.bos_token_id
    prompts = [body["prompt"] for body in server.asked]
    assert any(prompt[0] == start for prompt in prompts)
    assert not any(start in prompt[1:] for prompt in prompts)  # one document each, though blocks have several
    done = distill("fit", "-c", recipe, "--id", form, "--model.teacher.recorded", "asked")
    assert done.code == 0, done.err
    assert "big of a server, recorded in asked: topk 12" in done.out
    assert scores(f"lm/{form}")["teacher"] == pytest.approx(index["scores"])


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_busy_server_is_asked_again_and_a_killed_recording_resumes_to_the_same_bytes(
    server: Completions, recipe: str, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("-c", recipe, "--from-server", server.url, "--k", "8")
    assert distill("record", "--to", "whole", *options).code == 0
    shards = len(list(Path("whole").glob("shard*")))
    assert shards > 2
    busy = {3: (429, {"Retry-After": "0"}), 5: (500, {}), 6: (503, {}), 9: "cut", 10: "cut", 14: (429, {})}
    server.posts, server.fail = 0, busy.get
    packed, made = recorder.pack, list[bytes]()

    def killed(*given: Any) -> bytes:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(packed(*given))
        return made[-1]

    monkeypatch.setattr(recorder, "pack", killed)
    assert distill("record", "--to", "kept", *options).code == 130
    assert len(list(Path("kept").glob("shard*"))) == 2
    monkeypatch.setattr(recorder, "pack", packed)
    before = server.posts
    done = distill("record", "--to", "kept", *options)
    assert done.code == 0, done.err
    assert f"resuming: 2 of {shards} shards are there" in done.out
    assert contents("kept") == contents("whole")
    shutil.rmtree("kept")
    assert distill("record", "--to", "kept", *options, "--part", "1/2").code == 0
    bias = torch.linspace(0, 9, server.model.config.vocab_size)
    lifted = server.model.lm_head.register_forward_hook(lambda module, args, logits: logits + bias)
    done = distill("record", "--to", "kept", *options)
    assert (done.code, "the server answers otherwise" in " ".join(done.err.split())) == (2, True)
    lifted.remove()
    server.fail = lambda number: (503, {}) if number > before + 12 else None
    server.posts = before
    done = distill("record", "--to", "gone", *options)
    assert (done.code, "the same command goes on" in done.err) == (1, True)


@pytest.mark.slow
def test_the_key_is_sent_to_the_server_and_kept_nowhere(
    server: Completions, recipe: str, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("record", "-c", recipe, "--to", "kept", "--from-server", server.url, "--k", "8")
    monkeypatch.setenv("OPENAI_API_KEY", "another-secret-9")
    monkeypatch.setenv("MY_KEY", "very-secret-7311")
    done = distill(*options, "--api-key-env", "MY_KEY", "--requests-per-minute", "100000")
    assert done.code == 0, done.err
    assert set(server.keys) == {"Bearer very-secret-7311"}
    assert not any(b"very-secret" in content for content in contents("kept").values())
    server.keys.clear()
    server.fail = lambda number: (401, {})
    done = distill("record", "-c", recipe, "--to", "new", "--from-server", server.url, "--api-key-env", "MY_KEY")
    assert (done.code, "secret" in done.out + done.err) == (2, False)
    server.fail = lambda number: (307, {"Location": "http://127.0.0.1:9/v1/completions"})
    done = distill("record", "-c", recipe, "--to", "new", "--from-server", server.url, "--api-key-env", "MY_KEY")
    assert (done.code, "redirects to 127.0.0.1:9, which is not followed" in " ".join(done.err.split())) == (2, True)
    assert not Path("new").exists()
    done = distill("record", "-c", recipe, "--to", "new", "--from-server", server.url, "--api-key-env", "NO_KEY")
    assert (done.code, "is not set" in done.err) == (2, True)
    monkeypatch.setenv("MY_KEY", "very-secret-7311é")
    done = distill(*options, "--api-key-env", "MY_KEY")
    assert (done.code, "is no key" in done.err, "7311" in done.err) == (2, True, False)


def test_an_answer_of_the_most_likely_tokens_alone_is_refused_before_anything_is_written(
    server: Completions, recipe: str, distill: Distill
) -> None:
    def first_alone(answer: dict[str, Any]) -> None:
        rows = answer["choices"][0]["prompt_logprobs"]
        for row in rows[1:]:
            own = next(iter(row))
            for i in list(row):
                if i != own and row[i]["rank"] > 1:
                    del row[i]

    server.change = first_alone
    done = distill("record", "-c", recipe, "--to", "kept", "--from-server", server.url, "--k", "8")
    assert (done.code, server.posts, Path("kept").exists()) == (2, 1, False)
    assert "has only that of the most likely token, and 8 were asked for" in " ".join(done.err.split())


def test_what_a_server_is_not_for_is_refused(server: Completions, recipe: str, distill: Distill) -> None:
    def refused(*options: str) -> str:
        done = distill("record", "-c", recipe, "--to", "kept", *options)
        assert done.code == 2, done.out
        return " ".join(done.err.split())

    address = ("--from-server", server.url)
    assert "greater than max allowed: 20" in refused(*address, "--k", "30")
    assert "--max-logprobs 30" in refused(*address, "--k", "30")
    assert "no more" in refused(*address, "--as", "hidden")
    assert "has big" in refused(*address, "--served-model", "small")
    assert "must be an address of http or https" in refused("--from-server", "ftp://host")
    assert "without a name, a password" in refused("--from-server", "http://me:secret-77@host/v1")
    assert "give --from-server too" in refused("--as", "topk", "--concurrency", "4")
    assert "must be greater than 0" in refused(*address, "--concurrency", "0")
    server.max_model_len = 20
    assert "reads 20" in refused(*address)
    server.form = "neither"
    said = refused("--data.pack_length", "12", *address)
    assert "has no prompt_logprobs; asked with echo its answer has no logprobs" in said
