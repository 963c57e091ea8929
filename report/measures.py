"""How diverse the images of a set are, and how close to real ones, by the features of a network.

Real images are those of the image's class. Distances are Euclidean, in float64. Memory grows with
the largest class alone: classes are measured one after the other, and a matrix of distances a few
rows at a time.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from report import similarity
from report.options import Neighbours
from report.sets import features
from utils.seeding import stream

BINS = 2000  # of the cosine, from -1 to 1
ROUNDING = 1e-4  # relative: features of one image differ so much from batch to batch
_ENTRIES = 1 << 24  # of a matrix that lies in memory


@dataclass(frozen=True)
class Diversity:
    """What was measured on one set.

    cosines: {class: mean cosine over all pairs of its images}, of classes with two images. pairs:
    int64 [BINS], how many pairs of images of one class have a cosine in each of BINS equal parts of
    -1 to 1. indices: int64 [n], which images of the set were measured. distances: float64 [n], to
    the nearest real image of the class, and neighbours: int64 [n], which one of the real ImageSet.
    own_starts: {index: whether the nearest real image is the one it started from}, of images whose
    start is known and among the real images compared. coverage: {class: share of real images with
    an image of the set within the distance to their k-th nearest real neighbour}, of classes with
    more than k real images. reals, all_reals: real images compared, and those there are.
    """

    cosines: dict
    pairs: torch.Tensor
    indices: torch.Tensor
    distances: torch.Tensor
    neighbours: torch.Tensor
    own_starts: dict
    coverage: dict
    k: int
    reals: int
    all_reals: int

    @property
    def mean_cosine(self):
        """Mean over classes of their pairs' mean cosine (paper Fig. 4), None without pairs."""
        return similarity.mean(self.cosines)

    @property
    def own_start_share(self):
        """Share of the images in own_starts that are nearest to their own start, None of none."""
        return sum(self.own_starts.values()) / len(self.own_starts) if self.own_starts else None

    @property
    def mean_coverage(self):
        """Mean of the coverage over its classes, None of none."""
        return similarity.mean(self.coverage)

    @property
    def median_distance(self):
        """Median distance of an image to the nearest real one."""
        return float(self.distances.quantile(0.5))

    def cosine_quantile(self, q):
        """The cosine below which a share q of the pairs is, to 1/1000; None without pairs."""
        cumulative = self.pairs.cumsum(0)
        if not cumulative[-1]:
            return None
        place = int(torch.searchsorted(cumulative, q * float(cumulative[-1])))
        return (min(place, BINS - 1) + 0.5) * 2 / BINS - 1


def measure(images, real, network, device, origins=None, how=None, progress=None):
    """The Diversity of an ImageSet beside real images of the same classes, size and class order.

    network: in eval mode, on device. origins: {name of an image as in images.names: which real
    image it started from, as real.origin has it}; {} where that is not known. how:
    report.options.Neighbours. progress: a bar to move, in images.
    """
    sets, origins = {"": (images, images.by_class)}, {"": origins or {}}
    return measure_sets(sets, real, network, device, origins, how, progress)[""]


def measure_sets(sets, real, network, device, origins=None, how=None, progress=None):
    """{name: Diversity} of several sets; features of the real images are taken once for all.

    sets: {name: (ImageSet, for each class the int64 indices of its images to measure)}. origins:
    {name of a set: likewise as for measure}.
    """
    how, origins = how or Neighbours(), origins or {}
    parts, compared = {name: _Parts() for name in sets}, 0
    for label, members in enumerate(real.by_class):
        chosen = random_subset(members, how.real_per_class, how.seed, label)
        compared += len(chosen)
        reals = features(real, chosen, network, device, progress).double()
        radii = neighbour_radii(reals, how.neighbours)
        numbers = {real.origin(index): index for index in chosen.tolist()}
        for name, (images, by_class) in sets.items():
            own = features(images, by_class[label], network, device, progress).double()
            starts = [numbers.get(origins.get(name, {}).get(images.names[index]))
                      for index in by_class[label].tolist()]
            parts[name].add(label, own, by_class[label], starts, reals, chosen, radii)
    return {name: part.joined(how.neighbours, compared, len(real)) for name, part in parts.items()}


