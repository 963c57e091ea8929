"""Cells of Table 3: relabeling and recovery step by step, ImageNet-1K, ResNet-18, IPC 10.

A panel starts from the row that it names. Two things the paper does not state are a guess until
the last step: the student's schedule (SRe2L's cosine) and the least area of the label crops
(SRe2L's 0.08). The last step, "+ SSRS", is PRISM as released, with label crops from 0.25.
"""

from reproduce.cells import Cell, Claim, Images, Labels, Student, Table
from reproduce.table1 import prism_images, prism_labels

IPC = 10
EXTRAS = ["mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"]  # with ResNet-18: paper 4.4
WITH_ALEXNET = ["mobilenet_v2", "alexnet", "shufflenet_v2_x0_5"]

# Images. Before panel d theta_1 is free. From it on the released slots hold, which with three
# extras are uniform over the subsets that hold theta_1.
_FIRST = {"bn_teachers": EXTRAS, "bn_law": "uniform", "bn_count": 4, "theta1": "free",
          "steps": "constant", "lr": 0.25}
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


def labels(batch, extras=EXTRAS):
    """The ensemble's labels in batches of `batch` images, crops from 0.08."""
    mark = "_alexnet" if extras is WITH_ALEXNET else ""
    return Labels(f"ensemble_b{batch}{mark}", {
        "teachers": ["resnet18", *extras], "ensemble": "equal_energy", "batch_size": batch,
        "min_scale_crops": 0.08})


ONE_TEACHER = Labels("resnet18_b1024", {
    "teachers": ["resnet18"], "ensemble": "single", "batch_size": 1024, "min_scale_crops": 0.08})
L1024, L50, L50_ALEXNET = labels(1024), labels(50), labels(50, WITH_ALEXNET)

_COSINE = {"lr_schedule": "cosine"}
KL = Student("kl", options={**_COSINE, "loss_type": "kl", "temperature": 20})


def with_truth(kind, weight):
    """A student that learns by MSE or MAE, plus the ground truth with this weight."""
    values = {**_COSINE, "loss_type": f"{kind}_gt", "ce_weight": weight}
    return Student(f"{kind}{weight}", options=values)


MSE = with_truth("mse", 0.1)

# Notes
GUESS = "student's cosine schedule and label crops from 0.08 are a guess (SRe2L's)"
_FREE = ("before panel d the draw of BN teachers is not stated: uniform over the non-empty subsets "
         "of the pool (paper 3.2), where ResNet-18 is one of them only by chance")
_RULE = ("logits are combined by equal_energy as in the released code (--ensemble mean: the "
         "paper's words)")
_KL = "KL at T = 20 is assumed"
_CURVE = f"CDA's cosine curve to the last step is assumed; {_FREE}"
_THINS = ("added to EfficientNet as in the released code; AlexNet has no BatchNorm and only thins "
          "the mean")
_RELEASED = "Table 1's PRISM, R18, IPC 10; label crops from 0.25 as released"

# panel: {word: title, images, labels, student, paper's top-1, note beside the guess}
PANELS = {
    "labels": {
        "resnet18": ("ResNet-18 only", BASELINE, ONE_TEACHER, KL, 21.22, f"{_KL}; {_FREE}"),
        "ensemble": ("ensemble average", BASELINE, L1024, KL, 23.75, f"{_KL}; {_RULE}; {_FREE}"),
        "mae0.05": ("+ MAE, GT 0.05", BASELINE, L1024, with_truth("mae", 0.05), 28.97, _FREE),
        "mse0.05": ("+ MSE, GT 0.05", BASELINE, L1024, with_truth("mse", 0.05), 28.07, _FREE),
        "mae0.1": ("+ MAE, GT 0.1", BASELINE, L1024, with_truth("mae", 0.1), 23.85, _FREE),
        "mse0.1": ("+ MSE, GT 0.1", BASELINE, L1024, MSE, 29.53, _FREE),
    },
    "recovery": {
        "baseline": ("baseline from (a)", BASELINE, L1024, MSE, 29.53, _FREE),
        "resize": ("+ resize schedule", RESIZE, L1024, MSE, 29.93, _CURVE),
        "varied": ("+ varied iterations", VARIED, L1024, MSE, 31.30, _FREE),
        "both": ("+ both", BOTH, L1024, MSE, 30.89, _CURVE),
    },
    "batch": {
        "b1024": ("label batch 1024 from (b)", VARIED, L1024, MSE, 31.30, _FREE),
        "b16": ("label batch 16", VARIED, labels(16), MSE, 40.41, _FREE),
        "b32": ("label batch 32", VARIED, labels(32), MSE, 43.40, _FREE),
        "b50": ("label batch 50", VARIED, L50, MSE, 44.04, _FREE),
        "b64": ("label batch 64", VARIED, labels(64), MSE, 43.79, _FREE),
        "b128": ("label batch 128", VARIED, labels(128), MSE, 42.59, _FREE),
    },
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
        "alexnet-relabel": ("AlexNet for EfficientNet in relabel", LR_005, L50_ALEXNET, MSE, 47.53,
                            ""),
        "alexnet-recover": ("+ AlexNet in recover", ALEXNET, L50_ALEXNET, MSE, 47.77, _THINS),
    },
    "schedule": {
        "ssrs": ("+ SSRS, zeta 2.5", ALEXNET, prism_labels("r18"), Student("prism"), 49.4,
                 _RELEASED),
    },
}

CLAIMS = (
    ("labels ensemble", "labels resnet18"),
    ("labels mae0.05", "labels ensemble"),
    ("labels mse0.05", "labels ensemble"),
    ("labels mae0.05", "labels mse0.05"),
    ("labels mse0.1", "labels ensemble"),
    ("labels mse0.1", "labels mae0.1"),
    ("labels mae0.05", "labels mae0.1"),
    ("labels mse0.1", "labels mse0.05"),
    ("labels mse0.1", "labels mae0.05"),
    ("recovery resize", "recovery baseline"),
    ("recovery varied", "recovery baseline"),
    ("recovery varied", "recovery both"),
    ("recovery varied", "recovery resize"),
    ("batch b16", "batch b1024"),
    ("batch b32", "batch b16"),
    ("batch b50", "batch b32"),
    ("batch b50", "batch b64"),
    ("batch b64", "batch b128"),
    ("batch b128", "batch b1024"),
    ("teachers forced", "teachers baseline"),
    ("lr lr0.10", "lr lr0.25"),
    ("lr lr0.05", "lr lr0.10"),
    ("backbones alexnet-relabel", "backbones baseline"),
    ("backbones alexnet-recover", "backbones alexnet-relabel"),
    ("schedule ssrs", "backbones alexnet-recover"),
)


def _cell(panel, word):
    title, images, labels, student, paper, note = PANELS[panel][word]
    if panel != "schedule":
        note = "; ".join(filter(None, [GUESS, note]))
    return Cell("table3", {"panel": panel, "row": word}, title, IPC, images, labels, student,
                paper, note=note, decimals=1 if panel == "schedule" else 2)


TABLE = Table("table3", "ImageNet-1K, IPC 10, ResNet-18",
              [_cell(panel, word) for panel, rows in PANELS.items() for word in rows],
              ipc_can_change=True, claims=tuple(Claim(*names) for names in CLAIMS))
