"""Exponential moving average of a student's weights (EDC)."""

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def weight_average(student, decay):
    """An AveragedModel of a student, which starts from its first weights.

    update_parameters(student), after every optimiser step, does w <- decay w + (1 - decay) v for
    the student's parameters v, without bias correction. BatchNorm's running statistics are the
    student's own. `module` is the averaged student, which is tested and saved.
    """
    average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.update_parameters(student)  # the first update copies; later ones average
    return average
