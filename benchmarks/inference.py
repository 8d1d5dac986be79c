"""How fast this package answers, beside transformers on the same machine: same weights, dtype, threads and token count.

python -m benchmarks.inference                     # every row of the README's table
python -m benchmarks.inference --quick             # under a minute: small models, few rounds
python -m benchmarks.inference --rows decode bf16 --json figures.json

The two sides take turns, each round in the other order; medians, and in brackets the spread (largest - smallest) / median.
One thread unless --threads says otherwise. Each row runs in a process of its own (not with --quick), with OMP_WAIT_POLICY=PASSIVE for both.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from nanollava.hf import load as hf_load

ROWS = (
    "machine",
    "decode",
    "compile",
    "bf16",
    "compile-bf16",
    "int8",
    "llava",
    "loading",
    "conversion",
    "cli",
    "word",
    "batch",
    "context",
    "gpu",
)
# hidden_size, intermediate_size, layers, heads, vocabulary
DECODERS = {
    "0.5M": (96, 256, 4, 4, 512),
    "29M": (512, 1376, 8, 8, 4096),
    "320M": (1024, 2816, 24, 16, 8000),
}
FLOORS = {
    "decode": {"0.5M": 2.0, "29M": 1.1, "320M": 1.0},
    "compile": {"0.5M": 4.0, "29M": 1.8, "320M": 1.4},
    "bf16": {"0.5M": 1.7, "29M": 1.7, "320M": 1.7},
    "compile-bf16": {"0.5M": 1.7, "29M": 1.7, "320M": 1.7},
    "llava": {"fp32": 1.15, "bf16": 1.4},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PROMPT = 32
STUB = dict(
    hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=1, image_size=32
)
TOY = "checkpoints/toy-llava"


def seconds_of(run, rounds: int = 5) -> float:
    """The best of some calls: for the machine's own limits."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def take_turns(sides: dict, rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of every call; the order turns round from round to round; the first `warm` rounds do not count."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for r in range(rounds + warm):
        for name in list(sides)[:: 1 if r % 2 else -1]:
            start = time.perf_counter()
            sides[name]()
            found[name] += [time.perf_counter() - start] * (r >= warm)
    return found


def middle(values: list[float]) -> tuple[float, float]:
    """Median and spread."""
    median = statistics.median(values)
    return median, (max(values) - min(values)) / median


def machine(args) -> dict:
    """What the machine can do: bytes read and products taken a second."""
    big = torch.ones(2**26 if args.quick else 2**28)
    rates = {"read_gb_s": big.nbytes / seconds_of(lambda: big.sum()) / 1e9}
    weights = [torch.randn(2816, 1024) for _ in range(24)]
    for name, dtype in DTYPES.items():
        x, ws = torch.randn(1024).to(dtype), [w.to(dtype) for w in weights]
        best = seconds_of(lambda ws=ws, x=x: [w @ x for w in ws])
        rates[f"matrix_vector_gb_s_{name}"] = sum(w.nbytes for w in ws) / best / 1e9
        a = torch.randn(1024, 1024).to(dtype)
        rates[f"matmul_gflop_s_{name}"] = 2 * 1024**3 / seconds_of(lambda a=a: a @ a) / 1e9
    return rates


def pair(name: str, dtype: torch.dtype, vision: dict | None = None):
    """One random LLaVA as transformers' and as ours; `vision` None makes a tower that only stands there."""
    import transformers

    from nanollava import LLaVA

    D, hidden, layers, heads, vocab = DECODERS[name]
    text = transformers.LlamaConfig(
        hidden_size=D,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=vocab,
        max_position_embeddings=4096,
    )
    tower = transformers.CLIPVisionConfig(**{"patch_size": 16, **(vision or STUB)})
    places = (tower.image_size // 16) ** 2
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=vocab - 1, image_seq_length=places
    )
    theirs = transformers.LlavaForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) * p[0].numel() ** -0.5)
    theirs = theirs.to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = LLaVA.from_pretrained(folder, dtype=dtype)
        sum(p.flatten()[0].item() for p in ours.parameters())
    if vision is None:  # without a picture, transformers' plain decoder is the faster of its two
        decoder = transformers.LlamaForCausalLM(text).eval()
        decoder.model, decoder.lm_head, theirs = (
            theirs.model.language_model,
            theirs.lm_head,
            decoder,
        )
    ours.config = replace(ours.config, eos_token_id=-1)  # neither side ends early
    return theirs, ours, places


