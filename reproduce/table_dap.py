"""Cells of DAP's Table 3 (hard labels, subsets of ImageNet) and of its ImageNet-1K rows.

Images of the row `dit` are the model's own samples, without guidance, from the same seeds. A claim
of the paper is the gain of `dap` over `dit`, since absolute numbers depend on the evaluation.
"""

from reproduce.cells import Cell, Images, Labels, Student, Table
from reproduce.table1 import BASELINES, prism_images, prism_labels
from reproduce.table2 import DIGITS_STUDENT

SETS = {"nette": "imagenette", "woof": "imagewoof", "idc": "imageidc"}
NETS = {"convnet6": "convnet6", "resnetap10": "resnetap10", "resnet18": "resnet18_in"}
IPCS = (10, 50, 100)
ROWS = {"random": "random real images", "dit": "DiT, not guided", "dap": "DAP"}
GAMMA = {"dit": 0.0, "dap": 1.0}

# Table 3: (random, DiT, DAP) at IPC 10, 50, 100, each (mean, std)
PAPER = {
    ("nette", "convnet6"): (((46.0, 0.5), (56.2, 1.3), (64.8, 0.8)),
                            ((71.8, 1.2), (74.1, 0.6), (82.2, 1.6)),
                            ((79.9, 0.8), (78.2, 0.3), (85.7, 1.3))),
    ("nette", "resnetap10"): (((54.2, 1.2), (62.8, 0.8), (67.8, 1.2)),
                              ((77.3, 1.0), (76.9, 0.5), (82.3, 0.7)),
                              ((81.1, 0.6), (80.1, 1.1), (86.0, 2.1))),
    ("nette", "resnet18"): (((55.8, 1.0), (62.5, 0.9), (66.4, 0.5)),
                            ((75.8, 1.1), (75.2, 0.9), (82.8, 1.1)),
                            ((82.0, 0.4), (77.8, 0.6), (85.5, 1.5))),
    ("woof", "convnet6"): (((25.2, 1.1), (32.3, 0.8), (37.6, 0.9)),
                           ((41.9, 1.4), (48.5, 1.3), (55.8, 0.4)),
                           ((52.3, 1.5), (54.2, 1.5), (62.4, 1.2))),
    ("woof", "resnetap10"): (((31.6, 0.8), (39.0, 0.9), (41.8, 0.7)),
                             ((50.1, 1.6), (55.8, 1.1), (63.3, 0.5)),
                             ((59.2, 0.9), (62.5, 0.9), (70.8, 1.4))),
    ("woof", "resnet18"): (((30.9, 1.3), (40.6, 0.6), (43.9, 0.9)),
                           ((54.0, 0.8), (57.4, 0.7), (63.2, 0.7)),
                           ((63.6, 0.5), (62.3, 0.5), (71.6, 1.3))),
}
# ImageNet-1K, soft labels of ResNet-18: {(student, IPC): {row: top-1}}. DiT's are VLCP's.
SOFT = {
    ("resnet18", 10): {"dit": 39.6, "dap": 49.1},
    ("resnet18", 50): {"dit": 52.9, "dap": 62.7},
    ("resnet101", 50): {"dap": 68.1}, ("mobilenet_v2", 50): {}, ("efficientnet_b0", 50): {},
    ("swin_v2_t", 50): {},
}

_OPEN = ("gamma 1, block 7, 100 real images and guidance in the first half of the steps are ours: "
         "docs/dap.md")
_RUNS = "three runs are three sets of images with a student each (FULL_SEEDS=1)"
_IDC = "the paper evaluates ImageIDC, but its numbers are not at hand"
_SOFT = ("RDED's protocol: 300 epochs, two by two patches. EPOCHS=500 and --shuffle-patches 1 "
         "--min-scale-crops 1 are VLCP's")


def dap_images(name, gamma, **more):
    """DAP's images of a set by DiT. name: of the run folder, without gamma."""
    values = {"backbone": "dit", "gamma": gamma, **more}
    return Images(f"dap_{name}_gamma{gamma:g}", values, stage="dap")


