"""What a laboratory measures on its images: diversity, and how far they moved from their start."""

import math

import torch

from data.opening import open_distilled
from models.teachers import load_teachers
from report import similarity
from report.start_grid import StartImages

CPU = torch.device("cpu")
NETWORK = "resnet18"  # the teacher whose features are compared


class ImageMeasures:
    """Measures sets of images, each once. sizes: the Sizes of the runs."""

    def __init__(self, sizes):
        self.sizes, self.network, self.known = sizes, None, {}

    def of(self, run):
        """{"cosine", "moved"} of the images of a run folder.

        cosine: mean over classes of the cosine similarity of pairs, in the penultimate features of
        the ResNet-18 teacher; None without pairs. moved: see `moved`.
        """
        if run not in self.known:
            images = open_distilled(run / "images")
            if self.network is None:
                self.network = load_teachers([NETWORK], self.sizes.teachers, images.classes, CPU,
                                             images.image_size)[NETWORK]
            cosine = similarity.mean(similarity.cosines(images, self.network, CPU))
            self.known[run] = {"cosine": _rounded(cosine, 4),
                               "moved": _rounded(self._moved(run, images), 2)}
        return self.known[run]

    def _moved(self, run, images):
        starts = StartImages(run, images.image_size, self.sizes.train_dir)
        start = [starts.image(f"images/{name}") for name in images.names]
        if any(image is None for image in start):
            return None
        return moved(images.all_pixels, torch.stack(start))


def moved(images, start):
    """Root mean square of the change of a pixel, in grey levels from 0 to 255.

    images, start: uint8 [N, 3, S, S].
    """
    return math.sqrt((images.double() - start.double()).square().mean())


def _rounded(value, digits):
    return None if value is None else round(value, digits)
