"""Holds tokenizer and templates against the original LLaVA's ids and labels, for whoever has the real LLaMA tokenizer.

python -m benchmarks.golden --tokenizer tokenizer.model --conversations conversation_tokens.jsonl

Every line of the file is an object with `template`, `legacy`, `conversations`, `input_ids` and `labels`.
"""

import argparse
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from nanollava.conversation import encode
from nanollava.tokenizer import Tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--tokenizer", required=True, help="sentencepiece tokenizer.model")
    parser.add_argument("--conversations", required=True, help="JSONL")
    args = parser.parse_args()
    tokenizers = {}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(args.tokenizer, Path(folder) / "tokenizer.model")
        for legacy in (True, False):
            (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"legacy": legacy}))
            tokenizers[legacy] = Tokenizer.from_pretrained(folder)
    equal, asked = Counter(), Counter()
    for line in Path(args.conversations).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        key = f"{row['template']}, legacy {row['legacy']}"
        found = encode(row["conversations"], tokenizers[row["legacy"]], row["template"])
        asked[key] += 1
        equal[key] += found == (row["input_ids"], row["labels"])
    for key in sorted(asked):
        print(f"{key:25} {equal[key]:4} of {asked[key]:4} equal")


if __name__ == "__main__":
    main()
