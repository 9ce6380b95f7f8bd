"""Layers written again against torch's own, in float64 where the converter's product allows it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mdrepro.export.reauthor import LAYERS, Reauthored

torch.manual_seed(0)
X, W, B = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 12, 5, 3), (12,), (12,)))
S = torch.randn(2, 7, 12, dtype=torch.float64)
Q, K, V = (torch.randn(2, 3, n, 8) for n in (5, 7, 7))
SEEN = torch.rand(5, 7) > 0.3

SAME: dict[str, Callable[[], Tensor]] = {
    "group norm": lambda: F.group_norm(X * 3 + 100, 4, W, B, 1e-3),
    "group norm without gain": lambda: F.group_norm(X, 3),
    "group norm of a sequence": lambda: F.group_norm(X.flatten(2), 4, W, B),
    "layer norm": lambda: F.layer_norm(S * 3 + 100, (12,), W, B, 1e-3),
    "layer norm without gain": lambda: F.layer_norm(S, (12,)),
    "attention": lambda: F.scaled_dot_product_attention(Q, K, V),
    "attention with a mask": lambda: F.scaled_dot_product_attention(Q, K, V, attn_mask=SEEN),
    "attention with a bias": lambda: F.scaled_dot_product_attention(Q, K, V, attn_mask=SEEN * 0.3, scale=0.2),
    "causal attention": lambda: F.scaled_dot_product_attention(K, K, V, is_causal=True),
    "picture to sequence": lambda: X.flatten(2),
    "picture to sequence by view": lambda: X.view(2, 12, 15),
    "sequence to picture": lambda: X.flatten(2).reshape(X.shape),
    "other reshapes": lambda: X.reshape(24, -1).view(2, 3, 4, 15).flatten(1, 2).reshape((2, 12, 15)).view(X.shape),
    "other flattening": lambda: X.flatten(1),
    "a number": lambda: torch.tensor(3.0).reshape(1, 1) * X.view(torch.int64).view(torch.float64),
}


@pytest.mark.parametrize("name", SAME)
def test_the_numbers_are_torchs(name: str) -> None:
    wanted = SAME[name]()
    with Reauthored():
        found = SAME[name]()
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6 if wanted.dtype == torch.float32 else 1e-11)


def test_each_layer_is_written_again_inside_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[object, Callable[[], object]] = {
        F.group_norm: lambda: F.group_norm(X, 3),
        F.layer_norm: lambda: F.layer_norm(S, (12,)),
        F.scaled_dot_product_attention: lambda: F.scaled_dot_product_attention(Q, K, V),
        Tensor.flatten: lambda: X.flatten(2),
        Tensor.reshape: lambda: X.reshape(2, 12, 15),
        Tensor.view: lambda: X.view(2, 12, 15),
    }
    said: list[object] = []
    for layer in list(LAYERS):
        monkeypatch.setitem(LAYERS, layer, lambda *_, layer=layer, **__: said.append(layer))  # type: ignore[arg-type]
    for call in calls.values():
        call()
    assert said == []
    with Reauthored():
        for call in calls.values():
            call()
    assert said == list(calls) == list(LAYERS)
