"""Compare tokenizer and templates with the original LLaVA, given the real LLaMA tokenizer.

python -m benchmarks.golden --tokenizer tokenizer.model --conversations conversation_tokens.jsonl

Every line of the second file is an object with `template`, `legacy`, `conversations`, and the
`input_ids` and `labels` that the original code gives.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from nanollava.conversation import encode
from nanollava.errors import UserError, run
from nanollava.files import read_json_lines, write_json
from nanollava.tokenizer import Tokenizer


def load_tokenizer(file: str, legacy: bool) -> Tokenizer:
    """The sentencepiece tokenizer with this value of `legacy`."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(file, Path(folder) / "tokenizer.model")
        write_json(Path(folder) / "tokenizer_config.json", {"legacy": legacy})
        return Tokenizer.from_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.golden",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--tokenizer", required=True, help="sentencepiece tokenizer.model")
    parser.add_argument(
        "--conversations",
        required=True,
        help="JSONL file of conversations with their ids and labels",
    )
    args = parser.parse_args()
    tokenizers = {
        True: load_tokenizer(args.tokenizer, legacy=True),
        False: load_tokenizer(args.tokenizer, legacy=False),
    }
    num_equal = Counter()
    num_all = Counter()
    for _, row in read_json_lines(args.conversations):
        tokenizer = tokenizers[row["legacy"]]
        ids, labels = encode(row["conversations"], tokenizer, row["template"])
        case = f"{row['template']}, legacy {row['legacy']}"
        num_all[case] += 1
        if ids == row["input_ids"] and labels == row["labels"]:
            num_equal[case] += 1
    if not num_all:
        raise UserError(f"--conversations {args.conversations}: no conversation in it")
    for case in sorted(num_all):
        print(f"{case:25} {num_equal[case]:4} of {num_all[case]:4} equal")
    if num_equal != num_all:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
