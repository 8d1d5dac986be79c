"""The comparison of connectors at a tiny scale: runs, resume, tables, two images, figures."""

import io
import json
import runpy
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import transformers
from conftest import IMAGE_TOKEN, randomise, text_config, vision_config

from nanollava.config import CONNECTORS, ConnectorConfig, LlamaConfig, LlavaConfig, VisionConfig
from nanollava.errors import UserError
from nanollava.evals.connectors import __main__ as program
from nanollava.evals.connectors import data, figures, runs, table
from nanollava.evals.connectors.rows import ROWS, STAGE_1_RATES, STAGE_2_RATES
from nanollava.image import ImageConfig
from nanollava.loading import llava_class
from nanollava.toyland.pretrain import make_tokenizer
from nanollava.toyland.scenes import scenes
from nanollava.training import plan

# A whole run of the program


def run_in_this_process(command: list[str], **options) -> SimpleNamespace:
    """What subprocess.run does with a training program, without starting Python."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
        is_module = command[1] == "-m"
        patch.setattr(sys, "argv", command[2:] if is_module else command[1:])
        try:
            if is_module:
                runpy.run_module(command[2], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(command[1], run_name="__main__")
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
    return SimpleNamespace(returncode=0, stdout="", stderr="")


def one_after_another(function, parallel, jobs: dict) -> list:
    """`in_parallel` without threads: a training that runs in this process needs the main one."""
    assert parallel == 3  # as the flag says
    return [(name, function(job)) for name, job in jobs.items()]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two rows compared with a tiny random tower and language model; and a rerun of it."""
    path = tmp_path_factory.mktemp("world")
    transformers.set_seed(0)
    randomise(transformers.CLIPVisionModel(vision_config())).save_pretrained(path / "clip")
    ImageConfig(32).save_pretrained(path / "clip")
    tokenizer = make_tokenizer(0)
    config = text_config(
        vocab_size=len(tokenizer), max_position_embeddings=4096, num_hidden_layers=1
    )
    randomise(transformers.LlamaForCausalLM(config)).save_pretrained(path / "llama")
    tokenizer.save_pretrained(path / "llama")
    argv = ["program", "run", "--out", f"{path}/out", "--samples", "10", "--batch", "4"]
    argv += ["--vision", f"{path}/clip", "--llm", f"{path}/llama", "--count", "3"]
    argv += ["--rows", "gated_xattn-16", "minigpt4-16", "--parallel", "3"]
    outputs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        patch.setattr(subprocess, "run", run_in_this_process)
        patch.setattr(program, "in_parallel", one_after_another)
        patch.setattr(runs.natural_score, "replies", lambda *parts: [])  # its answers are long
        summary = {"overall": 0.25, "types": {"count": 0.25}, "questions": {"count": 4}}
        patch.setattr(runs.natural_score, "summarize", lambda answered: summary)
        for _ in range(2):
            output = io.StringIO()
            with redirect_stdout(output):
                program.main()
            outputs.append(output.getvalue())
            patch.setattr(subprocess, "run", None)  # the rerun must not train
    return path / "out", outputs


def test_a_rerun_trains_nothing_and_says_the_same(compared):
    _, (first, again) = compared
    assert first == again


@pytest.mark.parametrize("row", ["gated_xattn-16", "minigpt4-16"])
def test_every_rate_is_tried_and_the_best_goes_on(compared, row):
    """Stage 1's by its own loss; stage 2's after that stage 1, for each language model."""
    out, _ = compared

    def best(rates: tuple[float, ...], folders: str) -> float:
        losses = {}
        for rate in rates:
            *_, last = runs.logged_steps(out / row / folders.format(rate))
            losses[rate] = last["validation_loss"]
        return min(losses, key=losses.get)

    stage_1_rate = best(STAGE_1_RATES, "{:g}-10-0/align")
    results = [result for result in runs.all_results(out) if result["row"] == row]
    assert len(results) == 2
    for result in results:
        folders = f"{stage_1_rate:g}-10-0/{result['language_model']}-{{:g}}"
        stage_2_rate = best(STAGE_2_RATES, folders)
        assert result["rates"] == [stage_1_rate, stage_2_rate]