def measure_alone(images, network, device, progress=None):
    """The Diversity of an ImageSet where there are no real images: its cosines and pairs."""
    none = torch.empty(0, dtype=torch.int64)
    alone = Diversity({}, torch.zeros(BINS, dtype=torch.int64), none, none.double(), none, {}, {},
                      k=0, reals=0, all_reals=0)
    for label, indices in enumerate(images.by_class):
        own = features(images, indices, network, device, progress).double()
        alone.cosines.update(similarity.intra_class_cosine(own, torch.full((len(own),), label)))
        alone.pairs.add_(pair_histogram(own))
    return alone


def random_subset(indices, count, seed, label):
    """`count` of a class's indices, drawn at random and in their order; all where count is None."""
    if count is None or count >= len(indices):
        return indices
    drawn = torch.randperm(len(indices), generator=stream(seed, "real subset", label))[:count]
    return indices[drawn.sort().values]


@dataclass
class _Parts:
    """A Diversity while classes are added to it."""

    cosines: dict = field(default_factory=dict)
    pairs: torch.Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.int64))
    own_starts: dict = field(default_factory=dict)
    coverage: dict = field(default_factory=dict)
    nearest: list = field(default_factory=list)

    def add(self, label, own, indices, starts, reals, numbers, radii):
        """Add a class: float64 features of its images and of real ones, and who they are."""
        self.cosines.update(similarity.intra_class_cosine(own, torch.full((len(own),), label)))
        self.pairs += pair_histogram(own)

        distances, places = (tensor[:, 0] for tensor in nearest(own, reals, 1))
        neighbours = numbers[places]
        self.nearest.append((indices, distances, neighbours))
        self.own_starts.update({
            index: start == neighbour for index, start, neighbour in
            zip(indices.tolist(), starts, neighbours.tolist(), strict=True) if start is not None})

        if radii is not None:
            self.coverage[label] = float(covered(reals, radii, own).double().mean())

    def joined(self, k, reals, all_reals):
        indices, distances, neighbours = map(torch.cat, zip(*self.nearest, strict=True))
        return Diversity(self.cosines, self.pairs, indices, distances, neighbours, self.own_starts,
                         self.coverage, k, reals, all_reals)


# Pure functions of features, float64 [n, D]

def pair_histogram(features):
    """How many of all n(n-1)/2 pairs have a cosine in each of BINS equal parts of -1 to 1: int64.

    The upper end of a part belongs to the next one, but for 1, which belongs to the last.
    """
    units, counts = F.normalize(features, dim=1), torch.zeros(BINS, dtype=torch.int64)
    for first, rows in _row_blocks(units, len(units)):
        cosines = rows @ units.T
        later = torch.ones_like(cosines, dtype=torch.bool).triu(first + 1)  # every pair once
        bins = ((cosines[later] + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
        counts += torch.bincount(bins, minlength=BINS)
    return counts


def nearest(features, others, k, apart=False):
    """The k nearest of `others` for each row of `features`: distances and indices, [n, k] each.

    They are sorted by distance. apart: the two are the same images, and none is its own neighbour.
    """
    distances, indices = [], []
    for first, rows in _row_blocks(features, len(others) + k * others.shape[1]):
        matrix = torch.cdist(rows, others)
        if apart:
            matrix.diagonal(first).fill_(torch.inf)
        closest = matrix.topk(k, largest=False).indices
        # The matrix comes of |a|^2 + |b|^2 - 2ab, which makes of 0 a little more than that.
        exact = torch.linalg.vector_norm(rows[:, None] - others[closest], dim=2)
        exact, order = exact.sort(dim=1, stable=True)
        distances.append(exact)
        indices.append(closest.gather(1, order))
    return torch.cat(distances), torch.cat(indices)


def neighbour_radii(reals, k):
    """Distance of each real image to its k-th nearest other one: [n]. None for n <= k."""
    return nearest(reals, reals, k, apart=True)[0][:, -1] if len(reals) > k else None


def covered(reals, radii, features):
    """Whether each real image has one of `features` within its radius: bool [n].

    The mean is the coverage of Naeem et al. (Reliable Fidelity and Diversity Metrics for Generative
    Models, ICML 2020) where radii are those of neighbour_radii. A radius counts as larger by
    ROUNDING, so that a copy of the k-th neighbour is within it.
    """
    return nearest(reals, features, 1)[0][:, 0] <= radii * (1 + ROUNDING)


def _row_blocks(features, entries):
    """Yield (number of the first row, some rows), where a row needs so many entries in memory."""
    count = max(1, _ENTRIES // entries)
    for first in range(0, len(features), count):
        yield first, features[first : first + count]
