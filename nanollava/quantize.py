"""Weight-only quantization: linear layers that store their weights in 8 or 4 bits.

`dequantize` gives the weight that a layer stands for, and `reference` defines its output:
dequantize, then multiply. Where torch has a kernel that multiplies without writing the full weight
to memory, `forward` uses it for few tokens. Their product is bound by reading the weights, and
these are 2 to 3 times smaller than in bfloat16.
"""

from abc import ABC, abstractmethod
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from .errors import UserError

GROUP = 32  # weights of a row that share one scale and one zero in int4
INNER_K_TILES = 8  # of 16 columns each, in torch's order for CUDA
SMALLEST_SCALE = 1e-7  # of a row or group of zeros; float16 can still hold it


class QuantizedLinear(nn.Module, ABC):
    """A linear layer without bias, filled by `set_weight` and not meant for training."""

    # The kernels read the weights again for every few tokens. From this many tokens on it is faster
    # to dequantize once and multiply (docs/performance.md).
    many_tokens = 32

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features

    @abstractmethod
    def set_weight(self, weight: torch.Tensor) -> None:
        """Quantizes a weight (out, in). The scales take its dtype, and inputs must have it too."""

    @abstractmethod
    def dequantize(self) -> torch.Tensor:
        """The weight (out, in) that the stored numbers stand for, in the dtype of the scales."""

    def reference(self, x: torch.Tensor) -> torch.Tensor:
        """y = x W^T with the dequantized weight: what the kernels must equal."""
        return F.linear(x, self.dequantize())

    @abstractmethod
    def has_kernel(self, x: torch.Tensor) -> bool:
        """Whether torch multiplies this layer's stored numbers with such an x directly."""

    @abstractmethod
    def kernel(self, x: torch.Tensor) -> torch.Tensor:
        """y (tokens, out) of x (tokens, in), by torch's kernel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.numel() // self.in_features
        # On a GPU always: its int4 order can only be dequantized by the kernel itself.
        prefers_kernel = tokens < self.many_tokens or x.is_cuda
        if prefers_kernel and self.has_kernel(x):
            y = self.kernel(x.reshape(tokens, self.in_features))
            return y.view(*x.shape[:-1], self.out_features)
        return self.reference(x)


class Int8Linear(QuantizedLinear):
    """W = q * s: one byte per weight, and one scale s per row."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        self.register_buffer("q", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(out_features))

    def set_weight(self, weight: torch.Tensor) -> None:
        self.q, self.scale = quantize_int8(weight)

    def dequantize(self) -> torch.Tensor:
        return self.q.to(self.scale.dtype) * self.scale[:, None]

    def has_kernel(self, x: torch.Tensor) -> bool:
        return x.device.type == "cpu" and x.dtype == self.scale.dtype == torch.bfloat16

    def kernel(self, x: torch.Tensor) -> torch.Tensor:
        return torch._weight_int8pack_mm(x, self.q, self.scale)


def quantize_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q (out, in) in -127..127 and s (out,): s is the row's largest magnitude / 127, q = W / s.

    s is rounded to the dtype of W before it is used, so that |W - q s| <= s / 2 but for the
    rounding of s itself.
    """
    W = weight.float()
    largest = W.abs().amax(dim=1, keepdim=True)  # (out, 1)
    scale = (largest / 127).clamp(min=SMALLEST_SCALE)
    scale = scale.to(weight.dtype)
    q = (W / scale.float()).round()
    q = q.clamp(-127, 127).to(torch.int8)
    return q, scale.squeeze(1)


class Int4Linear(QuantizedLinear):
    """W = (q - 8) * s + z with q in 0..15: 4 bits per weight, and 1 more for s and z, which each
    group of 32 weights has.

    `packed` holds two q per byte in one of three orders, `order`: "plain" (out, in / 2), or what
    torch's kernel for a CPU or for CUDA reads.
    """

    many_tokens = 64  # dequantizing takes longer than for int8

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        if in_features % GROUP:
            raise UserError(f"int4: {in_features} inputs are not a multiple of {GROUP}")
        groups = in_features // GROUP
        packed = torch.empty(out_features, in_features // 2, dtype=torch.uint8)
        self.register_buffer("packed", packed)
        # s and z side by side, as the kernels read them: (groups, out, 2).
        self.register_buffer("scale_and_zero", torch.empty(groups, out_features, 2))
        self.order = "plain"

    def set_weight(self, weight: torch.Tensor) -> None:
        q, scale, zero = quantize_int4(weight)
        scale_and_zero = torch.stack([scale, zero], dim=-1)  # (out, groups, 2)
        self.scale_and_zero = scale_and_zero.transpose(0, 1).contiguous()
        self.order = kernel_order(weight)
        self.packed = pack_int4(q, self.order)

    def dequantize(self) -> torch.Tensor:
        if self.order == "cuda":  # its order is the GPU's own: let the kernel multiply W by 1
            one = torch.eye(self.in_features, dtype=torch.bfloat16, device=self.packed.device)
            return self.kernel(one).T
        q = unpack_int4(self.packed, self.order)  # (in, out)
        groups = self.in_features // GROUP
        q = q.view(groups, GROUP, self.out_features).to(self.scale_and_zero.dtype)
        # Contiguous copies: reading every second number is nine times slower.
        scale = self.scale_and_zero[..., 0].unsqueeze(1).contiguous()  # (groups, 1, out)
        zero = self.scale_and_zero[..., 1].unsqueeze(1).contiguous()
        # (q - 8) s + z = q s + (z - 8 s), in one pass over the weights.
        weight = torch.addcmul(zero - 8 * scale, q, scale)
        return weight.view(self.in_features, self.out_features).T

    def has_kernel(self, x: torch.Tensor) -> bool:
        return self.order != "plain" and x.dtype == self.scale_and_zero.dtype

    def kernel(self, x: torch.Tensor) -> torch.Tensor:
        if self.order == "cuda":
            return torch._weight_int4pack_mm(x, self.packed, GROUP, self.scale_and_zero)
        return torch._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scale_and_zero)


def quantize_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (out, in) in 0..15, s and z (out, groups): 16 levels span each group from min to max.

    s and z are rounded to the dtype of W before they are used.
    """
    W = weight.float().view(len(weight), -1, GROUP)  # (out, groups, 32)
    low = W.amin(dim=-1, keepdim=True)  # (out, groups, 1)
    high = W.amax(dim=-1, keepdim=True)
    scale = ((high - low) / 15).clamp(min=SMALLEST_SCALE)
    scale = scale.to(weight.dtype)
    zero = low + 8 * scale.float()  # the value of q = 8
    zero = zero.to(weight.dtype)
    q = (W - zero.float()) / scale.float() + 8
    q = q.round().clamp(0, 15).to(torch.uint8)
    return q.view_as(weight), scale.squeeze(-1), zero.squeeze(-1)


