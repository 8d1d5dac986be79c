"""Strict loading: every tensor of a checkpoint is matched or dropped by name, every parameter is
found. Weights in the files' own dtype are not copied: they stay mapped into memory."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ..config import PROJECTOR, LlamaConfig, VisionConfig
from ..errors import ConfigError
from ..files import read_json
from ..quantize import QuantizedLinear
from ..schema import optional, short
from .config import parse_llama_config, parse_special_ids, parse_vision_config
from .files import shapes, shards, tensors
from .names import CLIP_VISION, LLAVA, Layout, WeightsError, is_original

# A vision tower inside an original LLaVA has no config, and no tensor's shape tells its heads and
# its activation. They are known of OpenAI's towers, by their names: quick-GELU, and heads of 64.
OPENAI_TOWERS = (
    "clip-vit-base-patch16",
    "clip-vit-base-patch32",
    "clip-vit-large-patch14",
    "clip-vit-large-patch14-336",
)
OPENAI_HEAD_WIDTH = 64

WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@contextmanager
def uninitialized() -> Iterator[None]:
    """Builds modules without memory and without initial values: both come from a file."""
    layer_types = (nn.Linear, nn.Embedding, nn.Conv2d, nn.LayerNorm)
    saved = {layer_type: layer_type.reset_parameters for layer_type in layer_types}
    try:
        # Random initializers on the meta device would import a symbolic stack, which takes seconds.
        for layer_type in layer_types:
            layer_type.reset_parameters = lambda module: None
        with torch.device("meta"):
            yield
    finally:
        for layer_type, method in saved.items():
            layer_type.reset_parameters = method


def build(
    model_class: type[nn.Module],
    config,
    path: str | Path,
    layout: Layout,
    device="cpu",
    dtype: torch.dtype | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """Builds `model_class(config)` and fills it from the checkpoint at `path`.

    `dtype` None keeps the files' dtype. `prepare` changes the empty module before the weights are
    read, for example to quantize layers.
    """
    with uninitialized():
        module = model_class(config)
    if prepare is not None:
        prepare(module)
    load(module, path, layout, device, dtype)
    return module.eval()


def load(
    module: nn.Module,
    path: str | Path | list[Path],
    layout: Layout,
    device="cpu",
    dtype: torch.dtype | None = None,
) -> None:
    """Fills a module built by `uninitialized` from a checkpoint, each tensor read once."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    quantized = quantized_layers(module)
    for name, layer in quantized.items():
        expected[name] = (layer.out_features, layer.in_features)
    second_linear = second_linear_shapes(expected, layout)
    tied = tied_names(module)

    weights = {}
    names_in_file = set()
    for name, tensor in read_tensors(path, layout, expected | second_linear, device, dtype):
        names_in_file.add(name)
        if name in quantized:
            quantized[name].set_weight(tensor)
        else:
            weights[name] = tensor
    names_in_file |= share_tied_tensors(weights, tied, path)
    missing = [layout.to_file(name) for name in expected if name not in names_in_file]
    if missing:
        count = f"{len(missing)} of {len(expected)} tensors are missing, the first {missing[0]!r}"
        raise WeightsError(f"{path}: {count}; expected the {layout.name} layout")
    fold_second_linear(weights, second_linear, path)

    module.load_state_dict(weights, strict=False, assign=True)
    for name, first_name in tied.items():  # assigning made two parameters of it
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, module.get_parameter(first_name))


