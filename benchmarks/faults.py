"""Kills a training at random moments, lets it go on, and compares the result with an undisturbed run, bit by bit.

python -m benchmarks.faults                        # 20 kill -9 in each stage, one process
python -m benchmarks.faults --kills 5 --ranks 2    # torchrun
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file

from nanollava.hf import files as hf_files
from nanollava.hf import names as hf_names

SMALL = dict(hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4)


def world(path: Path) -> None:
    """A tiny random CLIP, a tiny random Llama with Toyland's tokenizer, and a little data."""
    from nanollava.config import LlamaConfig, VisionConfig
    from nanollava.files import write_json
    from nanollava.hf.config import llama_config_json, vision_config_json
    from nanollava.image import ImageConfig
    from nanollava.llama import Llama
    from nanollava.toyland import data
    from nanollava.toyland.pretrain import make_tokenizer
    from nanollava.vit import CLIPVisionTransformer

    torch.manual_seed(0)
    tokenizer = make_tokenizer(0)
    vision = VisionConfig(**SMALL, image_size=40, patch_size=10)
    text = LlamaConfig(len(tokenizer), **SMALL, max_position_embeddings=512)
    for name, module, layout, values in (
        ("clip", CLIPVisionTransformer(vision), hf_names.CLIP_VISION, vision_config_json(vision)),
        ("llama", Llama(text), hf_names.LLAMA, llama_config_json(text)),
    ):
        (path / name).mkdir(parents=True)
        write_json(path / name / "config.json", values)
        hf_files.save(module.state_dict(), path / name, layout)
    ImageConfig(40).save_pretrained(path / "clip")
    tokenizer.save_pretrained(path / "llama")
    data.write(path / "data", train=60, validation=4, size=64)


def command(path: Path, stage: str, out: Path, ranks: int, steps: int, *flags: str) -> list[str]:
    torchrun = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
        if ranks > 1
        else []
    )
    projector = ["--projector", path / "out-align-whole"] if stage == "instruct" else []
    given = [
        "--vision",
        path / "clip",
        "--llm",
        path / "llama",
        "--data",
        path / f"data/{stage}.json",
        "--out",
        out,
        "--batch",
        4,
        "--lr",
        1e-3,
        "--max-steps",
        steps,
        "--device",
        "cpu",
        "--save-dtype",
        "fp32",
        "--save-steps",
        3,
        "--max-length",
        512,
    ]
    return [sys.executable, *torchrun, f"train_{stage}.py", *map(str, [*given, *projector, *flags])]


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def kill(job: subprocess.Popen) -> None:
    """kill -9 of a run: of torchrun, if it is one, and of its workers, each of which has a session of its own."""
    found = subprocess.run(
        ["pgrep", "-P", str(job.pid)], capture_output=True, text=True
    ).stdout.split()
    for process in (job.pid, *map(int, found)):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def inode(path: Path) -> int:
    """Another one when a run begins or goes on, for it replaces the file; 0 before there is any."""
    return path.stat().st_ino if path.is_file() else 0


def writing(out: Path, since: float) -> bool:
    """Whether the run that began at `since` is writing a checkpoint, or was when it was killed."""
    with suppress(FileNotFoundError):  # one was renamed meanwhile
        return any(x.stat().st_mtime >= since for x in (out / "checkpoints").glob("*.partial"))
    return False


def lines(path: Path) -> int:
    """Steps that metrics.jsonl holds."""
    return path.read_text().count("\n") if path.is_file() else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="in each stage")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    os.environ |= {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        world(path)
        for stage, file in (
            ("align", "mm_projector.safetensors"),
            ("instruct", "model.safetensors"),
        ):
            whole, broken = path / f"out-{stage}-whole", path / f"out-{stage}-broken"
            begin = time.perf_counter()
            run(command(path, stage, whole, args.ranks, args.steps))
            undisturbed = time.perf_counter() - begin
            seconds = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
            where, finished, kinds = (
                [],
                0,
                dict.fromkeys(("starting", "training", "writing a checkpoint"), 0),
            )
            while len(where) < args.kills:
                since = time.time()
                job = subprocess.Popen(
                    command(path, stage, broken, args.ranks, args.steps),
                    start_new_session=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
                # A moment at random: while it starts or loads, or some steps on, within or after a step or a save.
                metrics = broken / "metrics.jsonl"
                begin, target = inode(metrics), rng.randint(-1, 2 + args.steps // args.kills)
                while job.poll() is None and target >= 0 and inode(metrics) == begin:
                    time.sleep(0.002)
                target += lines(metrics)
                while job.poll() is None and inode(metrics) != begin and lines(metrics) < target:
                    time.sleep(0.002)
                if inode(metrics) == begin:
                    time.sleep(rng.uniform(0, 5))
                elif rng.random() < 0.7:
                    time.sleep(rng.uniform(0, 3 * seconds / args.steps))
                else:  # within the next checkpoint
                    while job.poll() is None and not writing(broken, since):
                        time.sleep(0.0005)
                    time.sleep(rng.uniform(0, 0.03))
                if job.poll() is None:
                    kill(job)
                errors = job.communicate()[1].decode()
                if job.returncode == -signal.SIGKILL:
                    where.append(lines(metrics))
                    started, *later = kinds
                    kinds[
                        started if inode(metrics) == begin else later[writing(broken, since)]
                    ] += 1
                else:  # it was done first: all is taken away, and it begins anew
                    assert job.returncode == 0, errors
                    finished += 1
                    shutil.rmtree(broken)
            run(command(path, stage, broken, args.ranks, args.steps))
            one, other = load_file(whole / file), load_file(broken / file)
            same = one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
            steps = [
                json.loads(line)["step"]
                for line in (broken / "metrics.jsonl").read_text().splitlines()
            ]
            losses = [
                [
                    json.loads(line)["loss"]
                    for line in (run / "metrics.jsonl").read_text().splitlines()
                ]
                for run in (whole, broken)
            ]
            once = steps == list(range(args.steps)) and losses[0] == losses[1]
            print(
                f"{stage}: {len(where)} kills {kinds}, after steps {where}; {finished} runs finished before; weights "
                f"{'bit-identical' if same else 'DIFFERENT'}, every step {'once' if once else 'NOT ONCE'} in metrics.jsonl "
                f"with the same loss; the undisturbed run took {undisturbed:.1f} s",
                flush=True,
            )
            if not (same and once):
                sys.exit(1)


if __name__ == "__main__":
    main()
