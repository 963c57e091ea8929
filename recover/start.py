"""What the images of a unit start from, and whether a logit teacher knows the real images at all."""

from concurrent.futures import ThreadPoolExecutor

import torch

from data import augment, images
from data.datasets import FolderImages, RealImages
from data.distilled import DistilledImages
from models.evaluate import accuracy
from recover import ranking
from utils import distributed
from utils.errors import UserError
from utils.seeding import stream

ACCURACY_IMAGES = 1000  # a teacher is measured on about so many real images


class StartFolder(FolderImages):
    """The images of any folder (--start-dir), another method's run say, in the class order of the real ones.

    Class folders carry the same names, or are numbered (new000 ...). Images that already have the right size are taken as they
    are. identity: of their bytes.
    """

    def __init__(self, folder, image_size, classes, workers):
        found = DistilledImages(folder, workers)
        names = found.known_classes or classes
        if sorted(names) != sorted(classes) or len(found.classes) != len(classes):
            raise UserError(f"{folder}: has {len(found.classes)} classes ({', '.join(found.classes[:3])}, ...), the training "
                            f"images have {len(classes)} ({', '.join(classes[:3])}, ...). Give start images of the same classes.")
        place = {name: c for c, name in enumerate(classes)}
        labels = [place[names[label]] for label in found.labels.tolist()]
        self.paths = [found.folder / path for path in found.paths]
        RealImages.__init__(self, "imagefolder", classes, labels, image_size, flips=True)
        self.identity = found.identity["files"]

    def centre(self, index):
        image = self.image(index)
        if image.size == (self.image_size, self.image_size):
            return images.to_tensor(image)
        return images.centre_crop(image, self.image_size)


class Starts:
    """The start images of units.

    real: the training images. settings: recover's, of which start, start_flip, seed, image_size are read, and what the
    selection of medium and mosaic needs. source: where real, random and drawn starts come from (a StartFolder, or real).
    run: the run folder, which holds the selection.
    """

    def __init__(self, real, settings, source, run, workers):
        self.real, self.settings, self.source, self.run, self.workers = real, settings, source, run, workers

    @property
    def available(self):
        """Number of start images per class, or None where there is no end of them."""
        if self.settings["start"] in ("noise", "drawn", "mosaic"):
            return None
        return [len(own) for own in self.source.by_class]

    def images(self, unit):
        """uint8 and normalised float32 [n, 3, S, S], and words that say where each image comes from."""
        if self.settings["start"] == "noise":
            size = self.settings["image_size"]
            x = torch.randn(len(unit.classes), 3, size, size, generator=stream(self.settings["seed"], "noise", *unit.where))
            return images.to_uint8(x), x, ["noise"] * len(unit.classes)
        if self.settings["start"] == "mosaic":
            with ThreadPoolExecutor(max(1, self.workers)) as pool:
                found = list(pool.map(lambda c, i: ranking.mosaic_image(self.run, self.real, c, i, self.settings["ipc"]),
                                      unit.classes, unit.ipc_ids))
            pixels, words = torch.stack([image for image, _ in found]), [where for _, where in found]
        else:
            indices = [self.index(c, i) for c, i in zip(unit.classes, unit.ipc_ids, strict=True)]
            pixels, words = self.source.pixels(indices, self.workers), [self.source.where(i) for i in indices]
        flips = torch.cat([augment.draw_flips(1, self.settings["start_flip"], stream(self.settings["seed"], "start flip", c, i))
                           for c, i in zip(unit.classes, unit.ipc_ids, strict=True)])
        pixels = augment.apply_flips(pixels, flips)
        return pixels, images.normalise(pixels), words

    def index(self, label, ipc_id):
        """Which image of the source the ipc_id-th image of a class starts from."""
        own, how, seed = self.source.by_class[label], self.settings["start"], self.settings["seed"]
        if how == "medium":
            return ranking.medium_index(self.run, label, ipc_id)
        if how == "random":
            ipc_id = torch.randperm(len(own), generator=stream(seed, "start", label))[ipc_id]
        elif how == "drawn":
            ipc_id = torch.randint(len(own), (), generator=stream(seed, "start", label, ipc_id))
        return int(own[int(ipc_id)])


def check_teacher(name, network, real, least, device, workers):
    """Measure a logit teacher on real images; near chance nothing good can come, so stop.

    The images are the first of every class, then the second, up to about a thousand. least: per cent, or None for a tenth of
    the way from chance to 100.
    """
    indices, depth = [], 0
    while len(indices) < ACCURACY_IMAGES and depth < max(len(own) for own in real.by_class):
        indices += [int(own[depth]) for own in real.by_class if len(own) > depth]
        depth += 1
    labels = torch.from_numpy(real.labels[indices])
    top1 = accuracy(network, real.pixels(indices, workers), labels, device)["top1"]
    chance = 100 / len(real.classes)
    least = chance + (100 - chance) / 10 if least is None else least
    distributed.print0(f"{name} classifies {top1:.1f} % of {len(indices)} real images right (chance {chance:.1f} %)")
    if top1 < least:
        raise UserError(f"{name} classifies {top1:.1f} % of the real images right (chance {chance:.1f} %), expected at "
                        f"least {least:.1f} %. Probably the class folders are in another order than the teacher's head, or "
                        "these weights belong to another dataset or image size. --min-teacher-accuracy sets the limit; 0 switches "
                        "this off.")
