"""YAML that nobody writes by hand is refused at once, by one message, and nothing of it is unfolded."""

from __future__ import annotations

from argparse import ArgumentError
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from distill.config.class_paths import only_allowed_imports
from distill.config.yaml import dump, parse_value, parse_yaml, read_yaml, refuse_boundless
from distill.core.utils.errors import UserError


def levels(first: str, one: str) -> str:
    """Nine levels, each of which names the one before nine times: 9⁹ values in a kilobyte."""
    lines = [f"a0: &a0 {first}"] + [f"a{n}: &a{n} {one % ', '.join([f'*a{n - 1}'] * 9)}" for n in range(1, 10)]
    return "\n".join(lines)


REFUSED = {
    "aliases": (levels("[x, x]", "[%s]"), "more than 50,000 values"),
    "merged aliases": (levels("{x: 1}", "{<<: [%s]}"), "more than 50,000 values"),
    "an alias of itself": ("a: &a [1, *a]", "an alias of what it stands in"),
    "a merge of itself": ("&a {<<: *a}", "an alias of what it stands in"),
    "brackets": ("[" * 3000 + "]" * 3000, "more than 100 levels"),
    "dashes": ("- " * 3000, "more than 100 levels"),
    "indents": ("\n".join(" " * n + "a:" for n in range(3000)), "more than 100 levels"),
    "a list as a key": ("? [1, 2]\n: 3", "cannot be a key"),
    "a mapping as a key": ("{{a: 1}: 2}", "cannot be a key"),
    "a number of 5,000 digits": ("9" * 5000, "limit"),
    "no integer": ("!!int x", "invalid literal"),
    "no truth": ("!!bool x", "'x'"),
    "a date": ("!!timestamp 2020-01-01", "tag"),
    "an object": ("!!python/object/apply:os.system [ls]", "tag"),
    "a control character": ("a: \x00", "not allowed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_yaml_out_of_bounds_is_refused(name: str) -> None:
    text, problem = REFUSED[name]
    with pytest.raises(UserError, match=f"^x.yaml: is not valid YAML.*{problem}"):
        parse_yaml(text, "x.yaml")


@pytest.mark.parametrize("name", [name for name in REFUSED if REFUSED[name][1][:2] in ("mo", "an")])
def test_yaml_out_of_bounds_within_a_text_is_refused(name: str) -> None:
    """Which jsonargparse would read once more."""
    with pytest.raises(UserError, match=f"^trainer.plugins.0 = .*: stands for {REFUSED[name][1]}"):
        refuse_boundless({"trainer": {"plugins": [REFUSED[name][0]]}})


def test_texts_that_are_no_yaml_are_left_alone() -> None:
    texts = ["a & b", "&", "*&", "- " * 90, "-" * 200, "[&" * 40, r"^(?!.*\[&*]).*-{3}$"]
    refuse_boundless({"data": {"files": texts, "path": {"train": texts}}})


def test_aliases_and_merges_within_bounds_are_what_they_stand_for() -> None:
    text = "a: &a {x: 1, y: [1]}\nb: {<<: *a, x: 2}\nc: [*a, *a]\nd: &d 1\ne: *d\n"
    a = {"x": 1, "y": [1]}
    assert parse_yaml(text, "") == {"a": a, "b": {"x": 2, "y": [1]}, "c": [a, a], "d": 1, "e": 1}


def test_a_file_that_is_none_is_not_waited_for_and_a_large_one_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(1 << 40)
    for name, problem in (("large.yaml", "larger than 1 MiB"), ("/dev/zero", "no regular file"), ("", "Is a dir")):
        with pytest.raises(UserError, match=f"^-c = .*cannot be read: {problem}"):
            read_yaml(tmp_path / name, "-c")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="save it as UTF-8"):
        read_yaml(tmp_path / "bytes.yaml", "-c")


# YAML 1.2, but for the four that are marked.
SCALARS: dict[str, Any] = {
    "1:30": "1:30",
    "1:30.5": "1:30.5",
    "-190:20:30": "-190:20:30",
    "2024-01-01": "2024-01-01",
    "2024-01-01 10:00:00": "2024-01-01 10:00:00",
    "010": "010",
    "08": "08",
    "0b1": "0b1",
    "017": "017",  # as "010": 15 in YAML 1.1, 17 in YAML 1.2
    "0o10": "0o10",  # 8 in YAML 1.2
    "0x10": 16,
    "1_000": 1000,  # of YAML 1.1, and of Python
    "1e-3": 0.001,
    "1.5": 1.5,
    "+1": 1,
    ".inf": float("inf"),
    "-.INF": float("-inf"),
    "=": "=",
    "~": None,
    "yes": True,  # of YAML 1.1
    "off": False,  # likewise
    "{<<: {a: 1}, b: 2}": {"a": 1, "b": 2},  # likewise
}


@pytest.mark.parametrize("text", SCALARS)
def test_a_scalar_is_what_the_loader_says_of_it(text: str) -> None:
    found = parse_yaml(f"key: {text}", "x.yaml")["key"]
    assert (found, type(found)) == (SCALARS[text], type(SCALARS[text]))
    assert parse_value(text, "--key") == SCALARS[text]
    assert parse_yaml(dump({"key": SCALARS[text]}), "") == {"key": SCALARS[text]}


@pytest.mark.parametrize("text", ["1:30", "1:30.5", "0b1", "2024-01-01", "-1:00"])
@pytest.mark.parametrize("kind", [int, float, int | float | None, int | str])
def test_a_text_that_is_no_number_is_none_where_numbers_may_stand(kind: Any, text: str) -> None:
    with only_allowed_imports([]):
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--key", type=kind)
        if kind == int | str:
            assert parser.parse_object({"key": text}).key == text
        else:
            with pytest.raises(ArgumentError):
                parser.parse_object({"key": text})
        assert parser.parse_object({"key": "12"}).key in (12, "12")
