"""Exponential moving average of a student's weights (EDC)."""

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """w <- decay * w + (1 - decay) * (the student's parameters) after every optimiser step, without bias correction.

    It starts from the student's initialisation: make it before training. BatchNorm's running statistics are the student's own.
    network: the averaged student, to be tested and saved.
    """

    def __init__(self, student, decay):
        self._model = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self._model.update_parameters(student)  # PyTorch's first update copies; from the second on it averages

    @property
    def network(self):
        return self._model.module

    def update(self, student):
        self._model.update_parameters(student)

    def state_dict(self):
        return self._model.state_dict()

    def load_state_dict(self, state):
        self._model.load_state_dict(state)
