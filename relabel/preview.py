"""A picture of what the teachers saw and answered."""

import io

from data.images import to_uint8
from data.names import class_words
from utils.files import write_bytes

_COLUMNS, _ROWS = 4, 2
_MIXES = {"cutmix": "CutMix", "mixup": "Mixup", "none": "no mixing"}


def save_preview(path, views, logits, plan, images):
    """Write the first eight mixed views of a plan's first batch as PNG.

    Above each are the classes of its two images, below the ensemble's answer. views: normalised
    float [B, 3, S, S]. logits: [B, C]. plan: EpochPlan. images: the ImageSet that is labelled.
    """
    from matplotlib.figure import Figure  # slow to import, and needed once

    figure = Figure(figsize=(2.2 * _COLUMNS, 2.7 * _ROWS), dpi=100, layout="constrained")
    figure.suptitle(f"epoch 0, first batch, {_MIXES[plan.options.mix]}: image (+ partner), below "
                    "the ensemble's answer", fontsize=10)
    probabilities, answers = logits.softmax(1).max(1)
    names = [class_words(name)[:15] for name in images.classes]  # two fit above a view

    for i, view in enumerate(to_uint8(views[: _COLUMNS * _ROWS])):
        pair = dict.fromkeys(plan.order[[i, int(plan.partners[i])]].tolist())
        axes = figure.add_subplot(_ROWS, _COLUMNS, i + 1)
        axes.imshow(view.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title(" + ".join(names[images.labels[j]] for j in pair), fontsize=9)
        axes.set_xlabel(f"{names[answers[i]]}  {float(probabilities[i]):.0%}", fontsize=9)

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
