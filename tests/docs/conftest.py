"""A small world in which README and docs run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from distill.cli.main import main

VLLM: Any = runpy.run_path(str(Path(__file__).parents[1] / "workflows/completions.py"))
MODELS: Any = runpy.run_path(str(Path(__file__).parents[1] / "encoder_decoders.py"))
INSTEAD = {"distill:quickstart/teacher": "my-chat-model", "ENCODER": "encoder", "SST2": "sst2", "bf16-mixed": "32-true"}
"""Words of a command -> what stands for them here."""

CAPITALS = """\
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{country}} is"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
"""The task that a page shows."""

SMALL = {
    "data.train_samples": "16",
    "data.batch_size": "8",
    "data.max_length": "32",
    "trainer.max_epochs": "1",
    "trainer.min_epochs": "1",
    "trainer.min_steps": "1",
    "trainer.limit_val_batches": "1",
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
}
"""What makes a training that a page shows a matter of two steps."""


class Result(NamedTuple):
    code: int
    out: str
    err: str


class World:
    """A folder with data, models and runs as the pages speak of them, all tiny."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def distill(self, *argv: str, stdin: str = "") -> Result:
        """Play the command in this process, in the folder."""
        out, err = io.StringIO(), io.StringIO()
        before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin.encode()))
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(list(argv))
            except SystemExit as ended:  # --help
                code = int(ended.code or 0)
            except Exception:
                code = 1
                traceback.print_exc()
            finally:
                sys.stdin = before
        return Result(code, out.getvalue(), err.getvalue())

    def play(self, words: list[str], stdin: str = "") -> Result:
        """A ``distill`` command of a page, made small; what it says itself holds, but for its length."""
        argv = [INSTEAD.get(word, word) for word in words[1:]]
        if argv[0] in ("fit", "record", "search"):
            own = {word.removeprefix("--") for word in argv}
            kept = {key: value for key, value in SMALL.items() if key not in own or key == "trainer.min_steps"}
            if (
                any(word.endswith("/teacher") and word.count("/") == 1 for word in argv)
                and "--model.student.path" not in argv
            ):
                kept["model.student.path"] = "encoder"
            if any(word.startswith(("causal-lm/", "image-classification/")) for word in argv):
                del kept["data.max_length"]  # they pack, and pictures have none
            argv += [word for key, value in kept.items() for word in (f"--{key}", value)]
        if argv[0] == "search":
            argv += ["--rungs", "1"]  # of two steps
        if argv[0] == "report":
            argv += ["--draws", "10", *([] if "--no-timing" in argv else ["--seconds", "0.1"])]
        if argv[0] == "generate":  # these models know no end
            argv += ["--keep-unfinished", "--max-new-tokens", "6"]
        if "--from-hidden-states" in argv:
            at = argv[argv.index("--from-hidden-states") + 1]
            VLLM["connector"](self.folder / "my-chat-model", self.folder / "prompts-of-chats.jsonl", self.folder / at)
        if "--from-server" in argv:
            with VLLM["served"](self.folder / "my-chat-model") as completions:
                argv[argv.index("--from-server") + 1] = completions.url
                os.environ["TEACHER_KEY"] = "the-key-of-a-server"
                return self.distill(*argv, stdin=stdin)
        return self.distill(*argv, stdin=stdin)

    def well(self, *words: str) -> Result:
        """The same, which must end well."""
        done = self.play(list(words))
        assert done.code == 0, f"{shlex.join(words)}\n{done.err[-3000:]}"
        return done


def write_reviews(folder: Path) -> None:
    """The reader's own rows: two csv files."""
    words = ["plot", "cast", "story", "scenes", "music", "end", "film", "hero"]
    (folder / "data").mkdir()
    for split, rows in (("train", range(48)), ("validation", range(48, 80))):
        lines = ["text,label"]
        for row in rows:
            rest = " ".join(words[(row * 3 + i) % len(words)] for i in range(1 + row % 5))
            lines.append(f"{'good bright' if row % 2 else 'bad dull'} {rest},{'good' if row % 2 else 'bad'}")
        (folder / f"data/{split}.csv").write_text("\n".join(lines) + "\n")


