"""The laboratory on Fashion-MNIST: methods, DAP, settings one by one, PRISM's Tables 2 and 3.

Imports no PyTorch. How the sizes were chosen is in docs/results.md.
"""

from dataclasses import replace

from recover.presets import POOL
from reproduce import table1, table2, table3, table_dap
from reproduce.cells import Cell, Claim, Images, Labels, Student, Table
from reproduce.lab_parts import Laboratory, Part
from reproduce.sizes import ITERATION

STEPS = 200  # that replace 4000
EPOCHS = {1: 300, 10: 100, 50: 50}  # by IPC, of soft labels and their students
HARD_EPOCHS = {50: 100}  # where 300 would take longer than everything else of a part
TABLE_EPOCHS = 60

# Convolution statistics of all 60,000 images would take longer than everything else.
_FEWER_IMAGES = {"statistics_images": 10_000}


# Students

def soft(ipc):
    """(student, labels) by PRISM's protocol, tested once, after the last epoch."""
    epochs = {"epochs": EPOCHS[ipc]}
    return (Student("soft", "resnet18", {**epochs, "eval_every": EPOCHS[ipc]}),
            Labels(f"prism{EPOCHS[ipc]}", {**table1.prism_labels("r18").options, **epochs}))


def hard(ipc):
    """(student, None) by the protocol of dataset condensation, 300 epochs where none are named."""
    epochs = HARD_EPOCHS.get(ipc)
    return (Student(f"dc{epochs or ''}", "convnet3",
                    {"protocol": "dc", "tests": 1, **({"epochs": epochs} if epochs else {})},
                    stage="hard"), None)


def students(ipc):
    """{word: (student, labels)} of a set of images."""
    return {"soft": soft(ipc), "hard": hard(ipc)}


# Methods

_PAPER = {row: numbers["r18"][0][0] for row, numbers in table1.PAPER.items()}  # IPC 10

RANDOM = Images("random", {"start": "random", "iteration": 0})
METHODS = {
    "random": ("random real images", RANDOM),
    "sre2l": ("SRe2L", table1.BASELINES["sre2l"]),
    "cda": ("CDA", Images("cda", {"preset": "cda"})),
    "rded": ("RDED", table1.rded_images(10)),
    "delt": ("DELT", table1.BASELINES["delt"]),
    "gvbsm": ("G-VBSM", Images("gvbsm", {"preset": "gvbsm", **_FEWER_IMAGES})),
    "edc": ("EDC", Images("edc", {"preset": "edc", **_FEWER_IMAGES}, start=table1.rded_images(10))),
    "prism": ("PRISM", table1.prism_images("r18")),
}
_ORDER = ("prism", "edc", "delt", "rded", "gvbsm", "sre2l")  # in the paper, best first


def _methods():
    cells = [Cell("methods", {"images": row, "student": word}, title, 10, images, labels, student,
                  _PAPER.get(row) if word == "soft" else None)
             for row, (title, images) in METHODS.items()
             for word, (student, labels) in students(10).items()]
    claims = [Claim(f"{better} soft", f"{worse} soft") for place, better in enumerate(_ORDER)
              for worse in _ORDER[place + 1 :]]
    claims += [Claim(f"prism {word}", f"random {word}") for word in students(10)]
    return Table("methods", "methods as published, IPC 10", cells, claims=tuple(claims))


def _ipc():
    cells = [Cell("ipc", {"ipc": f"ipc{ipc}", "images": row, "student": word},
                  f"{METHODS[row][0]}, IPC {ipc}", ipc, METHODS[row][1], labels, student,
                  table1.PAPER[row]["r18"][1][0] if (row, ipc, word) in _AT_50 else None)
             for ipc in (1, 50) for row in ("random", "sre2l", "prism")
             for word, (student, labels) in students(ipc).items()]
    claims = tuple(Claim(f"ipc{ipc} prism {word}", f"ipc{ipc} {other} {word}")
                   for other in ("sre2l", "random") for ipc in (1, 50) for word in students(ipc))
    return Table("ipc", "IPC 1 and 50", cells, claims=claims)


