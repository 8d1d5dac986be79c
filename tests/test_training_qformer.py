"""The Q-Former's own stage: what it reads of a record, and its loss."""

import json

import torch
from PIL import Image

from nanollava.config import IGNORE_INDEX, VisionConfig
from nanollava.connectors.qformer_objectives import QFormerPretraining
from nanollava.files import shipped
from nanollava.image import ImageConfig
from nanollava.tokenizer import Tokenizer
from nanollava.training.qformer import CaptionData, QFormerStage1
from nanollava.vit import CLIPVisionTransformer


def test_a_caption_is_the_answer_between_bos_and_eos(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    turns = [
        {"from": "human", "value": "<image>\nDescribe it."},
        {"from": "gpt", "value": " a red cat\n"},
    ]
    (tmp_path / "data.json").write_text(json.dumps([{"image": "a.png", "conversations": turns}]))
    tokenizer = Tokenizer.from_pretrained(shipped("checkpoints/toy-vicuna"))
    image_token_id = len(tokenizer)
    data = CaptionData(
        tmp_path / "data.json", tmp_path, tokenizer, ImageConfig(20), image_token_id, 0, "plain"
    )
    caption = tokenizer.encode("a red cat")
    expected = [tokenizer.bos_token_id, *caption, tokenizer.eos_token_id]
    assert data[0]["input_ids"].tolist() == expected
    assert data[0]["labels"].tolist() == [IGNORE_INDEX, *expected[1:]]


def test_the_loss_is_the_sum_of_the_objectives_times_the_labels():
    torch.manual_seed(0)
    tower = CLIPVisionTransformer(VisionConfig(32, 8, 48, 96, 3, 4))
    stage = QFormerStage1(tower, QFormerPretraining(48, 95, 4, 2, 64), layer=-2)
    ids = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 1]])
    labels = torch.tensor([[-100, 5, 6, 2], [-100, 7, 2, -100]])
    is_text = torch.tensor([[True, True, True, True], [True, True, True, False]])
    pixels = torch.randn(2, 3, 32, 32)
    torch.manual_seed(3)
    loss, count = stage.loss(ids, labels, pixels)
    torch.manual_seed(3)
    objectives = stage.pretraining(tower.features(pixels, -2), ids, is_text)
    assert count == 5
    torch.testing.assert_close(loss, 5 * sum(objectives))
