"""Options of commands, made from the dataclasses that hold their values.

A command is a function with dataclasses among its parameters. Each field of theirs that has a help text here becomes an
option with the field's name, type and default.
"""

import contextlib
import inspect
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import fields, is_dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from mlclip_client.cli.ending import reported
from mlclip_client.cli.remembered import given
from mlclip_client.names import LOCAL, scheme_of
from mlclip_client.options import JobOptions, ServerOptions

input_option, row_option, server_option, job_option, monitor_option = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("Inputs", "Rows", "Server", "Jobs", "Monitoring")
)
Debug = Annotated[bool, typer.Option("--debug", metavar="", help="Show a traceback when something goes wrong.")]
_OPTIONS: dict[str, Any] = {
    # InputOptions
    "column": input_option(help="Column of manifests that holds paths, URLs or bytes, if it has another name."),
    "null": input_option(help="Names in lists end with NUL, as `find -print0` writes them."),
    # Limits
    "max_bytes": input_option(
        min=1, help="Largest accepted file, in bytes. Up to --concurrency files are in memory at once."
    ),
    "download_seconds": input_option(min=0.001, help="Deadline of each download, in seconds."),
    "per_host": input_option(min=1, help="Maximum number of simultaneous downloads from one host."),
    "private": input_option(help="Also download from addresses of private networks."),
    "ignore_robots": input_option(help="Also use images whose X-Robots-Tag forbids it."),
    "proxy": input_option(
        help="Proxy for downloads, http://… or socks5h://host:port. Variables such as http_proxy are ignored."
    ),
    "user_agent": input_option(help="User agent that sites see: your crawler's name, and how to reach you."),
    # RowOptions
    "top_k": row_option(min=0, help="Number of best labels to list, selected or not."),
    "scores": row_option(help="Also write the scores of all classes."),
    "embeddings": row_option(help="Also write image embeddings."),
    "explain": row_option(help="Also write the reference images behind each answer."),
    # ServerOptions
    "url": server_option(help="Triton's gRPC endpoint, host:port; separate several by commas."),
    "tls": server_option(help="Encrypt connections, and check the server's certificate."),
    "tls_ca": server_option(help="Authorities to trust, PEM file; default: those that gRPC knows."),
    "tls_cert": server_option(help="This client's certificate, PEM file, for servers that ask for one."),
    "tls_key": server_option(help="The key of --tls-cert, PEM file."),
    "headers": server_option(help="File of headers to send, one `name: value` per line, such as a proxy's key."),
    "timeout": server_option(min=0.001, help="Deadline of each request, in seconds."),
    "retry_seconds": server_option(
        min=0, help="How long to repeat a request while no server answers or all are busy, in seconds."
    ),
    "concurrency": server_option(min=1, help="Number of images processed at once."),
    "via": server_option(help="Where images are decoded: by the server (bytes) or by the client (pixels)."),
    "embedded": server_option(help="Model repository to run in this process, without a server (extra `embedded`)."),
    "threads": server_option(min=0, max=4096, help="Threads of each --embedded model; 0 means one per core."),
    # JobOptions
    "max_failures": job_option(
        min=0, help="Stop after this many errors in a row (without a job: of the server); 0 means never."
    ),
    "engine": job_option(help="Where a job runs: on this machine or on a Ray cluster (extra `ray`)."),
    "ray_address": job_option(
        help="Address of the Ray cluster, as for `ray.init`. \\[default: RAY_ADDRESS, or this machine]"
    ),
    "ray_workers": job_option(
        min=0, help="Maximum number of workers, each with --concurrency inputs; 0 means one per core."
    ),
    # MonitorOptions
    "metrics_port": monitor_option(min=1, max=65535, help="Serve metrics for Prometheus on this port."),
    "metrics_host": monitor_option(help="Address to bind for --metrics-port."),
    "log": monitor_option(help="Append events to this file, one JSON object per line."),
}


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Give typer a function whose dataclasses are replaced by their options, with --debug.

    An expected error ends the command with one line, see `reported`.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in groups:
            parameters += _options_of(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
    parameters.append(inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug))

    @wraps(function)
    def run(*, debug: bool, **values: Any) -> None:
        with reported(debug):
            for name, kind in groups.items():
                values[name] = kind(**{option.name: values.pop(option.name) for option in _options_of(kind)})
            function(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options_of(kind: Any) -> Iterator[inspect.Parameter]:
    types = get_type_hints(kind)
    for field in fields(kind):
        if field.name in _OPTIONS:
            option, type_ = copy(_OPTIONS[field.name]), types[field.name]
            option.default = field.default
            if type_ is bool:  # a flag, without a --no-...
                option.param_decls, option.metavar = (f"--{field.name.replace('_', '-')}",), ""
            yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=type_)


def refuse(options: Sequence[str], reason: str) -> None:
    """Raise ValueError if there are options that would be ignored."""
    if options:
        raise ValueError(f"{', '.join(options)}: {reason}")


def refuse_inputs(outputs: Iterable[str | Path | None], names: Iterable[str | Path | None]) -> None:
    """Raise ValueError if an output is one of the files that some names of inputs stand for, or another output."""
    from mlclip_client.inputs.source import Source, sources_of

    found = [(identity, out) for out in outputs if out is not None and (identity := _identity(out))]
    written = dict(found)
    if len(written) < len(found):
        raise ValueError(f"{found[-1][1]} is named for two outputs: give each its own file")
    for name in map(str, filter(None, names)) if written else ():
        sources: list[Source] = []
        if scheme_of(name) in {"", *LOCAL}:
            with contextlib.suppress(ValueError):  # nothing has that name, or no longer
                sources.extend(sources_of(name))
        for source in sources:
            if (identity := _identity(source.name)) and (out := written.get(identity)):
                raise ValueError(f"{out} is an input: name another file for the output")


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Device and inode of a regular file; None for anything else."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def answering(context: typer.Context, server: ServerOptions, job: JobOptions) -> ServerOptions:
    """Decide between a server and --embedded models: a --url overrides the --embedded that a job remembers."""
    if given(context, "url") and not given(context, "embedded"):
        server = replace(server, embedded=None)
    if server.embedded is not None:
        refuse(given(context, "url", "timeout", "retry_seconds"), "with --embedded no server is asked")
    elif job.engine == "local":
        refuse(given(context, "threads"), "only with --embedded or --engine ray; a server has its own")
    return server