def decode(
    args, name: str, dtype: str, compiled: bool, vision: dict | None = None, rounded=False
) -> dict:
    """Tokens a second of both sides, greedy, from a short prompt (and a picture, if there is a tower); `rounded` makes our
    layers int8."""
    from nanollava import cpu, int8
    from nanollava.generate import compile_step, generate

    theirs, ours, places = pair(name, DTYPES[dtype], vision)
    cpu.convert(ours)
    if rounded:
        int8.convert(ours.language_model.model.layers)
    ids = torch.randint(5, 500, (1, PROMPT), generator=torch.Generator().manual_seed(1))
    pixels = None
    if vision:
        ids = torch.cat(
            [ids[:, :8], torch.full((1, places), ours.config.image_token_id), ids[:, 8:]], 1
        )
        size = vision["image_size"]
        pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2)).to(
            DTYPES[dtype]
        )
    step = compile_step(ours, max_autotune=not args.quick) if compiled else None
    result: dict = {}
    if compiled:
        start = time.perf_counter()
        generate(ours, ids, pixels, max_new_tokens=args.tokens, step=step)
        result["compile_s"] = time.perf_counter() - start
    answers = {}

    def us():
        answers["ours"] = generate(ours, ids, pixels, max_new_tokens=args.tokens, step=step)[0]

    def them():
        options = dict(
            max_new_tokens=args.tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        options |= {"pixel_values": pixels} if vision else {}
        out = theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        answers["theirs"] = out[0, ids.shape[1] :].tolist()

    found = take_turns({"ours": us, "theirs": them}, args.rounds)
    assert len(answers["ours"]) == len(answers["theirs"]) == args.tokens
    for side, values in found.items():
        median, spread = middle(values)
        result[side] = {"tokens_s": args.tokens / median, "spread": spread}
    pairs = zip(answers["ours"], answers["theirs"], strict=True)
    result["equal_ids"] = next((i for i, (a, b) in enumerate(pairs) if a != b), args.tokens)
    result["ratio"] = result["ours"]["tokens_s"] / result["theirs"]["tokens_s"]
    # What must be read for a token, and computed for the prompt: attention's own part is left out.
    body, tower = (
        ours.language_model,
        ours.vision_tower.encoder.layers[:-1],
    )  # the last block is not run
    read = {k: t for k, t in body.state_dict().items() if "embed_tokens" not in k}
    result["bytes_a_token"] = sum(t.nbytes for t in read.values())
    blocks = sum(t.numel() for name, t in read.items() if "lm_head" not in name)
    result["prefill_flop"] = 2 * (ids.shape[1] * blocks + body.lm_head.weight.numel())
    result["prefill_flop"] += (
        2 * places * sum(p.numel() for p in tower.parameters()) if vision else 0
    )
    return result


def batch(args) -> dict:
    """Sixteen questions about sixteen Toyland scenes, as one batch and one by one."""
    from nanollava import LLaVA
    from nanollava.generate import answer
    from nanollava.image import ImageConfig
    from nanollava.tokenizer import Tokenizer
    from nanollava.toyland.draw import draw
    from nanollava.toyland.scenes import scenes

    common = (LLaVA.from_pretrained(TOY, dtype=torch.float32), Tokenizer.from_pretrained(TOY))
    common += (ImageConfig.from_pretrained(TOY),)
    turns = [{"from": "human", "value": "<image>\nDescribe the picture in detail."}]
    asked = [([draw(scene, 200)], turns) for scene in scenes("test", 16, 0, unseen=False)]
    answers: dict = {}

    def run(size: int) -> None:
        answers[size] = answer(*common, asked, batch=size, max_new_tokens=32 if args.quick else 96)

    found = take_turns(
        {"batch": lambda: run(16), "singles": lambda: run(1)}, 1 if args.quick else 3
    )
    assert answers[16] == answers[1]
    return {
        name: dict(zip(("seconds", "spread"), middle(v), strict=True)) for name, v in found.items()
    }


def context(args) -> dict:
    """Milliseconds of one step at growing context (29M, fp32), and how many bytes of cache it reads."""
    from nanollava.cpu import quickest

    from nanollava.llama import KVCache

    _, ours, _ = pair("29M", torch.float32)
    body, config = ours.language_model, ours.config.text_config
    result = {}
    with torch.inference_mode():
        token = body.model.embed_tokens(torch.tensor([[7]]))
        for length in (256, 512) if args.quick else (256, 512, 1024, 2048):
            cache = KVCache(config, 1, "cpu", torch.float32)
            cache.reserve(length + 64)

            def step(cache=cache, length=length) -> None:
                cache.length = length
                with quickest(body):
                    body.lm_head(body.model(token, None, cache, length)[:, -1])

            times = take_turns({"ours": step}, 10 if args.quick else 40, warm=10)["ours"]
            read = 2 * config.num_hidden_layers * config.hidden_size * length * 4
            result[str(length)] = {
                "ms": 1000 * middle(times)[0],
                "spread": middle(times)[1],
                "cache_mb": read / 1e6,
            }
    return result


THEIR_SCRIPT = """
import sys, torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaForConditionalGeneration
path, picture, prompt = sys.argv[1:]
model = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
tokenizer, processor = AutoTokenizer.from_pretrained(path), CLIPImageProcessorPil.from_pretrained(path)
before, after = (tokenizer(part, add_special_tokens=False).input_ids for part in prompt.split("<image>"))
ids = torch.tensor([[1, *before, *[model.config.image_token_id] * 100, *after]])
pixels = processor(Image.open(picture), return_tensors="pt").pixel_values
out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, max_new_tokens=1, do_sample=False)
print(tokenizer.decode(out[0, -1:]))
"""


def cli(args) -> dict:
    """From the command to the first token of toy-llava: sample.py, and a script that does the same with transformers."""
    from nanollava.conversation import VICUNA_SYSTEM

    prompt = f"{VICUNA_SYSTEM} USER: <image>\nWhat color is the cat? ASSISTANT:"
    question = ["--prompt", "What color is the cat?", "--max-new-tokens", "1", "--device", "cpu"]
    commands = {
        "ours": ["sample.py", "--image", "cat.jpg", *question],
        "theirs": ["-c", THEIR_SCRIPT, TOY, "cat.jpg", prompt],
    }
    said = {}

    def run(side: str) -> None:
        done = subprocess.run(
            [sys.executable, *commands[side]], capture_output=True, text=True, check=True
        )
        said[side] = done.stdout.strip()

    sides = {side: lambda side=side: run(side) for side in commands}
    found = take_turns(sides, *((1, 0) if args.quick else (5, 1)))
    assert said["ours"] == said["theirs"], said
    result = {
        side: dict(zip(("seconds", "spread"), middle(values), strict=True))
        for side, values in found.items()
    }
    return {**result, "ratio": result["theirs"]["seconds"] / result["ours"]["seconds"]}


def word(args) -> dict:
    """From the command to the first character of the answer, beside `import torch` and what the model itself takes."""
    first, start_torch, work = [], [], []
    command = [sys.executable, "sample.py", "--image", "cat.jpg", "--device", "cpu"]
    warm = not args.quick
    for r in range(1 if args.quick else 6):
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.read(1)
            first += [time.perf_counter() - start] * (r >= warm)
            process.stdout.read()
        start = time.perf_counter()
        # Until torch is there, not until the process has ended.
        ready = [sys.executable, "-c", "import torch; print(1, flush=True)"]
        with subprocess.Popen(ready, stdout=subprocess.PIPE) as process:
            process.stdout.read(1)
            start_torch += [time.perf_counter() - start] * (r >= warm)
        seconds = json.loads(
            subprocess.run([*command, "--json"], capture_output=True, check=True).stdout
        )["seconds"]
        work += [seconds["load"] + seconds["vision"] + seconds["prefill"]] * (r >= warm)
    measured = {"first_word_s": first, "import_torch_s": start_torch, "model_s": work}
    result = {name: middle(values)[0] for name, values in measured.items()}
    result["spread"] = {name: middle(values)[1] for name, values in measured.items()}
    return {
        **result,
        "over": result["first_word_s"] / (result["import_torch_s"] + result["model_s"]) - 1,
    }


def loading(args, dtype: str) -> dict:
    """Loads a sharded fp16 checkpoint, see benchmarks/loading.py: as it is, or converted to fp32."""
    from benchmarks.loading import make, measure

    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), 0.1 if args.quick else args.size)
        found = measure(folder, dtype, *((1, 0) if args.quick else (5, 1)))
    result: dict = {}
    for state, sides in found.items():
        for side, rows in sides.items():
            seconds, spread = middle(rows["seconds"])
            measured = {
                "seconds": seconds,
                "spread": spread,
                "peak_mb": middle(rows["peak"])[0] / 1e6,
            }
            result.setdefault(state, {})[side] = measured
        ours, theirs = result[state]["ours"], result[state]["transformers"]
        result[state]["ratio"] = theirs["seconds"] / ours["seconds"]
        result[state]["peak_ratio"] = ours["peak_mb"] / theirs["peak_mb"]
    return result


