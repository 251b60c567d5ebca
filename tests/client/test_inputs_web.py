"""Downloads: what is fetched, what is refused, and what a hostile site can do, against a real server."""

import base64
import gzip
import socket
import socketserver
import ssl
import subprocess
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpcore2
import pytest
from mlclip_client.errors import DownloadFailed, TooLarge
from mlclip_client.inputs import Item, Limits, Reader
from mlclip_client.inputs.web import addresses
from mlclip_client.inputs.web.addresses import CheckedNetwork, Deadline, is_closed_literal, is_public
from mlclip_client.inputs.web.fetch import Web
from mlclip_client.inputs.web.politeness import Slots, refusal


class Site:
    """A server whose pages are functions of a handler; remembers what was asked."""

    def __init__(self, tls=None):
        self.pages, self.asked, self.released = {}, [], threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                site.asked.append((self.path, dict(self.headers)))
                site.pages[self.path.partition("?")[0]](self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def page(self, path, status=200, body=b"image", length=None, **headers):
        def answer(handler):
            handler.send_response(status)
            for name, value in headers.items():
                for one in value if isinstance(value, list) else [value]:
                    handler.send_header(name.replace("_", "-"), one)
            handler.send_header("Content-Length", str(len(body) if length is None else length))
            handler.end_headers()
            handler.wfile.write(body)
            if length is not None:
                handler.close_connection = True

        self.pages[path] = answer
        return f"{self.url}{path}"

    def endless(self, path, start, part):
        def answer(handler):
            handler.wfile.write(start)
            try:
                while not self.released.is_set():
                    handler.wfile.write(part)
            except OSError:
                handler.close_connection = True

        self.pages[path] = answer
        return f"{self.url}{path}"

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def site():
    with closing(Site()) as running:
        yield running


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("mlclip_client.inputs.web.fetch._FIRST_PAUSE", 0.001)


def fetch(url, **limits):
    with Reader(Limits(**{"private": True} | limits)) as reader:
        return reader.read(Item(url, "url", url))


def web(lookup, **limits):
    return Web(Limits(**limits), ThreadPoolExecutor(2), lookup)


def test_files_are_fetched_as_they_are(site):
    body = bytes(range(256)) * 1000
    assert fetch(site.page("/a.jpg", body=body) + "?size=1#part", user_agent="bot/1 (me@x.org)") == body
    path, headers = site.asked[-1]
    assert path == "/a.jpg?size=1"
    assert headers["Host"] == f"127.0.0.1:{site.port}"
    assert (headers["User-Agent"], headers["Accept-Encoding"]) == ("bot/1 (me@x.org)", "identity")


def test_names_that_are_not_ascii_are_encoded(site):
    site.page("/%C3%BC%20a.jpg", body=b"found")
    assert fetch(f"{site.url}/ü a.jpg") == b"found"


@pytest.mark.parametrize("status", [404, 403, 410, 501, 204, 599])
def test_status_is_named(site, status):
    with pytest.raises(DownloadFailed, match=f"^HTTP {status}"):
        fetch(site.page("/a.jpg", status, b""))
    assert len(site.asked) == 1


def test_size_limit_holds_to_the_byte(site):
    url = site.page("/a.jpg", body=b"x" * 101)
    with pytest.raises(TooLarge, match="101 bytes are over the limit of 100"):
        fetch(url, max_bytes=100)
    assert fetch(url, max_bytes=101) == b"x" * 101


def test_endless_answers_end_at_the_limit(site):
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    url = site.endless("/a.jpg", start, b"10000\r\n" + bytes(65536) + b"\r\n")
    with pytest.raises(TooLarge, match="over the limit of 1,000,000 bytes"):
        fetch(url, max_bytes=1_000_000)


def test_endless_headers_are_an_error(site):
    with pytest.raises(DownloadFailed):
        fetch(site.endless("/a.jpg", b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n" * 1000))


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX-", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfive!"])
def test_sites_that_fall_silent_are_given_up(site, start):
    def silent(handler):
        handler.wfile.write(start)
        handler.wfile.flush()
        site.released.wait(60)
        handler.close_connection = True

    site.pages["/a.jpg"] = silent
    with pytest.raises(DownloadFailed, match=r"^not whole within 0\.2 s$"):
        fetch(f"{site.url}/a.jpg", download_seconds=0.2)
    assert len(site.asked) <= 1  # none where connecting took all of the time
    site.released.set()


def test_every_read_ends_with_the_whole_downloads_deadline(monkeypatch):
    """A site that sends a byte a second never reaches the end of a time limit for each read."""
    now, waits = [100.0], []
    monkeypatch.setattr(addresses.time, "monotonic", lambda: now[0])

    class Dripping(httpcore2.NetworkStream):
        def read(self, max_bytes, timeout=None):
            waits.append(timeout)
            now[0] += 1
            return b"x"

    deadline = Deadline()
    deadline.until = 103.0
    stream = addresses._Timed(Dripping(), deadline)
    with pytest.raises(httpcore2.ReadTimeout):
        while True:
            stream.read(1, timeout=30)
    assert waits == [3, 2, 1]


def test_redirects_are_followed_up_to_a_number(site):
    site.page("/a.jpg", body=b"end")
    for number in range(1, 6):
        site.page(f"/{number}", 301 + number % 2 * 6, b"", Location="/a.jpg" if number == 1 else f"{number - 1}")
    assert fetch(f"{site.url}/5", redirects=5, per_host=1) == b"end"
    with pytest.raises(DownloadFailed, match="more than 4 redirects"):
        fetch(f"{site.url}/5", redirects=4)
    site.page("/circle", 302, b"", Location="/circle")
    with pytest.raises(DownloadFailed, match="more than 5 redirects"):
        fetch(f"{site.url}/circle")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://x/", "http://x:0/"])
def test_redirects_lead_to_http_only(site, target):
    url = site.page("/a.jpg", 302, b"", Location=target)
    with pytest.raises(DownloadFailed, match="only http and https|not an address"):
        fetch(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://", "address"),
        ("http:///x", "^not an address: http:///x names no host$"),
        ("http://127.0.0.1:99999/", "address"),
        ("http://0177.0.0.1/", "address"),
        ("http://[::1/", "address"),
        ("http://a\nb/", "address"),
        ("http://ex\udcffample.org/", "address"),
        ("ftp://x.test/a.jpg", "^only http and https are fetched, not ftp://x.test/a.jpg$"),
    ],
)
def test_what_is_no_address_is_an_error_of_that_item(url, reason):
    with pytest.raises(DownloadFailed, match=reason):
        fetch(url)


