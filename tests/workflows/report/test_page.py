"""The page of a report: it needs nothing else, what strangers wrote is no markup, and it can be read on a phone."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.core.utils.errors import UserError
from distill.core.utils.plots import Line, Panel
from distill.core.utils.svg import inline_svg, themed
from distill.workflows.report.predictions import Built
from distill.workflows.report.schema import (
    Bin,
    Calibration,
    Class,
    Compared,
    Difference,
    Estimate,
    Latency,
    Machine,
    McNemar,
    Measured,
    Report,
    Samples,
    Size,
)
from distill.workflows.report.views import overview
from distill.workflows.report.views.attention import attention_picture
from distill.workflows.report.views.blocks import Cell, Column, Pictures, Section, Table, Text, Words
from distill.workflows.report.views.calibration import calibration_picture
from distill.workflows.report.views.confusion import confusion_block
from distill.workflows.report.views.curves import curve_pictures
from distill.workflows.report.views.page import page, write_html
from distill.workflows.report.views.pareto import Point, pareto_picture

BROWSER = runpy.run_path(str(Path(__file__).with_name("browser.py")))

EVIL = '<script>alert("x")</script>'
LONG = "a-student-with-a-very-long-name/20261129-114738-d62a onnx-int8"


def measured(key: str, role: Any, at: int, **more: Any) -> Measured:
    calls = [Latency("torch", t, b, 128, 50, 3.0 / at, 4.0 / at, 5.0 / at, 300.0 * at) for t in (1, 2) for b in (1, 32)]
    bins = [Bin(10, 0.5 + one / 10, 0.45 + one / 10) for one in range(5)]
    return Measured(
        key,
        role,
        scores={"accuracy": Estimate(0.9 - at / 100, 0.88 - at / 100, 0.92 - at / 100), "f1": Estimate(0.9)},
        classes=[Class(name, 20, 21, 0.9, 0.8, 0.85) for name in (EVIL, "positive")],
        calibration=Calibration(0.05, 0.1, bins),
        size=Size(5_344_512 // at, 5_000_000 // at, 21_378_048 // at, 20_000_000 // at, 10**9, 128),
        latency=calls,
        **more,
    )


@pytest.fixture(scope="module")
def report() -> Report:
    models = [
        measured("teacher", "teacher", 1),
        measured("student", "compressed", 3, compressed="80 % zero, int8"),
        measured(LONG, "exported", 5, notes=(f"written by {EVIL}",)),
    ]
    pair = Compared("teacher", "student", {"accuracy": Difference(-0.02, -0.03, 0.01, 0.2)}, McNemar(3, 5, 0.7), 0.9)
    return Report(
        runs=(f"{EVIL}/one",),
        monitor="accuracy",
        mode="max",
        samples=Samples("text-classification", "validation", 41, 41, 41, "abc", "reviews", 1000),
        machine=Machine("a processor", "vnni", "AVX512", 2, 1 << 34, "Linux", {"torch": "2.13.0"}, 0.3, True),
        models=models,
        pairs=(pair,),
        verdict=("student is 3 times smaller than teacher & <b>as good</b>.", "Zeros are no speed."),
    )


@pytest.fixture(scope="module")
def sections(report: Report) -> list[Section]:
    """One of every kind of block, with names and texts that strangers gave."""
    names = [EVIL, "positive", "$x_1$"]
    tokens = [EVIL, "film", "$", "&"]
    points = [Point(model.key, model.size.bytes or 0, model.scores["accuracy"].value) for model in report.models]
    lines = [
        Line("hinton_kl", range(1, 200), [1 / one for one in range(1, 200)], noisy=True),
        Line(EVIL, [1, 9], [1, 2]),
    ]
    panels = [Panel("training loss", lines), Panel("quantization", [Line("rounding", [0, 9], [1.0, 0.0])], phases=True)]
    tables = [overview.quality_table(report), overview.cost_table(report), overview.pairs_table(report)]
    tables += [overview.class_table(report.models), overview.latency_table(report.models)]
    said = Table("apart", [Column("text", numeric=False), Column("label", numeric=False)], [[Cell(EVIL), Cell(EVIL)]])
    maps = [attention_picture(torch.eye(4), tokens, who) for who in ("teacher", EVIL)]
    calibration = calibration_picture(report.models, "calibration")
    assert calibration is not None
    assert all(tables)
    words = Words(EVIL, {EVIL: [(EVIL, 1.0), ("film", -0.5)]}, {EVIL: f"says {EVIL}"})
    return [
        Section("models", "", [one for one in tables if one is not None]),
        Section("pareto", EVIL, [Pictures([pareto_picture(points, "accuracy", "max", "MB", "pareto"), calibration])]),
        Section("confusion", "Confusion", [confusion_block("teacher", torch.eye(3).long() * 1234, names)]),
        Section("samples", "Samples", [said, words, Pictures(maps), Text(f"{EVIL} \U0001f600")]),
        Section("curves", "Training", [curve_pictures(panels, 200, "curve")]),
        Section("conditions", "How", [overview.machine_table(report)]),
    ]


class Read(HTMLParser):
    """What a page is made of."""

    EMPTY = frozenset({"meta", "link", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.ids, self.links = Counter[str](), list[str](), list[str]()
        self.headless, self.titles, self.open = 0, list[bool](), list[str]()
        self._heads = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = dict(attributes)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [value or "" for name, value in attributes if name in ("href", "src", "xlink:href", "action")]
        assert not [name for name in given if name.startswith("on")]
        if tag == "table":
            self._heads = 0
        self._heads += tag == "th"
        if tag == "svg":
            self.titles.append(given.get("role") == "img" and bool(given.get("aria-label")))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self.headless += not self._heads


def test_the_page_needs_nothing_else_and_what_strangers_wrote_is_text(report: Report, sections: list[Section]) -> None:
    text = page(report, sections)
    read = Read(text)
    assert read.open == []
    assert read.tags["script"] == 0
    assert read.tags["b"] == 0
    assert read.tags["table"] == 8
    assert read.headless == 0
    assert len(read.ids) == len(set(read.ids))
    places = {f"#{one}" for one in read.ids}
    assert [link for link in read.links if not link.startswith(("data:", "#"))] == []
    assert {link for link in read.links if link.startswith("#")} <= places
    assert {part.partition(")")[0] for part in text.split("url(")[1:]} <= places
    assert read.tags["svg"] == 6
    assert all(read.titles)
    assert "://" not in text
    assert "$x_1$" in text
    assert "mathdefault" not in text
    assert "#01030" not in text
    assert text.index("3 times smaller") < text.index("<table")
    assert len(text) < 300_000


def test_a_page_is_written_as_a_whole_or_not_at_all(report: Report, tmp_path: Path) -> None:
    lone = Section("x", "half \ud800 of a character", [Text("the key is hf_" + "a" * 34)])
    write_html(report, [lone], tmp_path / "report.html")
    assert "half \\ud800 of" in (tmp_path / "report.html").read_text()
    assert "the key is ***<" in (tmp_path / "report.html").read_text()
    with pytest.raises(UserError, match="cannot be written"):
        write_html(report, [lone], tmp_path / "nowhere" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_without_matplotlib_the_page_has_its_tables(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = ("matplotlib", "distill.core.utils.plots", "distill.core.utils.svg", "distill.workflows.report.views")
    for name in [name for name in sys.modules if name.startswith(drawing)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    fresh = importlib.import_module("distill.workflows.report.views.sections")
    monkeypatch.setattr(fresh, "missing", lambda extra: "matplotlib")
    found = fresh.sections_of(Built(report, {}, {}))
    assert [section.id for section in found] == ["models", "quality", "latency", "conditions"]
    text = importlib.import_module("distill.workflows.report.views.page").page(report, found)
    assert "matplotlib is not installed" in text
    assert "<svg" not in text


def test_pictures_keep_their_names_apart_and_take_the_pages_colours() -> None:
    from distill.core.utils.plots import new_figure

    texts = []
    for name in ("one", "two"):
        with themed():
            drawn = new_figure(3, 2)
            place = drawn.subplots()
            place.plot([0, 1], [0, 1], label="#one")
            place.grid()
            place.legend()
            texts.append(inline_svg(drawn, "a line", name))
    first, second = map(Read, texts)
    assert first.ids
    assert set(first.ids) & set(second.ids) == set()
    assert all(variable in texts[0] for variable in ("var(--c0)", "var(--grid)", "currentColor", ">#one<"))


PROBE = """
const wide = [...document.querySelectorAll('table, svg, td, th, p, h1, h2, h3, dd')].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5);
});
return {
  width: document.scrollingElement.scrollWidth,
  wide: wide.map(one => one.outerHTML.slice(0, 80)),
  plots: [...document.querySelectorAll('svg')].map(one => {
    const parts = [...one.querySelectorAll('path, use, image, text')];
    const ink = parts.filter(part => part.getBoundingClientRect().width > 0);
    return [one.getBoundingClientRect().width, one.getBoundingClientRect().height, ink.length];
  }),
  paper: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.querySelector('svg text')).fill,
};
"""


@pytest.mark.slow
@pytest.mark.skipif(
    bool(BROWSER["LACKING"]), reason=f"no {' and no '.join(BROWSER['LACKING'])}: apt-get install chromium-driver"
)
def test_a_browser_draws_all_of_it_in_silence_and_no_table_is_wider_than_a_phone(
    report: Report, sections: list[Section], tmp_path: Path
) -> None:
    write_html(report, sections, tmp_path / "report.html")
    with BROWSER["browser"]() as browser:
        seen = {}
        for width, dark in ((390, False), (390, True), (820, False), (1280, True)):
            browser.show(tmp_path / "report.html", width, dark)
            found = browser.run(PROBE)
            assert found["width"] <= width
            assert found["wide"] == []
            assert len(found["plots"]) == 6
            assert all(w > 200 and h > 50 and ink > 2 for w, h, ink in found["plots"])
            seen[width, dark] = found["paper"], found["ink"]
        assert browser.console() == []
    assert seen[390, False] == ("rgb(255, 255, 255)", "rgb(28, 33, 40)")
    assert seen[390, True] == ("rgb(13, 17, 23)", "rgb(215, 222, 230)")
