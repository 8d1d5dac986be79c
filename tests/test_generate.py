"""Generation: the cache against recomputation, batches against singles, sampling, and the text that follows the ids."""

from dataclasses import replace

import pytest
import torch
import transformers
from conftest import batch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from nanollava import LLaVA
from nanollava.conversation import IMAGE
from nanollava.errors import UserError
from nanollava.generate import Answer, answer, by_rows, compile_step, prompt, sample, stream
from nanollava.image import ImageConfig, open_image, preprocess
from nanollava.llama import KVCache
from nanollava.tokenizer import Tokenizer

TOY = "checkpoints/toy-llava"
QUESTIONS = (
    "What color is the cat?",
    "Where is the cat?",
    "Is there a dog?",
    "How is the weather?",
)


@pytest.fixture(scope="module")
def model(llava_dir):
    return LLaVA.from_pretrained(llava_dir(), dtype=torch.float64)


@pytest.fixture(scope="module")
def toy():
    model = LLaVA.from_pretrained(TOY, dtype=torch.float32)
    return model, Tokenizer.from_pretrained(TOY), ImageConfig.from_pretrained(TOY)


def row(ids, mask, pixels, i):
    return ids[i : i + 1, : mask[i].sum()], pixels[i : i + 1]


def slow_generate(model, ids, pixels, count):
    """The obvious way: the whole sequence through the whole model for every token."""
    new = []
    with torch.no_grad():
        for _ in range(count):
            token = model(ids, pixels)[0, -1].argmax()
            if token == model.config.eos_token_id:
                break
            new.append(token.item())
            ids = torch.cat([ids, token.view(1, 1)], dim=1)
    return new


def test_cache_equals_recomputation_and_batch_equals_singles(model):
    ids, _, mask, pixels = batch(dtype=torch.float64)
    lengths = mask.sum(1)
    singles = [slow_generate(model, *row(ids, mask, pixels, i), 12) for i in range(3)]
    for i in range(3):
        assert model.generate(*row(ids, mask, pixels, i), max_new_tokens=12) == [singles[i]]
    assert len(set(lengths.tolist())) > 1
    assert model.generate(ids, pixels, max_new_tokens=12, lengths=lengths) == singles


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_equals_transformers(llava_dir, penalty):
    path = llava_dir()
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(path).eval()
    ours = LLaVA.from_pretrained(path)
    ids, _, mask, pixels = batch(rows=1)
    ids = ids[:, : mask.sum()]
    expected = theirs.generate(
        input_ids=ids,
        pixel_values=pixels,
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=2,
        logits_processor=LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty)]),
    )
    expected = expected[0, ids.shape[1] :].tolist()
    found = ours.generate(ids, pixels, max_new_tokens=16, repetition_penalty=penalty)[0]
    assert found == (expected[:-1] if expected[-1] == 2 else expected)


def test_repetition_penalty_of_a_padded_row(model):
    """Padding is no token that has occurred."""
    ids, _, mask, pixels = batch(dtype=torch.float64)
    options = dict(max_new_tokens=12, repetition_penalty=1.5)
    singles = [model.generate(*row(ids, mask, pixels, i), **options)[0] for i in range(3)]
    assert singles != [
        model.generate(*row(ids, mask, pixels, i), max_new_tokens=12)[0] for i in range(3)
    ]
    first = torch.tensor([single[:1] for single in singles])
    ids = torch.where(
        mask.bool(), ids, first
    )  # padding that would change the answer, were it counted
    assert model.generate(ids, pixels, lengths=mask.sum(1), **options) == singles


def test_end_token_ends_a_row_alone(model):
    """A row that ends early stops growing; the others go on."""
    ids, _, mask, pixels = batch(dtype=torch.float64)
    options = dict(max_new_tokens=12, lengths=mask.sum(1))
    long = model.generate(ids, pixels, **options)
    end = next(t for t in long[0] if t not in long[1] or long[1].index(t) != long[0].index(t))
    old, model.config = model.config, replace(model.config, eos_token_id=end)
    try:
        steps = list(stream(model, ids, pixels, **options))
    finally:
        model.config = old
    for before, after in zip(long, zip(*steps, strict=True), strict=True):
        kept = before[: before.index(end)] if end in before else before
        assert list(after) == kept + [-1] * (len(steps) - len(kept))


