"""What images start from, and how well the teachers know the real images."""

from concurrent.futures import ThreadPoolExecutor

import torch

from data.augment import apply_flips, draw_flips
from data.images import normalise, to_uint8
from data.opening import open_distilled
from models.evaluate import accuracy, first_of_each_class, least_accuracy
from models.networks import head_labels
from recover import ranking
from recover.options import ENDLESS
from utils.distributed import print0
from utils.errors import UserError
from utils.seeding import stream

CHOOSERS = {"logit", "ranker"}  # roles of networks that must know the classes


class Starts:
    """The start images of units.

    real: ImageSet of the training images. options: recover.options.Options after `resolve`.
    run: the run folder, which holds the selection of starts medium and mosaic. source: ImageSet
    that starts real, random and drawn are taken from, in the class order of the real images.
    Raises UserError for a --start-dir of other classes.
    """

    def __init__(self, real, options, run):
        self.real, self.options, self.run, self.source = real, options, run, real
        if options.start.start_dir:
            folder = open_distilled(options.start.start_dir, options.run.workers, real.image_size,
                                    options.data.crop or "auto")
            self.source = folder.ordered_as(real.classes)

    @property
    def identity(self):
        """SHA-256 over the images of --start-dir, or None where the source are the real images."""
        return self.source.identity["files"] if self.options.start.start_dir else None

    @property
    def available(self):
        """Number of start images of each class, or None where no class runs short."""
        if self.options.start.start in ENDLESS:
            return None
        return [len(indices) for indices in self.source.by_class]

    def images(self, unit):
        """The starts of a unit (recover.units.Unit).

        Returns them as uint8 [n, 3, S, S] and as normalised float32 [n, 3, S, S], and for each
        image words that say where it comes from.
        """
        seed, start = self.options.run.seed, self.options.start
        if start.start == "noise":
            size = self.real.image_size
            noise = torch.randn(len(unit.classes), 3, size, size,
                                generator=stream(seed, "noise", *unit.key))
            return to_uint8(noise), noise, ["noise"] * len(noise)

        if start.start == "mosaic":
            pixels, origins = self._mosaics(unit)
        else:
            indices = [self.index(*image) for image in zip(unit.classes, unit.ipc_ids, strict=True)]
            pixels = self.source.pixels(indices)
            origins = [self.source.origin(index) for index in indices]

        flips = [draw_flips(1, start.start_flip, stream(seed, "start flip", *image))
                 for image in zip(unit.classes, unit.ipc_ids, strict=True)]
        pixels = apply_flips(pixels, torch.cat(flips))
        return pixels, normalise(pixels), origins

    def _mosaics(self, unit):
        ipc = self.options.optimisation.ipc_end
        with ThreadPoolExecutor(self.real.workers) as pool:
            mosaics = pool.map(
                lambda label, i: ranking.mosaic_image(self.run, self.real, label, i, ipc),
                unit.classes, unit.ipc_ids)
            pixels, origins = zip(*mosaics, strict=True)
        return torch.stack(pixels), list(origins)

    def index(self, label, ipc_id):
        """Which image of the source the ipc_id-th image of a class starts from."""
        indices, seed = self.source.by_class[label], self.options.run.seed
        place, start = ipc_id, self.options.start.start
        if start == "medium":
            return ranking.medium_index(self.run, label, ipc_id)
        if start == "random":
            place = torch.randperm(len(indices), generator=stream(seed, "start", label))[ipc_id]
        elif start == "drawn":
            place = torch.randint(len(indices), (), generator=stream(seed, "start", label, ipc_id))
        return int(indices[place])


def check_teachers(networks, roles, real, least, device):
    """Measure networks on real images, and refuse a chooser near chance: no image can come of it.

    A BN teacher near chance gives a note. All outputs of a head compete. networks: {name: Network}.
    roles: {name: words such as ["logit", "BN"]}. real: ImageSet. least: accuracy in per cent that
    is demanded, None for a tenth of the way from chance to 100. Prints a line of each network.
    Returns {name: {"top1": per cent, "images": how many}}.
    """
    indices = first_of_each_class(real)
    pixels, labels = real.pixels(indices), real.labels[indices]
    width = max(map(len, networks))
    print0(f"teachers on {len(indices)} real images: top-1, and what they are for")

    measured, doubtful = {}, []
    for name, network in sorted(networks.items()):
        top1 = accuracy(network, pixels, head_labels(network, labels.to(device)), device)["top1"]
        measured[name] = {"top1": top1, "images": len(indices)}
        chance, near_chance = 100 / network.num_classes, least_accuracy(network.num_classes)
        print0(f"  {name:<{width}}  {top1:5.1f} % (chance {chance:.1f} %)  "
               f"{', '.join(roles[name])}")

        demanded = near_chance if least is None else least
        if top1 < demanded and CHOOSERS & set(roles[name]):
            raise UserError(f"{name} classifies {top1:.1f} % of the real images right (chance "
                            f"{chance:.1f} %), expected at least {demanded:.1f} %. Probably the "
                            "class folders are in another order than the teacher's head, or these "
                            "weights belong to another dataset or image size. "
                            "--min-teacher-accuracy sets the limit; 0 switches this off.")
        if top1 < near_chance and "BN" in roles[name]:
            doubtful.append(name)
    for name in doubtful:
        print0(f"note: {name} is near chance. Was it trained on this dataset? A BN teacher of "
               "another one pulls the images towards that one's statistics.")
    return measured
