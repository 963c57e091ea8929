"""One pass with grouped BatchNorm against the plain reference, a pass for each micro-batch."""

import copy

import pytest
import torch
from torch import nn

from models.networks import build
from utils.precision import Arithmetic
from utils.seeding import seeded, stream
from validate import engine
from validate.batches import Batch
from validate.grouped_batch_norm import Groups, batch_norm_layers
from validate.options import Objective, Optimisation
from validate.passes import MicroBatches, Passes

CPU, FP32 = torch.device("cpu"), Arithmetic()
# AdamW divides a gradient by its size, so rounding is all there is where a gradient is 0.
SGD = Optimisation(optimizer="sgd", lr=1e-3, weight_decay=0.01)
ADAMW = Optimisation(lr=1e-3, weight_decay=0.01)


def batch_of(count, classes=5, size=32, dtype=torch.float64):
    generator = stream("passes", count)
    target = torch.randint(0, classes, (count,), generator=generator)
    images = torch.randn(count, 3, size, size, generator=generator, dtype=dtype)
    soft_labels = torch.randn(count, classes, generator=generator, dtype=dtype)
    return Batch(images, soft_labels, target, target.flip(0), 0.3)


def steps(network, loss, batches, micro_batches, optimisation=SGD, arithmetic=FP32):
    """An optimiser step per batch.

    Returns ([(loss sum, hits)], the network's state, its last gradients).
    """
    network = copy.deepcopy(network).train()
    passes = Passes(network, CPU, micro_batches, arithmetic)
    optimizer, found = engine.build_optimizer(network, optimisation), []
    for batch in batches:
        loss_sum, hits, _ = engine.train_step(passes, optimizer, batch, Objective(loss))
        found.append((float(loss_sum), int(hits)))
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return found, network.state_dict(), gradients


def both_ways(network, loss, batches, batch_size, accumulation_steps, **settings):
    """`steps` with a pass for each micro-batch, and with one pass for all."""
    return [steps(network, loss, batches, MicroBatches(batch_size, accumulation_steps, together),
                  **settings) for together in (False, True)]


# network, loss, images of each batch, images of a full batch, micro-batches of it, momentum
CASES = {
    "the paper's 25 + 25": ("resnet18", "mse_gt", [50, 50, 50], 50, 2, None),
    "an uneven last batch, 13 + 13 and 7 + 6": ("resnet18", "mae_gt", [50, 26, 13], 50, 4, None),
    "a loss that sees its micro-batch, and a batch of one":
        ("shufflenet_v2_x0_5", "dist", [12, 7, 1], 12, 3, None),
    "DELT's momentum": ("shufflenet_v2_x0_5", "kl", [10, 10, 3], 10, 2, 0.19),
    "eight groups": ("resnet18", "ce", [32, 31, 32], 32, 8, None)}


@pytest.mark.parametrize("case", CASES)
def test_one_pass_equals_micro_batches_in_float64(case):
    name, loss, counts, batch_size, accumulation_steps, momentum = CASES[case]
    network = build(name, 5, seed=("passes",)).double()
    if momentum is not None:
        engine.set_batch_norm_momentum(network, momentum)
    batches = [batch_of(count) for count in counts]
    (found_a, a, gradients_a), (found_b, b, gradients_b) = both_ways(
        network, loss, batches, batch_size, accumulation_steps)

    for (loss_a, hits_a), (loss_b, hits_b) in zip(found_a, found_b, strict=True):
        assert loss_a == pytest.approx(loss_b, rel=1e-9)
        assert hits_a == hits_b
    cut = MicroBatches(batch_size, accumulation_steps)
    groups = [len(cut.sizes(count)) for count in counts if count > 1]
    assert max(groups) > 1
    for key, value in a.items():
        if key.endswith("num_batches_tracked"):
            assert int(value) == int(b[key]) == sum(groups)
        else:
            torch.testing.assert_close(value, b[key], rtol=1e-7, atol=1e-9)
    for key, value in gradients_a.items():
        torch.testing.assert_close(value, gradients_b[key], rtol=1e-7,
                                   atol=1e-9 * float(value.abs().max()) + 1e-12)


def test_one_pass_equals_micro_batches_in_float32():
    network, batches = build("resnet18", 5, seed=("passes",)), [batch_of(50, dtype=torch.float32)]
    (found_a, a, gradients_a), (found_b, b, gradients_b) = both_ways(
        network, "mse_gt", batches, 50, 2, optimisation=ADAMW)
    assert found_a[0][0] == pytest.approx(found_b[0][0], rel=1e-5)
    for key in a:
        if "running" in key:
            torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-5)
    for key, value in gradients_a.items():
        assert (value - gradients_b[key]).norm() <= 1e-4 * value.norm() + 1e-7


def test_it_is_not_one_batch_norm_over_all():
    network, images = build("resnet18", 5, seed=("passes",)).double().train(), batch_of(8).images
    together = Passes(copy.deepcopy(network), CPU, MicroBatches(8, 2))
    assert (together(images, [4, 4]) - network(images)).abs().max() > 1e-3


@pytest.mark.parametrize("layer", [
    nn.BatchNorm1d(6), nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False),
    nn.BatchNorm2d(6, track_running_stats=False), nn.BatchNorm2d(6, momentum=None)], ids=repr)
