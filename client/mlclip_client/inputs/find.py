"""From names to items, lazily and in a fixed order: how each kind of source is enumerated."""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from mlclip_client.inputs.archives import read_archive
from mlclip_client.inputs.folders import images_in, images_in_store
from mlclip_client.inputs.formats import MANIFESTS
from mlclip_client.inputs.item import Item, item_at
from mlclip_client.inputs.manifests import check_manifest, read_list, read_manifest, read_names
from mlclip_client.inputs.skipped import Skipped
from mlclip_client.inputs.source import Source, sources_of
from mlclip_client.options import InputOptions


def find_inputs(names: Iterable[str], options: InputOptions, skipped: Skipped) -> Iterator[Item]:
    """Find the inputs that some names stand for.

    A name is a file, a folder, a tar archive, a manifest, a .txt list, an address (http, https and those of fsspec;
    the latter also of folders, archives, manifests and lists), or `-` for a list on stdin. If no file has that name,
    it may be a pattern with `*`, `?`, `[...]`, `{a,b}` or `{000..009}`. In folders and archives, files with the suffix
    of an image are taken; a named file is always taken. All names are checked before this returns. Items are found
    when they are asked for, those of stdin as soon as their line arrives.

    Raises ValueError if a name stands for nothing, or for something that cannot be read, or if an option is about lists
    or manifests, and none is named.
    """
    sources = [source for name in names for source in sources_of(name)]
    kinds = [source.kind for source in sources]
    if kinds.count("stdin") > 1:
        raise ValueError("- was named twice: stdin can be read once")
    if "stdin" in kinds and sys.stdin is None:
        raise ValueError("- stands for stdin, which is closed: pipe a list into it")
    if options.column is not None and "manifest" not in kinds:
        raise ValueError(f"--column {options.column}: no manifest is named ({', '.join(MANIFESTS)})")
    if options.null and not {"list", "stdin"} & set(kinds):
        raise ValueError("--null: neither a list (.txt) nor - for stdin is named")
    for source in sources:
        if source.kind == "manifest":
            check_manifest(source.name, options.column)
    seen = set[tuple[int, int]]()
    return chain.from_iterable(_items(source, options, skipped, seen) for source in sources)


def _items(source: Source, options: InputOptions, skipped: Skipped, seen: set[tuple[int, int]]) -> Iterator[Item]:
    name = source.name
    match source.kind:
        case "file":
            return iter((item_at(name),))
        case "folder" if source.scheme:
            return map(item_at, images_in_store(name, skipped))
        case "folder":
            return (item_at(os.fspath(path)) for path in images_in(Path(name), skipped, seen))
        case "archive":
            return read_archive(name, skipped)
        case "manifest":
            return read_manifest(name, options.column, skipped)
        case "list":
            return read_list(name, options.null, skipped)
        case "stdin":
            return read_names(sys.stdin.buffer, "stdin", options.null, skipped)
