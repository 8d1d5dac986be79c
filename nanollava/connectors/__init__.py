"""What other models put between the vision tower and the language model, one file per connector.

resampler.py           Flamingo's perceiver resampler, as a soft prompt
gated_xattn.py         Flamingo's gated cross-attention; gated_llava.py is the LLaVA around it
qformer.py             BLIP-2's Q-Former; its stage 1 is in qformer_objectives.py
minigpt4.py            MiniGPT-4: a frozen Q-Former and one linear map
abstractor.py          mPLUG-Owl's visual abstractor
qwen.py                Qwen-VL's position-aware resampler

build.py makes the one that a config names, costs.py counts what it costs, and qformer_names.py
has the names of the Q-Former's weights in transformers. What they share with W is
`projector.Connector`.
"""
