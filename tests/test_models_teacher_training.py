import pytest
import torch

from models.networks import build, head
from models.teacher_training import he_initialisation


def test_he_initialisation_starts_at_chance():
    network = build("alexnet", 10, input_resize=64, seed=("he",))
    he_initialisation(network)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            fan_in = module.weight[0].numel()
            expected = 0.01 if module is head(network) else (2 / fan_in) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.05)
            assert not module.bias.any()