def test_every_kind_of_layer_bit_for_bit(layer):
    plain, network = copy.deepcopy(layer), nn.Sequential(layer)
    groups = Groups(network)
    shape = (9, 6) if isinstance(layer, nn.BatchNorm1d) else (9, 6, 4, 4)
    x = torch.randn(shape, generator=stream("kinds"))
    with groups.of([4, 3, 2]):
        grouped = network(x)
    assert torch.equal(grouped, torch.cat([plain(part) for part in x.split([4, 3, 2])]))
    for name, value in plain.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value)
    assert torch.equal(network(x), plain(x))  # outside the block: one batch

    network.eval()
    plain.eval()
    with groups.of([4, 3, 2]):
        assert torch.equal(network(x), plain(x))


def test_tokens_along_the_batch_stay_with_their_image():
    """Networks such as LeViT flatten images and tokens to one dimension before BatchNorm1d."""
    network = nn.Sequential(nn.BatchNorm1d(6))
    plain, groups = copy.deepcopy(network), Groups(network)
    x = torch.randn(5 * 7, 6, generator=stream("tokens"))
    with groups.of([3, 2]):
        grouped = network(x)
    assert torch.equal(grouped, torch.cat([plain(x[:21]), plain(x[21:])]))


def test_timm_layers_and_copies():
    """timm's BatchNorm holds its activation; a copy of the network has groups of its own."""
    network = build("timm/efficientnet_lite0", 5, seed=("timm",)).double().train()
    apart, images = copy.deepcopy(network), batch_of(6).images
    groups = Groups(network)
    assert len(batch_norm_layers(network)) > 40
    other = copy.deepcopy(network)
    with groups.of([3, 3]):
        expected = torch.cat([apart(images[:3]), apart(images[3:])])
        torch.testing.assert_close(network(images), expected, rtol=1e-9, atol=1e-11)
        assert batch_norm_layers(other)[0].groups.sizes is None
    Groups(network)  # a second time changes nothing
    assert type(batch_norm_layers(network)[0]).__name__.count("Grouped") == 1
    assert list(network.state_dict()) == list(apart.state_dict())


@pytest.mark.parametrize("together", [False, True])
def test_dropout_repeats_with_its_seed(together):
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 16 * 16, 5)).double()
    found = []
    for key in (1, 1, 2):
        with seeded("dropout", key):
            found.append(steps(network, "mse_gt", [batch_of(8, size=16)],
                               MicroBatches(8, 2, together))[0])
    assert found[0] == found[1] != found[2]


def test_bf16_is_near_fp32_and_gives_fp32_logits():
    network, batch = build("resnet18", 5, seed=("passes",)), batch_of(50, dtype=torch.float32)
    halves = MicroBatches(50, 2)
    passes = Passes(copy.deepcopy(network).train(), CPU, halves, Arithmetic("bf16"))
    assert passes(batch.images, [25, 25]).dtype == torch.float32
    (fp32, _, _), (bf16, state, gradients) = (
        steps(network, "mse_gt", [batch], halves, arithmetic=Arithmetic(precision))
        for precision in ("fp32", "bf16"))
    assert bf16[0][0] == pytest.approx(fp32[0][0], rel=0.02)
    assert bf16[0][0] != fp32[0][0]
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}


@pytest.mark.slow
def test_compiled_equals_plain_in_every_shape_and_mode():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(),
                            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).double()
    batches = [batch_of(count, size=8) for count in (8, 8, 5, 1, 8)]
    (plain, a, _), (compiled, b, _) = (
        steps(network, "mse_gt", batches, MicroBatches(8, 2), arithmetic=Arithmetic(compile=c))
        for c in (False, True))
    assert [value for value, _ in plain] == pytest.approx([value for value, _ in compiled],
                                                          rel=1e-9)
    assert int(b["1.num_batches_tracked"]) == 2 + 2 + 2 + 2
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-8, atol=1e-10)


def test_layout_changes_nothing_but_the_order_of_sums():
    plain, batch = build("resnet18", 5, seed=("passes",)), batch_of(6, dtype=torch.float32)
    network = copy.deepcopy(plain)
    Passes(network, CPU, MicroBatches(6))
    assert not network.channels_last
    assert network.net.layer1[0].conv1.weight.is_contiguous()
    torch.testing.assert_close(network.eval()(batch.images), plain.eval()(batch.images), rtol=1e-4,
                               atol=1e-5)
    depthwise = build("shufflenet_v2_x0_5", 5, seed=("passes",))
    Passes(depthwise, CPU, MicroBatches(6))
    assert depthwise.channels_last
    Passes(plain, CPU, MicroBatches(6), Arithmetic("bf16"))
    assert plain.channels_last


@pytest.mark.parametrize(("count", "sizes"), [
    (50, [25, 25]), (26, [13, 13]), (27, [14, 13]), (25, [25]), (13, [13]), (2, [2]), (1, [1])])
def test_micro_batches_of_fifty_in_two(count, sizes):
    assert MicroBatches(50, 2).sizes(count) == sizes


@pytest.mark.parametrize("batch_size", [2, 3, 7, 50])
def test_micro_batches_are_even_and_never_of_one_image(batch_size):
    for accumulation_steps in (1, 2, 3, batch_size):
        largest = -(-batch_size // accumulation_steps)
        for count in range(1, batch_size + 1):
            sizes = MicroBatches(batch_size, accumulation_steps).sizes(count)
            assert sum(sizes) == count
            assert max(sizes) - min(sizes) <= 1
            assert sizes == sorted(sizes, reverse=True)
            assert min(sizes) > 1 or count == 1
            assert max(sizes) <= max(largest, 3)  # three images cannot be cut
