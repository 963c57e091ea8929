"""The fast path of recover against losses.prism_loss and autograd."""

import pytest
import torch
from torch import nn

from data import images
from models.networks import build
from models.teachers import fit_head
from recover.alignment import NormAlignment
from recover.gradient import View, loss_gradient
from recover.losses import prism_loss
from recover.options import Losses
from recover.teacher_pool import Teachers
from utils.precision import Arithmetic

NAMES = ("resnet18", "shufflenet_v2_x0_5", "alexnet")


@pytest.fixture(scope="module")
def networks():
    nets = {name: build(name, 5, input_resize=64 if name == "alexnet" else None,
                        seed=("gradient", name)) for name in NAMES}
    return {name: net.double().eval().requires_grad_(False) for name, net in nets.items()}


def pictures(count, seed):
    g = torch.Generator().manual_seed(seed)
    return images.clamp_(torch.randn(count, 3, 32, 32, generator=g, dtype=torch.float64))


def view(x, labels, logit, bn):
    labels = torch.tensor(labels)
    return View(x.clone().requires_grad_(True), labels, labels, Teachers(logit, bn))


@pytest.mark.parametrize("terms", ["mean", "sum"])
def test_gradient_and_terms_are_those_of_the_paper(networks, terms):
    """Three units share forwards: phi = theta_1, phi that is no BN teacher, and AlexNet in m."""
    views = [view(pictures(3, 0), [0, 1, 4], "resnet18", NAMES),
             view(pictures(2, 1), [2, 2], "shufflenet_v2_x0_5", ("resnet18",)),
             view(pictures(4, 2), [0, 3, 1, 2], "alexnet", ("alexnet", "shufflenet_v2_x0_5"))]
    guides = {name: NormAlignment(net) for name, net in networks.items()}
    weights = Losses(r_bn=0.3, bn_terms=terms)
    for alignment in guides.values():
        alignment.__enter__()
    loss_gradient(views, guides, weights)
    for alignment in guides.values():
        alignment.__exit__()

    for v in views:
        x = v.images.detach().clone().requires_grad_(True)
        bn_teachers = [networks[name] for name in v.teachers.bn]
        loss = prism_loss(x, v.labels, networks[v.teachers.logit], bn_teachers, 0.3, 10.0, terms)
        loss.backward()
        torch.testing.assert_close(v.images.grad, x.grad, rtol=1e-8, atol=1e-10)

        assert set(v.terms) == {"ce", *(f"bn {name}" for name in v.teachers.bn
                                        if name != "alexnet")}
        weight = 0.3 / len(v.teachers.bn) if terms == "mean" else 0.3
        total = sum(value * (1 if name == "ce" else weight) for name, value in v.terms.items())
        torch.testing.assert_close(total, loss.detach(), rtol=1e-9, atol=0)


def test_full_heads_of_different_teachers_against_a_slow_loop():
    """Labels of three classes are other outputs of each head, and all outputs compete."""
    known = {"resnet18": list("fbadce"), "shufflenet_v2_x0_5": list("xcab")}
    nets = {}
    for name, classes in known.items():
        net = build(name, len(classes), seed=("full", name)).double()
        net.classes = classes
        nets[name] = fit_head(net, ["a", "b", "c"], "full").eval().requires_grad_(False)

    views = [view(pictures(3, 0), [0, 2, 1], name, (name,)) for name in known]
    for name, net in nets.items():
        with NormAlignment(net) as alignment:
            loss_gradient(views, {name: alignment}, Losses(r_bn=0.0))
    for v, (name, classes) in zip(views, known.items(), strict=True):
        x = v.images.detach().clone().requires_grad_(True)
        logits = nets[name](x)
        assert logits.shape == (3, len(classes))
        loss = 0.0
        for row, label in zip(logits, v.labels.tolist(), strict=True):
            loss = loss + (row.exp().sum().log() - row[classes.index("abc"[label])]) / 3
        loss.backward()
        torch.testing.assert_close(v.terms["ce"], loss.detach())
        torch.testing.assert_close(v.images.grad, x.grad, rtol=1e-8, atol=1e-12)


def test_bfloat16_takes_nearly_the_same_gradient():
    net = build("resnet18", 4, seed=("bf16",)).eval().requires_grad_(False)
    gradients = {}
    for precision in ("fp32", "bf16"):
        v = view(pictures(8, 0).float(), [0, 1, 2, 3] * 2, "resnet18", ("resnet18",))
        with NormAlignment(net, arithmetic=Arithmetic(precision)) as alignment:
            loss_gradient([v], {"resnet18": alignment}, Losses())
        assert v.terms["bn resnet18"].dtype == torch.float32
        gradients[precision] = v.images.grad.flatten()
    assert nn.functional.cosine_similarity(*gradients.values(), dim=0) > 0.98
    assert not torch.equal(*gradients.values())