def test_a_reused_cache_equals_a_fresh_one(model):
    """Three prompts, each going on from another place of the one before, one with a second picture."""
    ids, _, mask, pixels = batch(dtype=torch.float64)
    first, picture = row(ids, mask, pixels, 0)
    said = torch.tensor(model.generate(first, picture, max_new_tokens=5))
    more = torch.cat([first, said, torch.tensor([[7, 8, 9]])], 1)
    two = torch.cat(
        [more, torch.full((1, 16), model.config.image_token_id), torch.tensor([[4]])], 1
    )
    other = torch.cat([first[:, :-2], torch.tensor([[11, 12, 13]])], 1)
    fed = said.shape[1] - (said.shape[1] == 5)  # of five new ids the last was never fed
    cases = [(first, picture, 0), (more, picture, first.shape[1] + fed)]
    cases += [(two, pixels[:2], more.shape[1]), (other, picture, first.shape[1] - 2)]
    cache, computed = KVCache(model.config.text_config, 1, "cpu", torch.float64), []
    inner = model.language_model.model
    handle = inner.register_forward_pre_hook(lambda _, args: computed.append(args[0].shape[1]))
    for prompt_ids, pictures, known in cases:
        computed.clear()
        found = [
            new[0] for new in stream(model, prompt_ids, pictures, max_new_tokens=5, cache=cache)
        ]
        assert prompt_ids.shape[1] - computed[0] == known
        assert [t for t in found if t >= 0] == model.generate(
            prompt_ids, pictures, max_new_tokens=5
        )[0]
    handle.remove()


@pytest.mark.parametrize("rows", [1, 2])
def test_compiled_equals_eager(llava_dir, rows):
    """Greedy ids of one row, and of two of unequal length; without tuning and on one layer, for the time that compilation takes."""
    model = LLaVA.from_pretrained(llava_dir(num_hidden_layers=1))
    ids, _, mask, pixels = batch(rows=rows)
    options = dict(lengths=mask.sum(1), max_new_tokens=10)
    step = compile_step(model, max_autotune=False, cpp_cache_precompile_headers=False)
    assert model.generate(ids, pixels, step=step, **options) == model.generate(
        ids, pixels, **options
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_product_by_rows(dtype):
    x, w = torch.randn(1, 30, dtype=dtype), torch.randn(7, 30, dtype=dtype)
    exact = x.double() @ w.T.double()
    torch.testing.assert_close(
        by_rows(x, w.T).double(),
        exact,
        rtol=2 * torch.finfo(dtype).eps,
        atol=20 * min(torch.finfo(dtype).eps, 1e-6),
    )
    assert by_rows(x, w.T).dtype == dtype and by_rows(x.expand(2, -1), w.T) is NotImplemented


def test_dialogue_in_one_cache(toy):
    """What --chat does: turn by turn on one cache, the same ids as a fresh prefill of the dialogue so far."""
    model, tokenizer, config = toy
    pixels, turns = preprocess(open_image("cat.jpg"), config)[None], []
    cache, computed = KVCache(model.config.text_config, 1, "cpu", torch.float32), []
    tower = model.vision_tower.register_forward_pre_hook(lambda *_: computed.append(1))
    features = model.encode_images
    model.encode_images = lambda *args: computed.append("picture") or features(*args)
    for question in QUESTIONS:
        turns.append({"from": "human", "value": f"{IMAGE}\n" * (not turns) + question})
        ids = torch.tensor([prompt(turns, model, tokenizer)])
        text = Answer(tokenizer)
        for (token,) in stream(model, ids, pixels, cache=cache):
            text.add(token)
        assert text.ids == features.__self__.generate(ids, pixels)[0] and text.end == "end token"
        turns.append({"from": "gpt", "value": text.text})
        assert (
            computed.count("picture") == 1 + len(turns) // 2
        )  # one for all of the chat, one for each fresh prefill
    del model.encode_images
    tower.remove()


def test_answers_in_batches(toy):
    """Batches, unequal prompts, a row without a picture and one with two; the same as one by one."""
    model, tokenizer, config = toy
    cat = open_image("cat.jpg")
    asked = [
        ([cat], [{"from": "human", "value": f"{IMAGE}\n{question}"}]) for question in QUESTIONS
    ]
    asked += [([], [{"from": "human", "value": "Is it sunny?"}])]
    asked += [
        ([cat, cat], [{"from": "human", "value": f"{IMAGE}\n{IMAGE}\nWhat color is the cat?"}])
    ]
    found = answer(model, tokenizer, config, asked, batch=4, max_new_tokens=24)
    assert found[:3] == ["purple", "on the left", "no"]
    assert found == answer(model, tokenizer, config, asked, batch=1, max_new_tokens=24)
    assert answer(model, tokenizer, config, []) == []


def test_sampling_matches_the_distribution():
    """Chi-square on a vocabulary of six, of 20,000 draws: 15.1 is exceeded once in a hundred times (5 degrees of freedom)."""
    probs = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])

    def chi_square(expected: torch.Tensor, **options) -> float:
        logits, drawer = probs.log().repeat(20000, 1), torch.Generator().manual_seed(3)
        counts = torch.bincount(sample(logits, generator=drawer, **options), minlength=6)
        assert counts[expected == 0].sum() == 0
        kept = expected > 0
        wanted = 20000 * expected[kept]
        return ((counts[kept] - wanted) ** 2 / wanted).sum().item()

    def only(n: int, p: torch.Tensor = probs) -> torch.Tensor:
        kept = torch.where(torch.arange(6) < n, p, 0.0)
        return kept / kept.sum()

    assert chi_square(probs, temperature=1.0, top_p=1.0) < 15.1
    assert chi_square(only(6, probs**2), temperature=0.5, top_p=1.0) < 15.1
    assert chi_square(only(3), temperature=1.0, top_p=1.0, top_k=3) < 15.1
    assert chi_square(only(3), temperature=1.0, top_p=0.7) < 15.1
    assert (
        chi_square(only(2), temperature=1.0, top_p=0.7, top_k=4) < 15.1
    )  # shares of what top_k leaves: 0.44, 0.28
    assert chi_square(probs, temperature=0.8, top_p=1.0) > 100  # the test can fail
    assert (
        sample(probs.log()[None], 1.0, 1e-300).item() == probs.argmax()
    )  # one token is always left


