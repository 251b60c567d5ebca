"""Markdown of reports: tables, numbers, and blocks put together."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table without a final newline; its first `left` columns are aligned to the left, the others to the right."""
    rule = f"|{' --- |' * left}{' ---: |' * (len(header) - left)}"
    return "\n".join([_row(header), rule, *map(_row, rows)])


def document(*blocks: str) -> str:
    """Blocks with an empty line between them; empty blocks are left out."""
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"


def bullets(items: Iterable[str]) -> str:
    """A list with one line per item; empty for no items."""
    return "\n".join(f"* {item}" for item in items)


def number(value: float, digits: int | None = None) -> str:
    """A number with `digits` decimals; by default three digits, or all those before the decimal point."""
    if digits is None and value < 100:
        return f"{value:.3g}"
    return f"{value:,.{digits or 0}f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
