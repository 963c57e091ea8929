import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from utils.seeding import seeded, stream
from validate.average import WeightAverage


def network():
    with seeded("average"):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(),
                             nn.Linear(4 * 36, 2)).double()


def test_average_equals_a_slow_loop_and_keeps_the_students_buffers():
    student, generator = network(), stream("average")
    slow = [p.detach().clone() for p in student.parameters()]  # from initialisation
    average = WeightAverage(student, 0.99)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    for _ in range(5):
        images = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        student(images).square().mean().backward()
        optimizer.step()
        average.update_parameters(student)
        slow = [0.99 * a + 0.01 * p.detach()
                for a, p in zip(slow, student.parameters(), strict=True)]

    for a, b, p in zip(average.module.parameters(), slow, student.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=1e-12, atol=1e-14)
        assert not torch.equal(a, p)
    for a, b in zip(average.module.buffers(), student.buffers(), strict=True):
        assert torch.equal(a, b)
    assert int(average.module[1].num_batches_tracked) == 5


def test_it_is_pytorchs_average_bit_for_bit_without_a_copy_of_the_counter():
    student, names = network(), []
    ours = WeightAverage(student, 0.9)
    theirs = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(student)  # the first one copies

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(function._opname)
            return function(*args, **(kwargs or {}))

    for _ in range(3):
        with torch.no_grad():
            student[0].weight.add_(0.3)
            student[1].running_mean.add_(1)
        with Calls():
            ours.update_parameters(student)
        theirs.update_parameters(student)
    assert not {"_to_copy", "_local_scalar_dense"} & set(names)  # a GPU's host would wait
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_state_goes_on_exactly():
    student = network()
    whole, first = WeightAverage(student, 0.9), WeightAverage(student, 0.9)
    with torch.no_grad():
        student[0].weight.add_(1)
    whole.update_parameters(student)
    first.update_parameters(student)

    second = WeightAverage(student, 0.9)  # made anew from other weights, as after a stop
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        student[0].weight.mul_(2)
    for average in (whole, second):
        average.update_parameters(student)
    for a, b in zip(whole.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(a, b)
