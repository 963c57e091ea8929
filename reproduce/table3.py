"""Cells of Table 3: relabeling and recovery step by step, ImageNet-1K, ResNet-18, IPC 10. A panel starts from the row it names.

Two things the paper does not state are our guess until the last step: the student's schedule (SRe2L's cosine) and the least area of
the label crops (SRe2L's 0.08). The last step, "+ SSRS", is PRISM as released, with label crops from 0.25.
"""

from reproduce.cells import Cell, Claim, Images, Labels, Student, Table
from reproduce.table1 import prism_images, prism_labels

IPC = 10
EXTRAS = ["mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"]  # with ResNet-18 the pool of paper 4.4, until panel f
WITHOUT_EFFICIENTNET = ["mobilenet_v2", "alexnet", "shufflenet_v2_x0_5"]

GUESS = "student's cosine schedule and label crops from 0.08 are our guess (SRe2L's)"
_FREE = ("before panel d the draw of BN teachers is not stated: uniform over the non-empty subsets of the pool (paper 3.2), where "
         "ResNet-18 is one of them only by chance")
_RULE = "logits are combined by equal_energy as in the released code (--ensemble mean: the paper's words)"

# Images. Before panel d theta_1 is free; from it on the released slots, which with three extras are uniform over the subsets
# that hold theta_1.
_FIRST = {"bn_teachers": EXTRAS, "bn_law": "uniform", "bn_count": 4, "theta1": "free", "steps": "constant", "lr": 0.25}
_FORCED = {"bn_teachers": EXTRAS, "lr": 0.25}
_RESIZE = {"crop_schedule": "cosine"}
BASELINE = Images("t3_baseline", _FIRST)
RESIZE = Images("t3_resize", {**_FIRST, **_RESIZE})
VARIED = Images("t3_varied", {**_FIRST, "steps": "varied"})
BOTH = Images("t3_both", {**_FIRST, **_RESIZE, "steps": "varied"})
FORCED = Images("t3_forced", _FORCED)
LR_010 = Images("t3_lr0.10", {**_FORCED, "lr": 0.1})
LR_005 = Images("t3_lr0.05", {**_FORCED, "lr": 0.05})
ALEXNET = prism_images("r18")


def labels(batch, others=EXTRAS):
    """The ensemble's labels in batches of so many images, crops from 0.08."""
    with_alexnet = "_alexnet" if others is WITHOUT_EFFICIENTNET else ""
    return Labels(f"ensemble_b{batch}{with_alexnet}",
                  {"teachers": ["resnet18", *others], "ensemble": "equal_energy", "batch_size": batch, "min_scale_crops": 0.08})


ONE_TEACHER = Labels("resnet18_b1024",
                     {"teachers": ["resnet18"], "ensemble": "single", "batch_size": 1024, "min_scale_crops": 0.08})
_COSINE = {"lr_schedule": "cosine"}
KL = Student("kl", options={**_COSINE, "loss_type": "kl", "temperature": 20})


def with_truth(kind, weight):
    """A student that learns by MSE or MAE plus so much ground truth."""
    return Student(f"{kind}{weight}", options={**_COSINE, "loss_type": f"{kind}_gt", "ce_weight": weight})


MSE = with_truth("mse", 0.1)
L1024, L50 = labels(1024), labels(50)

