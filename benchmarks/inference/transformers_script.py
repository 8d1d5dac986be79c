"""What sample.py does, with transformers: loads a LLaVA and prints the first token of an answer.

python benchmarks/inference/transformers_script.py checkpoints/toy-llava cat.jpg PROMPT
"""

import sys

import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaForConditionalGeneration

path, image_path, prompt = sys.argv[1:]
model = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(path)
image_processor = CLIPImageProcessorPil.from_pretrained(path)

vision = model.config.vision_config
num_patches = (vision.image_size // vision.patch_size) ** 2
ids = [tokenizer.bos_token_id]
for i, text in enumerate(prompt.split("<image>")):
    if i > 0:
        ids += [model.config.image_token_id] * num_patches
    ids += tokenizer(text, add_special_tokens=False).input_ids
input_ids = torch.tensor([ids])
pixel_values = image_processor(Image.open(image_path), return_tensors="pt").pixel_values

output = model.generate(
    input_ids=input_ids,
    attention_mask=torch.ones_like(input_ids),
    pixel_values=pixel_values,
    max_new_tokens=1,
    do_sample=False,
)
print(tokenizer.decode(output[0, -1:]))
