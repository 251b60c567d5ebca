"""Counts in sentences."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """Give a count with what is counted.

    Args:
        count: how many.
        one: what one of them is called.
        many: what several are called; empty: with an s at its end.
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
