"""Each thing that jsonargparse keeps to itself does what we count on."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Optional, Union

import pytest
from jsonargparse import ArgumentParser

from distill.core.internals.jsonargparse import (
    ImportDenied,
    get_all_subclass_paths,
    get_signature_parameters,
    import_object,
    may_import,
    resolve_class_path_by_name,
)


class Base:
    """A class.

    Args:
        one: The first.
    """

    def __init__(self, one: int, two: str = "b") -> None: ...


class Passing(Base):
    """Another.

    Args:
        three: The third.
    """

    def __init__(self, three: float, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]


def test_a_class_is_found_by_its_name_among_those_that_are_imported() -> None:
    assert resolve_class_path_by_name(Base, "Passing") == f"{__name__}.Passing"
    assert resolve_class_path_by_name(Base, "Unknown") == "Unknown"
    assert set(get_all_subclass_paths(Base)) == {f"{__name__}.Base", f"{__name__}.Passing"}


def test_arguments_are_those_of_the_classes_that_they_are_passed_on_to_too() -> None:
    found = get_signature_parameters(Passing)
    assert [(p.name, p.annotation, p.doc) for p in found] == [
        ("three", float, "The third."),
        ("one", int, "The first."),
        ("two", str, None),
    ]
    assert found[2].default == "b"


def test_only_what_is_allowed_is_imported_and_the_settings_are_given_back() -> None:
    assert import_object("collections.OrderedDict") is OrderedDict
    for name in ("this", "antigravity"):
        sys.modules.pop(name, None)
    with may_import(["collections", "this"], ["collections.abc"]):
        assert import_object("collections.OrderedDict") is OrderedDict
        for refused in ("antigravity.geohash", "collections.abc.Mapping", "this_is_not.allowed"):
            with pytest.raises(ImportDenied):
                import_object(refused)
    assert "antigravity" not in sys.modules
    import_object("json.loads")  # allowed again


def test_a_mapping_with_a_class_path_stays_a_mapping_where_anything_may_stand() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--any", type=dict)
    given = {"class_path": "collections.OrderedDict"}
    with may_import(["collections"], []):
        made = parser.instantiate(parser.parse_object({"any": given}))
    assert made.any == given


def test_an_integer_stays_one_whatever_order_typing_has_cached_a_union_in() -> None:
    Optional[Union[float, int]]  # noqa: UP007, UP045
    kind = Optional[Union[int, float]]  # noqa: UP007, UP045
    for number in (1, 1.0, None):
        with may_import([], []):
            parser = ArgumentParser(exit_on_error=False)
            parser.add_argument("--number", type=kind)
            parsed = parser.parse_object({"number": number}).number
        assert (parsed, type(parsed)) == (number, type(number))
