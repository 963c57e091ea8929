import copy
import functools
import math

import pytest
import torch
from torch import nn

from models.networks import build
from utils.seeding import stream
from validate import engine, losses
from validate.passes import Passes


def small_net(norm):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), norm(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             nn.Linear(4, 5)).double()


def no_norm(_):
    return nn.Identity()


def random_batch(count, dtype=torch.float64):
    generator = stream("batch", count)
    classes = torch.randint(0, 5, (count,), generator=generator)
    return engine.Batch(torch.randn(count, 3, 8, 8, generator=generator, dtype=dtype),
                        torch.randn(count, 5, generator=generator, dtype=dtype), classes, classes.flip(0), 0.3)


def one_by_one(net):
    return Passes(net, torch.device("cpu"), together=False)


LOSS = functools.partial(losses.student_loss, "mse_gt")


def test_weight_decay_split_of_resnet18():
    net = build("resnet18", 10, seed=("split",)).net
    decayed, free = engine.split_parameters(net)
    assert (len(decayed), len(free)) == (21, 41)
    assert all(p.ndim > 1 for p in decayed)  # 20 convolutions and the head
    optimizer = engine.build_optimizer(net, "adamw", 1e-3, 0.01)
    assert [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups] == [(21, 0.01), (41, 0.0)]
    assert all(g["betas"] == (0.9, 0.999) and g["lr"] == 1e-3 for g in optimizer.param_groups)


def test_one_adamw_step_by_hand():
    net = nn.Linear(1, 1).double()
    with torch.no_grad():
        net.weight.fill_(2.0)
        net.bias.fill_(2.0)
    optimizer = engine.build_optimizer(net, "adamw", 0.1, 0.5)
    net.weight.grad, net.bias.grad = torch.full((1, 1), 3.0).double(), torch.full((1,), 3.0).double()
    optimizer.step()  # Adam's first step is lr * sign(gradient); decay takes lr * 0.5 of the weight, none of the bias
    assert float(net.weight.detach()) == pytest.approx(2 - 0.1 * 0.5 * 2 - 0.1, abs=1e-6)
    assert float(net.bias.detach()) == pytest.approx(2 - 0.1, abs=1e-6)


def test_sgd_has_momentum():
    optimizer = engine.build_optimizer(nn.Linear(2, 2), "sgd", 0.1, 1e-4, momentum=0.8)
    assert isinstance(optimizer, torch.optim.SGD)
    assert {g["momentum"] for g in optimizer.param_groups} == {0.8}


