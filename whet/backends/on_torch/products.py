"""Linear layers as decoding on a CPU computes them: adapters added in, weights laid out for the CPU, siblings in one product."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from whet.backends.on_torch.forwards import exchange
from whet.backends.on_torch.layers import is_plain_lora
from whet.backends.on_torch.passes import Passes

ROWS = 64  # tokens of a usual step: oneDNN lays weights out for it, and takes any number
ROUND = 16  # numbers of tokens are rounded up to multiples of it: oneDNN spends milliseconds on each new one
SHARE = 0.25  # of the machine's memory that second copies of the weights may take


class Products:
    """Second copies of a model's linear layers, and how they stand in for the layers while something is decoded.

    Where the CPU is not Intel's, oneDNN's products of weights that were laid out before are up to 2.5 times as fast as those of
    torch's linear in fp32, whose library keeps to AVX2 there. What they give differs from the layers' outputs by rounding alone.
    """

    def __init__(self, passes: Passes) -> None:
        model, head = passes.model, passes.head
        self.forwards: dict[torch.nn.Module, Callable[..., torch.Tensor]] = {}
        self.of_head: Callable[[torch.Tensor], torch.Tensor] | None = head
        layers = [] if passes.is_sharded or not _is_served(model) else _layers(model, head)
        whole = [*layers, *([head] if head is not None else [])]
        if sum(layer.in_features * layer.out_features for layer in whole) * 4 > SHARE * _memory():
            return
        with torch.no_grad():
            for group in _siblings(layers, passes):
                self.forwards |= dict(zip(group, _products(group), strict=True))
            if layers and head is not None:
                (self.of_head,) = _products([head])

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within, the layers compute by these products."""
        with ExitStack() as ways_back:
            for layer, forward in self.forwards.items():
                ways_back.callback(exchange(layer, forward, is_method=False))
            yield


def _is_served(model: Any) -> bool:
    return model.device.type == "cpu" and model.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _layers(model: Any, head: Any) -> list[Any]:
    """The linear layers in fp32, those that PEFT wraps plainly with what it wraps around them."""
    found: list[Any] = []
    inside: set[int] = set()
    for name, module in model.named_modules():
        if is_plain_lora(module):
            found.append(module)
            inside |= {id(inner) for inner in module.modules()}
        elif type(module) is torch.nn.Linear and id(module) not in inside and module is not head and "lora_" not in name:
            found.append(module)
    return [layer for layer in found if _whole(layer)[0].dtype == torch.float32]


def _whole(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight (out, in) and bias of a layer, its adapter added in."""
    if type(layer) is torch.nn.Linear:
        return layer.weight, layer.bias
    base = layer.base_layer
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return torch.addmm(base.weight, b, a, alpha=layer.scaling["default"]), base.bias


def _siblings(layers: Sequence[Any], passes: Passes) -> list[list[Any]]:
    """Layers in groups that are called one after the other with the same input; found out by a short forward pass."""
    called: list[tuple[Any, torch.Tensor]] = []
    hooks = [layer.register_forward_pre_hook(lambda layer, given: called.append((layer, given[0]))) for layer in layers]
    try:
        passes.attend_by(passes.plain_attention)
        passes.model.get_decoder()(input_ids=torch.arange(4)[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    groups: list[list[Any]] = []
    given: torch.Tensor | None = None
    for layer, x in called:
        if x is not given:
            groups.append([])
        groups[-1].append(layer)
        given = x
    times = [layer for layer, _ in called]
    # A layer that is called twice, or never in this pass, stands alone.
    odd = [layer for layer in layers if times.count(layer) != 1]
    groups = [[layer for layer in group if layer not in odd] for group in groups]
    return [group for group in groups if group] + [[layer] for layer in odd]


def _products(layers: Sequence[Any]) -> list[Callable[..., torch.Tensor]]:
    """A forward function for each of the layers, which share their input."""
    found = [_whole(layer) for layer in layers]
    weight = torch.cat([weight for weight, _ in found]) if len(found) > 1 else found[0][0]
    bias = None
    if any(one is not None for _, one in found):
        bias = torch.cat([weight.new_zeros(len(weight)) if one is None else one for weight, one in found])
    product = _product(weight.detach(), None if bias is None else bias.detach())
    if len(found) == 1:
        return [product]
    together = _Together(product, [len(weight) for weight, _ in found])
    return [together.part(number) for number in range(len(found))]


def _product(weight: torch.Tensor, bias: torch.Tensor | None) -> "_Product | _OneDnnProduct":
    is_intel = str(torch.cpu.get_capabilities().get("cpu_name", "")).startswith("Intel")
    return _Product(weight, bias) if is_intel else _OneDnnProduct(weight, bias)


class _Product:
    """x W^T + bias by torch's own library, which is MKL where the CPU is Intel's.

    Weights lie turned as MKL reads them: for few rows it spends as much time on turning them as on the product.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight_IO, self.bias = weight.T.contiguous(), bias

    def __call__(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        made = x @ self.weight_IO
        return made if self.bias is None else made.add_(self.bias)


class _OneDnnProduct:
    """x W^T + bias by oneDNN."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS), bias

    def __call__(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        num = len(x_TI)
        if num % ROUND:
            x_TI = torch.nn.functional.pad(x_TI, (0, 0, 0, -num % ROUND))
        y_TO = torch.ops.mkldnn._linear_pointwise(x_TI, self.weight, self.bias, "none", [], "")
        return y_TO[:num].view(*x.shape[:-1], -1)


class _Together:
    """One product for layers with the same input; computed for the first that is called, cut up for all."""

    def __init__(self, product: _Product | _OneDnnProduct, sizes: Sequence[int]) -> None:
        self.product, self.sizes = product, list(sizes)
        self.given: torch.Tensor | None = None
        self.made: list[torch.Tensor] = []

    def part(self, number: int) -> Callable[..., torch.Tensor]:
        is_last = number == len(self.sizes) - 1

        def forward(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            if x is not self.given:
                self.given, self.made = x, list(self.product(x).split(self.sizes, -1))
            y = self.made[number]
            if is_last:
                self.given, self.made = None, []
            return y

        return forward