def test_one_pass_over_the_training_set(compared):
    out, _ = compared
    for result in runs.all_results(out):
        stage_1_rate, stage_2_rate = result["rates"]
        folder = out / result["row"] / f"{stage_1_rate:g}-10-0"
        for stage in ("align", f"{result['language_model']}-{stage_2_rate:g}"):
            assert len(runs.logged_steps(folder / stage)) == 10 // 4


def test_a_result_has_what_the_tables_need(compared):
    out, (text, _) = compared
    assert "| minigpt4-16 | 16 |" in text
    for result in runs.all_results(out):
        assert 0 <= result["plain"]["overall"] <= 1
        if result["language_model"] == "frozen":
            continue
        assert 0 <= result["two_images"] <= 1
        assert result["flops"] > result["flops_frozen"] > 0 and result["seconds"] > 0
        is_gated = result["row"] == "gated_xattn-16"
        assert ("own_stage_seconds" in result) == (not is_gated)
        assert result["image_tokens"] == (1 if is_gated else 16)
        if not is_gated:
            assert result["connector_parameters"] == 64 * 64 + 64  # the linear map alone
            assert result["trained_parameters"] > result["connector_parameters"]


def test_figures_are_drawn_from_the_runs(compared, monkeypatch, tmp_path):
    out, _ = compared
    monkeypatch.setattr(
        sys, "argv", ["program", "figures", "--out", str(out), "--to", str(tmp_path)]
    )
    program.main()
    names = {path.name.split("-")[0] for path in tmp_path.glob("*.*")}
    assert names == {"qformer_masks.png", "image_masks.png", "gates", "queries"}
    curves, last_of_stage_1 = figures.gates_of(runs.largest_models(out)["gated_xattn-16"])
    assert last_of_stage_1 == 2
    for curve in curves.values():
        assert [step for step, _ in curve] == [0, 1, 2, 3, 4]
        assert [value != 0 for _, value in curve] == [False, True, True, True, True]


def test_a_row_that_does_not_exist_ends_it_before_anything_is_written(tmp_path, monkeypatch):
    argv = ["program", "run", "--out", str(tmp_path / "out"), "--rows", "perceiver"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(UserError, match=r"--rows perceiver: expected some of linear, mlp2x_gelu"):
        program.main()
    assert not (tmp_path / "out").exists()


def test_a_rate_at_which_the_training_diverges_is_not_chosen():
    def train(stage_1, settings) -> float:
        if stage_1.rate == 3.0:
            raise UserError("train_align.py: error: step 3 (from 0): the loss is nan, ...")
        return {1.0: 0.4, 2.0: 0.3}[stage_1.rate]

    candidates = [runs.Stage1(ROWS[0], rate, 10, 0) for rate in (1.0, 2.0, 3.0)]
    assert program.best_rate(candidates, train, None) == 2.0


def test_rates_are_chosen_on_the_middle_size():
    for samples, middle in (([500, 2000, 8000], 2000), ([10], 10), ([10, 20], 10)):
        assert program.middle_size(SimpleNamespace(samples=samples)) == middle


def test_a_training_that_fails_is_one_line(tmp_path, monkeypatch):
    failed = SimpleNamespace(returncode=2, stderr="a warning\nerror: no such file\n")
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: failed)
    with pytest.raises(UserError, match=r"^train_align.py --out .*: error: no such file$"):
        runs.call(["train_align.py"], tmp_path, [])


def test_rows_at_the_same_time_share_one_qformer_stage(tmp_path, monkeypatch):
    """The second row waits for the first one, and then does not train it again."""
    settings = runs.Settings(tmp_path, "clip", "vicuna", [10], batch=4, count=5, dtype="fp32")
    num_trainings = 0

    def run_program(*command):
        nonlocal num_trainings
        num_trainings += 1
        time.sleep(0.1)
        out = Path(command[command.index("--out") + 1])
        out.mkdir(parents=True)
        (out / "MADE_BY.txt").touch()

    monkeypatch.setattr(runs, "run_on_one_thread", run_program)
    rows = {row.name: row for row in ROWS if row.has_qformer_stage}
    folders = program.in_parallel(
        lambda row: runs.qformer_stage(runs.Stage1(row, 0.01, 10, 0), settings),
        len(rows),
        rows,
    )
    assert len(set(dict(folders).values())) == 1
    assert num_trainings == 1


