"""Cells of Table 2: teacher alignment and selection on ImageNet-1K, IPC about 1200, hard labels (recovery only), ResNet-18.

Base of all rows: SRe2L's standard recover (lr 0.25, 4000 constant steps, batches of 100 classes) from real images, each used once.
"""

from dataclasses import replace

from reproduce.cells import Cell, Claim, Images, Student, Table

EXTRAS = ["mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"]  # with ResNet-18 the pool of paper 4.4; Table 2's is not stated
IPC = 1300  # classes have 732 to 1300 images: each is used once, a class that has no more is left out of a slice

BASE = {"preset": "sre2l", "start": "real", "allow_short_classes": True}
_DRAWN = {**BASE, "bn_teachers": EXTRAS, "logit_teacher": "drawn"}


def _multi(count):
    return {**_DRAWN, "decoupling": "multi", "bn_law": "exact", "bn_count": count, "theta1": "free"}


_NETS = "pool not stated: the four nets of paper 4.4"
_INTRA = f"{_NETS}; drawn anew at every step, alike for all batches of a slice"
_POOL = f"{_NETS}; drawn once per slice, as in the released code"
_MEAN = f"{_POOL}; BN terms averaged as in the released code (--bn-terms sum: paper Eq. 4)"
# word: title, recover's options, paper's top-1, note
ROWS = {
    "real": ("real data", {"start": "real", "iteration": 0, "allow_short_classes": True}, 70.0,
             "the training images, resized and centre-cropped to 224 px and kept as JPEG like all distilled ones"),
    "sre2l": ("SRe2L", BASE, 17.9, "starts from real images as all rows do (paper 4.1), where SRe2L itself starts from noise"),
    "single-intra": ("single teacher, intra-distillation", {**_DRAWN, "decoupling": "single", "selection": "intra"}, 18.3, _INTRA),
    "dual-intra": ("dual teachers, intra-distillation", {**_DRAWN, "decoupling": "dual", "selection": "intra"}, 19.0, _INTRA),
    "single-pre": ("single teacher, pre-distillation", {**_DRAWN, "decoupling": "single"}, 32.4, _POOL),
    "dual-pre": ("dual teachers, pre-distillation", {**_DRAWN, "decoupling": "dual"}, 36.2, _POOL),
    "multi2": ("2 BN teachers, pre-distillation", _multi(2), 37.4, _MEAN),
    "multi3": ("3 BN teachers, pre-distillation", _multi(3), 38.7, _MEAN),
    "multi4": ("4 BN teachers, pre-distillation", _multi(4), 39.1, f"{_MEAN}; all of the pool, so only the logit teacher is drawn"),
}
STUDENT = Student("hard", "resnet18", {"preset": "hard-label"})  # its recipe is in an appendix not at hand: torchvision's

# On digits torchvision's recipe (SGD, batch 256) would take one step an epoch on 100 images and is still at chance after 20; so the
# same hard labels and steps of the learning rate with AdamW, batches of 25 and crops from 0.25.
DIGITS_STUDENT = Student("hard-adamw", "resnet18", {"preset": "hard-label", "optimizer": "adamw", "weight_decay_on": "matrices",
                                                    "batch_size": 25, "min_scale_crops": 0.25})


def for_digits(cell):
    """The cell with a student that digits can train; other tables' cells as they are."""
    return replace(cell, student=DIGITS_STUDENT, stands_for=cell) if cell.student is STUDENT else cell


TABLE = Table(
    "table2", "ImageNet-1K, IPC about 1200, hard labels, ResNet-18",
    [Cell("table2", {"row": word}, title, IPC, Images("real" if word == "real" else f"t2_{word}", options), None, STUDENT, paper,
          note=note) for word, (title, options, paper, note) in ROWS.items()],
    ipc_can_change=True,
    claims=(Claim("real", "multi4"), Claim("single-intra", "sre2l"), Claim("dual-intra", "single-intra"),
            Claim("single-pre", "single-intra"), Claim("dual-pre", "dual-intra"), Claim("dual-pre", "single-pre"),
            Claim("multi2", "dual-pre"), Claim("multi3", "multi2"), Claim("multi4", "multi3"), Claim("multi4", "sre2l")))
