"""Scores a LLaVA on Toyland's held-out scenes: short questions by type, unseen combinations, detailed descriptions."""

import random

import torch

from ..conversation import IMAGE, encode, expand
from ..image import ImageConfig, preprocess
from ..llava import LLaVA
from ..tokenizer import Tokenizer
from .draw import draw
from .fit import pad
from .scenes import Scene, scenes
from .teacher import DETAIL_QUESTIONS, TYPES, detail, facts_told, questions, shares, stated

PICTURE = 200  # px, as in the data set


def normal(text: str) -> str:
    """For comparison: case and final punctuation do not count."""
    return text.strip().lower().rstrip(".!?").strip()


@torch.inference_mode()
def ask(model: LLaVA, tokenizer, image: ImageConfig, asked: list[tuple[Scene, str]], new: int) -> list[str]:
    """Greedy answers to one question about one scene each, in batches."""
    W, config, answers = model.multi_modal_projector.linear_1.weight, model.config, []
    for part in (asked[i : i + 64] for i in range(0, len(asked), 64)):
        turns = [{"from": "human", "value": f"{IMAGE}\n{question}"} for _, question in part]
        places = config.image_token_id, config.vision_config.num_patches
        rows = [expand(*encode([turn], tokenizer), *places)[0] for turn in turns]
        pixel_values = torch.stack([preprocess(draw(scene, PICTURE), image) for scene, _ in part])
        lengths = torch.tensor([len(r) for r in rows], device=W.device)
        batch = pad(rows, 0).to(W.device), pixel_values.to(W.device, W.dtype)
        found = model.generate(*batch, max_new_tokens=new, lengths=lengths)
        answers += [tokenizer.decode(row) for row in found]
    return answers


def short_questions(model, tokenizer, image, pool: list[Scene], rng: random.Random) -> dict[str, list[bool]]:
    """Right or wrong by type: one question of every type that a scene allows."""
    chosen = []
    for scene in pool:
        found = questions(facts_told(scene, rng), rng).values()
        chosen += [(scene, rng.choice(qas)) for qas in found if qas]
    answers = ask(model, tokenizer, image, [(scene, qa.question) for scene, qa in chosen], 32)
    result: dict[str, list[bool]] = {}
    for (_, qa), answer in zip(chosen, answers, strict=True):
        result.setdefault(qa.type, []).append(normal(answer) == normal(qa.answer))
    return result


def score(model: LLaVA, tokenizer: Tokenizer, image: ImageConfig, count: int = 300, seed: int = 0) -> dict:
    """`overall`, `types`, `unseen_combinations` (shares of exact answers) and `detail` (precision and recall of facts)."""
    rng = random.Random(f"score/{seed}")
    pool = list(scenes("test", count, seed, unseen=False))
    pools = pool, list(scenes("test", count // 2, seed, unseen=True))
    right = [short_questions(model, tokenizer, image, p, rng) for p in pools]
    asked = [(scene, rng.choice(DETAIL_QUESTIONS)) for scene in pool[: count // 3]]
    claims = [stated(text) for text in ask(model, tokenizer, image, asked, 128)]
    facts = [stated(detail(facts_told(scene, rng))) for scene, _ in asked]
    true = sum(len(said & known) for said, known in zip(claims, facts, strict=True))
    said, there = sum(map(len, claims)), sum(map(len, facts))
    known, new = map(shares, right)
    seen, unseen = (sum(map(len, by_type.values())) for by_type in right)
    return {
        "overall": known.pop("overall"),
        "types": known,
        "unseen_combinations": new.pop("overall"),
        "unseen_types": new,
        "detail": {"precision": true / max(1, said), "recall": true / max(1, there)},
        "questions": {"seen": seen, "unseen": unseen},
    }


def table(result: dict) -> str:
    """The score as lines of text."""
    lines = [f"{'type':14} {'test':>7} {'unseen':>7}   exact answers, %"]
    for kind in TYPES:
        seen, unseen = (100 * result[part].get(kind, float("nan")) for part in ("types", "unseen_types"))
        lines.append(f"{kind:14} {seen:7.1f} {unseen:7.1f}")
    lines.append(f"{'overall':14} {100 * result['overall']:7.1f} {100 * result['unseen_combinations']:7.1f}")
    lines.append("{:14} {seen:7} {unseen:7}".format("questions", **result["questions"]))
    told = "detailed descriptions: {precision:.1%} of the facts stated are true, {recall:.1%} of the facts are stated"
    return "\n".join([*lines, told.format(**result["detail"])])
