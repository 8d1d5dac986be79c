"""Which chat completions hold a complete answer, and the reasons why others do not."""

import json

import pytest

from nanollava.evals.answers import Rejected, Reply
from nanollava.evals.replies import NotACompletion, read_reply


def completion(content="Hello.", finish_reason="stop", **message) -> bytes:
    choice = {"message": {"content": content, **message}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def reason(content: bytes) -> str:
    with pytest.raises(Rejected) as error:
        read_reply(content)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_answer_with_its_tokens():
    assert read_reply(completion("Hello.")) == Reply("Hello.", 100, 10)


@pytest.mark.parametrize(
    ("finish_reason", "message"),
    [
        ("length", "token limit"),
        ("content_filter", "content filter"),
        ("error", "finish_reason is 'error'; expected 'stop'"),
        ("tool_calls", "finish_reason is 'tool_calls'"),
        ("STOP", "finish_reason is 'STOP'"),
        (None, "finish_reason is None"),
        (["stop"], "finish_reason is"),
    ],
)
def test_only_stop_ends_a_whole_answer(finish_reason, message):
    assert message in reason(completion("It was about to", finish_reason))


def test_a_choice_without_a_finish_reason_is_no_whole_answer():
    body = {"choices": [{"message": {"content": "It was about to"}}]}
    assert "finish_reason is None" in reason(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("<think>\nWhat is it?\n</think>\n\nA ball.", "A ball."),
        ("<think></think>A ball.", "A ball."),
        ("What is it? </think>\nA ball.", "A ball."),
        ("<thinking>a < b</thinking> A ball.", "A ball."),
        ("<THINK>a < b</Think> A ball.", "A ball."),
        ("<think>One.</think> <think>Two.</think> A ball.", "A ball."),
        ("I think a ball.", "I think a ball."),
    ],
)
def test_thoughts_are_not_part_of_an_answer(content, answer):
    assert read_reply(completion(content)).text == answer


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<think>What is it? A ball", "have no end"),
        ("<think>One.</think> A ball. <think>Or", "have no end"),
        ("<think>One <think>two</think> three</think> A ball.", "have no end"),
        ("<think>What is it?</think>\n", "thoughts, but no answer"),
        ("What is it?</think>", "thoughts, but no answer"),
    ],
)
def test_thoughts_without_an_answer(content, message):
    assert message in reason(completion(content))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None}, "no content (null)"),
        ({"content": None, "refusal": "I cannot\nhelp."}, r"refused to answer: 'I cannot\nhelp.'"),
        ({"content": None, "tool_calls": [{}]}, "called a tool"),
        ({"content": [{"type": "text", "text": "Hi"}]}, "a list of 1 parts; expected one text"),
        ({"content": 7}, "the content is 7; expected a text"),
        ({"content": {"text": "Hi"}}, "expected a text"),
        ({"content": " \n"}, "empty answer"),
        ({"content": "half a character: \ud83d"}, "not valid Unicode"),
    ],
)
def test_a_message_without_a_text(message, text):
    assert text in reason(completion(**message))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"choices":' * 900,
        b'{"choices": []}',
        b'{"choices": [null]}',
        b'{"choices": {"0": {}}}',
        b'{"choices": [{"message": "Hello."}]}',
        b'{"choices": [{"message": {"content": "Hello."}}], "usage": [1]}',
        b'{"error": {"message": "busy"}}',
    ],
)
def test_a_reply_that_is_not_a_chat_completion(body):
    with pytest.raises(NotACompletion, match="the reply is not a chat completion"):
        read_reply(body)
