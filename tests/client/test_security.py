"""TLS and headers, through a proxy that asks for both, to the real server."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from mlclip_client import AsyncClient, Client, Security, ServerError, ServerUnavailable
from mlclip_client.server.transport import BlockingTransport

KEY = "x-api-key"


def certify(folder, name, *extra):
    """A self-signed certificate for 127.0.0.1, and its key."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
    subprocess.run([*command.split(), *files, *extra], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "client", "stranger"):
        certify(folder, name, "-addext", "subjectAltName=IP:127.0.0.1")
    (folder / "headers").write_text(f"{KEY.upper()}: secret\n\n")
    return folder


class Proxy(grpc.GenericRpcHandler):
    """Lets requests with the right key through to a server, whole and unread."""

    def __init__(self, url):
        self.channel = grpc.insecure_channel(url, options=[("grpc.enable_http_proxy", 0)])

    def service(self, call):
        def forward(request, context):
            if dict(context.invocation_metadata()).get(KEY) != "secret":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "no key")
            return self.channel.unary_unary(call.method)(request, timeout=30)

        return grpc.unary_unary_rpc_method_handler(forward)


@pytest.fixture(scope="module")
def proxy(server, certificates):
    """An address that takes the certificate `client` only, and requests with a key."""
    handler = Proxy(server.grpc_url)
    running = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    pair = ((certificates / "server.key").read_bytes(), (certificates / "server.pem").read_bytes())
    allowed = (certificates / "client.pem").read_bytes()
    port = running.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair], allowed, True))
    running.start()
    yield f"127.0.0.1:{port}"
    running.stop(None).wait()
    handler.channel.close()


def security(folder, **changes):
    files = {"tls_ca": "server.pem", "tls_cert": "client.pem", "tls_key": "client.key", "headers": "headers"} | changes
    return Security(tls=True, **{name: folder / file for name, file in files.items() if file})


def test_a_client_with_certificate_and_key_is_answered(proxy, certificates, tiny, files):
    with Client(proxy, heads=("color",), security=security(certificates)) as client:
        answer = client.classify(files[0]).answers["color"]
    assert answer.scores == pytest.approx(tiny.scores(files[0], "color"), abs=1e-5)


def test_so_is_an_asyncio_client(proxy, certificates, files):
    import asyncio

    async def ask():
        async with AsyncClient(proxy, heads=("color",), security=security(certificates)) as client:
            return await client.classify(files[0])

    assert asyncio.run(ask()).answers["color"].labels


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"headers": None}, ServerError),
        ({"tls_cert": "stranger.pem", "tls_key": "stranger.key"}, ServerUnavailable),
        ({"tls_ca": "stranger.pem"}, ServerUnavailable),
    ],
)
def test_strangers_are_refused_and_so_is_another_server(proxy, certificates, files, changes, error):
    with Client(proxy, heads=("color",), security=security(certificates, **changes)) as client, pytest.raises(error):
        client.classify(files[0])


def test_the_command_reads_keys_from_files(proxy, certificates, run, folder, tmp_path):
    options = ["--tls", "--tls-ca", "server.pem", "--tls-cert", "client.pem", "--tls-key", "client.key"]
    options = [str(certificates / word) if "." in word else word for word in options]
    asked = ["--head", "color", "--url", proxy, *options, "--headers", certificates / "headers"]
    done = run("classify", folder, "--out", tmp_path / "out.jsonl", *asked)
    assert done.exit_code == 0, done.output
    assert run("heads", *asked[2:]).exit_code == 0
    assert run("heads", "--url", proxy, "--tls-ca", certificates / "server.pem").exit_code == 2


def test_wrong_settings_are_refused_before_anything_is_sent(tmp_path):
    with pytest.raises(ValueError, match="add --tls"):
        Security(tls_ca=Path("ca.pem"))
    with pytest.raises(ValueError, match="give both"):
        Security(tls=True, tls_cert=Path("c.pem"))
    (tmp_path / "headers").write_text("key: one\nno header\n")
    with pytest.raises(ValueError, match="line 2: no header"):
        BlockingTransport("127.0.0.1:1", 1, Security(headers=tmp_path / "headers"))
    with pytest.raises(FileNotFoundError):
        BlockingTransport("127.0.0.1:1", 1, Security(tls=True, tls_ca=tmp_path / "none"))
