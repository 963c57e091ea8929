import torch
from torch import nn

from utils.seeding import seeded, stream
from validate.average import weight_average


def network():
    with seeded("average"):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(),
                             nn.Linear(4 * 36, 2)).double()


def test_average_equals_a_slow_loop_and_keeps_the_students_buffers():
    student, generator = network(), stream("average")
    slow = [p.detach().clone() for p in student.parameters()]  # from initialisation
    average = weight_average(student, 0.99)
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


def test_state_goes_on_exactly():
    student = network()
    whole, first = weight_average(student, 0.9), weight_average(student, 0.9)
    with torch.no_grad():
        student[0].weight.add_(1)
    whole.update_parameters(student)
    first.update_parameters(student)

    second = weight_average(student, 0.9)  # made anew from other weights, as after a stop
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        student[0].weight.mul_(2)
    for average in (whole, second):
        average.update_parameters(student)
    for a, b in zip(whole.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(a, b)