@pytest.mark.parametrize(
    "address",
    """127.0.0.1 127.255.0.1 0.0.0.0 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 169.254.170.2
    100.64.0.1 100.100.100.200 168.63.129.16 192.0.0.1 192.0.0.192 192.0.2.1 198.18.0.1 198.51.100.7 203.0.113.9
    192.88.99.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 ::1 :: fe80::1 fe80::1%1 fc00::1
    fd00:ec2::254 ff02::1
    ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1
    2002:7f00:1:: 2002:a00:1:: 2001:0:1::1 2001:db8::1 3fff::1 100::1 5f00::1 fec0::1""".split(),
)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    "1.1.1.1 93.184.216.34 100.63.255.255 100.128.0.0 172.32.0.1 2606:4700::1111 2a00:1450::1 ::ffff:8.8.8.8".split(),
)
def test_addresses_that_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "017700000001", "[::1]", "[::ffff:127.0.0.1]", "0"],
)
def test_private_hosts_are_refused_however_they_are_written(site, host):
    site.page("/a.jpg")
    with pytest.raises(
        DownloadFailed, match="is not an address of the public internet; --private allows it$"
    ) as refused:
        fetch(f"http://{host}:{site.port}/a.jpg", private=False)
    assert str(refused.value).count("127.0.0.1") <= 1
    assert site.asked == []


