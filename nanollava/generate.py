"""Generation: prefill of picture and text in one pass, then one token a step on a preallocated KV cache."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from PIL import Image

from .conversation import STOP, encode, expand
from .cpu import quickest
from .errors import UserError
from .image import ImageConfig, preprocess
from .llama import KVCache
from .tokenizer import Tokenizer


def sample(
    logits: torch.Tensor, temperature: float, top_p: float, generator=None, top_k=0
) -> torch.Tensor:
    """Next ids (B,) from logits (B, vocab): the most likely at temperature 0, else drawn from the `top_k` likeliest
    tokens (0: all), and of these from the smallest set whose probability reaches `top_p`."""
    if temperature == 0:
        return logits.argmax(-1)
    logits, order = (logits.float() / temperature).sort(-1, descending=True)
    probs = torch.softmax(logits[:, : top_k or None], dim=-1)
    probs[probs.cumsum(-1) - probs >= max(top_p, 1e-9)] = (
        0  # the first token that reaches top_p stays
    )
    choice = torch.multinomial(probs, 1, generator=generator)
    return order.gather(-1, choice).squeeze(-1)


@torch.inference_mode()
def stream(
    model,
    input_ids: torch.Tensor,
    pixel_values: torch.Tensor | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    lengths: torch.Tensor | None = None,
    cache: KVCache | None = None,
    step: Callable | None = None,
    seconds: dict[str, float] | None = None,
) -> Iterator[list[int]]:
    """Continues prompts `input_ids` (B, T), right-padded to `lengths` (B,): yields the new id of every row, step by step.
    A row ends with the end token and yields -1 from there on. Rows do not influence each other: inside, they are
    shifted to end together, and the padding before them is masked. Of a `cache` of an earlier run (one row) the ids it
    holds are not computed again. `step` is what `compile_step` gives. Logits of tokens that have occurred are divided
    by `repetition_penalty` (multiplied where negative). `seconds` gets the times."""
    config, llama = model.config, model.language_model
    (B, T), device, image_token = input_ids.shape, input_ids.device, config.image_token_id
    room, patches = config.text_config.max_position_embeddings, config.vision_config.num_patches
    wrong = (
        max_new_tokens < 1
        or not (temperature == 0 or 1e-6 <= temperature <= 1e6)
        or not 0 < top_p <= 1
    )
    if (
        wrong
        or top_k < 0
        or not 1e-3 <= repetition_penalty <= 1e3
        or not -(2**63) <= (seed or 0) < 2**63
    ):
        given = f"max_new_tokens {max_new_tokens}, temperature {temperature}, top_p {top_p}, top_k {top_k}, "
        wanted = "expected at least 1, 0 or 1e-6 to 1e6, 0 < top_p <= 1, at least 0, 1e-3 to 1e3, 64 bits"
        raise UserError(f"{given}repetition_penalty {repetition_penalty}, seed {seed}: {wanted}")
    if (need := T + max_new_tokens) > room:
        raise UserError(
            f"{T} prompt tokens + {max_new_tokens} new ones: the model has room for {room}"
        )
    begin, seconds = time.perf_counter(), {} if seconds is None else seconds
    cache = cache or KVCache(config.text_config, B, device, llama.model.embed_tokens.weight.dtype)
    known = cache.reuse(input_ids[0].tolist(), image_token, patches)
    if known and pixel_values is not None:  # the pictures that are not in the cache
        fresh = int((input_ids[:, known:] == image_token).sum()) // patches
        pixel_values = pixel_values[len(pixel_values) - fresh :]
    # A compiled step is made for one number of places: powers of two, so that it is seldom made anew.
    cache.reserve(need if step is None else min(room, 1 << (need - 1).bit_length()))
    room = max(room, cache.keys[0].shape[2])
    embeds, mask = model.embed(input_ids[:, known:], pixel_values), None
    pad = torch.zeros(B, dtype=torch.long, device=device) if lengths is None else T - lengths
    real, padded = torch.arange(room, device=device) >= pad[:, None], bool(pad.any())  # (B, room)
    if padded:
        index = (torch.arange(T, device=device) - pad[:, None]) % T
        embeds = embeds.gather(
            1, index.unsqueeze(-1).expand_as(embeds)
        )  # right padding becomes left padding
        causal = torch.ones(T, T, dtype=torch.bool, device=device).tril()
        own = torch.eye(
            T, dtype=torch.bool, device=device
        )  # padding sees itself: an empty row would be NaN
        mask = (causal & real[:, None, :T] | own)[:, None]  # (B, 1, T, T)
    said = torch.zeros(B, config.text_config.vocab_size, dtype=torch.bool, device=device)
    ids = input_ids.masked_fill(~real[:, :T].flip(1), config.bos_token_id)
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    seconds["vision"], begin = time.perf_counter() - begin, time.perf_counter()
    logits = llama.lm_head(llama.model(embeds, mask, cache, start=-pad if padded else known)[:, -1])
    ended = [False] * B
    for place in range(T, T + max_new_tokens):
        if repetition_penalty != 1:
            said.scatter_(1, ids.view(B, -1), True)
            less = torch.where(logits < 0, logits * repetition_penalty, logits / repetition_penalty)
            logits = torch.where(said, less, logits)
        ids = sample(logits, temperature, top_p, generator, top_k)
        new = ids.tolist()
        if place == T:
            seconds["prefill"], begin = time.perf_counter() - begin, time.perf_counter()
        seconds["decode"] = time.perf_counter() - begin
        ended = [end or token == config.eos_token_id for end, token in zip(ended, new, strict=True)]
        yield [-1 if end else token for end, token in zip(ended, new, strict=True)]
        if all(ended) or place == T + max_new_tokens - 1:
            return
        cache.ids += new[:1]
        if step is not None:
            logits = step(ids, cache, pad, real)
            continue
        step_mask = real[:, None, None, : place + 1] if padded else None
        with quickest(llama) if B == 1 and device.type == "cpu" else nullcontext():
            embeds, start = llama.model.embed_tokens(ids[:, None]), place - pad if padded else place
            logits = llama.lm_head(llama.model(embeds, step_mask, cache, start)[:, -1])


def by_rows(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x (1, in) @ w (in, out) as a sum over each row of w^T: one pass that reads every weight once, in order. On a CPU this is
    bound by the memory alone, which the libraries' product of a matrix and one vector is not. Sums are fp32 at the least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return (x.to(wide) * w.T.to(wide)).sum(-1).to(x.dtype)[None] if len(x) == 1 else NotImplemented


def compile_step(model, **options) -> Callable:
    """The one-token step of `stream`, compiled for shapes that do not change: the token's place is a tensor, attention looks
    at the whole cache and masks what is not filled. On CUDA it is replayed as one graph. `options` go to the compiler."""
    from torch._inductor.compile_fx import compile_fx  # seconds, for those who ask for it
    from torch._inductor.decomposition import select_decomp_table

    llama, checked = model.language_model, None
    cuda = llama.lm_head.weight.is_cuda
    kind = dict(coordinate_descent_tuning=True) if cuda else dict(freezing=True, cpp_wrapper=True)
    options = {"max_autotune": True, "triton.cudagraphs": cuda, **kind, **options}

    def compiler(graph, inputs):
        mm = {torch.ops.aten.mm.default: by_rows} if llama.lm_head.weight.is_cpu else {}
        return compile_fx(
            graph, inputs, config_patches=options, decompositions=select_decomp_table() | mm
        )

    def decode(ids, cache, pad, real):
        S = cache.keys[0].shape[2]
        mask = (real[:, :S] & (torch.arange(S, device=ids.device) <= cache.place))[:, None, None]
        states = llama.model(
            llama.model.embed_tokens(ids[:, None]), mask, cache, start=cache.place - pad
        )
        return llama.lm_head(states[:, -1])

    compiled = torch.compile(decode, dynamic=False, fullgraph=True, backend=compiler)

    def step(
        ids: torch.Tensor, cache: KVCache, pad: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        nonlocal checked
        for tensor in (
            (*cache.keys, *cache.values) if cuda else ()
        ):  # CUDA graphs would copy what may move
            torch._dynamo.mark_static_address(tensor)
        shapes = (cache.keys[0].shape, real.shape, torch.is_inference_mode_enabled())
        cache.place = ids.new_full((1,), cache.length)
        with torch.compiler.set_stance(
            skip_guard_eval_unsafe=shapes == checked
        ):  # not checked again
            logits = compiled(ids, cache, pad, real)
        checked, cache.place, cache.length = shapes, None, cache.length + 1
        return logits

    return step


def generate(model, input_ids: torch.Tensor, pixel_values=None, **options) -> list[list[int]]:
    """The new ids of each prompt, without the end token; arguments as for `stream`."""
    steps = list(stream(model, input_ids, pixel_values, **options))
    return [[token for token in row if token >= 0] for row in zip(*steps, strict=True)]


class Answer:
    """The text of one answer while its ids come. Each id is decoded with the few before it that share a piece of text; half
    a character, what may become a stop string, and blanks at the end wait for the next id."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...] = ()):
        self.tokenizer, self.stops = tokenizer, stops
        self.ids, self.text, self.waiting = [], "", ""
        self.end: str | None = None  # "end token", "stop string" or "length", once it has ended
        self.begin = self.read = (
            0  # ids from `begin` on are decoded together; text before `read` is known
        )

    def add(self, token: int) -> str:
        """Takes the next id, -1 for the end token; returns the text that is certain now and was not before."""
        if self.end is not None or token < 0:
            return self.finish("end token")
        self.ids.append(token)
        known, text = (
            self.tokenizer.decode(self.ids[self.begin : end]) for end in (self.read, None)
        )
        if text.endswith("\ufffd"):
            return ""
        self.begin, self.read = self.read if text != known else self.begin, len(self.ids)
        text = self.waiting + text[len(known) :]
        found = [at for at in map(text.find, self.stops) if at >= 0]
        self.end = "stop string" if found else None
        text = text[: min(found)] if found else text
        begun = [
            len(text) - n
            for stop in self.stops
            for n in range(1, len(stop))
            if text.endswith(stop[:n])
        ]
        keep = len(text[: min(begun, default=None)].rstrip()) if not found else len(text.rstrip())
        self.text, self.waiting = self.text + text[:keep], text[keep:]
        return text[:keep]

    def finish(self, end: str = "length") -> str:
        """Ends the answer, if it has not ended; returns what had been held back, but for half a character."""
        more = self.tokenizer.decode(self.ids[self.read :]).rstrip("\ufffd")
        rest = "" if self.end else (self.waiting + more).rstrip()
        self.text, self.end = self.text + rest, self.end or end
        return rest


