#!/usr/bin/env python
"""Build two sets of short labelled texts from what Debian ships: nothing is downloaded but one package.

    zcat -f /var/lib/apt/lists/*_main_binary-*_Packages | python scripts/label_sets.py debian sets/debian
    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet
    python scripts/label_sets.py wordnet sets/wordnet < wordnet/usr/share/wordnet/data.noun

(``lz4cat`` where apt keeps its lists in that form.) ``debian`` is the one line that describes a package, to be put into
one of the archive's sections that are named after a subject; one package of each source, as those of one source read
alike. ``wordnet`` is the gloss of a noun without its examples, to be put into one of WordNet's nine large lexicographer
files of nouns. A folder gets ``train.jsonl`` and ``validation.jsonl``, in an order that depends on the texts alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["debian", "split", "wordnet"]

HELD_OUT = 1000
"""Rows of validation."""

LONGEST = 60
"""Characters of a text, so that a run takes seconds."""

SUBJECTS = ("admin", "games", "graphics", "mail", "math", "net", "science", "sound", "text", "web")
"""Sections of Debian; those of a language (perl) or a kind of file (doc, libs) can be told from a word."""

KINDS = {
    4: "act",
    5: "animal",
    6: "artifact",
    7: "attribute",
    10: "communication",
    15: "location",
    18: "person",
    20: "plant",
    26: "state",
}
"""WordNet's lexicographer files of nouns that have 3,000 glosses or more, by number (lexnames(5WN))."""


def debian(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Description and section of the first package of each source, of an index of packages."""
    seen: set[str] = set()
    for paragraph in "".join(lines).split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.split("\n") if re.match(r"[A-Z][\w-]*: ", line))
        source = fields.get("Source", fields.get("Package", "")).split(" ")[0]
        section = fields.get("Section", "").rsplit("/", 1)[-1]
        if source not in seen and section in SUBJECTS and "Description" in fields:
            yield fields["Description"], section
        seen.add(source)


def wordnet(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Gloss, without its examples, and lexicographer file of each line of ``data.noun``."""
    for line in lines:
        if not line.startswith("  "):  # the licence
            head, gloss = line.split(" | ", 1)
            if (number := int(head.split()[1])) in KINDS:
                yield gloss.split('; "')[0].strip(" ;\n"), KINDS[number]


def split(rows: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Training and held-out rows: each short text once, ordered by a hash of the text."""
    unique = {text: label for text, label in rows if 0 < len(text) <= LONGEST}
    kept = sorted(unique.items(), key=lambda row: hashlib.sha256(row[0].encode()).digest())
    return {"validation": kept[:HELD_OUT], "train": kept[HELD_OUT:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=("debian", "wordnet"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    found = split((debian if arguments.set == "debian" else wordnet)(sys.stdin))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for use, rows in found.items():
        lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows]
        (arguments.folder / f"{use}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{arguments.folder}: {len(rows):,} rows of {use}, {len({label for _, label in rows})} classes")


if __name__ == "__main__":
    main()
