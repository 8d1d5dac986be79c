"""Target: the records of a data file, from the check before training to the batches."""

from benchmarks.fuzz.case import Case, Wrong, expect
from benchmarks.fuzz.mutate import changed_json
from benchmarks.fuzz.world import NUM_PATCHES
from nanollava.conversation import IGNORE_INDEX, IMAGE_POSITIONS, TEMPLATES
from nanollava.data import InstructionData, collate, image_names
from nanollava.errors import UserError

RECORDS = [
    {
        "id": "1",
        "image": "a.jpg",
        "conversations": [
            {"from": "human", "value": "What is it?\n<image>"},
            {"from": "gpt", "value": "a cat"},
        ],
    },
    {
        "id": "2",
        "image": ["b.png", "sub/d.jpg"],
        "conversations": [
            {"from": "user", "value": "<image><image> compare"},
            {"from": "assistant", "value": "Two."},
            {"from": "human", "value": "Why?"},
            {"from": "gpt", "value": "Because. é 日本"},
        ],
    },
    {
        "id": "3",
        "conversations": [
            {"from": "human", "value": "Hello"},
            {"from": "gpt", "value": "Hi there"},
        ],
    },
]


def records(case: Case) -> None:
    """A record that has passed the check can be trained on, and its labels are its answers'."""
    path = case.write("data.json", changed_json(case.rng, RECORDS))
    template = case.rng.choice(list(TEMPLATES))
    max_length = case.rng.choice((1, 10, 30, 60, 100, 256))
    image_position = case.rng.choice(IMAGE_POSITIONS)
    case.note = f"{template}, at most {max_length} tokens, image {image_position}"
    data = InstructionData(
        path,
        case.world.images,
        case.world.tokenizer,
        case.world.image_config,
        case.world.tokenizer.image_token_id,
        NUM_PATCHES,
        template,
        max_length,
        image_position,
    )
    errors = data.check(range(len(data)), open_images=True)
    data.leave_out(errors, skip_bad=True)
    data.groups()
    samples = []
    for index in range(len(data)):
        try:
            samples.append(data[index])
        except UserError as error:
            raise Wrong(f"passed the check, and fails later: {error}") from None
        check_sample(case, data, index, samples[-1])
    collate(samples)


def check_sample(case: Case, data: InstructionData, index: int, sample: dict) -> None:
    """Ids, labels and images of a sample, by its record."""
    ids = sample["input_ids"]
    labels = sample["labels"]
    is_trained = labels != IGNORE_INDEX
    num_images = len(image_names(data.record(index)))
    image_token_id = case.world.tokenizer.image_token_id
    expect(len(ids) == len(labels) <= data.max_length, "too many tokens")
    expect(bool((labels[is_trained] == ids[is_trained]).all()), "labels that are no ids")
    expect(bool(is_trained[1:].any()), "nothing is trained")
    expect(int(ids.max()) < len(case.world.tokenizer), "an id beyond the vocabulary")
    num_image_tokens = int((ids == image_token_id).sum())
    expect(num_image_tokens == NUM_PATCHES * num_images, "not one place for every patch")
    expect(len(sample.get("pixel_values", ())) == num_images, "not one tensor for every image")
    expect(not bool(is_trained[ids == image_token_id].any()), "an image is trained")


TARGETS = {"records": records}