def prompt(
    turns: list[dict], model, tokenizer: Tokenizer, template: str = "vicuna_v1"
) -> list[int]:
    """The ids that ask for the next answer, every picture expanded to its places."""
    places = model.config.vision_config.num_patches
    return expand(*encode(turns, tokenizer, template), model.config.image_token_id, places)[0]


def answer(
    model,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    asked: list[tuple[list[Image.Image], list[dict]]],
    template: str = "vicuna_v1",
    batch: int = 16,
    **options,
) -> list[str]:
    """The model's answers to (pictures, turns) pairs, turns in the data set's form ending with a question; `options` as
    for `stream`. Prompts of similar length share a batch."""
    W = model.multi_modal_projector.linear_1.weight
    rows = [prompt(turns, model, tokenizer, template) for _, turns in asked]
    answers = [Answer(tokenizer, STOP.get(template, ())) for _ in rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for group in (order[i : i + batch] for i in range(0, len(order), batch)):
        pictures = [preprocess(picture, image_config) for i in group for picture in asked[i][0]]
        pixel_values = torch.stack(pictures).to(W.device, W.dtype) if pictures else None
        lengths = torch.tensor([len(rows[i]) for i in group], device=W.device)
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(rows[i]) for i in group], True).to(
            W.device
        )
        for new in stream(model, ids, pixel_values, lengths=lengths, **options):
            for i, token in zip(group, new, strict=True):
                answers[i].add(token)
            if all(answers[i].end for i in group):
                break
        for i in group:
            answers[i].finish()
    return [answer.text for answer in answers]
