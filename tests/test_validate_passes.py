"""One pass with grouped BatchNorm against the plain reference, a pass for each micro-batch; number format and compilation."""

import copy
import functools

import pytest
import torch
from torch import nn

from models.networks import build
from utils.precision import Arithmetic
from utils.seeding import seeded, stream
from validate import engine, losses
from validate.grouped_batch_norm import Groups, batch_norm_layers
from validate.passes import Passes

CPU, FP32 = torch.device("cpu"), Arithmetic()


def batch_of(count, classes=5, size=32, dtype=torch.float64):
    generator = stream("passes", count)
    target = torch.randint(0, classes, (count,), generator=generator)
    return engine.Batch(torch.randn(count, 3, size, size, generator=generator, dtype=dtype),
                        torch.randn(count, classes, generator=generator, dtype=dtype), target, target.flip(0), 0.3)


def steps(net, loss, batches, together, batch_size, accumulation_steps, optimizer="sgd", arithmetic=FP32):
    """An optimiser step a batch. Returns ([(loss sum, hits)], the net's state, the last gradients).

    SGD by default: AdamW divides a gradient by its size, so that rounding is all there is where a gradient is 0.
    """
    net = copy.deepcopy(net).train()
    passes = Passes(net, CPU, arithmetic, together)
    optimizer = engine.build_optimizer(net, optimizer, 1e-3, 0.01)
    found = []
    for batch in batches:
        total, hits, _ = engine.train_step(passes, optimizer, batch, functools.partial(losses.student_loss, loss),
                                        losses.micro_batches(len(batch.images), batch_size, accumulation_steps))
        found.append((float(total), int(hits)))
    return found, net.state_dict(), {k: p.grad for k, p in net.named_parameters()}


CASES = {"the paper's 25 + 25": ("resnet18", "mse_gt", [50, 50, 50], 50, 2, None),
         "an uneven last batch, 13 + 13 and 7 + 6": ("resnet18", "mae_gt", [50, 26, 13], 50, 4, None),
         "a loss that sees its micro-batch, and a batch of one": ("shufflenet_v2_x0_5", "dist", [12, 7, 1], 12, 3, None),
         "DELT's momentum": ("shufflenet_v2_x0_5", "kl", [10, 10, 3], 10, 2, 0.19),
         "eight groups": ("resnet18", "ce", [32, 31, 32], 32, 8, None)}


@pytest.mark.parametrize("case", CASES)
def test_one_pass_equals_micro_batches_in_float64(case):
    name, loss, counts, batch_size, accumulation_steps, momentum = CASES[case]
    net = build(name, 5, seed=("passes",)).double()
    if momentum is not None:
        engine.set_batch_norm_momentum(net, momentum)
    batches = [batch_of(count) for count in counts]
    (found_a, a, gradients_a), (found_b, b, gradients_b) = (
        steps(net, loss, batches, together, batch_size, accumulation_steps) for together in (False, True))
    for (value, hits), (other, others) in zip(found_a, found_b, strict=True):
        assert value == pytest.approx(other, rel=1e-9)
        assert hits == others
    groups = [len(losses.micro_batches(count, batch_size, accumulation_steps)) for count in counts if count > 1]
    assert max(groups) > 1
    for key, value in a.items():
        if key.endswith("num_batches_tracked"):
            assert int(value) == int(b[key]) == sum(groups)
        else:
            torch.testing.assert_close(value, b[key], rtol=1e-8, atol=1e-10)
    for key, value in gradients_a.items():
        torch.testing.assert_close(value, gradients_b[key], rtol=1e-7, atol=1e-9 * float(value.abs().max()) + 1e-12)


def test_one_pass_equals_micro_batches_in_float32():
    net, batches = build("resnet18", 5, seed=("passes",)), [batch_of(50, dtype=torch.float32)]
    (found_a, a, gradients_a), (found_b, b, gradients_b) = (steps(net, "mse_gt", batches, together, 50, 2, "adamw")
                                                            for together in (False, True))
    assert found_a[0][0] == pytest.approx(found_b[0][0], rel=1e-5)
    for key in a:
        if "running" in key:
            torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-5)
    for key, value in gradients_a.items():
        assert (value - gradients_b[key]).norm() <= 1e-4 * value.norm() + 1e-7


def test_it_is_not_one_batch_norm_over_all():
    net, images = build("resnet18", 5, seed=("passes",)).double().train(), batch_of(8).images
    together = Passes(copy.deepcopy(net), CPU)
    difference = (together(images, [4, 4]) - net(images)).abs().max()
    assert difference > 1e-3


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(6), nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False),
                                   nn.BatchNorm2d(6, track_running_stats=False), nn.BatchNorm2d(6, momentum=None)], ids=repr)
