import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.measure import count_waits
from models.networks import build
from utils.seeding import stream
from validate import engine
from validate.batches import Batch
from validate.losses import student_loss
from validate.options import Objective, Optimisation
from validate.passes import MicroBatches, Passes

CPU, OBJECTIVE = torch.device("cpu"), Objective()


def small_network(norm=nn.BatchNorm2d):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), norm(4), nn.ReLU(),
                             nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).double()


def without_norm(_):
    return nn.Identity()


def random_batch(count):
    generator = stream("batch", count)
    classes = torch.randint(0, 5, (count,), generator=generator)
    images = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    soft_labels = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    return Batch(images, soft_labels, classes, classes.flip(0), 0.3)


def apart(network, batch_size, steps):
    return Passes(network, CPU, MicroBatches(batch_size, steps, together=False))


def sgd(network, lr=0.0):
    return torch.optim.SGD(network.parameters(), lr=lr)


def plain_loss(network, batch):
    return student_loss(OBJECTIVE, network(batch.images), batch.soft_labels, batch.classes,
                        batch.partner_classes, batch.lam)


def test_weight_decay_split_of_resnet18():
    network = build("resnet18", 10, seed=("split",)).net
    decayed, free = engine.split_parameters(network)
    assert (len(decayed), len(free)) == (21, 41)
    assert all(p.ndim > 1 for p in decayed)  # 20 convolutions and the head
    optimizer = engine.build_optimizer(network, Optimisation(lr=1e-3, weight_decay=0.01))
    groups = [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    assert groups == [(21, 0.01), (41, 0.0)]
    assert all(g["betas"] == (0.9, 0.999) and g["lr"] == 1e-3 for g in optimizer.param_groups)


def test_one_adamw_step_by_hand():
    network = nn.Linear(1, 1).double()
    with torch.no_grad():
        network.weight.fill_(2.0)
        network.bias.fill_(2.0)
    optimizer = engine.build_optimizer(network, Optimisation(lr=0.1, weight_decay=0.5))
    network.weight.grad = torch.full((1, 1), 3.0).double()
    network.bias.grad = torch.full((1,), 3.0).double()
    # Adam's first step is lr * sign(gradient); decay takes lr * 0.5 of the weight, not the bias.
    optimizer.step()
    assert float(network.weight.detach()) == pytest.approx(2 - 0.1 * 0.5 * 2 - 0.1, abs=1e-6)
    assert float(network.bias.detach()) == pytest.approx(2 - 0.1, abs=1e-6)


@pytest.mark.parametrize(("on", "free"), [("matrices", 0.0), ("all", 1e-4)])
def test_sgd_and_weight_decay_on_matrices_or_all(on, free):
    options = Optimisation(optimizer="sgd", lr=0.1, weight_decay=1e-4, momentum=0.8,
                           weight_decay_on=on)
    optimizer = engine.build_optimizer(small_network(), options)
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.8}
    groups = [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    assert groups == [(2, 1e-4), (4, free)]


@pytest.mark.parametrize(("count", "batch_size", "steps"),
                         [(50, 50, 4), (26, 50, 4), (13, 50, 4), (1, 50, 4), (5, 6, 2)])
def test_micro_batched_gradient_equals_one_pass_without_batch_norm(count, batch_size, steps):
    batch, network = random_batch(count), small_network(without_norm)
    whole = copy.deepcopy(network)
    value = plain_loss(whole, batch)
    value.backward()
    loss_sum, hits, seen = engine.train_step(apart(network, batch_size, steps), sgd(network),
                                             batch, OBJECTIVE)
    for micro, one in zip(network.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(micro.grad, one.grad, rtol=1e-10, atol=1e-13)
    # The ground truth counts images alike, so the mean over micro-batches weighs them by size.
    assert float(loss_sum) == pytest.approx(count * value.item())
    assert int(hits) == int((whole(batch.images).argmax(1) == batch.classes).sum())
    assert seen == count


def test_batch_norm_moves_twice_on_a_batch_of_fifty():
    batch, network = random_batch(50), small_network()
    with torch.no_grad():
        maps = [network[0](batch.images[half]) for half in (slice(0, 25), slice(25, 50))]
    mean = torch.zeros(4, dtype=torch.float64)
    for z in maps:  # momentum 0.1, the first half first
        mean = 0.9 * mean + 0.1 * z.mean((0, 2, 3))
    engine.train_step(apart(network, 50, 2), sgd(network), batch, OBJECTIVE)
    assert int(network[1].num_batches_tracked) == 2
    torch.testing.assert_close(network[1].running_mean, mean)


@pytest.mark.gpu
def test_a_gpu_takes_the_cpus_steps_and_waits_in_none():
    students = []
    for device in (CPU, torch.device("cuda")):
        network, batch = small_network().to(device), random_batch(6)
        passes = Passes(network, device, MicroBatches(6, 2))
        optimizer = engine.build_optimizer(network, Optimisation(lr=1e-2, weight_decay=0.01))
        batch = replace(batch, **{name: getattr(batch, name).to(device) for name in
                                  ("images", "soft_labels", "classes", "partner_classes")})
        engine.train_step(passes, optimizer, batch, OBJECTIVE)  # first calls may wait
        waits = count_waits(lambda: [engine.train_step(passes, optimizer, batch, OBJECTIVE)  # noqa: B023
                                     for _ in range(3)], device)
        students.append(network)
    assert waits == 0
    cpu, gpu = (student.cpu().state_dict() for student in students)
    for name, tensor in cpu.items():
        torch.testing.assert_close(gpu[name], tensor, rtol=1e-6, atol=1e-9)


def test_a_batch_of_one_uses_and_leaves_running_statistics():
    batch, network = random_batch(1), small_network()
    with torch.no_grad():
        network[1].running_mean.fill_(0.5)
    statistics, weights = copy.deepcopy(network[1].state_dict()), network[0].weight.clone()
    expected = plain_loss(copy.deepcopy(network).eval(), batch)

    network.train()
    loss_sum, _, _ = engine.train_step(apart(network, 50, 2), sgd(network, 0.1), batch, OBJECTIVE)
    assert float(loss_sum) == pytest.approx(expected.item())
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(network[1].state_dict()[name], statistics[name])
    assert not torch.equal(network[0].weight, weights)
    assert network[1].training  # back in train mode for the next batch


def test_epoch_gives_mean_loss_and_top1_over_images():
    network, seen = small_network(without_norm), []
    batches = [random_batch(6), random_batch(2)]
    loss, top1, bad_batch = engine.train_epoch(
        apart(network, 6, 2), sgd(network), batches, OBJECTIVE,
        after_batch=lambda *sums: seen.append(sums[0]))
    assert seen == [6, 8]
    assert bad_batch is None
    values = sum(len(batch) * plain_loss(network, batch).item() for batch in batches)
    hits = sum(int((network(batch.images).argmax(1) == batch.classes).sum()) for batch in batches)
    assert loss == pytest.approx(values / 8)
    assert top1 == pytest.approx(100 * hits / 8)


def test_the_first_batch_whose_loss_is_not_finite_is_named():
    network, batches = small_network(without_norm), [random_batch(6) for _ in range(4)]
    batches[1].soft_labels[2, 3] = float("inf")
    loss, _, bad_batch = engine.train_epoch(apart(network, 6, 2), sgd(network), batches, OBJECTIVE)
    assert bad_batch == 1
    assert not math.isfinite(loss)


def test_two_updates_of_a_tenth_equal_one_of_nineteen_hundredths():
    """DELT and RDED run a second train-mode forward of the same batch."""
    images = random_batch(12).images
    twice, once, tenth = small_network(), small_network(), small_network()
    engine.set_batch_norm_momentum(once, 0.19)
    for network, forwards in ((twice, 2), (once, 1), (tenth, 1)):
        with torch.no_grad():
            network[1].running_mean.fill_(0.3)
            for _ in range(forwards):
                network.train()(images)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(once[1], name), getattr(twice[1], name), rtol=1e-12,
                                   atol=1e-14)
    assert (once[1].running_var - tenth[1].running_var).abs().max() > 1e-3


def test_a_state_gives_moments_and_never_options():
    network = small_network()
    options = Optimisation(lr=0.1, weight_decay=0.5)
    optimizer = engine.build_optimizer(network, options)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()

    forged = [{**group, "betas": ("a", "b")} for group in state["param_groups"]]
    other = engine.build_optimizer(network, options)
    engine.load_optimizer(other, {**state, "param_groups": forged})
    assert other.state_dict()["param_groups"] == state["param_groups"]
    for number, moments in other.state_dict()["state"].items():
        assert all(torch.equal(value, state["state"][number][name])
                   for name, value in moments.items())
    assert other.state_dict()["state"].keys() == state["state"].keys()