def test_seeds_reproduce(model):
    ids, _, mask, pixels = batch(dtype=torch.float64)
    options = dict(max_new_tokens=12, lengths=mask.sum(1), temperature=1.5)
    first, again, other = (model.generate(ids, pixels, seed=seed, **options) for seed in (1, 1, 2))
    assert first == again != other
    assert sample(torch.tensor([[1.0, 3.0, 2.0]]), 0.0, 1.0).tolist() == [1]


def test_a_compiled_step_meets_few_sizes(llava_dir):
    """Powers of two up to the context, which is no multiple of the cache's own steps; the mask reaches as far."""
    model, sizes = LLaVA.from_pretrained(llava_dir(max_position_embeddings=100)), []

    def step(ids, cache, pad, real):
        sizes.append(cache.keys[0].shape[2])
        assert real.shape[1] >= sizes[-1]
        cache.length += 1
        return torch.zeros(1, model.config.text_config.vocab_size)

    room = model.config.text_config.max_position_embeddings
    for new in range(1, room - 4):
        list(stream(model, torch.full((1, 5), 7), max_new_tokens=new, step=step))
    assert len(set(sizes)) <= 2 and max(sizes) == -(-room // 64) * 64


def test_bad_requests(model):
    ids, _, _, pixels = batch(dtype=torch.float64)
    with pytest.raises(
        UserError, match="40 prompt tokens \\+ 100 new ones: the model has room for 128"
    ):
        model.generate(ids, pixels, max_new_tokens=100)
    wrong = dict(max_new_tokens=0, temperature=-1.0, top_p=0.0, top_k=-1, repetition_penalty=0.0)
    again = dict(temperature=float("nan"), repetition_penalty=float("nan"), seed=2**70)
    for name, value in (*wrong.items(), *again.items(), ("repetition_penalty", 1e-40)):
        with pytest.raises(UserError, match=f"{name} {value}"):
            model.generate(ids, pixels, **{"max_new_tokens": 5, name: value})


def told(
    tokenizer: Tokenizer, ids: list[int], stops: tuple[str, ...] = ()
) -> tuple[list[str], Answer]:
    text = Answer(tokenizer, stops)
    return [*map(text.add, ids), text.finish()], text


def test_utf8_pieces(toy):
    """Characters that come as bytes are shown whole, and what was shown together is the text of all ids."""
    tokenizer = toy[1]
    for line in (
        "a 猫 sat",
        "😀😀 two",
        "naïve café — 3 €",
        "in  two   blanks",
        "end with 猫",
        "猫",
    ):
        ids = tokenizer.encode(line)
        shown, text = told(tokenizer, ids)
        assert "".join(shown) == text.text == line == tokenizer.decode(ids)
        assert not any("\ufffd" in part for part in shown) and text.end == "length"
    assert len(tokenizer.encode("😀")) >= 4
    shown, _ = told(tokenizer, tokenizer.encode("so 😀 it is")[:-5])
    assert "".join(shown) == "so"
    broken = [tokenizer.backend.token_to_id(f"<0x{byte:02X}>") for byte in (0xE7, 0x8C)]
    shown, text = told(
        tokenizer, tokenizer.encode("a cat") + broken
    )  # half a character, and the answer ended
    assert "".join(shown) == text.text == "a cat"


@pytest.mark.parametrize(
    "stop, before", [("###", "a red cat"), ("ca", "a red"), ("d c", "a re"), ("red cat", "a")]
)
def test_stop_strings_across_token_borders(toy, stop, before):
    tokenizer = toy[1]
    shown, text = told(tokenizer, tokenizer.encode("a red cat\n### and so on"), (stop, "never"))
    assert "".join(shown) == text.text == before and text.end == "stop string"
    line = f"a red cat{stop[:-1]}!"
    shown, text = told(
        tokenizer, tokenizer.encode(line), (stop + stop,)
    )  # begins like a stop and is none
    assert "".join(shown) == line and text.end == "length"


def test_only_new_ids_are_decoded(toy):
    """Each id is decoded a bounded number of times, however long the answer."""
    decoded = []

    class Counting:
        def decode(self, ids):
            decoded.append(len(ids))
            return toy[1].decode(ids)

    told(Counting(), toy[1].encode("in front on the left there is a purple cat " * 20))
    assert max(decoded) <= 8