def on_gpu(run, rounds: int = 5) -> float:
    """Seconds of the best call, to the end of its kernels."""

    def whole():
        run()
        torch.cuda.synchronize()

    return seconds_of(whole, rounds)


def gpu_limits() -> tuple[float, float]:
    """Bytes read or written a second by a copy of 4 GiB, and bf16 operations a second of a product of 8192 x 8192."""
    a, b = (torch.empty(2**32, dtype=torch.uint8, device="cuda") for _ in range(2))
    bandwidth = 2 * a.nbytes / on_gpu(lambda: b.copy_(a), 20)
    c = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return bandwidth, 2 * 8192**3 / on_gpu(lambda: c @ c, 20)


def gpu(args) -> dict:
    """7B geometry with a ViT-L/14-336 tower, random weights, bf16, 640 places of context with the picture."""
    if not torch.cuda.is_available():
        return {"not measured": "no CUDA device here"}
    import transformers

    from nanollava import LLaVA, int8
    from nanollava.config import LlamaConfig, LlavaConfig, VisionConfig
    from nanollava.generate import compile_step, generate

    device, dtype, new = torch.device("cuda"), torch.bfloat16, 64 if args.quick else 128

    bandwidth, rate = gpu_limits()
    vision = VisionConfig(336, 14, 1024, 4096, 24, 16)
    with hf_load.uninitialized():
        ours = LLaVA(LlavaConfig(vision, LlamaConfig(), image_token_id=31999, eos_token_id=-1))
    state = {
        name: torch.randn(p.shape, device=device, dtype=dtype)
        * (p.shape[-1] ** -0.5 if p.ndim > 1 else 1)
        for name, p in ours.named_parameters()
    }
    ours.load_state_dict(state, strict=False, assign=True)
    ours = ours.to(device).eval()
    text = ours.config.text_config
    ids = torch.randint(5, 31000, (1, 640), generator=torch.Generator().manual_seed(0))
    ids[:, 8 : 8 + vision.num_patches] = ours.config.image_token_id
    ids, pixels = ids.to(device), torch.randn(1, 3, 336, 336, device=device, dtype=dtype)

    def ours_per_token(step) -> tuple[float, float, float]:
        """Seconds a token, seconds of the prefill with the picture, seconds of the first call."""
        start = time.perf_counter()
        generate(ours, ids, pixels, max_new_tokens=new, step=step)
        first, tokens, prefill = time.perf_counter() - start, [], []
        for _ in range(args.rounds):
            seconds: dict = {}
            generate(ours, ids, pixels, max_new_tokens=new, step=step, seconds=seconds)
            tokens.append(seconds["decode"] / (new - 1))
            prefill.append(seconds["vision"] + seconds["prefill"])
        return middle(tokens)[0], middle(prefill)[0], first

    token, prefill, first = ours_per_token(compile_step(ours))
    body = ours.language_model
    N = sum(p.numel() for p in body.parameters()) - body.model.embed_tokens.weight.numel()
    cache = 2 * text.num_hidden_layers * text.hidden_size * 2 * (640 + new / 2)
    S, L, D = 640, text.num_hidden_layers, text.hidden_size
    result = {
        "device": torch.cuda.get_device_name(),
        "bandwidth_tb_s": bandwidth / 1e12,
        "matmul_tflop_s": rate / 1e12,
        "decode_tokens_s": 1 / token,
        "decode_limit_tokens_s": bandwidth / (2 * N + cache),
        "decode_share": (2 * N + cache) / bandwidth / token,
        "compile_s": first,
        "prefill_ms": 1000 * prefill,
        "prefill_share": (2 * N * S + 2 * L * D * S**2 + 0.38e12) / rate / prefill,
        "decode_eager_tokens_s": 1 / ours_per_token(None)[0],
    }
    options = text.to_dict()
    torch.set_default_dtype(dtype)
    with device:
        theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**options)).eval()
    torch.set_default_dtype(torch.float32)
    theirs.load_state_dict(body.state_dict(), assign=True)
    words = ids.masked_fill(ids == ours.config.image_token_id, 7)
    for name, how in {
        "transformers_default": {},
        "transformers_static": {"cache_implementation": "static"},
    }.items():

        def run(count: int, how=how) -> None:
            asked = dict(
                max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0, **how
            )
            theirs.generate(input_ids=words, attention_mask=torch.ones_like(words), **asked)

        run(new), run(new)
        result[f"{name}_tokens_s"] = (new - 1) / (
            on_gpu(lambda: run(new), 3) - on_gpu(lambda: run(1), 3)
        )
    theirs = state = None
    int8.convert(body.model.layers)
    result["int8_tokens_s"] = 1 / ours_per_token(compile_step(ours))[0]
    result["int8_ratio"] = result["int8_tokens_s"] / result["decode_tokens_s"]
    return result


