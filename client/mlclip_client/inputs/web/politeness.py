"""The response header `X-Robots-Tag`: what a site asks of robots about one file.

Its directives are those of https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag, and `noai`
and `noimageai` (DeviantArt's, since 2022), which img2dataset honours too.
"""

from __future__ import annotations

from collections.abc import Iterable

_REFUSING = frozenset({"noindex", "none", "noai", "noimageai"})
_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def refusal(values: Iterable[str], user_agent: str) -> str:
    """Give the directive by which a site asks not to be indexed; empty where it does not.

    A directive counts when it names no robot, or ours; what stands behind a robot's name is for that robot, up to the
    next name.

    Args:
        values: of the header, one for each time that it was sent.
        user_agent: ours, as it is sent: its first word up to a slash is our name.
    """
    ours = ("", "*", user_agent.partition("/")[0].strip().lower())
    for value in values:
        robot = ""
        for piece in value.lower().split(","):
            name, colon, rest = piece.partition(":")
            if colon and name.strip() not in _WITH_VALUES:
                robot, piece = name.strip(), rest
            if robot in ours and piece.strip() in _REFUSING:
                return piece.strip()
    return ""
