"""How the evaluations ask a LLaVA: jobs that `endpoint.run_jobs` keeps."""

from pathlib import Path

from nanollava.conversation import IMAGE
from nanollava.device import DTYPES, pick_device
from nanollava.generate import answer
from nanollava.image import ImageConfig
from nanollava.llava import LLaVA
from nanollava.tokenizer import Tokenizer


def llava_job(args, prompt: str, image: str | None) -> dict:
    """A job of `ask_llava`; it knows the model's files by their time, so that a new model does not find old answers."""
    files = sorted((path.name, path.stat().st_mtime) for path in Path(args.model).glob("*"))
    return {
        "prompt": prompt,
        "image": image,
        "model": [args.model, files, args.template, args.max_new_tokens],
    }


def ask_llava(args, picture):
    """Asks jobs as `endpoint.run_jobs` wants it, greedily; `picture` opens what a job calls "image", unless it is None."""

    def ask(jobs: dict):
        model = LLaVA.from_pretrained(
            args.model, pick_device(args.device), DTYPES[args.dtype], args.vision
        )
        tokenizer = Tokenizer.from_pretrained(args.model)
        config = ImageConfig.from_pretrained(args.model, size=model.config.vision_config.image_size)
        options = dict(template=args.template, max_new_tokens=args.max_new_tokens)
        for part in (list(jobs)[i : i + 64] for i in range(0, len(jobs), 64)):
            asked = []
            for name in part:
                seen = [picture(jobs[name]["image"])] if jobs[name]["image"] else []
                question = f"{IMAGE}\n" * len(seen) + jobs[name]["prompt"].replace(IMAGE, "")
                asked.append((seen, [{"from": "human", "value": question}]))
            for name, text in zip(
                part, answer(model, tokenizer, config, asked, **options), strict=True
            ):
                yield name, text, [0, 0]

    return ask
