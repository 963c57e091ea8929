import itertools
import math

import pytest
import tiny
import torch

from data.images import normalise
from data.opening import open_distilled
from report import similarity
from utils.errors import UserError
from utils.seeding import stream


def test_intra_class_cosine_against_all_pairs():
    features = torch.randn(11, 6, generator=stream("cosine"), dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 0, 2, 2, 2, 5, 5, 5, 7])  # class 7 has no pair
    expected = {}
    for label in (0, 2, 5):
        pairs = list(itertools.combinations(features[labels == label], 2))
        expected[label] = sum(float(a @ b / a.norm() / b.norm()) for a, b in pairs) / len(pairs)
    assert similarity.intra_class_cosine(features, labels) == pytest.approx(expected, abs=1e-12)


def test_intra_class_cosine_of_equal_and_of_single_images():
    assert similarity.intra_class_cosine(torch.ones(3, 4), torch.zeros(3)) == {
        0: pytest.approx(1)}
    assert similarity.intra_class_cosine(torch.ones(2, 4), torch.arange(2)) == {}


class PixelNetwork:
    """Its features are the normalised pixels."""

    def features(self, x):
        return x.flatten(1)


@pytest.mark.parametrize("batch", [2, 5, 250])
def test_cosines_go_through_whole_classes(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(similarity, "BATCH", batch)
    images = open_distilled(tiny.image_folder(tmp_path / "set", per_class=3, size=(16, 16)))
    cosines = similarity.cosines(images, PixelNetwork(), torch.device("cpu"))
    pixels = normalise(images.all_pixels).flatten(1)
    expected = similarity.intra_class_cosine(pixels, images.labels)
    assert cosines == pytest.approx(expected, abs=1e-12)
    assert similarity.mean(cosines) == pytest.approx(sum(expected.values()) / 3)


def test_a_table_has_the_means_first(tmp_path):
    result = {"ours": {0: 0.5, 1: 0.7}, "other": {1: 0.25}}
    similarity.write_csv(result, ["cat", "dog"], tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().split() == [
        "class,ours,other", "mean", "over", "classes,0.6,0.25", "cat,0.5,", "dog,0.7,0.25"]


def test_a_violin_per_set_with_its_mean():
    figure = similarity.draw({"ours": {0: 0.5, 1: 0.7}, "other": {0: 0.2, 1: 0.3}}, "title")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["ours", "other"]
    assert [text.get_text() for text in axes.texts] == ["0.600", "0.250"]
    assert math.isclose(axes.lines[-1].get_ydata()[0], 0.25)


def test_a_set_without_pairs_is_refused():
    with pytest.raises(UserError, match="ours: no class has two images"):
        similarity.check_pairs({"ours": {}})
