"""The hard-label protocols of the field as plain values. Imports no PyTorch.

igd: the one of IGD, by whose numbers DAP's tables were made. minimax: the one of MinimaxDiffusion,
MGD3 and VLCP. dc: the classical one for small images (dataset condensation and its successors).
"""

from dataclasses import dataclass

from utils import schedules

AUGMENT = ("imagenet", "dc", "none")  # see validate.hard_views

# (most images per class, epochs); beyond the last line 300
_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))


@dataclass(frozen=True)
class Recipe:
    """What a student sees and how it is trained.

    student: the network. image_size: side S in pixels, None for the images' own. augment: one of
    AUGMENT. mix_type: cutmix on every batch, or none. epochs: None where they follow
    from the images per class. tests: of a student, spread evenly over its epochs. weight_decay_on,
    momentum: as in validate.options. milestones, gamma: of the learning rate, see
    utils.schedules.milestones. seeds: of the students.
    """

    student: str
    image_size: int | None
    augment: str
    mix_type: str
    batch_size: int
    epochs: int | None
    optimizer: str
    lr: float
    weight_decay: float
    milestones: tuple
    gamma: float
    seeds: tuple
    tests: int = 100
    momentum: float = 0.9
    weight_decay_on: str = "all"

    def lr_at(self, epoch):
        """The learning rate in epoch 0 ... epochs - 1."""
        return self.lr * schedules.milestones(epoch, self.epochs, self.milestones, self.gamma)

    def tests_after(self, epoch):
        """Whether a student is tested after this epoch: every max(1, epochs // tests), and last."""
        every = max(1, self.epochs // self.tests)
        return (epoch + 1) % every == 0 or epoch + 1 == self.epochs


_THIRDS = {"epochs": None, "batch_size": 64, "augment": "imagenet", "mix_type": "cutmix",
           "milestones": ((2, 3), (5, 6)), "gamma": 0.2, "student": "resnetap10"}
_SGD = {"optimizer": "sgd", "lr": 0.01, "weight_decay": 5e-4}

PROTOCOLS = {
    "igd": Recipe(**_THIRDS, image_size=256, optimizer="adamw", lr=1e-3, weight_decay=0.01,
                  seeds=(0, 1, 2, 3, 4)),
    "minimax": Recipe(**_THIRDS, **_SGD, image_size=224, seeds=(0, 1, 2)),
    "dc": Recipe(**_SGD, student="convnet3", image_size=None, augment="none", mix_type="none",
                 batch_size=256, epochs=300, milestones=((1, 2),), gamma=0.1,
                 seeds=(0, 1, 2, 3, 4)),
}


def epochs_by_ipc(ipc, classes):
    """Epochs of igd and minimax for this many images per class.

    From 100 classes on they are two thirds.
    """
    epochs = next((epochs for most, epochs in _EPOCHS if ipc <= most), 300)
    return epochs * 2 // 3 if classes >= 100 else epochs
