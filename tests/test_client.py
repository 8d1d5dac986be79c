"""One request: where it goes, how long it may take, how long the reply may be, and the key."""

import gzip
import json
import time

import pytest
from fake_endpoint import http_reply

from nanollava.evals.client import ChatClient, RequestFailed
from nanollava.evals.endpoint import make_request

pytest.importorskip("openai", "3.0")
bounded_http = pytest.importorskip("nanollava.evals.bounded_http")

KEY = "sk-secret-0123456789"
REQUEST = make_request("teacher", [{"role": "user", "content": "Hello"}], -1.0)


def send(url: str, key: str = KEY, timeout: float = 5.0) -> bytes:
    client = ChatClient(url, key, per_minute=1e6, tries=1, timeout=timeout)
    return client.send(REQUEST)


def failure(url: str, **options) -> RequestFailed:
    """The failure of a request: one line, without the key."""
    with pytest.raises(RequestFailed) as error:
        send(url, **options)
    assert "\n" not in str(error.value) and KEY not in str(error.value)
    return error.value


def test_the_body_of_the_reply(raw_server):
    server = raw_server(http_reply(200, b'{"choices": []}'))
    assert send(server.url) == b'{"choices": []}'
    (request,) = server.requests
    assert request.startswith(b"POST /v1/chat/completions ")
    assert f"authorization: bearer {KEY}".encode() in request.lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_refused(raw_server, status):
    other = raw_server(http_reply(200, b"{}"))
    server = raw_server(http_reply(status, Location=f"{other.url}/chat/completions"))
    error = failure(server.url)
    assert f"HTTP {status}: the server redirects to {other.url}" in str(error)
    assert other.requests == [] and error.status == status


@pytest.mark.parametrize("location", ["", "//[::1", "file:///etc/passwd", "http://a:99999/", "\t"])
def test_a_redirect_without_sense_is_one_line(raw_server, location):
    failure(raw_server(http_reply(302, Location=location)).url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_within_the_host_is_named_and_not_followed(raw_server, status):
    server = raw_server(http_reply(status, Location="/other/place"))
    error = failure(server.url)
    assert "redirects to /other/place, which is not followed" in str(error)
    assert error.status == status and len(server.requests) == 1


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", *(60 * [b" "])],
        60 * [b"HTTP/1.1 100 Continue\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n", *(60 * [b"x: y\r\n"])],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *(60 * [b"1\r\n \r\n"])],
    ],
    ids=["body", "100 Continue", "headers", "chunks"],
)
def test_a_drip_does_not_outlast_the_timeout(raw_server, parts):
    server = raw_server(*parts, pause=0.1)
    start = time.monotonic()
    assert "timed out" in str(failure(server.url, timeout=0.4))
    assert time.monotonic() - start < 3


def test_silence_does_not_outlast_the_timeout(raw_server):
    server = raw_server(b"", pause=30)
    assert "timed out" in str(failure(server.url, timeout=0.3))


@pytest.mark.parametrize("status", [200, 500])
def test_a_reply_has_a_limit(raw_server, monkeypatch, status):
    monkeypatch.setattr(bounded_http, "MAX_REPLY_BYTES", 100_000)
    server = raw_server(http_reply(status, bytes(1_000_000)))
    assert "the reply is longer than 100000 bytes" in str(failure(server.url))


def test_a_compressed_reply_is_not_unpacked(raw_server):
    packed = gzip.compress(bytes(10_000_000))
    server = raw_server(http_reply(200, packed, Content_Encoding="gzip"))
    assert send(server.url) == packed
    assert b"accept-encoding: identity" in server.requests[0].lower()


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n: \r\n\0\r\n\r\n",
        http_reply(999, b"odd"),
        http_reply(500, b"\xff\xfe\x00\x1b[2J"),
        http_reply(500, b'{"error": {"message": [1, 2]}}'),
        http_reply(500, b'{"error": null}'),
        http_reply(500, b"[" * 100_000),
    ],
)
def test_a_broken_reply_is_one_line(raw_server, reply):
    error = str(failure(raw_server(reply).url))
    assert error.isprintable() and len(error) <= 400


@pytest.mark.parametrize("key", ['sk-"quoted"', r"sk-back\slash", "sk-it's", "sk with spaces"])
@pytest.mark.parametrize("as_json", [True, False])
def test_a_key_that_the_server_echoes_is_not_printed(raw_server, key, as_json):
    message = f"Incorrect API key provided: {key}"
    body = json.dumps({"error": {"message": message}}) if as_json else message
    with pytest.raises(RequestFailed, match=r"HTTP 401: .*provided: \*\*\*") as error:
        send(raw_server(http_reply(401, body.encode())).url, key=key)
    assert key[3:] not in str(error.value)


@pytest.mark.parametrize(
    ("key", "shown"),
    [("sk-proj-" + 200 * "s", '{"key": "***"}'), ("sk/slash/0123", '{"key": "***"}'), ("no", None)],
)
def test_a_key_in_a_reply_is_not_kept(raw_server, key, shown):
    """A short word is no secret, and may well be part of an answer."""
    body = json.dumps({"key": key})
    server = raw_server(http_reply(200, body.encode()))
    assert send(server.url, key=key).decode() == (shown or body)
    server.parts = [http_reply(200, body.replace("/", r"\/").encode())]
    assert send(server.url, key=key).decode() == (shown or body)


def test_a_short_word_in_place_of_a_key_is_not_masked_in_errors(raw_server):
    body = b'{"error": {"message": "max_tokens exceeded"}}'
    with pytest.raises(RequestFailed, match="max_tokens exceeded"):
        send(raw_server(http_reply(404, body)).url, key="x")


def test_retry_after_is_part_of_the_failure(raw_server):
    server = raw_server(http_reply(429, b"slow down", Retry_After="7"))
    assert str(failure(server.url)) == "HTTP 429 (Retry-After: 7): slow down"
