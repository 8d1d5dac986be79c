"""What a training will take: parameters, memory, FLOPs, hours and traffic, from the config alone (`--plan`)."""

from dataclasses import replace
from pathlib import Path

from ..config import LlavaConfig
from ..data import read_records
from ..files import read_json
from ..hf import files as hf_files
from ..hf.config import parse_llama_config, parse_vision_config
from ..tokenizer import Tokenizer
from .settings import Settings, micro_batch

PARTS = ("vision_tower.", "multi_modal_projector.", "language_model.")


def parameters(config: LlavaConfig) -> dict[str, int]:
    """Numbers of parameters: of the three parts (`PARTS`), and of the LLM's `block`, `embedding` and `head`."""
    v, t = config.vision_config, config.text_config
    D, F, E, patch = v.hidden_size, v.intermediate_size, t.head_dim, 3 * v.patch_size**2
    tower = D * (1 + patch + v.num_patches + 1 + 4)
    tower += v.num_hidden_layers * (4 * D * D + 2 * D * F + 9 * D + F)
    W = (D + 1) * t.hidden_size + (config.projector != "linear") * (
        t.hidden_size + 1
    ) * t.hidden_size
    D, F = t.hidden_size, t.intermediate_size
    block = 2 * D * E * (t.num_attention_heads + t.num_key_value_heads) + 3 * D * F + 2 * D
    embedding, head = t.vocab_size * D, t.vocab_size * D * (not t.tie_word_embeddings)
    llm = t.num_hidden_layers * block + embedding + head + D
    parts = dict(zip(PARTS, (tower, W, llm), strict=True))
    return {**parts, "block": block, "embedding": embedding, "head": head}


def flops(
    config: LlavaConfig, trainable: dict, lengths: list[int], pictures: int, labelled: int
) -> dict:
    """FLOPs of a forward and backward pass over samples of `lengths` tokens with `pictures` in all, head and last MLP run on
    the `labelled` places: of the tower, then of the `forward` pass behind it, and of the gradients by inputs and by weights.
    A matrix takes 2 FLOPs per weight and token in each of the three, attention 4 per pair of tokens and width, half of
    them causal, and twice that backwards. Frozen weights need no gradient; behind a trained W inputs do, not before it.
    Activations that are computed again are not counted: MFU is of the work that must be done."""
    v, t, n = config.vision_config, config.text_config, parameters(config)
    P, D, depth = (
        v.num_patches,
        v.hidden_size,
        config.vision_feature_layer % (v.num_hidden_layers + 1),
    )
    per_block = 2 * (P + 1) * (4 * D * D + 2 * D * v.intermediate_size) + 4 * (P + 1) ** 2 * D
    tower = pictures * (2 * P * D * 3 * v.patch_size**2 + depth * per_block)
    W = 2 * pictures * P * n["multi_modal_projector."]
    linear_2 = 2 * pictures * P * t.hidden_size**2 * (config.projector != "linear")
    matrices = 2 * sum(lengths) * t.num_hidden_layers * n["block"] + 2 * labelled * n["embedding"]
    matrices -= (
        6 * (sum(lengths) - labelled) * t.hidden_size * t.intermediate_size
    )  # of the last block
    attention = (
        2 * t.num_hidden_layers * t.num_attention_heads * t.head_dim * sum(n**2 for n in lengths)
    )
    by_inputs, by_weights = (
        linear_2 + matrices + 2 * attention,
        W + matrices * trainable["language_model."],
    )
    return dict(
        tower=tower, forward=W + matrices + attention, by_inputs=by_inputs, by_weights=by_weights
    )


def activations(
    config: LlavaConfig, trainable: dict, tokens: int, size: int = 2
) -> tuple[int, int]:
    """Bytes that the backward pass of the decoder's blocks needs of `tokens` in all, `size` bytes each number: kept, and
    with every block run again (the blocks' inputs, and all of one block)."""
    t, trained = config.text_config, trainable["language_model."]
    D, F, E = t.hidden_size, t.intermediate_size, t.head_dim
    queries, keys = t.num_attention_heads * E, t.num_key_value_heads * E
    # Twice RMSNorm's input in float32; queries, keys, values and result of the attention; gate, silu(gate) and up. What is
    # trained also keeps RMSNorm's result in float32, and the inputs of its matrices.
    block = 8 * D + size * (2 * queries + 2 * keys + 3 * F) + trained * (8 * D + size * (2 * D + F))
    return tokens * t.num_hidden_layers * block, tokens * (t.num_hidden_layers * size * D + block)


