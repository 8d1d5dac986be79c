"""Small damages: of JSON values, and of bytes."""

import copy
import json
import random

# What replaces a value, as it stands in the file: Python could not write all of it.
FRAGMENTS = (
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "[1, 2, 3]",
    '{"a": 1}',
    '{"content": 5}',
    "0",
    "-0.0",
    "1",
    "-1",
    "2",
    "7",
    "0.5",
    "1e-320",
    "1e308",
    "1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    "255",
    "65536",
    "2147483647",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "1" + 30 * "0",
    "1" + 5000 * "0",  # more digits than Python reads by default
    '""',
    '" "',
    '"0"',
    '"true"',
    '"nan"',
    '"../../../etc/passwd"',
    '"/dev/zero"',
    '"a\\u0000b"',
    '"\\ud800"',
    '"\\udcff\\udc80"',
    '"<image>"',
    '"<image>\\n<image>"',
    '"</s>"',
    '"<unk>"',
    '"<0x0A>"',
    '"▁"',
    '"日本語 🙂"',
    '"\\u2028"',
    '"{text}"',
    '"%s {0}"',
    '"The answer is B."',
    '"9 8"',
    '"' + 3000 * "x" + '"',
    50 * "[" + 50 * "]",
    980 * "[" + 980 * "]",
    100_000 * "[" + 100_000 * "]",
    2000 * '{"a":' + "1" + 2000 * "}",
)
KEYS = ("", "unknown", "type", "rope_scaling", "quantization_config", "content", "\ud800")
CHARACTERS = "\0\n\x7f\x1bé▁あ\ud800\uffff🙂 <>{}%"


def mark(index: int) -> str:
    """What stands for a fragment until the value has become text."""
    return f"fragment {index}"


def slots(value) -> list[tuple]:
    """All places of a JSON value, as (list or object, index or key)."""
    found = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = range(len(value))
    else:
        return found
    for key in keys:
        found.append((value, key))
        found += slots(value[key])
    return found


def changed_json(rng: random.Random, value, changes: int | None = None) -> bytes:
    """A JSON text like `value`, with some of its places changed."""
    value = {"all": copy.deepcopy(value)}
    if changes is None:
        changes = rng.choice((1, 1, 1, 2, 3))
    for _ in range(changes):
        places = slots(value)
        container, key = rng.choice(places)
        if container is value and rng.random() < 0.8:
            container, key = rng.choice(places)  # the whole value is changed less often
        change_slot(rng, container, key)
    return to_text(rng, value.get("all"))


def change_slot(rng: random.Random, container, key) -> None:
    """Change one place of a JSON value."""
    value = container[key]
    kind = rng.random()
    if kind < 0.5:
        container[key] = mark(rng.randrange(len(FRAGMENTS)))
    elif kind < 0.6 and len(container) > 1:
        del container[key]
    elif kind < 0.7 and isinstance(value, str):
        container[key] = change_text(rng, value)
    elif kind < 0.8 and isinstance(value, int | float):
        container[key] = change_number(rng, value)
    elif kind < 0.85:
        container[key] = rng.choice(([value], {"a": value}, [value, value], [value] * 50))
    elif kind < 0.9 and isinstance(container, list):
        container.insert(rng.randint(0, len(container)), copy.deepcopy(value))
    elif kind < 0.95 and isinstance(container, dict) and len(container) > 1:
        container[rng.choice(KEYS)] = container.pop(key)
    elif isinstance(container, dict) and "all" not in container:
        container[rng.choice(KEYS)] = mark(rng.randrange(len(FRAGMENTS)))


def change_text(rng: random.Random, text: str) -> str:
    start = rng.randint(0, len(text))
    kind = rng.randrange(5)
    if kind == 0:
        return text[:start]
    if kind == 1:
        return text[:start] + rng.choice(CHARACTERS) + text[start:]
    if kind == 2:
        return text[:start] + rng.choice(CHARACTERS) + text[start + 1 :]
    if kind == 3:
        return text * rng.choice((2, 50))
    return text[::-1]


def change_number(rng: random.Random, number: float):
    choices = (number + 1, number - 1, -number, number * 2, number * 1000, float(number))
    return rng.choice((*choices, str(number), number // 2))


def to_text(rng: random.Random, value) -> bytes:
    """The file of a JSON value, rarely in another encoding, with a repeated key or damaged."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    for index, fragment in enumerate(FRAGMENTS):
        text = text.replace(f'"{mark(index)}"', fragment)
    if rng.random() < 0.01:
        text = text.replace("{", '{"a": 1, "a": 2, ', 1)
    kind = rng.random()
    if kind < 0.01:
        return text.encode("utf-16", "surrogatepass")
    if kind < 0.02:
        return b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass")
    content = text.encode("utf-8", "surrogatepass")
    if kind < 0.08:
        return changed_bytes(rng, content)
    return content


def changed_bytes(rng: random.Random, content: bytes, changes: int | None = None) -> bytes:
    """The bytes with a few damages. Headers are hit more often than their share."""
    result = bytearray(content)
    if changes is None:
        changes = rng.choice((1, 1, 2, 4, 8))
    for _ in range(changes):
        if result:
            end = len(result)
            if rng.random() < 0.3:
                end = min(end, 64)
            change_bytes_at(rng, result, rng.randrange(end))
    return bytes(result)


def change_bytes_at(rng: random.Random, content: bytearray, start: int) -> None:
    """One damage that begins at byte `start`."""
    length = rng.randint(1, 32)
    kind = rng.randrange(8)
    if kind <= 1:
        content[start] ^= 1 << rng.randrange(8)
    elif kind == 2:
        content[start] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    elif kind == 3:
        bits = rng.choice((8, 16, 32, 64))
        number = rng.choice((0, 1, 2**bits - 1, 2 ** (bits - 1), rng.getrandbits(bits)))
        order = rng.choice(("little", "big"))
        content[start : start + bits // 8] = number.to_bytes(bits // 8, order)
    elif kind == 4:
        del content[start : start + length]
    elif kind == 5:
        content[start:start] = rng.randbytes(length)
    elif kind == 6:
        other = rng.randrange(len(content))
        content[start : start + length] = content[other : other + length]
    elif rng.random() < 0.4:
        del content[start:]