def kernel_order(weight: torch.Tensor) -> str:
    """The order in which torch's kernel for this device, dtype and shape wants the q."""
    out_features, in_features = weight.shape
    if weight.dtype != torch.bfloat16:
        return "plain"
    # CUDA's kernel takes tiles of 8 rows and 16 * INNER_K_TILES columns, the CPU's blocks of 64.
    fits_tiles = out_features % 8 == 0 and in_features % (16 * INNER_K_TILES) == 0
    if weight.is_cuda and fits_tiles and has_int4_kernel(weight.device):
        return "cuda"
    if weight.device.type == "cpu" and out_features % 64 == 0 and cpu_block() is not None:
        return "cpu"
    return "plain"


def has_int4_kernel(device: torch.device) -> bool:
    """Whether torch's int4 kernel is compiled for a GPU: NVIDIA's from Ampere (8.0) on."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def pack_int4(q: torch.Tensor, order: str) -> torch.Tensor:
    """Two q (out, in) per byte."""
    if order == "cpu":
        inner_k_tiles = 1  # the order for CPUs does not use it
        return torch._convert_weight_to_int4pack_for_cpu(q.int(), inner_k_tiles)
    even, odd = q[:, ::2], q[:, 1::2]
    if order == "cuda":
        return torch._convert_weight_to_int4pack(even << 4 | odd, INNER_K_TILES)
    return even | odd << 4


def unpack_int4(packed: torch.Tensor, order: str) -> torch.Tensor:
    """The q that `pack_int4` packed, transposed: (in, out)."""
    if order == "cpu":
        return unpack_cpu(packed, cpu_block())
    even, odd = packed & 15, packed >> 4
    return torch.stack([even, odd], dim=-1).flatten(1).T.contiguous()


def unpack_cpu(packed: torch.Tensor, block: int) -> torch.Tensor:
    """Undoes torch's order for CPUs: blocks of rows, in which a column's bytes lie together.

    Byte j of a column holds row j of the block in its low half and row j + block / 2 in its high.
    Returns the q as (in, out).
    """
    out_features, half = packed.shape
    columns = packed.view(-1, 2 * half, block // 2)  # (blocks, in, block / 2)
    q = torch.cat([columns & 15, columns >> 4], dim=-1)  # (blocks, in, block)
    return q.transpose(0, 1).reshape(2 * half, out_features)


@cache
def cpu_block() -> int | None:
    """Rows per block in torch's order for CPUs: 64 or 32 by the CPU's vector width, else None."""
    # All rows and columns differ, so that a wrong order shows.
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(16, (64, GROUP), dtype=torch.uint8, generator=generator)
    packed = pack_int4(q, "cpu")
    for block in (64, 32):
        if torch.equal(unpack_cpu(packed, block), q.T):
            return block
    return None


LAYERS = {"int8": Int8Linear, "int4": Int4Linear}


def quantize_linear_layers(module: nn.Module, name: str) -> None:
    """Replaces every linear layer inside by the one for `name`, "int8" or "int4".

    Layers on the meta device stay empty: `hf.load` quantizes their weights as it reads them.
    """
    if name not in LAYERS:
        raise UserError(f"quantize {name!r}: expected {' or '.join(LAYERS)}")
    for parent in list(module.modules()):
        for attribute, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                weight = child.weight.detach()
                with torch.device(weight.device):
                    layer = LAYERS[name](child.in_features, child.out_features)
                if not weight.is_meta:
                    layer.set_weight(weight)
                setattr(parent, attribute, layer)