def memory(config, trainable, gpus, micro, tokens, labelled, checkpointing, offload=False) -> dict:
    """Bytes on each GPU, bf16 over fp32 master weights: shards of weights, gradients and AdamW's two moments; weights and
    gradients gathered for a block ahead; activations and logits of `micro` samples of `tokens`."""
    n, tuned = parameters(config), trainable["language_model."]
    trained, root = (
        sum(n[p] for p in PARTS if trainable[p]),
        n[PARTS[1]] + n["embedding"] + n["head"],
    )
    states = dict(
        weights=4 * trained / gpus, gradients=4 * trained / gpus, optimizer=8 * trained / gpus
    )
    states = {name: size * (not offload) for name, size in states.items()}
    states["weights"] += 2 * n["vision_tower."] + 2 * n["language_model."] * (not tuned) / gpus
    states["gathered"] = 2 * (root + 2 * n["block"]) + 6 * max(root, n["block"]) * tuned
    states["activations"] = activations(config, trainable, micro * tokens)[checkpointing]
    return states | {"logits": 10 * micro * labelled * config.text_config.vocab_size}


def figures(
    config, trainable, gpus, batch, micro, tokens, samples, rate, offload=False
) -> dict[str, float]:
    """The plan: GiB on each GPU, blocks run again or kept; GB that each sends a step; hours at `rate` FLOP/s a GPU."""
    labelled = max(1, tokens - config.vision_config.num_patches)  # at the most
    given = config, trainable, gpus, micro, tokens, labelled
    kept, again = memory(*given, False, offload), memory(*given, True, offload)
    gib = {**again, "all": sum(again.values())}
    gib |= {"activations kept": kept["activations"], "all kept": sum(kept.values())}
    # For each micro-batch over a ring: bf16 weights gathered forwards, blocks again backwards, fp32 gradients scattered.
    n, rounds, depth = (
        parameters(config),
        -(-batch // (gpus * micro)),
        config.text_config.num_hidden_layers,
    )
    gathered = 2 * (n[PARTS[1]] + n[PARTS[2]] + depth * n["block"])  # bytes
    sent = (
        rounds * (gathered + 4 * sum(n[p] for p in PARTS if trainable[p])) * (gpus - 1) / gpus / 1e9
    )
    hours = (
        samples * sum(flops(config, trainable, [tokens], 1, labelled).values()) / gpus / rate / 3600
    )
    return {**{k: v / 2**30 for k, v in gib.items()}, "GB sent": sent, "hours": hours}


def of_run(args: Settings, trainable: dict) -> str:
    """The plan of a training script's flags."""
    values = read_json(Path(args.vision) / "config.json")
    vision = parse_vision_config(values.get("vision_config", values), args.vision)
    text = parse_llama_config(read_json(Path(args.llm) / "config.json"), args.llm)
    if (Tokenizer.from_pretrained(args.llm).image_token_id or text.vocab_size) == text.vocab_size:
        text = replace(
            text, vocab_size=(text.vocab_size // 64 + 1) * 64
        )  # as LLaVA.compose adds it
    new = args.projector in ("linear", "mlp2x_gelu")
    kind = (
        args.projector if new else hf_files.projector_kind(hf_files.projector_files(args.projector))
    )
    config = LlavaConfig(vision, text, kind, args.vision_layer, image_token_id=text.vocab_size - 1)
    given = args.max_steps and args.max_steps * args.batch
    samples = given or args.epochs * (args.samples or len(read_records(args.data)[0]))
    micro, rate = micro_batch(args, args.gpus), args.mfu * args.peak_tflops * 1e12
    given = config, trainable, args.gpus, args.batch, micro, args.tokens, samples, rate
    n, told = parameters(config), {True: "trained", False: "frozen"}
    rows = [
        f"{part.rstrip('.'):24} {n[part]:>20,} parameters, {told[trainable[part]]}"
        for part in PARTS
    ]
    passes = flops(config, trainable, [args.tokens], 1, max(1, args.tokens - vision.num_patches))
    rows += [f"{k:24} {v:>20.3e} FLOPs a sample of {args.tokens} tokens" for k, v in passes.items()]
    across = "; each node sends as many to the next" if args.nodes > 1 else ""
    units = {"GB sent": f"GB, by each GPU in a step{across}"}
    units |= {"hours": f"for {samples:,} samples, {rate:.2e} FLOP/s a GPU"}
    gib, found = f"GiB on each of {args.gpus} GPUs", figures(*given, args.offload_optimizer)
    return "\n".join(rows + [f"{k:24} {v:>20.3f} {units.get(k, gib)}" for k, v in found.items()])
