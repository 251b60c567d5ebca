"""Start Triton on a model repository, wait until it answers, stop it."""

import os
import shutil
import tempfile
import time
import uuid
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

from mlclip_serve import ports, probe
from mlclip_serve.backends import assemble
from mlclip_serve.command import ADDRESS, GRACE, READY_TIMEOUT, Settings, server_command
from mlclip_serve.cores import CORES, available_cores
from mlclip_serve.diagnosis import explain
from mlclip_serve.embedded import Embedded, check_shared_memory, find_embedded, make_interpreter, server_environment
from mlclip_serve.errors import PortError, ServeError, StalledError, StartError
from mlclip_serve.process import ServerProcess
from mlclip_serve.repository import Checked, check_repository, link_models

_BACKENDS, _MODELS = "backends", "models"
"""Triton runs in their folder and knows them by these names only: it passes paths of Python models to a shell."""
_PARTS = (_BACKENDS, _MODELS, "python")
_POLL = 0.05
_ATTEMPTS = 5
_HEARTBEAT = 0.5


class Server(AbstractContextManager["Server"]):
    """A Triton server on a model repository, best used as a context manager.

    ```python
    with Server("model_repository") as server:
        print(server.grpc_url)
    ```

    Attributes:
        id: the name that Triton reports, different for each server.
        ensembles: names of the ensembles that have answered a real inference (of all models, if there is no
            ensemble); empty before the start.
        damage: a line for each model that is not served since its files are not those that were exported.
        log: Triton's log; it is deleted at the end unless something failed.
    """

    def __init__(
        self,
        repository: Path | str,
        *,
        grpc_port: int = 0,
        http_port: int = 0,
        metrics_port: int = 0,
        address: str = ADDRESS,
        model_config_name: str | None = None,
        log_verbose: int = 0,
        ready_timeout: float = READY_TIMEOUT,
        cores: int = 0,
    ) -> None:
        """Keep the settings, which `Settings` describes; nothing is started yet."""
        self.settings = Settings(
            repository=Path(repository).absolute(),
            grpc_port=grpc_port,
            http_port=http_port,
            metrics_port=metrics_port,
            address=address,
            model_config_name=model_config_name,
            log_verbose=log_verbose,
            ready_timeout=ready_timeout,
            cores=cores or available_cores(),
        )
        self.id = f"mlclip-{uuid.uuid4().hex[:12]}"
        self.ensembles: list[str] = []
        self.damage: list[str] = []
        self.log: Path | None = None
        self._ports = self.settings.ports
        self._running: ServerProcess | None = None

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def grpc_url(self) -> str:
        """Address and port of the gRPC endpoint, for clients on this machine."""
        return self._url("grpc")

    @property
    def http_url(self) -> str:
        """Address and port of the HTTP endpoint."""
        return self._url("http")

    @property
    def metrics_url(self) -> str:
        """Address and port of the Prometheus metrics, at the path /metrics."""
        return self._url("metrics")

    @property
    def process(self) -> Popen[bytes]:
        """The server's process; raises StartError before the start."""
        if self._running is None:
            raise StartError("the server has not been started")
        return self._running.popen

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    def start(self) -> "Server":
        """Start the server and return once every ensemble has answered a real inference; again on the same ports.

        Raises:
            InstallationError: a part of the embedded server is missing.
            RepositoryError: the repository is missing, empty or incomplete.
            ModelError: a model does not load, or an ensemble fails.
            PortError: a chosen port is in use.
            StartError: the server ended, was not ready in time, or is running already.
        """
        if self._running is not None and not self._running.exited.is_set():
            raise StartError("the server is already running")
        embedded = find_embedded()
        checked = self.check()
        check_shared_memory(checked.shared_memory)
        wanted = self._ports  # at a second start, those that clients know
        for attempt in range(_ATTEMPTS):
            self._ports = ports.choose(self.settings.address, wanted)
            try:
                self._launch(embedded, checked.models)
                break
            except (PortError, StalledError):  # another program took a port before Triton could, or all the CPU time
                if attempt + 1 == _ATTEMPTS:
                    raise
        return self

    def check(self) -> Checked:
        """Check the repository, which is also the beginning of a start; raises RepositoryError."""
        checked = check_repository(self.settings.repository, self.settings.model_config_name, self.settings.cores)
        self.damage = checked.damage
        return checked

    def send_signal(self, number: int) -> bool:
        """Pass a signal on to the server; False if it is not running."""
        if self._running is None or self._running.exited.is_set():
            return False
        self._running.popen.send_signal(number)
        return True

    def wait(self) -> int:
        """Wait until the server ends, and return its exit code as a shell shows it."""
        if self._running is None:
            raise StartError("the server has not been started")
        while not self.ends_within(_HEARTBEAT):
            pass  # a signal just before an endless wait would be handled only after it
        return self._end()

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end of the server, but not longer than some seconds; tells whether it has ended."""
        return self._running is None or self._running.exited.wait(seconds)

    def kill(self) -> int:
        """End a started server at once, and give its exit code."""
        assert self._running is not None
        self._running.kill()
        return self._end()

    def stop(self) -> int | None:
        """Stop the server after the inferences in flight; give its exit code, None if it was never started."""
        if self._running is None:
            return None
        self._running.stop(GRACE)
        return self._end()

    def _launch(self, embedded: Embedded, models: list[str]) -> None:
        folder = Path(tempfile.mkdtemp(prefix="mlclip-serve-"))
        self.log = folder / "triton.log"
        deadline = time.monotonic() + self.settings.ready_timeout
        try:
            assemble(embedded, folder / _BACKENDS)
            environment = server_environment(embedded, make_interpreter(folder / "python"), os.environ)
            environment[CORES] = str(self.settings.cores)
            link_models(self.settings.repository, models, folder / _MODELS, self.settings.cores)
            settings = replace(self.settings, repository=Path(_MODELS))
            command = server_command(settings, embedded, Path(_BACKENDS), self._ports, self.id)
            self._running = ServerProcess(command, environment, self.log, f"{self.id}_", self.settings.log_verbose > 0)
            self._await_ready(self._running, deadline)
        except BaseException as error:
            if isinstance(error, ServeError):
                error.log = self.log
            if self._running is not None:
                self._running.kill()
            self._tidy(keep_log=isinstance(error, ServeError))
            raise

    def _await_ready(self, running: ServerProcess, deadline: float) -> None:
        http, metrics = self._ports["http"], self._ports["metrics"]
        while not probe.answers(self._host, http, metrics, self.id):
            if running.exited.wait(_POLL):
                raise self._failure(running)
            if time.monotonic() > deadline:
                raise StartError(
                    f"not ready after {self.settings.ready_timeout:g} s: see the log, or raise --ready-timeout"
                )
        try:
            self.ensembles = probe.infer_ensembles(self.grpc_url, deadline)
        except ServeError:
            if running.exited.is_set():
                raise self._failure(running) from None
            raise

    def _failure(self, running: ServerProcess) -> ServeError:
        log = self.log.read_text(errors="replace") if self.log else ""
        return explain(log, self.settings.address, self._ports) or StartError(
            f"the server ended with exit code {running.exit_code}"
        )

    def _end(self) -> int:
        assert self._running is not None
        code = self._running.exit_code
        assert code is not None
        self._tidy(keep_log=code != 0)
        return code

    def _tidy(self, keep_log: bool) -> None:
        if self.log is not None:
            folder = self.log.parent
            for path in (folder / name for name in _PARTS) if keep_log else (folder,):
                shutil.rmtree(path, ignore_errors=True)

    @property
    def _host(self) -> str:
        return ADDRESS if self.settings.address == "0.0.0.0" else self.settings.address

    def _url(self, service: str) -> str:
        return f"{self._host}:{self._ports[service]}"
