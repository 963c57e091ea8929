import torch
from torch import nn

from utils.seeding import seeded
from validate.average import WeightAverage


def net():
    with seeded("average"):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2)).double()


def test_average_equals_a_slow_loop_and_keeps_the_students_buffers():
    student = net()
    slow = [p.detach().clone() for p in student.parameters()]  # from initialisation, no bias correction
    average = WeightAverage(student, 0.99)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        optimizer.zero_grad()
        student(torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
        average.update(student)
        slow = [0.99 * a + 0.01 * p.detach() for a, p in zip(slow, student.parameters(), strict=True)]
    for a, b, p in zip(average.network.parameters(), slow, student.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=1e-12, atol=1e-14)
        assert not torch.equal(a, p)
    for a, b in zip(average.network.buffers(), student.buffers(), strict=True):
        assert torch.equal(a, b)
    assert int(average.network[1].num_batches_tracked) == 5


def test_state_goes_on_exactly():
    student = net()
    whole, first = WeightAverage(student, 0.9), WeightAverage(student, 0.9)
    with torch.no_grad():
        student[0].weight.add_(1)
    whole.update(student)
    first.update(student)
    second = WeightAverage(student, 0.9)  # made anew from other weights, as after a stop
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        student[0].weight.mul_(2)
    for average in (whole, second):
        average.update(student)
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True))
