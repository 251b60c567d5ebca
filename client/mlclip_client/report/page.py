"""The page as one string: template, style and script, and the data as compressed blocks.

All data from rows is gzip in base64, so nothing in it can be taken for markup. A content security policy allows the
page's own script and style by their hashes, scripts that it loads itself, and pictures from data URLs and files;
nothing else can be fetched.
"""

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

SCRIPTS = (
    "data", "scores", "corrections", "view", "elements", "pictures", "threshold", "filters", "gallery", "detail",
    "related", "labels", "errors", "about", "export", "main",
)  # fmt: skip
"""The parts of the script, in the order of the page."""


def render(title: str, blocks: Mapping[str, bytes], packs: Sequence[Sequence[str | None]]) -> str:
    """Make the page from blocks of bytes that the script reads, by name, and its first packs of thumbnails."""
    folder = files("mlclip_client.report") / "assets"
    style = (folder / "page.css").read_text("utf-8")
    script = "\n".join((folder / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{script}\n}})();'
    data = [
        _block(f"block-{name}", base64.b64encode(gzip.compress(value, 6, mtime=0))) for name, value in blocks.items()
    ]
    data += [_block(f"pack-{number}", json.dumps(pack).encode()) for number, pack in enumerate(packs)]
    parts = {
        "title": html.escape(title),
        "policy": _policy(script, style),
        "style": style,
        "script": script,
        "data": "\n".join(data),
    }
    template = (folder / "page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def as_json(value: Any) -> bytes:
    """Encode a value for a block; lone surrogates survive as escapes."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def _block(name: str, text: bytes) -> str:
    return f'<script type="application/octet-stream" id="{name}">{text.decode("ascii")}</script>'


def _policy(*texts: str) -> str:
    script, style = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in texts)
    return (
        f"default-src 'none'; script-src 'sha256-{script}' 'strict-dynamic'; style-src 'sha256-{style}'; "
        "img-src data: file: 'self'; base-uri 'none'; form-action 'none'"
    )
