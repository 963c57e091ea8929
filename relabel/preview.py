"""A picture of what the teachers saw and answered."""

import io

from matplotlib.figure import Figure

from data.images import to_uint8
from utils.files import write_bytes

_COLUMNS, _ROWS = 4, 2


def save_preview(path, views, logits, plan, options, images):
    """Write the first eight mixed views of a plan's first batch as PNG: whose they are above, the ensemble's top-1 below.

    views: normalised float [B, 3, S, S]. logits: [B, C] of the ensemble. plan, options: of the epoch. images:
    DistilledImages.
    """
    figure = Figure(figsize=(2.2 * _COLUMNS, 2.7 * _ROWS), dpi=100, layout="constrained")
    pictures, probabilities = to_uint8(views[: _COLUMNS * _ROWS]), logits.softmax(1)
    mixes = {"cutmix": "CutMix", "mixup": "Mixup", "none": "no mixing"}[options.mix]
    figure.suptitle(f"epoch 0, first batch, {mixes}: image (+ partner), below the ensemble's answer", fontsize=10)
    for i, picture in enumerate(pictures):
        own = plan.order[i]
        partner = plan.order[plan.partners[i]]
        names = [images.classes[images.labels[own]]]
        if partner != own:
            names.append(images.classes[images.labels[partner]])
        axes = figure.add_subplot(_ROWS, _COLUMNS, i + 1)
        axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title(" + ".join(names), fontsize=9)
        best = int(logits[i].argmax())
        axes.set_xlabel(f"{images.classes[best]}  {float(probabilities[i, best]):.0%}", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