def read_tensors(
    path: str | Path | list[Path],
    layout: Layout,
    expected: dict[str, tuple],
    device,
    dtype: torch.dtype | None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Our names and the tensors of a checkpoint, each checked against its expected shape."""
    seen = set()
    for shard in shards(path):
        for name, shape, read in tensors(shard, device):
            ours = layout.to_ours_in(shard, name)
            if ours is None:
                continue
            where = f"{shard}: tensor {name!r}"
            check_is_expected(where, ours, shape, expected)
            check_tensor(where, shape, expected[ours], ours in seen)
            seen.add(ours)
            tensor = read()
            if tensor.dtype not in WEIGHT_DTYPES:
                raise WeightsError(f"{where} is {tensor.dtype}; expected fp32, fp16 or bf16")
            tensor = tensor.to(device, dtype)
            check_is_finite(tensor, where)
            yield ours, tensor


def quantized_layers(module: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantized layers of a module, by the name that their weight has in a file."""
    layers = {}
    for name, layer in module.named_modules():
        if isinstance(layer, QuantizedLinear):
            layers[f"{name}.weight"] = layer
    return layers


def share_tied_tensors(
    weights: dict[str, torch.Tensor], tied: dict[str, str], path: str | Path
) -> set[str]:
    """Gives both names of a tied tensor the one that is in the file; returns these names.

    A file may hold it under either name, or twice.
    """
    names = set()
    for name, first_name in tied.items():
        in_file = [weights[key] for key in (first_name, name) if key in weights]
        if not in_file:
            continue
        if len(in_file) == 2 and not torch.equal(*in_file):
            raise WeightsError(
                f"{path}: {first_name} and {name} differ, but its config says that they are tied"
            )
        weights[name] = in_file[0]
        weights[first_name] = in_file[0]
        names |= {name, first_name}
    return names


def check_is_expected(where: str, name: str, shape: tuple, expected: dict[str, tuple]) -> None:
    """Raises a WeightsError for a tensor that the model does not have; `name` is our name."""
    if name in expected:
        return
    if name.startswith(PROJECTOR):
        raise WeightsError(
            f"{where} {shape} is not part of the connector that its config.json names; use the "
            "config.json that belongs to these weights"
        )
    raise WeightsError(f"{where} {shape} is not part of this model")


def check_tensor(where: str, shape: tuple, expected: tuple, is_loaded: bool) -> None:
    """Raises a WeightsError for a tensor that comes twice, or of another shape than the model's."""
    if is_loaded:
        raise WeightsError(f"{where} comes twice")
    if shape != expected:
        raise WeightsError(f"{where} has shape {shape}, the config says {expected}")


def check_is_finite(tensor: torch.Tensor, where: str) -> None:
    """Raises a WeightsError if a weight is NaN or infinite, as read or in the dtype asked for."""
    smallest, largest = tensor.aminmax()  # both are NaN if any weight is
    if not (smallest.isfinite() and largest.isfinite()):
        raise WeightsError(
            f"{where} has weights that are NaN or infinite in {tensor.dtype}; download or train it "
            "again, or ask for another dtype"
        )


def tied_names(module: nn.Module) -> dict[str, str]:
    """Names of parameters that are another one under a second name, each with the first name."""
    first_name = {}
    tied = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in first_name:
            tied[name] = first_name[id(parameter)]
        else:
            first_name[id(parameter)] = name
    return tied


def second_linear_shapes(expected: dict[str, tuple], layout: Layout) -> dict[str, tuple]:
    """What a file has for the projector's second layer where the model has a single W.

    The llava-hf layout always has two layers; without a nonlinearity they are one linear map.
    """
    bias_shape = expected.get("multi_modal_projector.linear_1.bias")
    has_second = "multi_modal_projector.linear_2.bias" in expected
    if layout is not LLAVA or bias_shape is None or has_second:
        return {}
    (width,) = bias_shape
    return {
        "multi_modal_projector.linear_2.weight": (width, width),
        "multi_modal_projector.linear_2.bias": (width,),
    }


def fold_second_linear(
    weights: dict[str, torch.Tensor], second_linear: dict[str, tuple], path: str | Path
) -> None:
    """Replaces two layers by one W: W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2)."""
    missing = sorted(second_linear.keys() - weights.keys())
    if len(missing) == len(second_linear):
        return
    if missing:
        raise WeightsError(f"{path}: {missing[0]!r} is missing; expected the {LLAVA.name} layout")
    W1 = weights["multi_modal_projector.linear_1.weight"]
    b1 = weights["multi_modal_projector.linear_1.bias"]
    W2 = weights.pop("multi_modal_projector.linear_2.weight").to(W1.dtype)
    b2 = weights.pop("multi_modal_projector.linear_2.bias").to(b1.dtype)
    if is_identity(W2, b2):
        return  # as we write it: W keeps its bits, and stays mapped into memory
    wide = torch.promote_types(W1.dtype, torch.float32)
    W = (W2.to(wide) @ W1.to(wide)).to(W1.dtype)
    b = (W2.to(wide) @ b1.to(wide) + b2.to(wide)).to(b1.dtype)
    check_is_finite(W, f"{path}: the product of the projector's layers")
    check_is_finite(b, f"{path}: the product of the projector's layers")
    weights["multi_modal_projector.linear_1.weight"] = W
    weights["multi_modal_projector.linear_1.bias"] = b


def is_identity(weight: torch.Tensor, bias: torch.Tensor) -> bool:
    """Whether a linear layer returns its input."""
    identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    return torch.equal(weight, identity) and not bias.any()


def read_llama_config(path: str | Path) -> LlamaConfig:
    """The config of a Llama directory, or of the language model of an original LLaVA."""
    file = Path(path) / "config.json"
    return parse_llama_config(read_json(file), str(file))


def read_special_ids(path: str | Path) -> dict[str, int | None]:
    """The ids of bos, eos and pad in the config.json of a Llama directory, None if not there."""
    file = Path(path) / "config.json"
    return parse_special_ids(read_json(file), str(file))


def read_vision_config(path: str | Path) -> VisionConfig:
    """The config of the vision tower in a CLIP directory or in an original LLaVA."""
    file = Path(path) / "config.json"
    values = read_json(file)
    if is_original(values):  # it holds the tower without a config
        named = values["mm_vision_tower"]
        if isinstance(named, str) and (Path(named) / "config.json").is_file():
            named_file = Path(named) / "config.json"  # of the tower before it was trained
            named_values = read_json(named_file)
            if is_original(named_values):
                raise ConfigError(
                    f"{file}: mm_vision_tower = {short(named)} is a LLaVA; expected the directory "
                    "of a CLIP"
                )
            return clip_vision_config(named_values, str(named_file))
        check_is_openai_tower(named, str(file))
        return vision_config_from_shapes(shapes(path), str(path))
    return clip_vision_config(values, str(file))


def clip_vision_config(values: dict, where: str) -> VisionConfig:
    """The config of a tower: of a whole CLIP, or of the tower alone."""
    vision_values = optional(values, "vision_config", dict, where, default=values)
    return parse_vision_config(vision_values, where)


def check_is_openai_tower(name, where: str) -> None:
    """Raises a ConfigError for the name of a tower of which more than the shapes must be known."""
    is_known = isinstance(name, str) and (
        name.startswith("openai/clip") or Path(name).name in OPENAI_TOWERS
    )
    if not is_known:
        raise ConfigError(
            f"{where}: mm_vision_tower = {short(name)} is stored here without its config, which "
            "says how many heads it has and which activation; put CLIP's directory there, or give "
            "it with --vision"
        )


def vision_config_from_shapes(file_shapes: dict[str, tuple[int, ...]], where: str) -> VisionConfig:
    """The config that the shapes of an OpenAI tower's tensors imply."""
    tower = {}
    for name, shape in file_shapes.items():
        ours = CLIP_VISION.to_ours(name)
        if ours is not None:
            tower[ours] = shape
    try:
        width, _, patch_size, _ = tower["embeddings.patch_embedding.weight"]
        positions, _ = tower["embeddings.position_embedding.weight"]  # the class token has one
        hidden, _ = tower["encoder.layers.0.mlp.fc1.weight"]
    except (KeyError, ValueError):  # ValueError: not as many sizes
        raise WeightsError(f"{where}: the vision tower in it is not whole") from None
    if min(width, patch_size, positions - 1, hidden) < 1:
        raise WeightsError(f"{where}: a size of the vision tower in it is 0")
    if width % OPENAI_HEAD_WIDTH:
        raise WeightsError(
            f"{where}: its vision tower has width {width}; expected heads of {OPENAI_HEAD_WIDTH}"
        )
    grid = math.isqrt(positions - 1)
    blocks = {name.split(".")[2] for name in tower if name.startswith("encoder.layers.")}
    return VisionConfig(
        image_size=grid * patch_size,
        patch_size=patch_size,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=len(blocks),
        num_attention_heads=width // OPENAI_HEAD_WIDTH,
    )
