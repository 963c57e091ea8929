"""Cells of Table 2: how teachers are aligned and drawn, ImageNet-1K, IPC about 1200, hard labels.

All rows but real data share SRe2L's recover (learning rate 0.25, 4000 constant steps, batches of
100 classes), which starts from real images, each used once.
"""

from dataclasses import replace

from reproduce.cells import Cell, Claim, Images, Student, Table

# Classes have 732 to 1300 images. Each is used once, and a class that has no more is left out of a
# slice.
IPC = 1300
EXTRAS = ["mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"]  # with ResNet-18: paper 4.4

BASE = {"preset": "sre2l", "start": "real", "allow_short_classes": True}
_DRAWN = {**BASE, "bn_teachers": EXTRAS, "logit_teacher": "drawn"}


def _multi(count):
    return {**_DRAWN, "decoupling": "multi", "bn_law": "exact", "bn_count": count,
            "theta1": "free"}


_NETS = "pool not stated: the four nets of paper 4.4"
_INTRA = f"{_NETS}; drawn anew at every step, alike for all batches of a slice"
_POOL = f"{_NETS}; drawn once per slice, as in the released code"
_MEAN = f"{_POOL}; BN terms averaged as in the released code (--bn-terms sum: paper Eq. 4)"

# word: title, recover's options, paper's top-1, note
ROWS = {
    "real": ("real data", {"start": "real", "iteration": 0, "allow_short_classes": True}, 70.0,
             "the training images, resized and centre-cropped to 224 px and kept as JPEG like all "
             "distilled ones"),
    "sre2l": ("SRe2L", BASE, 17.9, "starts from real images as all rows do (paper 4.1), where "
                                   "SRe2L itself starts from noise"),
    "single-intra": ("single teacher, intra-distillation",
                     {**_DRAWN, "decoupling": "single", "selection": "intra"}, 18.3, _INTRA),
    "dual-intra": ("dual teachers, intra-distillation",
                   {**_DRAWN, "decoupling": "dual", "selection": "intra"}, 19.0, _INTRA),
    "single-pre": ("single teacher, pre-distillation",
                   {**_DRAWN, "decoupling": "single"}, 32.4, _POOL),
    "dual-pre": ("dual teachers, pre-distillation",
                 {**_DRAWN, "decoupling": "dual"}, 36.2, _POOL),
    "multi2": ("2 BN teachers, pre-distillation", _multi(2), 37.4, _MEAN),
    "multi3": ("3 BN teachers, pre-distillation", _multi(3), 38.7, _MEAN),
    "multi4": ("4 BN teachers, pre-distillation", _multi(4), 39.1,
               f"{_MEAN}; all of the pool, so only the logit teacher is drawn"),
}

# The recipe is in an appendix that is not at hand: torchvision's.
STUDENT = Student("hard", "resnet18", {"preset": "hard-label"})

# On the 100 images of digits, torchvision's recipe (SGD, batch 256) takes one step an epoch and is
# still at chance after 20 epochs. AdamW, batches of 25 and crops from 0.25 keep its labels and the
# steps of its learning rate.
DIGITS_STUDENT = Student("hard-adamw", "resnet18", {
    "preset": "hard-label", "optimizer": "adamw", "weight_decay_on": "matrices", "batch_size": 25,
    "min_scale_crops": 0.25})

CLAIMS = (
    ("real", "multi4"), ("single-intra", "sre2l"), ("dual-intra", "single-intra"),
    ("single-pre", "single-intra"), ("dual-pre", "dual-intra"), ("dual-pre", "single-pre"),
    ("multi2", "dual-pre"), ("multi3", "multi2"), ("multi4", "multi3"), ("multi4", "sre2l"))


def for_digits(cell):
    """The cell with a student that digits can train; other tables' cells as they are."""
    if cell.student is not STUDENT:
        return cell
    return replace(cell, student=DIGITS_STUDENT, stands_for=cell)


def _cell(word):
    title, values, paper, note = ROWS[word]
    images = Images("real" if word == "real" else f"t2_{word}", values)
    return Cell("table2", {"row": word}, title, IPC, images, None, STUDENT, paper, note=note)


TABLE = Table("table2", "ImageNet-1K, IPC about 1200, hard labels, ResNet-18",
              [_cell(word) for word in ROWS], ipc_can_change=True,
              claims=tuple(Claim(*names) for names in CLAIMS))
