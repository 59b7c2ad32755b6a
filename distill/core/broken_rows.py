"""Rows that nothing can be read of, told to a user."""

from __future__ import annotations

from collections.abc import Mapping

from distill.core.utils.errors import UserError

__all__ = ["BrokenRows"]


class BrokenRows(Exception):
    """Rows of which no model could read anything.

    Args:
        rows: The place of each among those that were to be encoded -> what is wrong with it.
        names: Likewise -> what names it; of some nothing does.
    """

    def __init__(self, rows: Mapping[int, str], names: Mapping[int, str]) -> None:
        self.rows, self.names = rows, names
        super().__init__(next(iter(rows.values())))

    def told(self, before: int, of: str, key: str, hint: str) -> UserError:
        """What a user is told.

        Args:
            before: How many rows were encoded before these.
            of: What the rows are of, in words.
            key: Where the configuration names them.
            hint: What mends it.
        """
        place = next(iter(self.rows))
        others = f" (and {len(self.rows) - 1} more of the next rows)" if len(self.rows) > 1 else ""
        problem = f"row {before + place + 1} of {of} cannot be read: {self.rows[place]}{others}"
        return UserError(problem, key=key, value=self.names.get(place), hint=hint)
