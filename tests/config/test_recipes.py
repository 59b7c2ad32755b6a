"""What recipes promise."""

from __future__ import annotations

import pytest

from distill.config import files as configuration


@pytest.mark.parametrize("recipe", sorted(configuration.recipes()))
def test_a_recipe_opens_with_its_command_and_its_needs(recipe: str) -> None:
    lines = configuration.recipes()[recipe].read_text().splitlines()
    head = [line for line in lines[:8] if line.startswith("#")]
    assert any(line.startswith("#   distill fit -c ") and recipe in line.split() for line in head)
    assert any("Needs:" in line for line in head)


def test_the_quickstarts_two_students_differ_in_nothing_but_their_teacher() -> None:
    alone, distilled = (configuration.load([f"quickstart/{name}"]) for name in ("alone", "distilled"))
    for config in (alone, distilled):
        del config["name"], config["model"]["losses"]
    assert distilled["model"].pop("teacher") == "distill:quickstart/teacher"
    assert alone == distilled
