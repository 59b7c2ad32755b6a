"""What jsonargparse keeps to itself: how it finds classes and their arguments, and what it may import.

Written against jsonargparse 4.53. Each name is a contract that ``tests/core/internals/test_jsonargparse.py`` holds.

``import_object(path)``: what a dotted path names, imported; within :func:`may_import` only what is allowed.
``resolve_class_path_by_name(base, name)``: the path of the imported subclass of ``base`` with this name.
``get_all_subclass_paths(base)``: the paths of all of its imported subclasses.
``get_signature_parameters(cls)``: the arguments of a class, those that it passes on to others included, each with
name, type, default and documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import _common, _loaders_dumpers, _typehints, set_parsing_settings
from jsonargparse._common import ImportDenied
from jsonargparse._parameter_resolvers import get_signature_parameters
from jsonargparse._typehints import get_all_subclass_paths, resolve_class_path_by_name
from jsonargparse._util import import_object

__all__ = [
    "ImportDenied",
    "get_all_subclass_paths",
    "get_signature_parameters",
    "import_object",
    "may_import",
    "resolve_class_path_by_name",
]


@contextmanager
def may_import(allowed: Sequence[str], refused: Sequence[str], loader: Any = None) -> Iterator[None]:
    """Within the block only what lies in ``allowed`` and not in ``refused`` is imported, else it is ImportDenied.

    Texts where numbers are to stand are read as YAML by ``loader``: by jsonargparse's own ``1:30`` is 90.

    Nothing is made of a mapping with a ``class_path`` where any value may stand. The settings are global: whatever a
    program that uses this package had set is set again after the block.

    An integer that is written stays one where numbers may stand too, as 1 means one batch and 1.0 all of them. Of a
    union the first type that fits is taken, and ``Optional[Union[int, float]]`` may come back from typing's cache as
    the ``Optional[Union[float, int]]`` that another module wrote first.
    """
    before, rank = dict(_common.parsing_settings), _typehints.union_subtype_sort_key
    own = _loaders_dumpers.yaml_default_loader
    try:
        _loaders_dumpers.yaml_default_loader = loader or own
        _typehints.union_subtype_sort_key = lambda subtype: 2 * rank(subtype) + (subtype is float)
        set_parsing_settings(
            import_path_denylist=["*", *refused],
            import_path_allowlist=list(allowed),
            instantiate_subclass_spec_in_any=False,
        )
        yield
    finally:
        _loaders_dumpers.yaml_default_loader = own
        _typehints.union_subtype_sort_key = rank
        _common.parsing_settings.clear()
        _common.parsing_settings.update(before)
