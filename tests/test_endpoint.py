"""The client of judge and teacher, over real HTTP: retries, pace, errors in one line, the key."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from email.utils import formatdate
from threading import Thread

import pytest
from fake_endpoint import RawServer, http_reply

from nanollava.errors import UserError
from nanollava.evals.answers import Refused, Rejected, Reply
from nanollava.evals.client import ChatClient
from nanollava.evals.endpoint import Endpoint, add_arguments, check_arguments, make_request

pytest.importorskip("openai", "3.0")


def job(model: str = "teacher") -> dict:
    return {"request": make_request(model, [{"role": "user", "content": "Hello"}], -1.0)}


@pytest.fixture
def no_backoff(monkeypatch):
    """The pauses of `openai` between tries, made short."""
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)


def test_an_answer_with_its_tokens(server):
    fake = server(answer=lambda messages: "Hello to you.")
    endpoint = Endpoint(fake.url)
    assert dict(endpoint.ask({"a": job()})) == {"a": Reply("Hello to you.", 100, 10)}


def test_a_negative_temperature_is_left_to_the_server():
    assert "temperature" not in make_request("m", [], -1.0)
    assert make_request("m", [], 0.0)["temperature"] == 0.0


def test_failed_requests_are_sent_again(server, no_backoff):
    fake = server(failing=0.5)
    endpoint = Endpoint(fake.url, tries=30, per_minute=1e6)
    replies = dict(endpoint.ask({str(i): job() for i in range(30)}))
    assert fake.outcomes["429"] and fake.outcomes["500"] and fake.outcomes["cut"]
    usable = [reply for reply in replies.values() if isinstance(reply, Reply)]
    assert len(usable) == fake.outcomes["answer"] and len(replies) == 30


def test_broken_and_empty_replies_are_rejected(server, monkeypatch):
    fake = server(failing=1.0)
    endpoint = Endpoint(fake.url, tries=1)
    monkeypatch.setattr("fake_endpoint.FAILURES", ("broken",))
    assert "the reply is not a chat completion" in str(endpoint.complete(job()))
    monkeypatch.setattr("fake_endpoint.FAILURES", ("empty",))
    assert "empty answer" in str(endpoint.complete(job()))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"usage": None},
        {"usage": {}},
        {"usage": {"prompt_tokens": None}},
        {"usage": {"prompt_tokens": -5, "completion_tokens": "7"}},
        {"usage": {"prompt_tokens": 1.5, "completion_tokens": True}},
    ],
)
def test_a_server_that_does_not_report_tokens(server, body):
    fake = server()
    choice = {"message": {"content": "Hello."}, "finish_reason": "stop"}
    fake.body = {"choices": [choice], **body}
    assert Endpoint(fake.url).complete(job()) == Reply("Hello.", 0, 0)


@pytest.mark.parametrize(
    "body",
    [{"choices": []}, {"choices": None}, {"choices": [{"message": None}]}, {"error": "busy"}],
)
def test_a_reply_without_an_answer_is_rejected(server, body):
    fake = server()
    fake.body = body
    assert "not a chat completion" in str(Endpoint(fake.url).complete(job()))


@pytest.mark.parametrize(
    "body",
    [
        {"error": "no such key: sk-secret-0123456789"},
        {"choices": [{"message": {"refusal": "sk-secret-0123456789"}, "finish_reason": "stop"}]},
    ],
)
def test_a_key_that_a_reply_echoes_is_not_printed(raw_server, monkeypatch, body):
    fake = raw_server(http_reply(200, json.dumps(body).encode(), Content_Type="application/json"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    reply = Endpoint(fake.url).complete(job())
    assert isinstance(reply, Rejected) and "secret" not in str(reply)


def test_an_answer_at_the_token_limit_is_rejected(server):
    fake = server()
    fake.finish_reason = "length"
    reply = Endpoint(fake.url).complete(job())
    assert isinstance(reply, Rejected) and "token limit" in str(reply)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed_in_both_forms(server, monkeypatch, form):
    monkeypatch.setattr("fake_endpoint.FAILURES", ("429",))
    fake = server(failing=1.0)
    if form == "seconds":
        fake.retry_after = "1.2"
    else:
        fake.retry_after = formatdate(time.time() + 1.2, usegmt=True)  # cut to whole seconds

    def recover() -> None:
        while not fake.times:
            time.sleep(0.01)
        fake.failing = 0.0

    Thread(target=recover, daemon=True).start()
    assert isinstance(Endpoint(fake.url, tries=2).complete(job()), Reply)
    assert fake.times[1] - fake.times[0] > 1.1  # our own first pause is 0.5 s


@pytest.mark.parametrize("header", ["999999999", "121", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_very_long_retry_after_is_reported_and_not_waited_for(server, monkeypatch, header):
    monkeypatch.setattr("fake_endpoint.FAILURES", ("429",))
    fake = server(failing=1.0)
    fake.retry_after = header
    start = time.monotonic()
    reply = Endpoint(fake.url, tries=5).complete(job())
    assert isinstance(reply, Rejected) and len(fake.times) == 1
    shown = header.replace("28:00 GMT", "28:01 +0000")
    assert str(reply) == f"HTTP 429 (Retry-After: {shown}): slow down"
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("header", ["-5", "nan", "soon", "", "Mon, 99 Foo 2099"])
def test_a_retry_after_without_sense_is_ignored(server, monkeypatch, no_backoff, header):
    monkeypatch.setattr("fake_endpoint.FAILURES", ("429",))
    fake = server(failing=1.0)
    fake.retry_after = header
    Endpoint(fake.url, tries=3).complete(job())
    assert len(fake.times) == 3


def test_tries_again_keep_the_pace(server, monkeypatch, no_backoff):
    monkeypatch.setattr("fake_endpoint.FAILURES", ("500",))
    fake = server(failing=1.0)
    Endpoint(fake.url, tries=3, per_minute=300).complete(job())
    assert fake.times[2] - fake.times[0] > 0.35  # two times 0.2 s


FORBIDDEN = {"request": make_request("teacher", [{"role": "user", "content": "FORBIDDEN"}], -1.0)}


def test_one_refused_prompt_is_refused_alone(server):
    fake = server()
    replies = dict(Endpoint(fake.url, threads=1).ask({"a": job(), "b": FORBIDDEN, "c": job()}))
    assert isinstance(replies["a"], Reply) and isinstance(replies["c"], Reply)
    assert isinstance(replies["b"], Refused)
    assert str(replies["b"]) == "refused: HTTP 400: The prompt was filtered."
    assert len(fake.prompts) == 3  # it is not sent again


@pytest.mark.parametrize("status", [400, 403, 413, 422, 451])
def test_a_client_error_that_can_be_about_one_prompt(raw_server, status):
    fake = raw_server(http_reply(status, b"not this one"))
    reply = Endpoint(fake.url, tries=3).complete(job())
    assert isinstance(reply, Refused) and str(reply) == f"refused: HTTP {status}: not this one"


def test_a_server_that_refuses_everything_ends_the_run(server):
    fake = server()
    with pytest.raises(UserError, match="all requests are refused; HTTP 400: The prompt"):
        list(
            Endpoint(fake.url, threads=1, per_minute=1e6).ask(
                {str(i): FORBIDDEN for i in range(100)}
            )
        )
    assert len(fake.prompts) == 20


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_answers_are_kept_when_the_server_fails_later(server, no_backoff, status):
    """Nothing is asked after the third failure, and no error hides the answers there are."""
    fake = server()
    endpoint = Endpoint(fake.url, threads=1, tries=1)
    assert isinstance(endpoint.complete(job()), Reply)
    broken = RawServer([http_reply(status, b"gone")])
    endpoint.client = ChatClient(broken.url, "good", per_minute=1e6, tries=1, timeout=5.0)
    replies = dict(endpoint.ask({str(i): job() for i in range(10)}))
    assert len(broken.requests) == (3 if status >= 500 else 1)
    assert f"HTTP {status}: gone" in str(replies["9"]) and isinstance(replies["9"], Refused)
    broken.close()


def test_a_server_that_does_not_answer_in_time(server):
    fake = server(seconds=5.0)
    start = time.monotonic()
    reply = Endpoint(fake.url, tries=1, timeout=0.2).complete(job())
    assert isinstance(reply, Rejected) and "timed out" in str(reply)
    assert time.monotonic() - start < 3


def test_a_reply_that_is_too_late_is_asked_for_again(raw_server, no_backoff):
    """Each try has the whole time."""
    server = raw_server(*(40 * [b"HTTP/1.1 100 Continue\r\n\r\n"]), pause=0.05)  # a drip
    reply = Endpoint(server.url, tries=3, timeout=0.3, per_minute=1e6).complete(job())
    assert isinstance(reply, Rejected) and "no complete reply within 0.3 s" in str(reply)
    assert len(server.requests) == 3


def test_a_wrong_model_ends_the_run_at_once(server):
    fake = server()
    with pytest.raises(UserError, match=r"model other: .*404.*does not exist"):
        list(Endpoint(fake.url).ask({"a": job("other"), "b": job("other")}))


def test_a_wrong_key_ends_the_run_and_is_not_printed(server, monkeypatch):
    fake = server()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    with pytest.raises(UserError, match="401.*Incorrect API key") as error:
        Endpoint(fake.url).complete(job())
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Incorrect API key provided: KEY"}},
        {"choices": "KEY"},
        {"choices": [{"message": {"content": None, "refusal": "KEY"}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": "Hi"}, "finish_reason": "KEY"}]},
    ],
)
@pytest.mark.parametrize("key", ["secret", "sk-secret-0123456789", "sk-secret-" + 200 * "s"])
def test_a_key_in_a_reply_is_not_printed(raw_server, monkeypatch, body, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    text = json.dumps(body).replace("KEY", key)
    reply = Endpoint(raw_server(http_reply(200, text.encode())).url).complete(job())
    assert isinstance(reply, Rejected) and "***" in str(reply) and "secret" not in str(reply)


def test_an_unreachable_server_ends_the_run(server, no_backoff):
    fake = server()
    fake.shutdown()
    fake.server_close()
    with pytest.raises(UserError, match="Connection error.*refused"):
        list(Endpoint(fake.url, tries=2, per_minute=1e6).ask({str(i): job() for i in range(20)}))


@pytest.mark.parametrize("key", [None, "", " "])
def test_no_key(monkeypatch, key):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        Endpoint("http://localhost/v1")


@pytest.mark.parametrize("key", ["sécret", "sk\ncret", "sk\rcret", "sk\x7fcret"])
def test_a_key_that_no_header_can_hold_is_not_printed(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="cannot be sent") as error:
        Endpoint("http://localhost/v1")
    assert "cret" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "nowhere"}, "--base-url nowhere: expected http"),
        ({"base_url": "http://me:secret@localhost/v1"}, "--base-url: contains a user name"),
        ({"base_url": "https://secret@localhost/v1"}, "--base-url: contains a user name"),
    ],
)
def test_an_address_that_is_none(monkeypatch, options, message):
    monkeypatch.setenv("OPENAI_API_KEY", "good")
    with pytest.raises(UserError, match=message) as error:
        Endpoint(**{"base_url": "http://localhost/v1", **options})
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--threads 0", "--threads 0: expected more than 0"),
        ("--threads 1000000000", "--threads 1000000000: expected at most 1000"),
        ("--per-minute -1", "--per-minute -1.0: expected more than 0"),
        ("--per-minute 1e-320", "--per-minute 1e-320: expected at least one request a day"),
        ("--per-minute nan", "--per-minute nan: expected more than 0"),
        ("--tries 0", "--tries 0: expected more than 0"),
        ("--timeout inf", "--timeout inf: expected at most 86400"),
        ("--timeout nan", "--timeout nan: expected more than 0"),
        ("--timeout 1e300", "--timeout 1e.300: expected at most 86400"),
        ("--wait -1", "--wait -1.0: expected at least 0 seconds"),
        ("--wait nan", "--wait nan: expected at least 0 seconds"),
        ("--wait inf", "--wait inf: expected at most 86400 seconds"),
        ("--temperature nan", "--temperature nan: expected"),
        ("--temperature inf", "--temperature inf: expected"),
        ("--price -1 0", "--price -1.0: expected at least 0 dollars"),
        ("--price 0 nan", "--price nan: expected at least 0 dollars"),
    ],
)
def test_flags_without_sense(flags, message):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(UserError, match=f"^{message}") as error:
        check_arguments(parser.parse_args(flags.split()))
    assert "\n" not in str(error.value)


def test_without_the_openai_package(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "good")
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match="pip install openai"):
        Endpoint("http://localhost/v1")


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for another process")
def test_ctrl_c_does_not_wait_for_open_requests(raw_server):
    server = raw_server(b"", pause=30.0)  # no reply for half a minute
    program = (
        "from nanollava.evals.endpoint import Endpoint, make_request\n"
        "from nanollava.errors import run\n"
        "request = make_request('teacher', [], -1.0)\n"
        f"run(lambda: list(Endpoint({server.url!r}).ask({{'a': {{'request': request}}}})))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "OPENAI_API_KEY": "good"}
    )
    start = time.monotonic()
    while not server.requests and time.monotonic() - start < 60:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 130
    assert len(server.requests) == 1
