"""Exponential moving average of a student's weights (EDC)."""

import torch
from torch.optim.swa_utils import AveragedModel


class WeightAverage(AveragedModel):
    """The average of a student's weights, which starts from its first ones.

    `module` is the averaged student, which is tested and saved.
    """

    def __init__(self, student, decay):
        super().__init__(student)
        self.decay = decay
        self.n_averaged += 1

    @torch.no_grad()
    def update_parameters(self, student):
        """After an optimiser step: w <- decay w + (1 - decay) v for the student's parameters v.

        There is no bias correction, and BatchNorm's running statistics are the student's own.
        PyTorch's own update copies its counter to the GPU every time, for which the host waits.
        """
        torch._foreach_lerp_(list(self.module.parameters()), list(student.parameters()),
                             1 - self.decay)
        for own, of_student in zip(self.module.buffers(), student.buffers(), strict=True):
            own.copy_(of_student)
        self.n_averaged += 1
