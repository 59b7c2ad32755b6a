"""What README and docs show, runs: every command, every Python block, every setting."""

from __future__ import annotations

import contextlib
import re
import shlex
import textwrap
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(
    r'^(?P<indent> *)```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^ *```$', re.M | re.S
)

CANNOT_RUN = {
    "torchrun": "needs several machines",
    "python -m venv": "the environment is the one that runs the tests",
    "source .venv": "likewise",
}
"""Beginning of a command -> why no test runs it."""

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
LONG = {"max_epochs=20": "max_epochs=1"}
"""In Python: what takes long -> what stands for it here."""


PLAYED_APART = {"extending"}
"""Pages whose commands are played by a test of their own."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    title: str | None
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page.name,
            text.count("\n", 0, found.start()) + 1,
            found["language"],
            found["title"],
            textwrap.dedent(found["text"]),
        )
        for found in FENCE.finditer(text)
    ]


def commands(block: Block) -> list[list[str]]:
    """The commands of a block, as words; a backslash at the end of a line goes on in the next."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_python(block: Block, world: Any) -> None:
    text = block.text
    for long, short in LONG.items():
        text = text.replace(long, short)
    with contextlib.chdir(world.folder):
        exec(compile(text, block.place, "exec"), {"__name__": "page"})


def run_command(words: list[str], block: Block, world: Any) -> None:
    if words[0] == "distill":
        done = world.play(words)
        assert done.code == 0, f"{block.place}: {' '.join(words)}\n{done.err[-3000:]}"
    elif words[:2] == ["pip", "install"]:
        named = [extra for word in words for extra in re.findall(r"\[(.*)\]", word)]
        assert {extra for names in named for extra in names.split(",")} <= EXTRAS.keys()
    elif "scripts/" in (script := words[1] if words[0] == "python" else words[0]):
        check_script(ROOT / script, words)
    else:
        assert any(" ".join(words).startswith(start) for start in CANNOT_RUN), f"{block.place}: {words}"


def check_script(script: Path, words: list[str]) -> None:
    """These take minutes: they must be there and know the options. Other tests run them."""
    assert script.is_file()
    text = "".join(source.read_text() for source in (script, *(ROOT / "scripts").glob("*/*.py")))
    own = words[: words.index("--")] if "--" in words else words
    assert [word for word in own if word.startswith("--") and f'"{word}"' not in text] == []


def try_settings(block: Block, world: Any) -> None:
    """YAML is laid over a recipe and the reader's data, and everything is built."""
    config = yaml.safe_load(block.text)
    if block.title:
        (world.folder / block.title).write_text(block.text)
    if "method" in config:
        return  # a sweep's file, which a command of the page reads
    (world.folder / "block.yaml").write_text(block.text)
    files = ["sst2/hinton", "reviews.yaml", "block.yaml"]
    options = [word for file in files for word in ("-c", file)]
    if "BinaryKL" in block.text:
        options += ["--data.files", "{train: topics.jsonl, validation: topics.jsonl}", "--model.teacher", "topics"]
    elif "teacher" not in config.get("model", {}):
        options += ["--model.teacher", "runs/reviews/teacher"]
    done = world.play(["distill", "fit", *options, "--dry-run"])
    assert done.code == 0, f"{block.place}\n{done.err[-3000:]}"


def play(page: list[Block], world: Any) -> None:
    for block in page:
        if block.language == "python":
            run_python(block, world)
        elif block.language == "yaml":
            try_settings(block, world)
        elif block.language == "bash":
            for words in commands(block):
                run_command(words, block, world)


@pytest.mark.parametrize("page", [p for p in PAGES if p.stem not in PLAYED_APART], ids=lambda page: page.name)
def test_what_a_page_shows_runs(page: Path, world: Any) -> None:
    play(blocks(page), world)


def test_every_block_says_what_it_is() -> None:
    known = {"python", "bash", "yaml", "text"}
    unknown = [block.place for page in PAGES for block in blocks(page) if block.language not in known]
    assert unknown == []
    assert sum(page.read_text().count("```") for page in PAGES) == 2 * sum(len(blocks(page)) for page in PAGES)


def test_nothing_is_excused_that_no_page_shows() -> None:
    shown = [
        " ".join(words)
        for page in PAGES
        for block in blocks(page)
        if block.language == "bash"
        for words in commands(block)
    ]
    assert [start for start in CANNOT_RUN if not any(command.startswith(start) for command in shown)] == []
