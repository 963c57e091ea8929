"""Diversity: hand-computed cases, and slow loops over single pairs in float64."""

import itertools
import math

import pytest
import tiny
import torch

from data.opening import open_distilled, open_real
from report import measures
from report.options import Neighbours
from report.similarity import intra_class_cosine
from utils.seeding import stream

CPU = torch.device("cpu")


class PixelNetwork:
    """Its features are the normalised pixels."""

    def features(self, x):
        return x.flatten(1)


def points(*key, n, dimensions=6):
    return torch.randn(n, dimensions, generator=stream(*key), dtype=torch.float64)


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))


@pytest.fixture(params=[1, 40, 1 << 24])
def _rows(request, monkeypatch):
    """Matrices of one row, of a few, and whole."""
    monkeypatch.setattr(measures, "_ENTRIES", request.param)


# Pairs

def test_pairs_by_hand():
    """Cosines of the axes' vectors are 1, 0, -1 and 0.6."""
    counts = measures.pair_histogram(torch.tensor(
        [[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]], dtype=torch.float64))
    assert counts.sum() == 6
    assert counts[measures.BINS - 1] == 1  # the first two are parallel
    assert counts[measures.BINS // 2] == 3  # right angles
    assert counts[0] == 2  # opposite
    assert measures.pair_histogram(torch.ones(1, 3).double()).sum() == 0


@pytest.mark.usefixtures("_rows")
def test_pairs_against_a_loop_over_all():
    features, counts = points("pairs", n=15), [0] * measures.BINS
    cosines = [float(a @ b / a.norm() / b.norm())
               for a, b in itertools.combinations(features, 2)]
    for cosine in cosines:
        counts[int((cosine + 1) / 2 * measures.BINS)] += 1
    assert measures.pair_histogram(features).tolist() == counts
    mean = intra_class_cosine(features, torch.zeros(15))[0]
    assert mean == pytest.approx(sum(cosines) / len(cosines), abs=1e-12)


# Neighbours

@pytest.mark.usefixtures("_rows")
def test_nearest_against_a_loop():
    features, others = points("a", n=9), points("b", n=31)
    distances, indices = measures.nearest(features, others, 3)
    for row, a in enumerate(features):
        ordered = sorted((distance(a, b), i) for i, b in enumerate(others))[:3]
        assert distances[row].tolist() == pytest.approx([d for d, _ in ordered], abs=1e-12)
        assert indices[row].tolist() == [i for _, i in ordered]


@pytest.mark.usefixtures("_rows")
def test_no_image_is_its_own_neighbour():
    reals = points("reals", n=23)
    radii = measures.neighbour_radii(reals, 4)
    for i, a in enumerate(reals):
        others = sorted(distance(a, b) for j, b in enumerate(reals) if j != i)
        assert float(radii[i]) == pytest.approx(others[3], abs=1e-12)
    assert measures.neighbour_radii(reals, 23) is None
    assert measures.neighbour_radii(reals, 22) is not None


def test_a_copy_is_at_distance_zero():
    others = 100 + points("copies", n=40)
    distances, indices = measures.nearest(others[[7, 30]], others, 1)
    assert distances.tolist() == [[0.0], [0.0]]
    assert indices.tolist() == [[7], [30]]


# Coverage

def test_coverage_by_hand():
    """Reals at 0, 1, 3, 7 have their nearest neighbours at 1, 1, 2, 4."""
    reals = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    radii = measures.neighbour_radii(reals, 1)
    assert radii.tolist() == [1, 1, 2, 4]
    made = torch.tensor([[4.5], [-1.0]], dtype=torch.float64)
    assert measures.covered(reals, radii, made).tolist() == [True, False, True, True]
    assert measures.covered(reals, radii, made[1:]).tolist() == [True, False, False, False]


@pytest.mark.usefixtures("_rows")
def test_coverage_against_a_loop():
    reals, made = points("real", n=29, dimensions=3), points("made", n=6, dimensions=3)
    expected = []
    for i, a in enumerate(reals):
        radius = sorted(distance(a, b) for j, b in enumerate(reals) if j != i)[4]
        expected.append(min(distance(a, b) for b in made) <= radius)
    assert 0 < sum(expected) < 29
    assert measures.covered(reals, measures.neighbour_radii(reals, 5), made).tolist() == expected


def test_a_copy_of_the_kth_neighbour_covers():
    """Other batches round features otherwise, so a copy is nearly one."""
    reals = points("real", n=12)
    _, indices = measures.nearest(reals, reals, 3, apart=True)
    radii = measures.neighbour_radii(reals, 3)
    for image, neighbours in enumerate(indices.tolist()):
        copy = reals[neighbours[-1]][None] * (1 + 1e-7)
        assert measures.covered(reals, radii, copy)[image]
        assert not measures.covered(reals, radii * 0.999, copy)[image]


# Whole sets

@pytest.fixture
def sets(tmp_path):
    """Nine real images per class, and a set of copies of the first two and one other image."""
    real = open_real("imagefolder", "train",
                     tiny.image_folder(tmp_path / "real", per_class=9, size=(16, 16)), 16)
    tiny.image_folder(tmp_path / "made", per_class=1, size=(16, 16), seed=5)
    for c, name in enumerate(tiny.WNIDS):
        (tmp_path / f"made/{name}/img_000.JPEG").rename(tmp_path / f"made/{name}/c.JPEG")
        for i in range(2):
            path = real.paths[int(real.by_class[c][i])]
            (tmp_path / f"made/{name}/{'ab'[i]}.JPEG").write_bytes(path.read_bytes())
    return real, open_distilled(tmp_path / "made")


def test_a_set_against_slow_loops(sets):
    real, made = sets
    origins = {f"{name}/{file}.JPEG": f"{name}/img_00{start}.JPEG" for name in tiny.WNIDS
               for file, start in (("a", 0), ("b", 5))}
    found = measures.measure(made, real, PixelNetwork(), CPU, origins, Neighbours(neighbours=2))
    assert (found.k, found.reals, found.all_reals) == (2, 27, 27)
    assert found.indices.tolist() == list(range(9))

    f = {kind: measures.features(images, range(len(images)), PixelNetwork(), CPU).double()
         for kind, images in (("real", real), ("made", made))}
    for c in range(3):
        reals, images = (f[kind][9 * c if kind == "real" else 3 * c:][: 9 if kind == "real" else 3]
                         for kind in ("real", "made"))
        for i, a in enumerate(images):
            best = min((distance(a, b), j) for j, b in enumerate(reals))
            assert float(found.distances[3 * c + i]) == pytest.approx(best[0], abs=1e-9)
            assert int(found.neighbours[3 * c + i]) == 9 * c + best[1]
        within = [min(distance(a, b) for b in images)
                  <= sorted(distance(a, b) for b in reals)[2] + 1e-9 for a in reals]
        assert found.coverage[c] == pytest.approx(sum(within) / 9)

    # a started from what it is a copy of, b says another one, c does not say
    assert found.own_starts == {3 * c + i: i == 0 for c in range(3) for i in range(2)}
    assert found.own_start_share == 0.5
    assert found.mean_cosine == pytest.approx(sum(found.cosines.values()) / 3)
    assert found.pairs.sum() == 9
    assert found.distances[0] == 0
    assert found.median_distance == 0


def test_several_sets_are_measured_as_each_alone(sets):
    real, made = sets
    few = [indices[:1] for indices in made.by_class]
    both = measures.measure_sets({"all": (made, made.by_class), "few": (made, few)}, real,
                                 PixelNetwork(), CPU)
    alone = measures.measure(made, real, PixelNetwork(), CPU)
    assert both["all"].coverage == alone.coverage
    assert torch.equal(both["all"].distances, alone.distances)
    assert both["few"].indices.tolist() == [0, 3, 6]
    assert both["few"].mean_cosine is None
    assert both["few"].cosine_quantile(0.5) is None
    assert both["few"].own_start_share is None


def test_a_random_subset_of_the_reals_is_seeded_and_says_so(sets):
    real, made = sets

    def subset(seed):
        how = Neighbours(neighbours=2, real_per_class=4, seed=seed)
        found = measures.measure(made, real, PixelNetwork(), CPU, how=how)
        assert (found.reals, found.all_reals) == (12, 27)
        return found.neighbours.tolist()

    assert subset(0) == subset(0)
    assert any(subset(0) != subset(seed) for seed in range(1, 4))
    few = measures.measure(made, real, PixelNetwork(), CPU, how=Neighbours(4, 4))
    assert few.coverage == {}  # four images have no fourth neighbour
    assert few.mean_coverage is None


def test_quantiles_of_the_pairs():
    found = measures.Diversity({}, torch.zeros(measures.BINS, dtype=torch.int64), None, None, None,
                               {}, {}, 5, 0, 0)
    found.pairs[1500], found.pairs[1900] = 3, 1  # 0.5 and 0.9
    assert found.cosine_quantile(0.5) == pytest.approx(0.5, abs=1e-3)
    assert found.cosine_quantile(0.75) == pytest.approx(0.5, abs=1e-3)
    assert found.cosine_quantile(0.76) == pytest.approx(0.9, abs=1e-3)
    assert found.cosine_quantile(1) == pytest.approx(0.9, abs=1e-3)


def test_without_real_images_there_are_cosines_and_pairs_alone(tmp_path):
    images = open_distilled(tiny.image_folder(tmp_path, ("a", "b"), 4, (32, 32)))
    network = PixelNetwork()
    alone = measures.measure_alone(images, network, CPU)
    beside = measures.measure(images, images, network, CPU)
    assert alone.cosines == beside.cosines
    assert torch.equal(alone.pairs, beside.pairs)
    assert int(alone.pairs.sum()) == 2 * 6
    assert (alone.own_start_share, alone.mean_coverage, alone.reals) == (None, None, 0)