VIT_B = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    image_size=224,
)


def cases(args) -> list[tuple[str, str]]:
    """(row, variant) in the order of the table."""
    sizes, small, dtypes = tuple(DECODERS), tuple(DECODERS)[:1], tuple(DTYPES)
    variants = {"decode": sizes, "compile": sizes, "bf16": sizes, "compile-bf16": sizes}
    variants |= {"int8": sizes[1:], "llava": dtypes}
    if args.quick:
        variants = {
            "decode": sizes[:2],
            "compile": small,
            "bf16": small,
            "compile-bf16": (),
            "int8": (),
            "llava": dtypes[:1],
            "conversion": (),
        }
    return [
        (row, variant) for row in ROWS if row in args.rows for variant in variants.get(row, ("",))
    ]


def child(args, row: str, variant: str) -> dict:
    torch.set_num_threads(args.threads)
    if row in ("decode", "compile", "bf16", "compile-bf16"):
        return decode(args, variant, "bf16" if "bf16" in row else "fp32", "compile" in row)
    if row == "int8":
        return decode(args, variant, "fp32", True, rounded=True)
    if row == "llava":
        return decode(args, "29M", variant, False, VIT_B)
    if row in ("loading", "conversion"):
        return loading(args, "float16" if row == "loading" else "float32")
    return {
        "machine": machine,
        "cli": cli,
        "word": word,
        "batch": batch,
        "context": context,
        "gpu": gpu,
    }[row](args)


