"""`mlclip-serve`: serve a model repository until it is stopped."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from mlclip_serve.command import ADDRESS, MAX_RESTARTS, PORTS, READY_TIMEOUT, container_command
from mlclip_serve.errors import RepositoryError, ServeError

if TYPE_CHECKING:
    from mlclip_serve.server import Server

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_Port = typer.Option(min=0, max=65535, help="Port; 0 picks a free one and prints it.")


@app.command()
def serve(
    repository: Annotated[Path, typer.Argument(help="The model repository.")] = Path("model_repository"),
    grpc_port: Annotated[int, _Port] = PORTS["grpc"],
    http_port: Annotated[int, _Port] = PORTS["http"],
    metrics_port: Annotated[int, _Port] = PORTS["metrics"],
    address: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = ADDRESS,
    model_config_name: Annotated[
        str | None, typer.Option(help="Use configs/NAME.pbtxt in every model that has that file.")
    ] = None,
    log_verbose: Annotated[int, typer.Option(min=0, help="Verbosity of Triton's log; above 0 the log is printed.")] = 0,
    ready_timeout: Annotated[float, typer.Option(min=1, help="Seconds in which all ensembles must answer.")] = (
        READY_TIMEOUT
    ),
    cores: Annotated[
        int,
        typer.Option(
            min=0,
            help="Threads of each encoder, and processes that decode images; 0 counts the cores that affinity and "
            "cgroups leave.",
        ),
    ] = 0,
    ready_file: Annotated[
        Path | None, typer.Option(help="When ready, write the endpoints and the process id to this file as JSON.")
    ] = None,
    health_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port for /live and /ready, as Kubernetes asks.")
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="Restarts of a failed server in a row; 0 ends with the server.")
    ] = MAX_RESTARTS,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow an --address that others can reach: there is no access control.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check the files of the repository and exit, with code 1 if one is damaged.")
    ] = False,
    docker: Annotated[
        bool, typer.Option("--docker", help="Print the commands for NVIDIA's container and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Serve a model repository with Triton on the CPU, until Ctrl-C or SIGTERM.

    A server that fails is started again. The exit code is that of the server, or 1 if the server cannot be started.
    """
    from mlclip_serve.server import Server

    server = Server(
        repository,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        address=address,
        model_config_name=model_config_name,
        log_verbose=log_verbose,
        ready_timeout=ready_timeout,
        cores=cores,
    )
    try:
        if not address.startswith("127.") and not insecure:
            raise ServeError(
                f"others can reach {address}, and Triton has no access control: put a proxy before 127.0.0.1 that has,"
                " or accept it with --insecure"
            )
        if docker:
            if not server.settings.repository.is_dir():
                raise RepositoryError(f"there is no model repository at {server.settings.repository}")
            typer.echo(container_command(server.settings))
        elif check:
            server.check()
            _report_damage(server)
            raise typer.Exit(1 if server.damage else 0)
        else:
            from mlclip_serve.health import health

            ready = threading.Event()
            with health(address, health_port, ready):
                raise typer.Exit(_run(server, ready_file, ready, max_restarts))
    except (ServeError, OSError) as error:
        if debug:
            raise
        log = f" (Triton's log: {error.log})" if isinstance(error, ServeError) and error.log else ""
        typer.echo(f"Error: {error}{log}", err=True)
        raise typer.Exit(1) from None


def main() -> None:
    """Run the command."""
    app(prog_name="mlclip-serve")


def _run(server: Server, ready_file: Path | None, ready: threading.Event, max_restarts: int) -> int:
    """Run until the end, and tell others whether the server is ready; signals are passed on to it."""
    from mlclip_serve.supervisor import supervise

    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if not server.send_signal(number):
            raise typer.Exit(128 + number)

    def on_ready(is_ready: bool) -> None:
        _remove(ready_file)
        if not is_ready or received:  # it is stopping already
            ready.clear()
            return
        if ready_file is not None:
            _write_ready_file(server, ready_file)
        ready.set()
        _announce(server)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    if ready_file is not None and not ready_file.absolute().parent.is_dir():
        raise ServeError(f"the folder of --ready-file {ready_file} does not exist: make it first")
    _remove(ready_file)
    try:
        return supervise(server, max_restarts, on_ready=on_ready, say=_say, stopping=lambda: bool(received))
    except ServeError:
        if received:
            return 128 + received[-1]
        raise
    finally:
        server.stop()
        _remove(ready_file)


def _say(fault: str) -> None:
    typer.echo(f"Error: {fault}", err=True)


def _report_damage(server: Server) -> None:
    for line in server.damage:
        _say(line)


def _announce(server: Server) -> None:
    typer.echo(f"gRPC     {server.grpc_url}")
    typer.echo(f"HTTP     http://{server.http_url}")
    typer.echo(f"metrics  http://{server.metrics_url}/metrics")
    typer.echo(f"serving  {', '.join(server.ensembles)}")
    typer.echo("Ctrl-C stops the server.")
    _report_damage(server)


def _write_ready_file(server: Server, path: Path) -> None:
    urls = {"grpc": server.grpc_url, "http": server.http_url, "metrics": server.metrics_url}
    text = json.dumps({**urls, "pid": server.pid}) + "\n"
    if path.exists() and not path.is_file():  # a pipe or a device
        path.write_text(text, encoding="utf-8")
        return
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _remove(ready_file: Path | None) -> None:
    """Remove a file or a link, if there is one, but no pipe and no device."""
    if ready_file is not None and (ready_file.is_symlink() or ready_file.is_file()):
        ready_file.unlink()