def test_every_redirect_is_checked_as_the_first_address_was(site, monkeypatch):
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    hosts = {"start.test": ["127.0.0.1"], "inner.test": ["10.0.0.1"]}
    url = site.page("/a.jpg", 302, b"", Location="http://inner.test/secret")
    client = web(lambda host, port: hosts[host])
    with pytest.raises(
        DownloadFailed, match=r"inner\.test is 10\.0\.0\.1, which is not an address of the public internet"
    ):
        client.fetch(url.replace("127.0.0.1", "start.test"))
    assert [path for path, _ in site.asked] == ["/a.jpg"]
    client.close()


def network(lookup, monkeypatch, fail=True, private=False):
    tried = []

    def connect(self, host, port, *args):
        tried.append(host)
        raise httpcore2.ConnectError("refused")

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    deadline = Deadline()
    deadline.until = addresses.time.monotonic() + 60
    return CheckedNetwork(deadline, ThreadPoolExecutor(1), private, lookup), tried


def test_connection_goes_to_the_address_that_was_checked(monkeypatch):
    """A name that answers with a public address first and a private one later gains nothing."""
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    asked = []

    def lookup(host, port):
        asked.append(host)
        return answers.pop(0)

    backend, tried = network(lookup, monkeypatch)
    with pytest.raises(httpcore2.ConnectError):
        backend.connect_tcp("rebinding.test", 80)
    assert (tried, asked) == (["93.184.216.34"], ["rebinding.test"])
    with pytest.raises(DownloadFailed, match="127"):
        backend.connect_tcp("rebinding.test", 80)
    assert tried == ["93.184.216.34"]


def test_of_several_addresses_only_public_ones_are_tried(monkeypatch):
    backend, tried = network(lambda host, port: ["10.0.0.1", "1.1.1.1", "::1", "8.8.8.8"], monkeypatch)
    with pytest.raises(httpcore2.ConnectError):
        backend.connect_tcp("mixed.test", 80)
    assert tried == ["1.1.1.1", "8.8.8.8"]