def line(row: str, variant: str, found: dict, rates: dict, tokens: int) -> str:
    """One line of the printed table; the limit is the prompt's products at the measured rate, then a reading of the
    weights for each further token, at the measured bandwidth."""
    name = f"{row} {variant}".strip()
    floor = FLOORS.get(row, {}).get(variant)
    if "tokens_s" in found.get("ours", {}):
        ours, theirs = (
            f"{found[s]['tokens_s']:8.1f} ({found[s]['spread']:.2f})" for s in ("ours", "theirs")
        )
        text = f"{ours} | {theirs} tokens/s | {found['ratio']:.2f}x" + (
            f", floor {floor}x" if floor else ""
        )
        text += f" | ids equal to token {found['equal_ids']}"
        if rates:
            kind = variant if row == "llava" else "bf16" if "bf16" in row else "fp32"
            reading = (tokens - 1) * found["bytes_a_token"] / rates["read_gb_s"] / 1e9
            limit = tokens / (
                reading + found["prefill_flop"] / rates[f"matmul_gflop_s_{kind}"] / 1e9
            )
            text += f" | limit {limit:.0f}, share {found['ours']['tokens_s'] / limit:.0%}"
        return f"{name:17} | {text}" + (
            f" | compiled in {found['compile_s']:.0f} s" if "compile_s" in found else ""
        )
    if row in ("loading", "conversion"):
        floor = "4x" if row == "loading" else "1x"
        parts = [f"floor {floor}, peak memory 0.75x"]
        for state in ("returned", "read"):
            sides = [found[state][side] for side in ("ours", "transformers")]
            text = " | ".join(
                f"{f['seconds']:.3f} s ({f['spread']:.2f}) {f['peak_mb']:.0f} MB" for f in sides
            )
            ratios = f"{found[state]['ratio']:.2f}x faster, peak {found[state]['peak_ratio']:.2f}x"
            parts.append(f"{state}: {text} | {ratios}")
        return f"{name:17} | " + " | ".join(parts)
    if row == "cli":
        sides = (
            f"{found[s]['seconds']:.2f} ({found[s]['spread']:.2f})" for s in ("ours", "theirs")
        )
        text = f"{' | '.join(sides)} s | {found['ratio']:.2f}x, floor 2x"
        return f"{name:17} | {text}"
    if row == "word":
        first, start, model = (
            f"{found[k]:.2f} s ({found['spread'][k]:.2f})"
            for k in ("first_word_s", "import_torch_s", "model_s")
        )
        text = f"first word {first} = import torch {start} + model {model}"
        return f"{name:17} | {text} {found['over']:+.0%}, floor +10%"
    if row == "batch":
        text = " | ".join(f"{n} {f['seconds']:.2f} s ({f['spread']:.2f})" for n, f in found.items())
        return f"{name:17} | {text}"
    if row == "context":
        return f"{name:17} | " + " | ".join(
            f"{n}: {f['ms']:.2f} ms ({f['spread']:.2f}), cache {f['cache_mb']:.0f} MB"
            for n, f in found.items()
        )
    return f"{name:17} | " + ", ".join(
        f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--quick", action="store_true", help="small models, few rounds and tokens")
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=None, help="default: 5; with --quick 2")
    parser.add_argument(
        "--tokens",
        type=int,
        default=None,
        help="new tokens of an answer; default: 64; with --quick 16",
    )
    parser.add_argument(
        "--size", type=float, default=1.0, help="gigabytes of the loading rows' checkpoint"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.tokens = args.tokens or (16 if args.quick else 64)
    if args.child:
        print(json.dumps(child(args, *args.child)))
        return
    args.rows = {"machine", *args.rows}  # the limits are the machine's
    if args.json and not Path(args.json).parent.is_dir():
        sys.exit(f"--json {args.json}: its directory is not there")
    root = Path(__file__).resolve().parent.parent
    setting = {
        "OMP_NUM_THREADS": str(args.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(root),
    }
    hardware = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    print(
        f"{time.strftime('%Y-%m-%d')}, {hardware}, {args.threads} thread(s); ours | transformers, spread in brackets"
    )
    figures: dict = {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware,
        "threads": args.threads,
        "rows": {},
    }
    for row, variant in cases(args):
        if args.quick:  # in this process: importing both libraries takes longer than the rows
            found = child(args, row, variant)
        else:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", row, variant]
            process = dict(cwd=root, env={**os.environ, **setting}, capture_output=True, text=True)
            done = subprocess.run(command, **process)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                raise SystemExit(f"{row} {variant}: the measurement failed")
            found = json.loads(done.stdout.splitlines()[-1])
        figures["rows"][f"{row} {variant}".strip()] = {
            **found,
            "floor": FLOORS.get(row, {}).get(variant),
        }
        print(
            line(row, variant, found, figures["rows"].get("machine", {}), args.tokens), flush=True
        )
        if args.json:  # after every row: what is measured is kept
            Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