_AT_50 = {("sre2l", 50, "soft"), ("prism", 50, "soft")}


# DAP

_DAP = {
    "random": METHODS["random"],
    "dit": ("DiT, not guided", table_dap.pixel_dit_images(0.0)),
    "dap": ("DAP", table_dap.pixel_dit_images(1.0)),
    "dap4": ("DAP, γ = 4", table_dap.pixel_dit_images(4.0)),
    "dap-prism": ("PRISM, from DAP's images", Images(
        "dap_prism", table1.prism_images("r18").options, start=table_dap.pixel_dit_images(1.0))),
}


def _dap():
    """DAP by a small diffusion model in pixel space, which learns the 60,000 images first."""
    paper = table_dap.SOFT[("resnet18", 10)]
    cells = [Cell("dap", {"images": row, "student": word}, title, 10, images, labels, student,
                  paper.get(row) if word == "soft" else None)
             for row, (title, images) in _DAP.items()
             for word, (student, labels) in students(10).items()]
    return Table("dap", "DAP by a small diffusion model, IPC 10", cells,
                 claims=tuple(Claim(f"dap {word}", f"dit {word}") for word in students(10)))


# Start, learning rate and teachers apart

def _settings():
    """PRISM and SRe2L with equal starts, learning rates and numbers of steps."""
    methods = {"sre2l": ("SRe2L", {"preset": "sre2l"}),
               "prism": ("PRISM", {**table1.prism_images("r18").options, "steps": "constant"})}
    cells, claims = [], []
    for start in ("real", "noise"):
        for lr in (0.05, 0.25):
            for row, (title, values) in methods.items():
                name = f"{row}-{start}-{lr}"
                images = (table1.BASELINES["sre2l"] if name == "sre2l-noise-0.25" else
                          Images(name, {**values, "start": start, "lr": lr}))
                cells += [Cell("settings", {"images": name, "student": word},
                               f"{title} from {'real images' if start == 'real' else 'noise'}, lr "
                               f"{lr}", 10, images, labels, student, None)
                          for word, (student, labels) in students(10).items()]
            claims += [Claim(f"prism-{start}-{lr} {word}", f"sre2l-{start}-{lr} {word}")
                       for word in students(10)]
    return Table("settings", "the same start, learning rate and constant steps, IPC 10", cells,
                 claims=tuple(claims))


# What else may decide: one option of PRISM at a time

_REASONS = {
    "as-published": ("as published", {}),
    "r-bn-0.001": ("r_bn 0.001 for 0.01", {"r_bn": 0.001}),
    "r-bn-0.1": ("r_bn 0.1 for 0.01", {"r_bn": 0.1}),
    "first-layer-1": ("first layer's weight 1 for 10", {"first_bn_multiplier": 1.0}),
    "by-layers": ("BN term divided by the number of layers", {"bn_normalise": "layers"}),
    "steps-times-4": ("four times the steps", {"iteration": 4 * ITERATION}),
    "without-alexnet": ("BN teachers without AlexNet", {"bn_teachers": POOL[:4]}),
}


def _reasons():
    published = table1.prism_images("r18")
    cells = [Cell("reasons", {"images": row, "student": word}, f"PRISM, {title}", 10,
                  Images(f"prism-{row}", {**published.options, **values}) if values else published,
                  labels, student, None)
             for row, (title, values) in _REASONS.items()
             for word, (student, labels) in students(10).items()]
    claims = tuple(Claim(f"as-published {word}", f"{row} {word}") for word in students(10)
                   for row in _REASONS if row != "as-published")
    return Table("reasons", "PRISM with one option changed, IPC 10", cells, claims=claims)


# Why methods fail: the published set beside others with one thing changed

