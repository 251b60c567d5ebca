"""Settings of a server, and the command lines that start it: the embedded Triton, or NVIDIA's container."""

import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlclip_serve.embedded import Embedded

ADDRESS = "127.0.0.1"
PORTS = {"grpc": 8001, "http": 8000, "metrics": 8002}
"""Triton's own defaults, by service name."""
READY_TIMEOUT = 120.0
MAX_RESTARTS = 10
IMAGE = "nvcr.io/nvidia/tritonserver:26.03-py3"
"""NVIDIA's first container without the known flaws of the Triton version (2.51) that nvidia-pytriton embeds."""
DRAIN = 30
"""Seconds that Triton waits for inferences in flight when it stops."""
GRACE = DRAIN + 30
"""Seconds within which a server has stopped that was asked to; unloading its models takes the rest."""
_KEEPALIVE = 60_000
"""Milliseconds after which a silent connection must answer a ping, within 20 s, or is closed."""
_INSTALL = (
    "RUN pip install --no-cache-dir --break-system-packages pillow ftfy instant-clip-tokenizer"
    " && install -d -o 1000 /engines"
)
_CONFINED = ("--user=1000:1000", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        repository: absolute path of the model repository.
        grpc_port: 0 picks any free port, also for the other services.
        address: IPv4 address to listen on.
        model_config_name: variant of the configs to use, `configs/<name>.pbtxt`; None for config.pbtxt.
        log_verbose: Triton's verbosity; above 0 its log is also shown on stderr.
        ready_timeout: seconds within which every ensemble must have answered after the start.
        cores: threads of an encoder, and processes that decode images; 0: as many as there are cores.
    """

    repository: Path
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    address: str = ADDRESS
    model_config_name: str | None = None
    log_verbose: int = 0
    ready_timeout: float = READY_TIMEOUT
    cores: int = 0

    @property
    def ports(self) -> dict[str, int]:
        """The chosen ports, by service name."""
        return {"grpc": self.grpc_port, "http": self.http_port, "metrics": self.metrics_port}


def server_command(
    settings: Settings, embedded: Embedded, backends: Path, ports: Mapping[str, int], server_id: str
) -> list[str]:
    """Build the command that starts the embedded Triton.

    `backends` is the folder that `assemble` filled, `ports` the actual port by service name, never 0, and `server_id`
    the server's name, and the prefix of its shared memory. Requests that change how the server works, or open its
    memory, need a key that nobody has; without model control, models cannot be loaded or unloaded either.
    """
    restricted = f"shared-memory,trace,logging:mlclip-key={secrets.token_hex(16)}"
    command = [
        str(embedded.executable),
        f"--id={server_id}",
        f"--model-repository={settings.repository}",
        f"--backend-directory={backends}",
        f"--cache-directory={embedded.caches}",
        # The configs are complete; auto-completion would start every Python model an additional time.
        "--disable-auto-complete-config",
        f"--backend-config=python,stub-timeout-seconds={max(1, round(settings.ready_timeout))}",
        f"--backend-config=python,shm-region-prefix-name={server_id}_",
        f"--exit-timeout-secs={DRAIN}",
        "--allow-gpu-metrics=false",
        f"--log-verbose={settings.log_verbose}",
        "--model-control-mode=none",
        f"--grpc-restricted-protocol={restricted}",
        f"--http-restricted-api={restricted}",
        f"--grpc-keepalive-time={_KEEPALIVE}",
        "--grpc-keepalive-permit-without-calls=1",
        "--grpc-http2-max-pings-without-data=0",
    ]
    for service, port in ports.items():
        command += [f"--{service}-address={settings.address}", f"--{service}-port={port}"]
    return command + _variant(settings)


def container_command(settings: Settings) -> str:
    """Write the shell lines that serve the repository with NVIDIA's container.

    The packages of the Python models are added to the image. TensorRT engines that the server builds are kept in a
    volume, at /engines. A port 0 becomes Triton's default.
    """
    run = ["docker", "run", "--rm", "--gpus=all", "--shm-size=1g", *_CONFINED]
    for service, inside in PORTS.items():
        run.append(f"--publish={settings.address}:{settings.ports[service] or inside}:{inside}")
    run += [f"--volume={settings.repository}:/models:ro", "--volume=mlclip-engines:/engines", "mlclip-triton"]
    run += ["tritonserver", "--model-repository=/models", f"--log-verbose={settings.log_verbose}", *_variant(settings)]
    lines = [
        "# Python models need packages in the image: Pillow to decode images, the others for heads that read texts:",
        f"printf 'FROM {IMAGE}\\n{_INSTALL}\\n' | docker build --tag mlclip-triton -",
        "# Without a GPU, leave out --gpus=all.",
        shlex.join(run),
    ]
    return "\n".join(lines)


def _variant(settings: Settings) -> list[str]:
    return [f"--model-config-name={settings.model_config_name}"] if settings.model_config_name else []