def test_a_directory_belongs_to_its_settings(tmp_path):
    settings = runs.Settings(tmp_path, "clip", "vicuna", [10], batch=4, count=5, dtype="fp32")
    runs.check_settings(settings)
    runs.check_settings(settings)
    with pytest.raises(UserError, match="has results with batch 4, now 9; use the same settings"):
        runs.check_settings(replace(settings, batch=9))


def test_a_directory_of_an_earlier_version_is_refused(tmp_path):
    """It has other rates, and its results would be mixed with new ones."""
    settings = runs.Settings(tmp_path, "clip", "vicuna", [10], batch=4, count=5, dtype="fp32")
    runs.check_settings(settings)
    file = tmp_path / "settings.json"
    recorded = json.loads(file.read_text())
    del recorded["rates"]
    file.write_text(json.dumps(recorded))
    with pytest.raises(UserError, match="has results with rates 'unknown', now"):
        runs.check_settings(settings)


# Questions about two images


def test_the_kind_asked_for_is_in_one_of_the_two_images():
    pool = list(scenes("train", 30, 0))
    for record in data.two_image_records(20, 30, seed=0):
        question, answer = (turn["value"] for turn in record["conversations"])
        kind = question.removesuffix("?").split()[-1]
        shows = []
        for name in record["image"]:
            index = int(name.removeprefix("images/train_").removesuffix(".jpg"))
            shows.append(bool(pool[index].of_kind(kind)))
        assert shows == [answer == data.ANSWERS[0], answer == data.ANSWERS[1]]


def test_right_answers_about_two_images_score_1(monkeypatch):
    asked = []

    def always_the_first(model, tokenizer, image_config, prompts, **options):
        asked.extend(prompts)
        return ["The first picture."] * len(prompts)

    monkeypatch.setattr(data, "answer_dialogues", always_the_first)
    share = data.two_image_score(None, None, None, count=12)
    assert 0.2 < share < 0.8  # right where the first image shows it
    assert all(len(images) == 2 for images, _ in asked)


# Tables and figures


def made_up(row: str, score: float, **changes) -> dict:
    result = {
        "row": row,
        "rates": [0.005, 0.0015],
        "samples": 100,
        "seed": 0,
        "language_model": "trained",
        "plain": {"overall": score, "color": score},
        "score": {
            "overall": 0.2,
            "types": {"color": 0.15, "outside": 0.25},
            "detail": {"plain": {"precision": 0.5, "recall": 0.25}},
        },
        "natural": {
            "overall": 0.1,
            "types": {"count": 0.5, "what": 0.0},
            "questions": {"count": 6, "what": 3, "follow-up": 0},
        },
        "two_images": 0.5,
        "image_tokens": 16,
        "connector_parameters": 1234,
        "flops": 2e9,
        "flops_frozen": 1.5e9,
        "seconds": 0.01,
    }
    return {**result, **changes}


def test_the_tables_have_the_mean_and_the_range_of_all_seeds():
    results = [
        made_up("linear", 0.6),
        made_up("linear", 0.8, seed=1),
        made_up("linear", 0.3, language_model="frozen"),
        made_up("linear", 0.1, samples=10),
    ]
    text = table.all_tables(results)
    assert "| linear | 16 | 1,234 | 70.0 (60.0 to 80.0) | 20.0 (20.0 to 20.0) | 10.0" in text
    assert "| frozen: score | frozen: GFLOPs | trained: GFLOPs | ms | own stage: ms |" in text
    assert "| 30.0 | 1.50 | 2.00 | 10.0 | - | 0.005 / 0.0015 |" in text
    assert "| linear | trained | 10.0 | 70.0 (60.0 to 80.0) |" in text
    assert "| linear | frozen | - | 30.0 |" in text
    assert table.all_tables([]) == "no result yet"


