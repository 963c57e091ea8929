"""How many images each teacher classifies right, before it labels: the distilled and real ones."""

from models.evaluate import accuracy, first_of_each_class, least_accuracy
from utils.distributed import print0

_SETS = {"stated": "of real test images, as its weights state",
         "real": "of {} real test images", "distilled": "of {} distilled images"}


def samples(distilled, real):
    """About a thousand images of both ImageSets: {"real" and "distilled": (pixels, labels)}.

    real: None where there are no real images.
    """
    chosen = {}
    for key, images in (("real", real), ("distilled", distilled)):
        if images is not None:
            indices = first_of_each_class(images)
            chosen[key] = images.pixels(indices), images.labels[indices]
    return chosen


def teacher_accuracy(teachers, stated, sets, device):
    """Top-1 of each teacher in per cent: {name: {"stated", "real", "distilled"}}, None if unknown.

    teachers: {name: Network} for the classes of the images. stated: {name: top-1 that its weights
    come with, or None}. sets: of `samples`. Prints a line per teacher, and a note for one near
    chance.
    """
    counts, found = {key: len(labels) for key, (_, labels) in sets.items()}, {}
    for name, network in teachers.items():
        measured = {key: accuracy(network, *images, device, progress=f"{name} accuracy")["top1"]
                    for key, images in sets.items()}
        found[name] = {"stated": stated[name], "real": None, **measured}
        print0(describe(name, found[name], counts, network.num_classes))
    return found


def describe(name, scores, counts, classes):
    """A line that says the accuracy of a teacher, and one more where it is near chance.

    scores: of teacher_accuracy. counts: {"real", "distilled"}: images of each set. classes: their
    number.
    """
    words = [f"{scores[key]:.1f} % {text.format(counts.get(key))}" for key, text in _SETS.items()
             if scores[key] is not None]
    line = f"{name}: top-1 {', '.join(words)}"
    if min(score for score in scores.values() if score is not None) < least_accuracy(classes):
        line += (f"\nnote: {name} is near chance ({100 / classes:.1f} %) there. Probably the class "
                 "folders are in another order than its head, its weights belong to another "
                 "dataset or image size, or the images show little of their classes.")
    return line
