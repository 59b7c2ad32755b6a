"""Fixtures that all tests share: a cache of their own, small tokenizers, small texts, a small run that works."""

from __future__ import annotations

import atexit
import copy
import json
import os
import runpy
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from distill.cli.main import main

# Before datasets is imported, which reads it once: tests neither find nor leave tokenized data.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="distill-tests-")
atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # in a script's background; what a test starts would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)

TEXT = "a good bad film story with and without any heart it is dull bright never always very not too long short"
WORDS = TEXT.split()
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
}


def sentence(row: int) -> str:
    """A sentence of 1 to 17 words, the same for the same row."""
    return " ".join(WORDS[(row * 7 + i * i) % len(WORDS)] for i in range(1 + row * 5 % 17))


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a BERT-like tokenizer, whose vocabulary lacks words and so splits them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*SPECIAL.values(), *letters, *(f"##{c}" for c in letters), *(w for w in WORDS[:14] if len(w) > 1)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **SPECIAL,
    ).save_pretrained(folder)
    return str(folder)


CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def chat_tokenizer() -> Callable[..., Any]:
    """Makes the quickstart's tokenizer, with tokens for the start and the end of a turn, and a chat template."""

    def make(template: str | None = CHATML) -> Any:
        from transformers import AutoTokenizer

        from distill.core.utils.paths import resolve

        tokenizer = AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.eos_token, tokenizer.bos_token = "<|im_end|>", "<|im_start|>"
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def chat_dir(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Callable[..., Any]) -> Path:
    """A chat model of two layers, with its tokenizer and template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    folder = tmp_path_factory.mktemp("chat")
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set of 150 training and 41 validation rows: ``sentence`` and ``label`` (``negative``, ``positive``)."""
    folder = tmp_path_factory.mktemp("data")
    for split, rows in (("train", range(150)), ("validation", range(150, 191))):
        lines = [{"sentence": sentence(r), "label": "positive" if "good" in sentence(r) else "negative"} for r in rows]
        write_rows(folder / f"{split}.jsonl", lines)
    return str(folder)


def write_rows(path: Path, rows: list[dict[str, object]]) -> str:
    """Write rows as JSON lines and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of public data sets that some tests read (environment variable ``DISTILL_DATA``)."""
    folder = Path(os.environ.get("DISTILL_DATA", Path(__file__).parents[1] / "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no public data sets at {folder}; name their folder in DISTILL_DATA")
    return folder


# ---------------------------------------------------------------------- a run


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: str) -> str:
    """A classifier of two classes, four layers deep, with the tokenizer beside it."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    names = ["negative", "positive"]
    config = AutoConfig.for_model(
        **{**BERT, "num_hidden_layers": 4, "hidden_size": 32},
        vocab_size=len(tokenizer),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    folder = tmp_path_factory.mktemp("teacher")
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def recipe(teacher_dir: str, text_folder: str) -> dict[str, Any]:
    """A configuration, to be copied before it is changed: two steps of Hinton's distillation."""
    return {
        "model": {
            "task": "text-classification",
            "teacher": {"path": teacher_dir},
            "student": {"layers": "uniform", "num_layers": 2},
            "losses": [
                {"class_path": "HintonKL", "init_args": {"temperature": 2.0, "weight": 0.5}},
                {"class_path": "CrossEntropy"},
            ],
            "optimizer": {"lr": 1e-3},
        },
        "data": {"path": text_folder, "batch_size": 8},
        "trainer": {"max_steps": 2, "limit_val_batches": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "logging": {"tensorboard": False},
    }


@pytest.fixture(scope="session")
def changed() -> Callable[..., dict[str, Any]]:
    """A copy of a configuration in which the values of sections are replaced."""

    def copied(recipe: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        config = copy.deepcopy(recipe)
        for section, values in copy.deepcopy(changes).items():
            config[section] = config[section] | values if isinstance(values, dict) else values
        return config

    return copied


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]) -> dict[str, Any]:
    """The configuration of ``base.yaml`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    config = copy.deepcopy(recipe)
    Path("base.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return config


@pytest.fixture
def distill(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command in this process."""

    def run(*argv: str) -> Result:
        code = main(list(argv))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def fitted(base: dict[str, Any], distill: Callable[..., Result]) -> Callable[..., Path]:
    """The folder of a run that is made of ``base.yaml`` and further arguments, and that ends well."""

    def fit(*argv: str, run_id: str = "one") -> Path:
        code, _, err = distill("fit", "-c", "base.yaml", "--id", run_id, *argv)
        assert code == 0, err
        return Path("runs/base", run_id)

    return fit


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes a module of the user's into the current folder; it is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    written = []

    def write(name: str, text: str) -> None:
        Path(f"{name}.py").write_text(text)
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def small_tokenizers() -> Any:
    """Makes tokenizers of two kinds (``small_tokenizers.py``)."""
    from types import SimpleNamespace

    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_tokenizers.py"))))


