"""Speed, memory and accuracy of inference. `python -m benchmarks.inference --help` explains it.

timing.py        medians of sides that take turns
models.py        random models of several sizes, ours and transformers' with the same weights
decode.py        rows: machine, decode, compile, bf16, compile-bf16, int8, int4, llava, context
prefill.py       row: prefill
programs.py      rows: loading, conversion, cli, word
toyland.py       rows: batch, score
memory.py        row: memory
gpu.py           row: gpu
"""
