"""What README and docs show, runs: every command, every Python block, every setting."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import textwrap
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from distill.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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
TINY = {"max_epochs=20": "max_epochs=1", "energy: 0.9": "energy: 0.5"}
"""What takes long, or asks much of untrained weights -> what stands for it here."""


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


def tiny(text: str) -> str:
    for much, little in TINY.items():
        text = text.replace(much, little)
    return text


def run_python(block: Block, world: Any) -> None:
    with contextlib.chdir(world.folder):
        exec(compile(tiny(block.text), block.place, "exec"), {"__name__": "page"})


def run_command(words: list[str], block: Block, world: Any) -> str:
    """Run a command, or check what of it can be checked; what it printed."""
    said = ""
    if words[0] == "echo":
        pipe = words.index("|")
        said, words = words[1], words[pipe + 1 :]
    if words[0] == "distill":
        done = world.play(words, said)
        assert done.code == 0, f"{block.place}: {' '.join(words)}\n{done.err[-3000:]}"
        return str(done.out + done.err)
    if words[:2] == ["pip", "install"]:
        named = [extra for word in words for extra in re.findall(r"\[(.*)\]", word)]
        assert {extra for names in named for extra in names.split(",")} <= EXTRAS.keys()
    elif "scripts/" in (script := words[1] if words[0] == "python" else words[0]):
        check_script(ROOT / script, words)
    else:
        assert any(" ".join(words).startswith(start) for start in CANNOT_RUN), f"{block.place}: {words}"
    return ""


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
        (world.folder / block.title).write_text(tiny(block.text))
    if "method" in config:
        return  # a sweep's file, which a command of the page reads
    (world.folder / "block.yaml").write_text(tiny(block.text))
    language = block.page in ("language-models.md", "recorded-teachers.md")
    pictures = block.page == "images.md"
    recipe = ["causal-lm/chat"] if language else ["text-classification/distill", "reviews.yaml"]
    recipe = ["image-classification/teacher", "pictures.yaml"] if pictures else recipe
    recipe = ["seq2seq/distill", "words.yaml"] if block.page == "seq2seq.md" else recipe
    options = [word for file in [*recipe, "block.yaml"] for word in ("-c", file)]
    if pictures:
        options += ["--model.student.path", "null" if "student" in config.get("model", {}) else "viewer"]
    elif language:
        options += ["--model.teacher", "my-chat-model", "--model.student.path", "my-small-chat-model"]
    elif block.page == "seq2seq.md":
        options += ["--model.teacher", "writer"]
    elif "BinaryKL" in block.text:
        options += ["--data.files", "{train: topics.jsonl, validation: topics.jsonl}", "--model.teacher", "topics"]
    elif "teacher" not in config.get("model", {}):
        options += ["--model.teacher", "my-model"]
    done = world.play(["distill", "fit", *options, "--allow", "examples", "--dry-run"])
    assert done.code == 0, f"{block.place}\n{done.err[-3000:]}"


def spoken(text: str) -> set[str]:
    """Its words; numbers, and names of what is measured here with another model, are not among them."""
    return set(re.findall(r"(?<![\w./-])[a-z]{3,}(?![\w/])", text)) - {"min"}  # of time


def play(page: list[Block], world: Any) -> None:
    """Run the blocks of a page in order. What README, or a block titled so, says is printed, is, in these words."""
    printed = ""
    for block in page:
        if block.language == "python":
            run_python(block, world)
        elif block.language == "yaml":
            try_settings(block, world)
        elif block.language == "jinja":
            (world.folder / str(block.title)).write_text(block.text)
        elif block.language == "bash":
            printed = "".join(run_command(words, block, world) for words in commands(block))
        elif block.page == "README.md" or block.title == "printed":
            assert spoken(block.text) - spoken(printed) == set(), f"{block.place}\n{printed}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p.stem not in PLAYED_APART], ids=lambda page: page.name)
def test_what_a_page_shows_runs(page: Path, request: pytest.FixtureRequest) -> None:
    # README begins with nothing; the pages go on from the runs that it makes.
    begun = "make_world" if page.name == "README.md" else "world"
    given = request.getfixturevalue(begun)
    play(blocks(page), given() if page.name == "README.md" else given)


def test_every_block_says_what_it_is() -> None:
    known = {"python", "bash", "yaml", "jinja", "text"}
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


def test_a_command_in_the_running_text_is_one_and_has_these_options() -> None:
    asked: dict[str, str] = {}
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        for command, rest in re.findall(r"`distill (\w+)([^`]*)`", text):
            if command not in asked:
                with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
                    main([command, "--help"])
                asked[command] = out.getvalue()
            options = re.findall(r"(?<!\S)--[\w.-]+", rest)
            assert [
                option for option in options if option not in asked[command] and option[2:] not in asked[command]
            ] == []
    assert len(asked) >= 8