@pytest.fixture(scope="session")
def conv_nets() -> Any:
    """Nets that lose channels (``conv_nets.py``)."""
    from types import SimpleNamespace

    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("conv_nets.py"))))


# ---------------------------------------------------------------------- what is made once


@pytest.fixture(scope="session", autouse=True)
def paint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What paints a picture; in tests each is painted once (``pictures.py``), and so are exports (``exporters.py``)."""
    beside = Path(__file__).parent
    with suppress(ImportError):  # without the extra nothing is exported
        exporters = runpy.run_path(str(beside / "exporters.py"))
        exporters["one_table"]()
        among = tmp_path_factory.getbasetemp()  # of a worker it lies in that of all
        exporters["one_reference"]((among.parent if "PYTEST_XDIST_WORKER" in os.environ else among) / "references")
    with suppress(ImportError):  # nor painted
        return runpy.run_path(str(beside / "pictures.py"))["paint_once"](tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def painted(paint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has pictures painted whatever was painted before, for tests that look at them."""
    from distill.core.utils import plots

    monkeypatch.setattr(plots, "save", paint)


# ---------------------------------------------------------------------- processes


@pytest.fixture(scope="session")
def forks() -> Iterator[Any]:
    """Starts processes that need no time for their imports."""
    with runpy.run_path(str(Path(__file__).with_name("forks.py")))["forks"]() as started:
        yield started


@pytest.fixture(scope="session")
def script(forks: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Plays a Python file in a process of its own, which may start a second rank; it has to end with ``code``."""

    from distill.training.processes import free_port

    def run(file: Path, *argv: object, code: int = 0, timeout: float = 600, **environment: str) -> Result:
        # A port that stays free, for those that train with a bare Trainer; an empty text unsets a variable.
        given = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port()), **environment}
        given = {name: value for name, value in given.items() if value}
        output, errors = (tmp_path_factory.mktemp("script") / name for name in ("output", "errors"))
        forks.start([str(file), *map(str, argv)], given, Path.cwd(), output, errors)
        done = Result(forks.wait(timeout), output.read_text(), errors.read_text())
        assert done.code == code, done.err[-3000:]
        return done

    return run


@pytest.fixture
def leaves_no_trace() -> Iterator[None]:
    """Of the process group that Lightning makes."""
    from torch import distributed

    before = dict(os.environ)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


# ---------------------------------------------------------------------- a plain pair


class Convolutions:
    """A plain student and a teacher twice as wide, paired in Python."""

    def net(self, width: int = 4) -> Any:
        from torch import nn

        first = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU()
        second = nn.Conv2d(width, width, 3), nn.ReLU(), nn.Dropout()
        return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(4 * width, 3))

    def images(self) -> Any:
        """Four batches of eight."""
        import torch

        return torch.randn(32, 1, 6, 6, generator=torch.Generator().manual_seed(0))

    def fit(self, folder: Path, *callbacks: Any, resume: Path | None = None, **trainer: Any) -> Any:
        """Train a new student in a folder, or resume from a checkpoint, and give the student."""
        import torch
        from pytorch_lightning import Trainer
        from torch.utils.data import DataLoader

        from distill.losses import CrossEntropy, FitNetHint, HintonKL
        from distill.tasks import Plain
        from distill.training.module import Distillation
        from distill.training.optimizer import OptimizerConfig

        torch.manual_seed(0)
        student, images = self.net(), self.images()
        losses = [HintonKL(), CrossEntropy(), FitNetHint(taps={"0": "0"})]
        module = Distillation(student, Plain(), self.net(8), losses, OptimizerConfig(lr=0.01, warmup=0))
        loader: Any = DataLoader(list(zip(images, images.flatten(1).argmax(1) % 3, strict=True)), batch_size=8)
        Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=list(callbacks),
            **trainer,
        ).fit(module, loader, ckpt_path=resume, weights_only=True)
        return student


@pytest.fixture(scope="session")
def convolutions() -> Convolutions:
    """Makes and trains plain networks."""
    return Convolutions()