def test_names_that_do_not_exist_are_final_and_lookups_have_the_deadline(monkeypatch):
    def unknown(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    backend, _ = network(unknown, monkeypatch)
    with pytest.raises(DownloadFailed, match="gone.test could not be resolved: Name or service not known"):
        backend.connect_tcp("gone.test", 80)
    released = threading.Event()
    client = web(lambda host, port: released.wait(60), download_seconds=0.05)
    with pytest.raises(DownloadFailed, match=r"not whole within 0\.05 s"):
        client.fetch("http://slow.test/a.jpg")
    released.set()
    client.close()


def test_proxy_is_used_only_when_named_and_numbers_are_still_checked(site, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", site.url)
    monkeypatch.setenv("ALL_PROXY", site.url)
    client = web(lambda host, port: ["10.0.0.1"])
    with pytest.raises(DownloadFailed, match="public internet"):
        client.fetch("http://x.test/a.jpg")
    client.close()
    assert site.asked == []
    site.page("http://x.test/a.jpg", body=b"through the proxy")
    assert fetch("http://x.test/a.jpg", proxy=site.url, private=False) == b"through the proxy"
    for host in ("127.0.0.1", "169.254.169.254", "localhost", "127.1", "[::1]"):
        with pytest.raises(DownloadFailed, match="public internet"):
            fetch(f"http://{host}/a.jpg", proxy=site.url, private=False)
    with pytest.raises(ValueError, match="proxy socks4://x: write http://host:port"):
        fetch("http://x.test/a.jpg", proxy="socks4://x")


class Socks(socketserver.StreamRequestHandler):
    """A SOCKS 5 proxy without passwords (RFC 1928), which leads every name to the one server it knows."""

    def handle(self):
        _, methods = self.rfile.read(2)
        self.rfile.read(methods)
        self.wfile.write(b"\x05\x00")
        *_, kind = self.rfile.read(4)
        assert kind == 3, "a name, for the proxy to resolve"
        self.server.asked.append(self.rfile.read(self.rfile.read(1)[0]).decode())
        self.rfile.read(2)  # the port
        with socket.create_connection(self.server.leads_to) as target:
            self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
            threading.Thread(target=self._send, args=(target,)).start()
            while data := target.recv(65536):
                self.wfile.write(data)

    def _send(self, target):
        with suppress(OSError):  # the other direction has ended
            while data := self.rfile.read1():
                target.sendall(data)


def test_a_socks_proxy_resolves_names_itself(site, monkeypatch):
    site.page("/a.jpg", body=b"from the dark")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Socks) as proxy:
        proxy.daemon_threads, proxy.asked, proxy.leads_to = True, [], ("127.0.0.1", site.port)
        threading.Thread(target=proxy.serve_forever).start()
        address = f"socks5h://127.0.0.1:{proxy.server_address[1]}"
        looked_up = []
        client = web(lambda host, port: looked_up.append(host) or [host], proxy=address, private=False)
        assert client.fetch("http://abcdef.onion/a.jpg") == b"from the dark"
        client.close()
        assert proxy.asked == ["abcdef.onion"] and set(looked_up) <= {"127.0.0.1"}
        proxy.shutdown()
    monkeypatch.setattr("mlclip_client.inputs.web.fetch.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'mlclip-client\[socks\]'"):
        fetch("http://abcdef.onion/a.jpg", proxy=address)


def test_hosts_written_as_numbers():
    assert is_closed_literal("10.0.0.1") and is_closed_literal("LOCALHOST.")
    assert not is_closed_literal("1.1.1.1") and not is_closed_literal("example.org")


@pytest.mark.parametrize("value", ["noai", "noindex, nofollow", "all, NoImageAI", "none", "mlclip-client: noindex"])
def test_sites_that_ask_not_to_be_indexed_are_respected(site, value):
    url = site.page("/a.jpg", X_Robots_Tag=["googlebot: nofollow", value])
    with pytest.raises(DownloadFailed, match=r"^the site asks not to be indexed \(X-Robots-Tag: no\w+\)$"):
        fetch(url)
    assert fetch(url, ignore_robots=True) == b"image"


@pytest.mark.parametrize(
    ("values", "directive"),
    [
        (["googlebot: noindex"], ""),
        (["googlebot: nofollow, noindex"], ""),
        (["googlebot: nofollow, crawler: noindex"], "noindex"),
        (["Crawler : noai"], "noai"),
        (["nofollow, noarchive, indexifembedded"], ""),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noindex"], "noindex"),
        (["max-image-preview: none"], ""),
        (["noindexing", ""], ""),
        (["all", "noimageai"], "noimageai"),
    ],
)
def test_directives_count_for_all_robots_and_for_ours(values, directive):
    assert refusal(values, "Crawler/2.0 (+https://x.org)") == directive


def test_directives_on_a_redirect_count_too(site):
    site.page("/a.jpg")
    with pytest.raises(DownloadFailed, match="noai"):
        fetch(site.page("/b", 302, b"", Location="/a.jpg", X_Robots_Tag="noai"))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520])
def test_busy_sites_are_tried_again(site, status):
    url = site.page("/a.jpg", status, b"", Retry_After="0")
    with pytest.raises(DownloadFailed, match=f"HTTP {status}"):
        fetch(url)
    assert len(site.asked) == 3
    busy, calm = site.pages["/a.jpg"], site.page("/calm", body=b"calm") and site.pages["/calm"]
    site.pages["/a.jpg"] = lambda handler: (busy if len(site.asked) < 5 else calm)(handler)
    assert fetch(url) == b"calm"


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_site_that_asks_to_wait_too_long_is_given_up_at_once(site, form):
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    after = "3600" if form == "seconds" else date
    with pytest.raises(DownloadFailed, match="HTTP 503"):
        fetch(site.page("/a.jpg", 503, b"", Retry_After=after))
    assert len(site.asked) == 1


@pytest.mark.parametrize("after", ["", "soon", "-5", "Mon, 01 Jan 1990 00:00:00 GMT", "Mon, 99 Foo"])
def test_waits_that_make_no_sense_are_none(site, after):
    with pytest.raises(DownloadFailed, match="HTTP 503"):
        fetch(site.page("/a.jpg", 503, b"", Retry_After=after))
    assert len(site.asked) == 3


