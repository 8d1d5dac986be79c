"""Scores a LLaVA on Toyland's held-out scenes: short questions by type, unseen combinations, detailed descriptions."""

import random

import torch

from ..conversation import IMAGE, encode, expand
from ..image import ImageConfig, preprocess
from ..llava import LLaVA
from ..tokenizer import Tokenizer
from .captions import boxes, captions
from .draw import draw
from .scenes import Scene, scenes
from .teacher import DETAIL_QUESTIONS, TYPES, facts_of, questions, read, stated

PICTURE = 200  # px, as in the data set


def normal(text: str) -> str:
    """For comparison: case and final punctuation do not count."""
    return text.strip().lower().rstrip(".!?").strip()


@torch.inference_mode()
def ask(model: LLaVA, tokenizer, image: ImageConfig, asked: list[tuple[Scene, str]], new: int) -> list[str]:
    """Greedy answers to one question about one scene each, in batches."""
    W = model.multi_modal_projector.linear_1.weight
    device, dtype = W.device, W.dtype
    answers = []
    for i in range(0, len(asked), 64):
        rows, pixels = [], []
        for scene, question in asked[i : i + 64]:
            ids, labels = encode([{"from": "human", "value": f"{IMAGE}\n{question}"}], tokenizer)
            patches = model.config.vision_config.num_patches
            rows.append(torch.tensor(expand(ids, labels, model.config.image_token_id, patches)[0]))
            pixels.append(preprocess(draw(scene, PICTURE), image))
        lengths = torch.tensor([len(r) for r in rows], device=device)
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        pixel_values = torch.stack(pixels).to(device, dtype)
        found = model.generate(ids, pixel_values, max_new_tokens=new, lengths=lengths)
        answers += [tokenizer.decode(row) for row in found]
    return answers


def short_questions(model, tokenizer, image, pool: list[Scene], rng: random.Random) -> dict[str, list[bool]]:
    """Right or wrong by type: one question of every type that a scene allows."""
    asked, wanted = [], []
    for scene in pool:
        found = questions(read(captions(scene, rng), boxes(scene)), rng)
        for qas in found.values():
            if qas:
                qa = rng.choice(qas)
                asked.append((scene, qa.question))
                wanted.append(qa)
    result: dict[str, list[bool]] = {}
    for qa, answer in zip(wanted, ask(model, tokenizer, image, asked, 32), strict=True):
        result.setdefault(qa.type, []).append(normal(answer) == normal(qa.answer))
    return result


def score(model: LLaVA, tokenizer: Tokenizer, image: ImageConfig, count: int = 300, seed: int = 0) -> dict:
    """`overall`, `types`, `unseen_combinations` (shares of exact answers) and `detail` (precision and recall of facts)."""
    rng = random.Random(f"score/{seed}")
    seen = list(scenes("test", count, seed, unseen=False))
    unseen = list(scenes("test", count // 2, seed, unseen=True))
    by_type = short_questions(model, tokenizer, image, seen, rng)
    new = short_questions(model, tokenizer, image, unseen, rng)
    told = [(scene, rng.choice(DETAIL_QUESTIONS)) for scene in seen[: count // 3]]
    true = said = known = 0
    for (scene, _), text in zip(told, ask(model, tokenizer, image, told, 128), strict=True):
        claims, facts = stated(text), facts_of(read(captions(scene, rng), boxes(scene)))
        true, said, known = true + len(claims & facts), said + len(claims), known + len(facts)

    def share(results: dict[str, list[bool]]) -> float:
        return sum(map(sum, results.values())) / sum(map(len, results.values()))

    return {
        "overall": share(by_type),
        "types": {kind: sum(values) / len(values) for kind, values in by_type.items()},
        "unseen_combinations": share(new),
        "unseen_types": {kind: sum(values) / len(values) for kind, values in new.items()},
        "detail": {"precision": true / max(1, said), "recall": true / max(1, known)},
        "questions": {"seen": sum(map(len, by_type.values())), "unseen": sum(map(len, new.values()))},
    }


def table(result: dict) -> str:
    """The score as lines of text."""
    count = result["questions"]
    lines = [f"{'type':14} {'test':>7} {'unseen':>7}   exact answers, %"]
    for kind in TYPES:
        shares = (result[part].get(kind, float("nan")) for part in ("types", "unseen_types"))
        lines.append(f"{kind:14} " + " ".join(f"{100 * share:7.1f}" for share in shares))
    lines.append(f"{'overall':14} {100 * result['overall']:7.1f} {100 * result['unseen_combinations']:7.1f}")
    lines.append(f"{'questions':14} {count['seen']:7} {count['unseen']:7}")
    detail = result["detail"]
    true, known = (f"{100 * detail[part]:.1f}%" for part in ("precision", "recall"))
    lines.append(
        f"detailed descriptions: {true} of the facts stated are true, {known} of the facts are stated"
    )
    return "\n".join(lines)
