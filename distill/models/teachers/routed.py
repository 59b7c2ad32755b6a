"""Several teachers, each of which teaches its own rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from distill.core.signals import ROUTE, Batch, Request, Signals
from distill.core.teacher import TeacherSource
from distill.core.utils.errors import UserError
from distill.models.teachers.several import Several

__all__ = ["RoutedTeacher"]

_COLUMN = "data.columns.teacher"


class RoutedTeacher(Several):
    """Of each row the logits of the one teacher that a column of the data names; the others do not run on it.

    Args:
        sources: What the column says -> the teacher of these rows. All are of one vocabulary, or of the same classes
            in the same order.

    Raises:
        UserError: if there is no teacher.
    """

    def __init__(self, sources: Mapping[str, TeacherSource]) -> None:
        super().__init__(list(sources.values()))
        self.names = list(sources)
        self._places: list[int] = list(range(len(self.names)))

    @property
    def fingerprint(self) -> str:
        parts = [f"{name!r} {s.fingerprint}" for name, s in zip(self.names, self.sources, strict=True)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def described(self) -> str:
        return f"each teaches the rows of its own: {', '.join(self.names)} ({_COLUMN})"

    def meet_data(self, data: Any) -> None:
        """Learn which teacher the rows of ``data`` name by which number.

        Raises:
            UserError: if it has no such column, or a row names none of the teachers.
        """
        routes: Mapping[str, str] = getattr(data, "routes", None) or {}
        if not routes:
            problem = "several teachers that each teach rows of their own need a column that says which"
            raise UserError(problem, key=_COLUMN, hint=f"name the column that says {' or '.join(self.names)}")
        for name, place in routes.items():
            if name not in self.names:
                problem = f"no teacher teaches this ({place})"
                hint = f"model.teacher has {', '.join(self.names)}: correct the row, or add a teacher that teaches it"
                raise UserError(problem, key=_COLUMN, value=name, hint=hint)
        self._places = [self.names.index(name) for name in routes]

    def signals(self, batch: Batch, request: Request) -> Signals:
        self._only_logits(request)
        return self._each(batch, lambda source, part: source.signals(part, request)) if request else Signals()

    def evaluate(self, batch: Batch) -> Signals:
        return self._each(batch, lambda source, part: source.evaluate(part))

    def _each(self, batch: Batch, ask: Callable[[TeacherSource, Batch], Signals]) -> Signals:
        """The logits of all rows, of which each teacher is asked for its own."""
        routes = (batch.on_host or batch).extras[ROUTE].tolist()  # the device need not be waited for
        rows_of: dict[int, list[int]] = {}
        for row, route in enumerate(routes):
            rows_of.setdefault(self._places[route], []).append(row)
        asked = sorted(rows_of)
        parts = self._of_one_width([ask(self.sources[place], batch.rows(rows_of[place])) for place in asked])
        if len(parts) == 1:
            return Signals(logits=parts[0])
        order = [row for place in asked for row in rows_of[place]]
        device = parts[0].device
        wide = parts[0].dtype if len({part.dtype for part in parts}) == 1 else torch.float32
        joined: Tensor = torch.cat([part.to(wide) for part in parts])
        back = torch.tensor(order).argsort().to(device, non_blocking=True)
        return Signals(logits=joined.index_select(0, back))