def test_broken_connections_are_tried_again(site):
    whole = site.page("/whole", body=b"whole") and site.pages["/whole"]
    site.page("/cut", body=b"ab", length=10)
    cut = site.pages["/cut"]
    site.pages["/a.jpg"] = lambda handler: (cut if len(site.asked) < 3 else whole)(handler)
    assert fetch(f"{site.url}/a.jpg") == b"whole"
    with pytest.raises(DownloadFailed, match="the connection failed"):
        fetch(f"{site.url}/cut")


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadFailed, match="the connection failed: .*refused"):
            fetch(f"http://127.0.0.1:{free.getsockname()[1]}/a.jpg")


def test_closing_ends_waits_for_another_try(site, monkeypatch):
    client = web(lambda host, port: ["127.0.0.1"], private=True, download_seconds=600)
    busy = site.page("/a.jpg", 503, b"", Retry_After="25")

    def close_while_it_waits(seconds):
        client._closing.set()
        return True

    monkeypatch.setattr(client._closing, "wait", close_while_it_waits)
    with pytest.raises(DownloadFailed, match="stopped"):
        client.fetch(busy)
    client.close()


def test_compressed_answers_have_the_same_limit(site):
    small, bomb = gzip.compress(b"image"), gzip.compress(bytes(10_000_000))
    assert fetch(site.page("/a", body=small, Content_Encoding="gzip")) == b"image"
    with pytest.raises(TooLarge, match="over the limit of 100,000 bytes"):
        fetch(site.page("/b", body=bomb, Content_Encoding="gzip"), max_bytes=100_000)
    with pytest.raises(DownloadFailed, match="cut short"):
        fetch(site.page("/c", body=small[:-9], Content_Encoding="gzip"))
    with pytest.raises(DownloadFailed, match="broken"):
        fetch(site.page("/d", body=b"image", Content_Encoding="gzip"))
    with pytest.raises(DownloadFailed, match="sends br"):
        fetch(site.page("/e", body=b"image", Content_Encoding="br"))


packed = partial(gzip.compress, mtime=0)  # the same bytes in every run


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        *((name, b"image") for name in ("none", "utf-8", "binary", "aws-chunked", "image/png", "identity", "")),
        ("gzip", packed(b"im") + packed(b"age")),
        ("gzip", packed(b"image") + bytes(8)),
        ("deflate", zlib.compress(b"image")),
        ("deflate", raw_deflate(b"image")),
        ("aws-chunked, gzip", packed(b"image")),
        ("deflate, gzip", packed(zlib.compress(b"image"))),
    ],
)
def test_encodings_are_taken_as_browsers_take_them(site, encoding, body):
    assert fetch(site.page("/a", body=body, Content_Encoding=encoding)) == b"image"


def test_members_of_gzip_share_the_limit(site):
    url = site.page("/a", body=gzip.compress(bytes(60)) * 2, Content_Encoding="gzip")
    assert fetch(url, max_bytes=120) == bytes(120)
    with pytest.raises(TooLarge, match="over the limit of 119 bytes"):
        fetch(url, max_bytes=119)


def test_a_site_cannot_make_us_unpack_for_ever(site):
    with pytest.raises(DownloadFailed, match="too many members"):
        fetch(site.page("/a", body=gzip.compress(b"") * 10_000, Content_Encoding="gzip"))
    with pytest.raises(DownloadFailed, match="compressed too many times"):
        fetch(site.page("/a", Content_Encoding="none, " * 100))


def test_numbers_of_ipv6_keep_their_brackets(site):
    site.page("/a.jpg")
    with closing(web(lambda host, port: ["127.0.0.1"], private=True)) as client:
        assert client.fetch(f"http://[::1]:{site.port}/a.jpg") == b"image"
    assert site.asked[-1][1]["Host"] == f"[::1]:{site.port}"


def test_user_and_password_go_to_the_host_that_they_are_for(site):
    site.page("/a.jpg", 302, b"", Location="/b")
    site.page("/b", 302, b"", Location=f"http://same.test:{site.port}/c")
    site.page("/c", 302, b"", Location=f"http://other.test:{site.port}/d")
    site.page("/d")
    with closing(web(lambda host, port: ["127.0.0.1"], private=True)) as client:
        assert client.fetch(f"http://me%40x:s%C3%A9cret@same.test:{site.port}/a.jpg") == b"image"
    sent = "Basic " + base64.b64encode("me@x:sécret".encode()).decode()
    assert [headers.get("Authorization") for _, headers in site.asked] == [sent, sent, sent, None]


