"""The work of the cell by which speed is judged: Table 1, PRISM, ResNet-18, IPC 10.

Counts follow from the cell's options and the presets of the stages. Imports no PyTorch.
"""

from recover.options import Options as RecoverOptions
from recover.presets import PRESETS as RECOVER_PRESETS
from relabel.options import Options as RelabelOptions
from relabel.presets import PRESETS as RELABEL_PRESETS
from reproduce.table1 import TABLE
from utils.options import from_values
from utils.schedules import recover_steps
from validate.options import Options as ValidateOptions
from validate.presets import PRESETS as VALIDATE_PRESETS

CELL = TABLE.cell("r18 ipc10 prism")
CLASSES, TEST_IMAGES = 1000, 50_000  # of ImageNet-1K


def counts():
    """What the three stages do: {"image-steps", "distilled images", "crops", ...}: number."""
    images = CLASSES * CELL.ipc
    o = from_values(RecoverOptions, CELL.images.options, RECOVER_PRESETS).optimisation
    steps = [recover_steps(ipc_id, o.iteration, o.steps == "varied") for ipc_id in range(CELL.ipc)]
    labels = from_values(RelabelOptions, CELL.labels.options, RELABEL_PRESETS)
    student = from_values(ValidateOptions, CELL.student.options, VALIDATE_PRESETS)
    epochs = student.optimisation.epochs
    tests = sum(student.testing.tests_after(epoch, epochs) for epoch in range(epochs))
    return {"distilled images": images, "image-steps": CLASSES * sum(steps),
            "crops": images * labels.stored.epochs, "training images": images * epochs,
            "tests": tests, "test images": TEST_IMAGES}


def hours(rates):
    """GPU-hours of the stages that are measured, {"recover", "relabel", "validate"}, and of "all".

    rates: per second, of "image-steps", "crops", "training images", "tested images", "decoded
    distilled images" and "decoded test images". Distilled images are decoded once by relabel and
    once by validate, test images once.
    """
    work = counts()
    decoding = ("decoded distilled images", work["distilled images"])
    stages = {
        "recover": [("image-steps", work["image-steps"])],
        "relabel": [("crops", work["crops"]), decoding],
        "validate": [("training images", work["training images"]), decoding,
                     ("tested images", work["tests"] * work["test images"]),
                     ("decoded test images", work["test images"])]}
    result = {stage: sum(count / rates[name] for name, count in parts) / 3600
              for stage, parts in stages.items() if all(name in rates for name, _ in parts)}
    if len(result) == len(stages):
        result["all"] = sum(result.values())
    return result