# panel: word: title, images, labels, student, paper's top-1, note beside the guess
PANELS = {
    "labels": {
        "resnet18": ("ResNet-18 only", BASELINE, ONE_TEACHER, KL, 21.22, f"KL at T = 20 is assumed; {_FREE}"),
        "ensemble": ("ensemble average", BASELINE, L1024, KL, 23.75, f"KL at T = 20 is assumed; {_RULE}; {_FREE}"),
        "mae0.05": ("+ MAE, GT 0.05", BASELINE, L1024, with_truth("mae", 0.05), 28.97, _FREE),
        "mse0.05": ("+ MSE, GT 0.05", BASELINE, L1024, with_truth("mse", 0.05), 28.07, _FREE),
        "mae0.1": ("+ MAE, GT 0.1", BASELINE, L1024, with_truth("mae", 0.1), 23.85, _FREE),
        "mse0.1": ("+ MSE, GT 0.1", BASELINE, L1024, MSE, 29.53, _FREE),
    },
    "recovery": {
        "baseline": ("baseline from (a)", BASELINE, L1024, MSE, 29.53, _FREE),
        "resize": ("+ resize schedule", RESIZE, L1024, MSE, 29.93, f"CDA's cosine curve to the last step is assumed; {_FREE}"),
        "varied": ("+ varied iterations", VARIED, L1024, MSE, 31.30, _FREE),
        "both": ("+ both", BOTH, L1024, MSE, 30.89, f"CDA's cosine curve to the last step is assumed; {_FREE}"),
    },
    "batch": {f"b{size}": (f"label batch {size}" + (" from (b)" if size == 1024 else ""), VARIED, labels(size), MSE, paper, _FREE)
              for size, paper in ((1024, 31.30), (16, 40.41), (32, 43.40), (50, 44.04), (64, 43.79), (128, 42.59))},
    "teachers": {
        "baseline": ("baseline from (c)", VARIED, L50, MSE, 44.04, _FREE),
        "forced": ("phi = theta_1", FORCED, L50, MSE, 45.73, ""),
    },
    "lr": {
        "lr0.25": ("lr 0.25 from (d)", FORCED, L50, MSE, 45.73, ""),
        "lr0.10": ("lr 0.10", LR_010, L50, MSE, 46.63, ""),
        "lr0.05": ("lr 0.05", LR_005, L50, MSE, 47.35, ""),
    },
    "backbones": {
        "baseline": ("models from (e)", LR_005, L50, MSE, 47.35, ""),
        "alexnet-relabel": ("AlexNet for EfficientNet in relabel", LR_005, labels(50, WITHOUT_EFFICIENTNET), MSE, 47.53, ""),
        "alexnet-recover": ("+ AlexNet in recover", ALEXNET, labels(50, WITHOUT_EFFICIENTNET), MSE, 47.77,
                            "added to EfficientNet as in the released code; AlexNet has no BatchNorm and only thins the mean"),
    },
    "schedule": {
        "ssrs": ("+ SSRS, zeta 2.5", ALEXNET, prism_labels("r18"), Student("prism"), 49.4,
                 "Table 1's PRISM, R18, IPC 10; label crops from 0.25 as released"),
    },
}


def _note(panel, note):
    return note if panel == "schedule" else "; ".join(filter(None, [GUESS, note]))


_STEPS = (
    ("labels ensemble", "labels resnet18"), ("labels mae0.05", "labels ensemble"), ("labels mse0.05", "labels ensemble"),
    ("labels mae0.05", "labels mse0.05"), ("labels mse0.1", "labels ensemble"), ("labels mse0.1", "labels mae0.1"),
    ("labels mae0.05", "labels mae0.1"), ("labels mse0.1", "labels mse0.05"), ("labels mse0.1", "labels mae0.05"),
    ("recovery resize", "recovery baseline"), ("recovery varied", "recovery baseline"), ("recovery varied", "recovery both"),
    ("recovery varied", "recovery resize"), ("batch b16", "batch b1024"), ("batch b32", "batch b16"), ("batch b50", "batch b32"),
    ("batch b50", "batch b64"), ("batch b64", "batch b128"), ("batch b128", "batch b1024"),
    ("teachers forced", "teachers baseline"), ("lr lr0.10", "lr lr0.25"), ("lr lr0.05", "lr lr0.10"),
    ("backbones alexnet-relabel", "backbones baseline"), ("backbones alexnet-recover", "backbones alexnet-relabel"),
    ("schedule ssrs", "backbones alexnet-recover"))

TABLE = Table(
    "table3", "ImageNet-1K, IPC 10, ResNet-18",
    [Cell("table3", {"panel": panel, "row": word}, title, IPC, images, own, student, paper, note=_note(panel, note))
     for panel, rows in PANELS.items() for word, (title, images, own, student, paper, note) in rows.items()],
    ipc_can_change=True, claims=tuple(Claim(*names) for names in _STEPS))
