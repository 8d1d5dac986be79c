"""The shipped toy-llava: a batch of questions, and what quantization costs in accuracy."""

from nanollava import load
from nanollava.toyland.draw import draw
from nanollava.toyland.scenes import scenes
from nanollava.toyland.score import score

from .timing import Settings, show_seconds, summarize, take_turns

TOY = "checkpoints/toy-llava"
IMAGE_SIZE = 200  # pixels, as in Toyland's data set
NUM_QUESTIONS = 16
MAX_POINTS_LOST = {"int8": 1.0, "int4": 2.0}  # floors: fewer percentage points than these


def batch(settings: Settings, variant: str) -> dict:
    """Sixteen descriptions of Toyland scenes, computed together and one by one."""
    assistant = load(TOY, device="cpu")
    requests = []
    for scene in scenes("test", NUM_QUESTIONS, 0, unseen=False):
        requests.append((draw(scene, IMAGE_SIZE), "Describe the picture in detail."))
    max_new_tokens = 32 if settings.quick else 96
    answers = {}

    def run(batch_size: int) -> None:
        answers[batch_size] = assistant.batch(requests, batch_size, max_new_tokens=max_new_tokens)

    sides = {"together": lambda: run(NUM_QUESTIONS), "one by one": lambda: run(1)}
    seconds = take_turns(sides, rounds=1 if settings.quick else 3)
    assert answers[NUM_QUESTIONS] == answers[1], "a batch changes the answers"
    return {side: summarize(seconds[side]) for side in sides}


def describe_batch(result: dict, floor: float | None) -> str:
    return " | ".join(f"{side} {show_seconds(summary)}" for side, summary in result.items())


def run_score(settings: Settings, variant: str) -> dict:
    """Toyland's score in fp32, int8 and int4, in percent, and the points that each loses."""
    num_scenes = 6 if settings.quick else 300
    result = {"fp32": score_percent(None, num_scenes)}
    for name in MAX_POINTS_LOST:
        result[name] = score_percent(name, num_scenes)
        result[name]["points_lost"] = result["fp32"]["overall"] - result[name]["overall"]
    return result


def score_percent(quantize: str | None, num_scenes: int) -> dict[str, float]:
    """Exact answers on known and on unseen combinations, and facts of descriptions, in percent.

    All in trained wordings."""
    assistant = load(TOY, device="cpu", quantize=quantize)
    shares = score(assistant.model, assistant.tokenizer, assistant.image_config, num_scenes)
    detail = shares["detail"]["trained"]
    return {
        "overall": 100 * shares["overall"],
        "unseen_combinations": 100 * shares["unseen_combinations"]["overall"],
        "detail_precision": 100 * detail["precision"],
        "detail_recall": 100 * detail["recall"],
    }


def describe_score(result: dict, floor: float | None) -> str:
    parts = []
    for name, percent in result.items():
        unseen = f"unseen {percent['unseen_combinations']:.1f}%"
        recall = f"recall {percent['detail_recall']:.1f}%"
        text = f"{name} {percent['overall']:.1f}%, {unseen}, {recall}"
        if name in MAX_POINTS_LOST:
            lost = f"{percent['points_lost']:.2f} points lost"
            text += f", {lost}, floor: less than {MAX_POINTS_LOST[name]}"
        parts.append(text)
    return " | ".join(parts)