def test_every_kind_of_layer_bit_for_bit(layer):
    plain, net = copy.deepcopy(layer), nn.Sequential(layer)
    groups = Groups(net)
    x = torch.randn(9, 6, *([] if isinstance(layer, nn.BatchNorm1d) else [4, 4]), generator=stream("kinds"))
    with groups.of([4, 3, 2]):
        found = net(x)
    assert torch.equal(found, torch.cat([plain(part) for part in x.split([4, 3, 2])]))
    for name, value in plain.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value)
    assert torch.equal(net(x), plain(x))  # outside the block: one batch
    for each in (net, plain):
        each.eval()
    with groups.of([4, 3, 2]):
        assert torch.equal(net(x), plain(x))


def test_tokens_along_the_batch_stay_with_their_image():
    """Nets such as LeViT flatten [images, tokens, features] to [images * tokens, features] before BatchNorm1d."""
    net = nn.Sequential(nn.BatchNorm1d(6))
    plain, groups = copy.deepcopy(net), Groups(net)
    x = torch.randn(5 * 7, 6, generator=stream("tokens"))
    with groups.of([3, 2]):
        found = net(x)
    assert torch.equal(found, torch.cat([plain(x[:21]), plain(x[21:])]))


def test_timm_layers_and_copies():
    """timm's BatchNorm comes with its activation; a copy of the net (the moving average) has groups of its own."""
    net = build("timm/efficientnet_lite0", 5, seed=("timm",)).double().train()
    apart, images = copy.deepcopy(net), batch_of(6).images
    groups = Groups(net)
    assert len(batch_norm_layers(net)) > 40
    other = copy.deepcopy(net)
    with groups.of([3, 3]):
        torch.testing.assert_close(net(images), torch.cat([apart(images[:3]), apart(images[3:])]), rtol=1e-9, atol=1e-11)
        assert batch_norm_layers(other)[0].groups.sizes is None
    Groups(net)  # a second time is no other net
    assert type(batch_norm_layers(net)[0]).__name__.count("Grouped") == 1
    assert list(net.state_dict()) == list(apart.state_dict())


@pytest.mark.parametrize("together", [False, True])
def test_dropout_repeats_with_its_seed(together):
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 16 * 16, 5)).double()
    found = []
    for key in (1, 1, 2):
        with seeded("dropout", key):
            found.append(steps(net, "mse_gt", [batch_of(8, size=16)], together, 8, 2)[0])
    assert found[0] == found[1] != found[2]


def test_bf16_is_near_fp32_and_gives_fp32_logits():
    net, batch = build("resnet18", 5, seed=("passes",)), batch_of(50, dtype=torch.float32)
    logits = Passes(copy.deepcopy(net).train(), CPU, Arithmetic("bf16"))(batch.images, [25, 25])
    assert logits.dtype == torch.float32
    (fp32, _, _), (bf16, state, gradients) = (steps(net, "mse_gt", [batch], True, 50, 2, arithmetic=Arithmetic(name))
                                              for name in ("fp32", "bf16"))
    assert bf16[0][0] == pytest.approx(fp32[0][0], rel=0.02)
    assert bf16[0][0] != fp32[0][0]
    assert {v.dtype for v in state.values()} == {torch.float32, torch.int64}
    assert {g.dtype for g in gradients.values()} == {torch.float32}


@pytest.mark.slow
def test_compiled_equals_plain_in_every_shape_and_mode():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(4, 5)).double()
    batches = [batch_of(count, size=8) for count in (8, 8, 5, 1, 8)]
    (a, state_a, _), (b, state_b, _) = (steps(net, "mse_gt", batches, True, 8, 2, arithmetic=Arithmetic(compile=c))
                                        for c in (False, True))
    assert [value for value, _ in a] == pytest.approx([value for value, _ in b], rel=1e-9)
    assert int(state_b["1.num_batches_tracked"]) == 2 + 2 + 2 + 2
    for key in state_a:
        torch.testing.assert_close(state_a[key], state_b[key], rtol=1e-8, atol=1e-10)


def test_layout_changes_nothing_but_the_order_of_sums():
    plain, batch = build("resnet18", 5, seed=("passes",)), batch_of(6, dtype=torch.float32)
    net = copy.deepcopy(plain)
    Passes(net, CPU)
    assert not net.channels_last
    assert net.net.layer1[0].conv1.weight.is_contiguous()
    torch.testing.assert_close(net.eval()(batch.images), plain.eval()(batch.images), rtol=1e-4, atol=1e-5)
    depthwise = build("shufflenet_v2_x0_5", 5, seed=("passes",))
    Passes(depthwise, CPU)
    assert depthwise.channels_last
    Passes(plain, CPU, Arithmetic("bf16"))
    assert plain.channels_last
