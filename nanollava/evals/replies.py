"""From a chat completion to the answer in it, or the reason why there is no complete one."""

import re

from ..errors import ConfigError
from ..files import parse_object
from ..schema import has_type, is_unicode, optional, require, short
from .answers import Rejected, Reply


class NotACompletion(Rejected):
    """The server sent something other than a chat completion."""


WHERE = "the reply is not a chat completion"

# What to say of the reasons for which a server ends an answer early.
CUT_OFF = {
    "length": "the answer was cut off at the server's token limit",
    "content_filter": "the answer was cut off by the server's content filter",
}

THOUGHTS = r"(?i)<(think|thinking)>.*?</\1>"
END_OF_THOUGHTS = r"(?i)</think(?:ing)?>"
THOUGHT_MARK = r"(?i)</?think(?:ing)?>"


def read_reply(content: bytes) -> Reply:
    """Return the answer in the body of a reply. Raise Rejected if it is missing or incomplete."""
    try:
        completion = parse_object(content, WHERE)
        if "choices" not in completion and "error" in completion:
            raise NotACompletion(f"{WHERE}: error = {short(completion['error'])}")
        choices = require(completion, "choices", list[dict], WHERE)
        if not choices:
            raise NotACompletion(f"{WHERE}: choices is empty")
        message = require(choices[0], "message", dict, WHERE)
        usage = optional(completion, "usage", dict, WHERE, default={})
    except ConfigError as error:
        raise NotACompletion(str(error)) from None
    check_finish_reason(choices[0].get("finish_reason"))
    text = without_thoughts(read_content(message))
    return Reply(text, token_count(usage, "prompt_tokens"), token_count(usage, "completion_tokens"))


def check_finish_reason(finish_reason) -> None:
    """Raise Rejected unless the model itself ended its answer."""
    if finish_reason == "stop":
        return
    if isinstance(finish_reason, str) and finish_reason in CUT_OFF:
        raise Rejected(CUT_OFF[finish_reason])
    problem = f"finish_reason is {short(finish_reason)}; expected 'stop'"
    raise Rejected(f"the answer may not be complete: {problem}")


def read_content(message: dict) -> str:
    """The text of a message. Raise Rejected if there is none."""
    content = message.get("content")
    if content is None and message.get("refusal"):
        raise Rejected(f"the model refused to answer: {short(message['refusal'])}")
    if content is None and message.get("tool_calls"):
        raise Rejected("the model called a tool instead of answering")
    if content is None:
        raise Rejected("the reply has no content (null)")
    if isinstance(content, list):
        raise Rejected(f"the content is a list of {len(content)} parts; expected one text")
    if not isinstance(content, str):
        raise Rejected(f"the content is {short(content)}; expected a text")
    if not is_unicode(content):
        raise Rejected("the content is not valid Unicode")
    return content


def without_thoughts(text: str) -> str:
    """The answer without what a reasoning model thought before it: <think>...</think>.

    Some servers put the opening mark into the prompt. So the text before a closing mark alone is a
    thought, too.
    """
    if not text.strip():
        raise Rejected("empty answer")
    first_mark = re.search(THOUGHT_MARK, text)
    if first_mark is None:
        return text
    if first_mark[0].startswith("</"):
        text = re.split(END_OF_THOUGHTS, text, maxsplit=1)[-1]
    text = re.sub(THOUGHTS, "", text, flags=re.DOTALL).strip()
    if re.search(THOUGHT_MARK, text):
        raise Rejected("the model's thoughts have no end: a <think> without its </think>")
    if not text:
        raise Rejected("the reply has thoughts, but no answer")
    return text


def token_count(usage: dict, name: str) -> int:
    """A count of the reply's usage; 0 if the server does not report it, or not as a count."""
    count = usage.get(name)
    if not has_type(count, int) or count < 0:
        return 0
    return count