@pytest.mark.parametrize("count", [50, 26, 13, 1])
def test_micro_batched_gradient_equals_one_pass_without_batch_norm(count):
    batch, net = random_batch(count), small_net(no_norm)
    whole = copy.deepcopy(net)
    LOSS(whole(batch.images), batch.soft_labels, batch.classes, batch.partner_classes, batch.lam).backward()
    sizes = losses.micro_batches(count, 50, 4)
    assert len(sizes) > 1 or count <= 13
    engine.train_step(one_by_one(net), torch.optim.SGD(net.parameters(), lr=0.0), batch, LOSS, sizes)
    for micro, one in zip(net.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(micro.grad, one.grad, rtol=1e-10, atol=1e-13)


def test_uneven_groups_weigh_by_their_size():
    batch, net = random_batch(5), small_net(no_norm)
    whole = copy.deepcopy(net)
    LOSS(whole(batch.images), batch.soft_labels, batch.classes, batch.partner_classes, batch.lam).backward()
    total, _, _ = engine.train_step(one_by_one(net), torch.optim.SGD(net.parameters(), lr=0.0), batch, LOSS, [3, 2])
    torch.testing.assert_close(net[0].weight.grad, whole[0].weight.grad, rtol=1e-10, atol=1e-13)
    value = LOSS(whole(batch.images), batch.soft_labels, batch.classes, batch.partner_classes, batch.lam)
    assert float(total) == pytest.approx(5 * value.item())


def test_batch_norm_moves_twice_on_a_batch_of_fifty():
    batch, net = random_batch(50), small_net(nn.BatchNorm2d)
    with torch.no_grad():
        maps = [net[0](batch.images[half]) for half in (slice(0, 25), slice(25, 50))]
    mean = torch.zeros(4, dtype=torch.float64)
    for z in maps:  # momentum 0.1, first the first half
        mean = 0.9 * mean + 0.1 * z.mean((0, 2, 3))
    engine.train_step(one_by_one(net), torch.optim.SGD(net.parameters(), lr=0.0), batch, LOSS, losses.micro_batches(50, 50, 2))
    assert int(net[1].num_batches_tracked) == 2
    torch.testing.assert_close(net[1].running_mean, mean)


def test_batch_of_one_uses_and_leaves_running_statistics():
    batch, net = random_batch(1), small_net(nn.BatchNorm2d)
    with torch.no_grad():
        net[1].running_mean.fill_(0.5)
    statistics, weights = copy.deepcopy(net[1].state_dict()), net[0].weight.detach().clone()
    reference = copy.deepcopy(net).eval()
    expected = LOSS(reference(batch.images), batch.soft_labels, batch.classes, batch.partner_classes, batch.lam)
    net.train()
    total, _, _ = engine.train_step(one_by_one(net), torch.optim.SGD(net.parameters(), lr=0.1), batch, LOSS, [1])
    assert float(total) == pytest.approx(expected.item())
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(net[1].state_dict()[name], statistics[name])
    assert not torch.equal(net[0].weight, weights)
    assert net[1].training  # back in train mode for the next batch


def test_epoch_gives_mean_loss_and_top1_over_images():
    net, seen = small_net(no_norm), []
    batches = [random_batch(6), random_batch(2)]
    still = torch.optim.SGD(net.parameters(), lr=0.0)
    loss, top1, bad = engine.train_epoch(one_by_one(net), still, batches, LOSS, 6, 2, lambda *sums: seen.append(sums[0]))
    assert seen == [6, 8]
    assert bad is None
    values, hits = 0.0, 0
    for b in batches:
        logits = net(b.images)
        values += len(b.images) * LOSS(logits, b.soft_labels, b.classes, b.partner_classes, b.lam).item()
        hits += int((logits.argmax(1) == b.classes).sum())
    assert loss == pytest.approx(values / 8)
    assert top1 == pytest.approx(100 * hits / 8)


def test_the_first_batch_whose_loss_is_not_finite_is_named():
    net, batches = small_net(no_norm), [random_batch(6) for _ in range(4)]
    batches[1].soft_labels[2, 3] = float("inf")
    loss, _, bad = engine.train_epoch(one_by_one(net), torch.optim.SGD(net.parameters(), lr=0.0), batches, LOSS, 6, 2)
    assert bad == 1
    assert not math.isfinite(loss)


def test_library_randomness_repeats_and_puts_the_state_back():
    before, drawn = torch.get_rng_state(), []
    for epoch in (0, 0, 1):
        with engine.library_randomness(torch.device("cpu"), 3, "student", epoch):
            drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_factor_gives_zeta_to_ssrs_only():
    assert engine.factor("ssrs", 250, 300, 2.5) == pytest.approx(0.75)
    assert engine.factor("cosine", 150, 300, None) == pytest.approx(0.5)


def test_two_updates_of_a_tenth_equal_one_of_nineteen_hundredths():
    """DELT, RDED: a second train-mode forward of the same batch, on BatchNorm's running statistics."""
    images = random_batch(12).images
    twice, once = small_net(nn.BatchNorm2d), small_net(nn.BatchNorm2d)
    engine.set_batch_norm_momentum(once, 0.19)
    for net, forwards in ((twice, 2), (once, 1)):
        with torch.no_grad():
            net[1].running_mean.fill_(0.3)
            for _ in range(forwards):
                net.train()(images)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(once[1], name), getattr(twice[1], name), rtol=1e-12, atol=1e-14)
    unchanged = small_net(nn.BatchNorm2d)
    unchanged.train()(images)
    assert (once[1].running_var - unchanged[1].running_var).abs().max() > 1e-3  # and 0.1 once is something else


@pytest.mark.parametrize(("on", "free"), [("matrices", 0.0), ("all", 1e-4)])
def test_weight_decay_on_matrices_or_all(on, free):
    optimizer = engine.build_optimizer(small_net(nn.BatchNorm2d), "sgd", 0.1, 1e-4, decay_on=on)
    assert [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups] == [(2, 1e-4), (4, free)]
