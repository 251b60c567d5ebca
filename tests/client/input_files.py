"""What the tests of inputs share: files that are written, and the items found in them."""

from mlclip_client.inputs import InputOptions, Skipped, find_inputs


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def written(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def items_of(*names, skipped=None, **options):
    return list(find_inputs(map(str, names), InputOptions(**options), skipped or Skipped()))


def paths_of(*names, skipped=None):
    return [item.path for item in items_of(*names, skipped=skipped)]


def problem(item):
    """What is known to be wrong with an item, with its kind; empty if nothing is."""
    return f"{item.error.kind}: {item.error}" if item.error else ""