def random_images(name, size, **more):
    """Random real images of a set, each used once, with the whole short side."""
    return Images(f"random_{name}_{size}px", {
        "start": "random", "iteration": 0, "crop": "square", "image_format": "png",
        "image_size": size, **more})


def set_images(row, name):
    """Images of a row of Table 3, at the 256 pixels that DiT works at."""
    if row == "random":
        return random_images(name, 256, classes=SETS[name])
    return dap_images(name, GAMMA[row], classes=SETS[name])


def _hard_cells():
    for name in SETS:
        for net, network in NETS.items():
            for place, ipc in enumerate(IPCS):
                for column, row in enumerate(ROWS):
                    numbers = PAPER.get((name, net))
                    paper, std = numbers[place][column] if numbers else (None, None)
                    note = "; ".join(filter(None, [
                        _RUNS, _OPEN if row == "dap" else "", "" if numbers else _IDC]))
                    words = {"set": name, "net": net, "ipc": f"ipc{ipc}", "row": row}
                    yield Cell("table_dap", words, ROWS[row], ipc, set_images(row, name), None,
                               Student("igd", network, {"protocol": "igd"}, stage="hard"),
                               paper, std, note)


def _soft_cells():
    for (net, ipc), numbers in SOFT.items():
        for row in ROWS:
            images = (random_images("imagenet", 224) if row == "random" else
                      dap_images("imagenet", GAMMA[row], image_size=224))
            words = {"set": "imagenet", "net": f"{net}-soft", "ipc": f"ipc{ipc}", "row": row}
            note = "; ".join(filter(None, [_SOFT, _OPEN if row == "dap" else ""]))
            yield Cell("table_dap", words, ROWS[row], ipc, images, None,
                       Student("rded", net, {"preset": "rded", "teachers": ["resnet18"]}),
                       numbers.get(row), note=note)


# Digits: every gamma, PRISM and its baseline, and what the two methods make together

_EPOCHS = {"epochs": 50}
GAMMAS = (0.0, 0.5, 1.0, 2.0, 4.0)


def pixel_dit_images(gamma, **more):
    """DAP's images by a small diffusion model in pixel space, which is trained first."""
    mark = "".join(f"_{name}-{value}" for name, value in more.items())
    return Images(f"dap_gamma{gamma:g}{mark}", {"backbone": "pixel-dit", "gamma": gamma, **more},
                  stage="dap")


DIGITS_IMAGES = {
    "random": ("random real images", Images("random", {"start": "random", "iteration": 0})),
    "sre2l": ("SRe2L, from real images",
              Images("sre2l_real", {**BASELINES["sre2l"].options, "start": "real"})),
    "prism": ("PRISM, from real images", prism_images("r18")),
    **{f"gamma{gamma:g}": (f"DAP, γ = {gamma:g}" if gamma else "DiT, not guided (γ = 0)",
                           pixel_dit_images(gamma)) for gamma in GAMMAS},
    "dap-prism": ("PRISM, from DAP's images (γ = 1)",
                  Images("dap_prism", prism_images("r18").options, start=pixel_dit_images(1.0))),
}
DIGITS_STUDENTS = {
    "convnet3-hard": (Student("dc", "convnet3", {"protocol": "dc"}, stage="hard"), None),
    "resnet18-hard": (
        Student("hard-adamw50", "resnet18", {**DIGITS_STUDENT.options, **_EPOCHS}), None),
    "resnet18-soft": (Student("prism", "resnet18", _EPOCHS),
                      Labels("prism50", {**prism_labels("r18").options, **_EPOCHS})),
}


def digits_cells():
    """The cells for digits, which have no number in the paper."""
    return [Cell("table_dap", {"images": row, "student": word}, title, 10, images, labels, student,
                 None)
            for row, (title, images) in DIGITS_IMAGES.items()
            for word, (student, labels) in DIGITS_STUDENTS.items()]


TABLE = Table("table_dap", "DAP: ImageNette, ImageWoof, ImageIDC with hard labels; ImageNet-1K",
              [*_hard_cells(), *_soft_cells()])
