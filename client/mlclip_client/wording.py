"""Words for messages: counts, quotes, and what went wrong."""

import os


def counted(count: int, one: str, many: str = "") -> str:
    """Give a count with what is counted: `1 input`, `2 inputs`; `many` is the plural unless that ends with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def shortened(text: str, limit: int = 120) -> str:
    """Cut a quoted text to a number of characters."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def reason_of(error: BaseException) -> str:
    """Say on one line what an error reports: the system's words, otherwise its message, otherwise its type."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    return text[:300] or type(error).__name__


def printable(text: str) -> str:
    r"""Write each byte of a file name that is not UTF-8 as `\xNN`."""
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON can write it
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")