def test_the_tables_by_type_of_question():
    results = [
        made_up("linear", 0.6),
        made_up("linear", 0.1, samples=10),
        made_up("linear", 0.3, language_model="frozen"),
        made_up("qwen-4", 0.7),
    ]
    *_, plain, all_forms, natural, _ = table.all_tables(results).split("## ")
    assert plain.startswith("By type of question, plain language\n\n| connector | color |\n")
    assert "| linear | 60.0 |\n| qwen-4 | 70.0 |" in plain
    assert all_forms.startswith("By type of question, all forms\n")
    assert "| connector | color | outside |\n" in all_forms
    assert "| linear | 15.0 | 25.0 |\n| qwen-4 | 15.0 | 25.0 |" in all_forms
    assert "| connector | count (6) | what (3) |\n" in natural
    assert "| linear | 50.0 | 0.0 |\n| qwen-4 | 50.0 | 0.0 |" in natural


def test_the_cost_of_a_stage_of_its_own():
    result = made_up("minigpt4-16", 0.6, own_stage_seconds=0.02)
    assert "| 10.0 | 20.0 | 0.005 / 0.0015 |" in table.all_tables([result])


def test_flops_count_the_images_that_a_training_had():
    """Half of its samples are text alone, so the tower runs half as often."""
    config = LlavaConfig()
    step = {"tokens": 4 * 640, "label_tokens": 4 * 64, "images": 4}
    each = runs.flops_per_sample(config, runs.STAGE_2, [step], samples=4)
    half = runs.flops_per_sample(config, runs.STAGE_2, [{**step, "images": 2}], samples=4)
    frozen = runs.flops_per_sample(config, runs.STAGE_2_FROZEN, [step], samples=4)
    one_sample = plan.flops(config, runs.STAGE_2, [640], images=1, label_tokens=64)
    assert each == pytest.approx(sum(one_sample.values()))
    of_an_image = plan.tower_flops(config, 1) + sum(plan.projector_flops(config, 1, 0))
    assert each - half == pytest.approx(of_an_image / 2)
    assert each - frozen == pytest.approx(plan.matrix_flops(config, 640, 64))


def test_the_tables_of_a_comparison_that_has_only_begun():
    """Smaller runs and those with a frozen language model are not measured in full."""
    result = made_up("linear", 0.6)
    unmeasured = ("score", "natural", "two_images", "image_tokens")
    for name in (*unmeasured, "flops", "flops_frozen", "seconds"):
        del result[name]
    text = table.all_tables([result])
    assert "| linear | trained | 60.0 |" in text


def test_names_of_rows_are_unique():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {row.projector for row in ROWS} == {"linear", "mlp2x_gelu", *CONNECTORS}


@pytest.mark.parametrize("kind", CONNECTORS)
def test_where_queries_look(kind):
    """Every query shares out 1 among the patches."""
    vision = VisionConfig(32, 8, 48, 96, 4, 4)
    text = LlamaConfig(96, 64, 112, 2, 4, 2, max_position_embeddings=128)
    sizes = ConnectorConfig(num_queries=4, num_layers=2, hidden_size=64)
    config = LlavaConfig(vision, text, kind, image_token_id=IMAGE_TOKEN, connector=sizes)
    model = randomise(llava_class(kind)(config))
    weights = figures.query_attention(model, torch.randn(1, 3, 32, 32))
    assert weights.shape == (4, 16)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    assert (weights > 0).all()


def test_w_has_no_queries_to_draw():
    vision = VisionConfig(32, 8, 48, 96, 4, 4)
    text = LlamaConfig(96, 64, 112, 2, 4, 2, max_position_embeddings=128)
    model = llava_class("linear")(LlavaConfig(vision, text, image_token_id=IMAGE_TOKEN))
    with pytest.raises(UserError, match="W has no queries"):
        figures.query_attention(model, torch.randn(1, 3, 32, 32))


def test_data_sets_of_several_sizes(tmp_path):
    folder = tmp_path / "data"
    data.write_data(folder, [5, 10])
    small = json.loads((folder / "plain-5.json").read_text())
    large = json.loads((folder / "plain-10.json").read_text())
    assert len(small) == 5 and len(large) == 10
    assert sum(isinstance(record["image"], list) for record in large) == 2
    assert len(json.loads((folder / "align-10.json").read_text())) == 10
    for stage in ("align", "plain"):
        validation = json.loads((folder / f"{stage}-validation.json").read_text())
        assert all("validation_" in record["image"] for record in validation)
    with pytest.raises(UserError, match="has 10 training scenes, --samples asks for 20"):
        data.write_data(folder, [20])
