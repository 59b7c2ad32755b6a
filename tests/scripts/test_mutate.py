"""The faults that are planted to try the tests: all of them can be planted, and the runner tells the truth."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

CODE = "def double(x):\n    return 2 * x\n"
TESTS = {
    "right": "from distill.double import double\n\ndef test_it():\n    assert double(3) == 6\n",
    "blind": "from distill.double import double\n\ndef test_it():\n    assert double(0) == 0\n",
    "long": "import time\nfrom distill.double import double\n\ndef test_it():\n    time.sleep(double(0) and 60)\n",
    "slow": """\
import pytest
from distill.double import double

def test_zero():
    assert double(0) == 0

@pytest.mark.slow
def test_it():
    assert double(3) == 6
""",
    "absent": "",
}


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import mutate

    return mutate


def test_every_fault_of_the_tables_can_be_planted(mutate: Any) -> None:
    mutations = mutate.read_tables()
    texts = {m.file: (ROOT / m.file).read_text() for m in mutations}
    assert [m.name for m in mutations if texts[m.file].count(m.old) != 1 or m.old == m.new] == []
    for m in mutations:  # none is a mistake in Python, which any test would find
        compile(texts[m.file].replace(m.old, m.new), m.name, "exec")
    assert [
        m.name for m in mutations if not m.tests or not all((ROOT / t.split("::")[0]).exists() for t in m.tests)
    ] == []
    assert [name for name, count in Counter(m.name for m in mutations).items() if count > 1] == []


def test_the_tables_cover_all_rooms_and_let_few_survive(mutate: Any) -> None:
    mutations = mutate.read_tables()
    rooms = {path.name for path in (ROOT / "distill").iterdir() if path.is_dir() and path.name not in _NO_ROOMS}
    assert len(mutations) >= 120
    assert rooms - {m.room for m in mutations} == set()
    assert sum(bool(m.survives) for m in mutations) <= 0.05 * len(mutations)


_NO_ROOMS = ("__pycache__", "recipes")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tests", "new", "verdict"),
    [
        ("right", "return 2 + x", "killed"),
        ("blind", "return 3 * x", "survived"),
        ("slow", "return 3 * x", "killed"),
        ("long", "return x + 1", "timed out"),
        ("absent", "return 3 * x", "no test ran"),
    ],
)
def test_a_fault_is_killed_where_a_test_fails_and_only_there(
    tests: str, new: str, verdict: str, tmp_path: Path, mutate: Any
) -> None:
    for name, text in {"distill/__init__.py": "", "distill/double.py": CODE, "tests/test_it.py": TESTS[tests]}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    mutation = mutate.Mutation("room", "fault", "distill/double.py", "return 2 * x", new, ("tests/test_it.py",))
    if tests in ("right", "slow"):  # without the fault
        assert mutate.run_tests(tmp_path, mutation.tests, 120, tmp_path / "log", slow=True) == "survived"
    mutation.plant(tmp_path)
    limit = 1 if verdict == "timed out" else 120
    assert mutate.run_tests(tmp_path, mutation.tests, limit, tmp_path / "log", slow=True) == verdict
    assert "distill.double" not in sys.modules


def test_what_the_tables_do_not_say_makes_the_exit_code(mutate: Any) -> None:
    def tried(verdict: str, survives: str = "") -> Any:
        return mutate.Tried(mutate.Mutation("room", "fault", "a.py", "a", "b", (), survives), verdict, 1.0)

    assert [tried(v).expected for v in ("killed", "timed out", "survived", "no test ran")] == [True, True, False, False]
    assert [tried(v, "equal").expected for v in ("killed", "survived")] == [False, True]
    said = mutate.summary([tried("killed"), tried("survived", "no value differs"), tried("survived")])
    assert "1 of 3 killed (33.3 %)" in said
    assert "no value differs" in said
    assert "no reason known" in said


def test_a_word_that_is_neither_a_room_nor_a_name_is_refused(mutate: Any) -> None:
    mutations = mutate.read_tables()
    assert {m.room for m in mutate.chosen(mutations, ["losses"])} == {"losses"}
    assert [m.name for m in mutate.chosen(mutations, ["hinton-no-square"])] == ["hinton-no-square"]
    with pytest.raises(SystemExit, match="neither a room nor a name: loss"):
        mutate.chosen(mutations, ["loss"])
