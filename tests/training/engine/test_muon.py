"""Muon: orthogonal steps by singular values, and progress where it must be."""

import pytest
import torch

from mdrepro.training.engine.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
def test_singular_values_become_one_and_vectors_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonalise(matrix)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.6
    assert values.max() < 1.25
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ made @ v.T
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-4


def test_a_step_has_adamws_size_whatever_the_gradients():
    weight = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
    weight.grad = 1e-3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=0.1, weight_decay=0).step()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.2)


def test_matrices_and_biases_both_reach_a_linear_map():
    rng = torch.Generator().manual_seed(0)
    truth, x = torch.randn(3, 5, generator=rng), torch.randn(256, 5, generator=rng)
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    optimiser = Muon(model.parameters(), lr=0.1, weight_decay=0)
    for step in range(300):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        optimiser.zero_grad()
        (model(x) - (x @ truth.T + 2)).square().mean().backward()
        optimiser.step()
    assert torch.allclose(model.weight, truth, atol=0.02)
    assert torch.allclose(model.bias, torch.full((3,), 2.0), atol=0.02)


def test_weights_decay_and_biases_do_not():
    weight, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    weight.grad, bias.grad = torch.zeros(2, 2), torch.zeros(2)
    Muon([weight, bias], lr=0.5, weight_decay=0.1).step()
    assert torch.allclose(weight, torch.full((2, 2), 0.95))
    assert torch.equal(bias, torch.ones(2))


def test_a_network_of_one_number_is_left_to_adamw():
    number = torch.nn.Parameter(torch.tensor(1.0))
    number.grad = torch.tensor(3.0)
    Muon([number], lr=0.1).step()
    assert number.item() == pytest.approx(0.9)
