"""Products and norms in the way that a CPU does quickest: the same values but for rounding. Which way that is differs from CPU to
CPU by factors, so it is measured. The model files know nothing of it: their layers are given another `forward`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import nn

from .device import matmul_rate
from .llama import Llama, RMSNorm

BLOCK = 256  # outputs whose weights lie together
CACHED = 2**16  # smaller matrices stay in the cache, and gain nothing


def by_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this is a CPU that multiplies half precision quicker by way of fp32. Products are exact there, and sums fp32 both ways."""
    half = dtype.itemsize == 2 and device.type == "cpu"
    return half and matmul_rate(device, torch.float32) > 1.25 * matmul_rate(device, dtype)


def product(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """A linear layer's forward in half precision, by way of fp32 where many tokens pay for the casts."""
    if x.numel() < 32 * x.shape[-1]:
        return F.linear(x, layer.weight, layer.bias)
    bias = None if layer.bias is None else layer.bias.float()
    return F.linear(x.float(), layer.weight.float(), bias).to(x.dtype)


def products(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Gives every linear layer the quicker forward for products of `dtype`, in training and answering."""
    for layer in model.modules() if by_float32(device, dtype) else ():
        if isinstance(layer, nn.Linear):
            layer.forward = partial(product, layer)


# The rows that an embedding bag sums for each block, those of inputs 0, 1, 2 ...; one tensor for all layers alike.
rows = cache(
    lambda blocks, width: torch.arange(blocks * width).int().view(blocks, 4, -1).mT.flatten()
)


class Blocks(nn.Module):
    """y = x W^T in half precision, for answering alone. One token's y is the sum of W's columns weighted by x: an embedding bag (mode
    0), and torch's reads half precision about as fast as memory gives it, which its linear layer does not. W lies as (blocks,
    in, BLOCK), the last block filled up with zeros and its inputs i in the order of i % 4, to be read from four places by turns."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        W = F.pad(layer.weight.detach(), (0, 0, 0, -layer.out_features % BLOCK))
        W = W.view(-1, BLOCK, layer.in_features // 4, 4).permute(0, 3, 2, 1)
        W = W.flatten(1, 2)  # (blocks, in, BLOCK)
        self.weight, self.out_features = nn.Parameter(W, requires_grad=False), layer.out_features
        self.rows, self.starts = (
            rows(*W.shape[:2]),
            torch.arange(0, W[..., 0].numel(), W.shape[1]).int(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        W, shape = self.weight, x.shape
        if x.numel() == shape[-1]:
            weights = x.reshape(1, -1).expand(len(W), -1).reshape(-1)
            y = torch.embedding_bag(
                W.view(-1, BLOCK), self.rows, self.starts, False, 0, False, weights
            )[0]
        else:
            x = x.reshape(-1, shape[-1] // 4, 4).mT.flatten(1)  # (tokens, in), in W's order
            wide, W32 = len(x) >= 16 and by_float32(x.device, x.dtype), torch.empty(W.shape[1:])
            x = x.float() if wide else x
            y = torch.cat(
                [(x @ (W32.copy_(block) if wide else block)).to(W.dtype) for block in W], dim=-1
            )
        return y.view(*shape[:-1], -1)[..., : self.out_features]


def convert(model: nn.Module) -> None:
    """Makes a LLaVA quick at answering on a CPU in half precision; anywhere else nothing is changed."""
    llama, W = model.language_model, model.language_model.lm_head.weight
    products(model, W.device, W.dtype)
    inside = [(module, *pair) for module in llama.modules() for pair in module.named_children()]
    for module, name, child in inside if W.is_cpu and W.dtype.itemsize == 2 else ():
        if (
            isinstance(child, nn.Linear)
            and child.in_features % 4 == 0
            and child.weight.numel() >= CACHED
        ):
            setattr(module, name, Blocks(child))


def halves(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """A linear layer's forward; one token's is a product of two half matrices, each with the same one column."""
    alone = x.numel() == layer.in_features and x.is_cpu and x.dtype == torch.float32
    if not alone or torch.compiler.is_compiling():
        return F.linear(x, layer.weight)
    both, column = layer.weight.view(2, -1, layer.in_features), x.view(1, 1, -1).transpose(1, 2)
    return torch.bmm(both, column.expand(2, -1, -1)).view(
        *x.shape[:-1], -1
    )  # slow with other strides


def norm(layer: RMSNorm, eps: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """An RMSNorm's forward; one token's in fewer operations."""
    alone = x.numel() == (width := x.shape[-1]) and x.is_cpu and x.dtype != torch.float64
    if not alone or torch.compiler.is_compiling():
        return RMSNorm.forward(layer, x)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    y = (x * torch.addcmul(eps, length, length, value=1 / width).rsqrt_()).mul_(layer.weight)
    return y if x.dtype == torch.float32 else y.to(x.dtype)


@contextmanager
def quickest(llama: Llama) -> Iterator[None]:
    """For a step of one token, which reads all weights. What does so fastest in fp32 differs from CPU to CPU by factors: the first
    steps try each way thrice, the quickest stays. Other dtypes go without oneDNN: an answer would depend on the clock."""
    kind, past, onednn = llama.lm_head.weight.dtype, llama.seconds, torch.backends.mkldnn.enabled
    if trying := llama.settled != kind:
        ways = (
            (kind, False, False),
            (kind, True, False),
            (kind, False, True),
        )  # oneDNN's kernels, halves
        ways = ways if kind == torch.float32 else ways[:1]
        llama.way = min(ways, key=lambda way: (len(past[way]) == 3, min(past[way], default=0)))
        llama.settled = kind if len(past[llama.way]) == 3 else None
        for layer in llama.modules():
            if isinstance(layer, RMSNorm):
                layer.forward = partial(norm, layer, torch.tensor([layer.eps]))
            elif isinstance(layer, nn.Linear) and len(ways) == 3 and layer.weight.numel() >= CACHED:
                half = llama.way[2] and layer.out_features % 2 == 0
                layer.forward = partial(halves if half else nn.Linear.forward, layer)
    try:
        torch.backends.mkldnn.enabled, start = onednn and llama.way[1], time.perf_counter()
        yield
    finally:
        torch.backends.mkldnn.enabled = onednn
    if trying and llama.settled is None:
        past[llama.way].append(time.perf_counter() - start)