def write_topics(folder: Path, tokenizer_folder: str) -> None:
    """Texts of any number of topics, and a teacher of these."""
    names = ["politics", "sport"]
    rows = [{"text": f"story {row}", "label": [n for i, n in enumerate(names) if row >> i & 1]} for row in range(16)]
    (folder / "topics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    write_encoder(folder / "topics", tokenizer_folder, problem_type="multi_label_classification", **kinds)


def write_questions(folder: Path, tokenizer_folder: str) -> None:
    """Questions in SQuAD's layout, and a model that answers them."""
    rows = [
        {
            "question": "who is good",
            "context": f"story {row} is good",
            "answers": {"text": [f"story {row}"], "answer_start": [0]},
        }
        for row in range(16)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": "questions.jsonl", "validation": "questions.jsonl"}
    (folder / "questions.yaml").write_text(yaml.safe_dump({"name": "questions", "data": {"files": files}}))
    write_encoder(folder / "reader", tokenizer_folder, kind="AutoModelForQuestionAnswering")


def write_pairs(folder: Path, tokenizer_folder: str) -> None:
    """Queries and passages, and a model that ranks these."""
    rows = [{"query": f"story {row // 4}", "passage": f"film {row}", "label": float(row % 4 == 1)} for row in range(32)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": "pairs.jsonl", "validation": "pairs.jsonl"}
    (folder / "pairs.yaml").write_text(yaml.safe_dump({"name": "pairs", "data": {"files": files}}))
    write_encoder(folder / "ranker", tokenizer_folder, num_labels=1)


def write_texts(folder: Path, tokenizer_folder: str) -> None:
    """Texts, and a model that gives them vectors."""
    rows = [{"text": f"story {row} with scene {row % 7}"} for row in range(32)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": "texts.jsonl", "validation": "texts.jsonl"}
    (folder / "texts.yaml").write_text(yaml.safe_dump({"name": "texts", "data": {"files": files}}))
    write_encoder(folder / "embedder", tokenizer_folder, kind="AutoModel")


def write_words(folder: Path) -> None:
    """Words to be written backwards, and an encoder-decoder."""
    MODELS["write_rows"](folder, names=("words.jsonl", "held-out-words.jsonl"))
    files = {"train": "words.jsonl", "validation": "held-out-words.jsonl"}
    settings = {"files": files, "max_target_length": 16}
    (folder / "words.yaml").write_text(yaml.safe_dump({"name": "words", "data": settings}))
    (folder / "sources.txt").write_text("abc\nfed\n")
    MODELS["save"](MODELS["encoder_decoder"]("t5", (12, 6)), folder / "writer")


def write_pictures(folder: Path) -> None:
    """Pictures of three colours, and a model that tells them apart."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    names = dict(enumerate(["blue", "green", "red"]))
    for split in ("train", "validation"):
        for row in range(12):
            place = folder / "pictures" / split / names[row % 3]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 16, 3), 20 * row, np.uint8)).save(place / f"{row // 3}.png")
    (folder / "pictures.yaml").write_text(yaml.safe_dump({"name": "pictures", "data": {"path": "pictures"}}))
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    ViTForImageClassification(ViTConfig(num_hidden_layers=2, **sizes, **labels)).save_pretrained(folder / "viewer")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder / "viewer")


def write_chats(folder: Path, chat_model: Path) -> None:
    """Chats, two models that know their template, and a text of which each row is a line."""
    for name, rows in (("chats", range(24)), ("chats-held-out", range(24, 32))):
        chats = [
            [{"role": "user", "content": f"x = {row}"}, {"role": "assistant", "content": f"return {row}"}]
            for row in rows
        ]
        lines = [json.dumps({"messages": chat}) + "\n" for chat in chats]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    asked = [json.dumps({"prompt": f"y = {row}"}) + "\n" for row in range(16)]
    (folder / "prompts.jsonl").write_text("".join(asked))
    wiki = [json.dumps({"text": f"line {row}", "title": row // 8}) + "\n" for row in range(64)]
    (folder / "wiki.jsonl").write_text("".join(wiki))
    (folder / "code.txt").write_text("\n\n".join(f"def f{row}(x):\n    return x + {row}" for row in range(64)))
    (folder / "capitals.yaml").write_text(CAPITALS)
    (folder / "capitals.jsonl").write_text('{"country": "France", "choices": ["Rome", "Paris"], "answer": 1}\n' * 2)
    for name in ("my-chat-model", "my-small-chat-model"):
        shutil.copytree(chat_model, folder / name)


def write_encoder(
    folder: Path, tokenizer_folder: str, kind: str = "AutoModelForSequenceClassification", **settings: Any
) -> None:
    """A BERT of four layers, as a hub would hand it out."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    config = AutoConfig.for_model(
        "bert",
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        **settings,
    )
    torch.manual_seed(0)
    getattr(transformers, kind).from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


Make = Callable[[], World]


@pytest.fixture(scope="session")
def make_world(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: str, text_folder: str, chat_dir: Path
) -> Make:
    """Makes a folder with the reader's rows, a model that they have fine-tuned, a hub's encoder, and no run yet."""

    def make() -> World:
        made = World(tmp_path_factory.mktemp("world"))
        write_reviews(made.folder)
        write_topics(made.folder, tiny_tokenizer_dir)
        write_questions(made.folder, tiny_tokenizer_dir)
        write_pairs(made.folder, tiny_tokenizer_dir)
        write_texts(made.folder, tiny_tokenizer_dir)
        write_words(made.folder)
        write_pictures(made.folder)
        write_chats(made.folder, chat_dir)
        write_encoder(made.folder / "encoder", tiny_tokenizer_dir)
        names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
        write_encoder(made.folder / "my-model", tiny_tokenizer_dir, **names)
        (made.folder / "sst2").symlink_to(text_folder)
        (made.folder / "examples").symlink_to(Path(__file__).parents[2] / "examples")
        return made

    return make


@pytest.fixture(scope="session")
def world(make_world: Make) -> Iterator[World]:
    """The same with the runs ``runs/reviews/teacher``, ``alone``, ``small`` and ``int8``."""
    made, before = make_world(), dict(os.environ)
    files = {"train": "data/train.csv", "validation": "data/validation.csv"}
    (made.folder / "reviews.yaml").write_text(yaml.safe_dump({"name": "reviews", "data": {"files": files}}))
    shared = ("-c", "reviews.yaml", "--model.teacher", "runs/reviews/teacher")
    made.well("distill", "fit", "-c", "text-classification/teacher", "-c", "reviews.yaml", "--id", "teacher")
    made.well("distill", "fit", "-c", "text-classification/alone", *shared, "--id", "alone")
    made.well("distill", "fit", "-c", "text-classification/distill", *shared, "--id", "small")
    small = ("--model.student.path", "runs/reviews/small")
    made.well("distill", "fit", "-c", "text-classification/compress", *shared, *small, "--id", "int8")
    yield made
    os.environ.clear()
    os.environ.update(before)