_ONE_CROP = replace(table1.rded_images(10), name="rded-one-crop",
                    options={**table1.rded_images(10).options, "mosaic_grid": 1})
_FAILURES = {
    "gvbsm": METHODS["gvbsm"],
    "gvbsm-steps-times-4": ("G-VBSM, four times the steps", Images("gvbsm-steps-times-4", {
        **METHODS["gvbsm"][1].options, "iteration": 4 * ITERATION})),
    "rded": METHODS["rded"],
    "rded-one-crop": ("RDED, one crop an image for four", _ONE_CROP),
    "edc": METHODS["edc"],
    "edc-one-crop": ("EDC, from one crop an image for four", replace(
        METHODS["edc"][1], name="edc-one-crop", start=_ONE_CROP)),
}


def _failures():
    cells = [Cell("failures", {"images": row, "student": word}, title, 10, images, labels, student,
                  None)
             for row, (title, images) in _FAILURES.items()
             for word, (student, labels) in students(10).items()]
    rows = list(_FAILURES)
    claims = tuple(Claim(f"{changed} {word}", f"{published} {word}") for word in students(10)
                   for published, changed in zip(rows[::2], rows[1::2], strict=True))
    return Table("failures", "methods with one thing changed, IPC 10", cells, claims=claims)


# Tables 2 and 3

def _tested_once(student):
    """The student without tests on the way, which take longer than its training here."""
    return replace(student, options={**student.options, "eval_every": TABLE_EPOCHS})


def _table2(*words):
    """The rows of Table 2 with hard labels, as in the paper, or soft ones, by these words."""
    labels = Labels("prism", table1.prism_labels("r18").options)
    kinds = {"hard": (_tested_once(table2.DIGITS_STUDENT), None),
             "soft": (_tested_once(Student("prism")), labels)}
    cells = [replace(cell, words={**cell.words, "student": word}, student=kinds[word][0],
                     labels=kinds[word][1], paper=cell.paper if word == "hard" else None)
             for cell in table2.TABLE.cells for word in words]
    claims = [Claim(f"{a} {word}", f"{b} {word}") for word in words for a, b in table2.CLAIMS]
    return replace(table2.TABLE, cells=cells, claims=tuple(claims))


def _table3(*panels):
    """Panels of Table 3. Its 100 images are one batch of 128 and of 1024 alike."""
    cells = [replace(cell, student=_tested_once(cell.student)) for cell in table3.TABLE.cells
             if cell.words["panel"] in panels and cell.name != "batch b1024"]
    return replace(table3.TABLE, cells=cells)


_PUBLISHED = (
    "The papers of dataset condensation (DC, DSA) give these numbers for ConvNet-3, hard labels "
    "and IPC 10, on images of 28 pixels and one channel: random real images 73.8, herding 71.1, DC "
    "82.3, DSA 84.6. They were not measured here.")


def _part(table, ipc=None, epochs=None, note=""):
    return Part(table, ipc, STEPS, epochs, judged="last", measures_images=True, note=note)


LABORATORY = Laboratory(
    "fashion", "fashion_mnist", "Fashion-MNIST",
    {"methods": _part(_methods(), note=_PUBLISHED),
     "settings": _part(_settings()),
     "ipc": _part(_ipc()),
     "table2": _part(_table2("hard", "soft"), 10, TABLE_EPOCHS),
     "table3-labels": _part(_table3("labels", "recovery", "batch"), 10, TABLE_EPOCHS),
     "table3-images": _part(_table3("teachers", "lr", "backbones", "schedule"), 10, TABLE_EPOCHS),
     "table2-ipc50": _part(_table2("hard"), 50, TABLE_EPOCHS),
     "reasons": _part(_reasons()),
     "failures": _part(_failures()),
     "dap": _part(_dap())},
    test_images="10,000 test images", script="sh reproduce/fashion.sh", teachers=POOL,
    further=("table2-ipc50", "reasons", "failures", "dap"))