def test_answers_that_are_no_http_are_one_readable_line(site):
    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nno header at all\r\n\r\n")
        handler.close_connection = True

    site.pages["/a.jpg"] = answer
    with pytest.raises(DownloadFailed, match="^the connection failed: illegal header line: no header at all$"):
        fetch(f"{site.url}/a.jpg")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_without_certificates_only_https_fails_and_the_file_is_named(site, tmp_path, monkeypatch, content):
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert fetch(site.page("/a.jpg")) == b"image"
    with pytest.raises(DownloadFailed, match=f"^no certificates to check https with: SSL_CERT_FILE={file}: "):
        fetch("https://127.0.0.1:1/a.jpg")


def test_slots_bound_downloads_in_all_and_per_host():
    slots = Slots(3, 2)
    with slots.one("a", 0) as first, slots.one("a", 0) as second, slots.one("a", 0) as third:
        assert (first, second, third) == (True, True, False)
        with slots.one("b", 0) as other, slots.one("c", 0) as full:
            assert (other, full) == (True, False)
    with slots.one("a", 0) as again:
        assert again


def test_time_starts_when_there_is_a_slot_and_covers_redirects(site):
    waits = []

    class Recording(Slots):
        def one(self, host, seconds):
            waits.append(seconds)
            return super().one(host, seconds)

    client = web(lambda host, port: ["127.0.0.1"], private=True, download_seconds=25)
    client._slots = Recording(1, 1)
    site.page("/a.jpg", body=b"end")
    for _ in range(2):
        assert client.fetch(site.page("/b", 302, b"", Location="/a.jpg")) == b"end"
    assert [wait is None for wait in waits] == [True, False, True, False]
    assert 0 < waits[1] <= 25
    client.close()


def test_no_more_downloads_run_at_once_than_there_are_slots(site):
    def slow(handler):
        entered.set()
        site.released.wait(60)
        plain(handler)

    entered = threading.Event()
    site.page("/a.jpg")
    plain = site.pages["/a.jpg"]
    site.pages["/slow"] = slow
    with Reader(Limits(private=True, connections=1)) as reader, ThreadPoolExecutor(2) as threads:
        first = threads.submit(reader.read, Item("x", "url", f"{site.url}/slow"))
        assert entered.wait(20)
        second = threads.submit(reader.read, Item("x", "url", f"{site.url}/a.jpg"))
        assert [path for path, _ in site.asked] == ["/slow"]
        site.released.set()
        assert (first.result(20), second.result(20)) == (b"image", b"image")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=site.test"
    extra = ["-addext", "subjectAltName=DNS:site.test", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *extra], cwd=folder, check=True, capture_output=True)
    return folder


def test_secure_sites_must_prove_their_name(certificate, monkeypatch):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with closing(Site(tls)) as site:
        site.page("/a.jpg", body=b"secure")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        with closing(web(lambda host, port: ["127.0.0.1"], private=True)) as client:
            assert client.fetch(f"https://site.test:{site.port}/a.jpg") == b"secure"
            with pytest.raises(DownloadFailed, match="^the site's certificate: "):
                client.fetch(f"https://other.test:{site.port}/a.jpg")
        monkeypatch.delenv("SSL_CERT_FILE")
        with closing(web(lambda host, port: ["127.0.0.1"], private=True)) as stranger:
            with pytest.raises(DownloadFailed, match="^the site's certificate: "):
                stranger.fetch(f"https://site.test:{site.port}/a.jpg")


def test_many_threads_share_a_reader(site):
    for number in range(40):
        site.page(f"/{number}.jpg", body=b"%d" % number)
    with Reader(Limits(private=True, connections=6, per_host=3)) as reader, ThreadPoolExecutor(12) as threads:
        items = [Item("x", "url", f"{site.url}/{number}.jpg") for number in range(40)]
        assert list(threads.map(reader.read, items)) == [b"%d" % number for number in range(40)]
