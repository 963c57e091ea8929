import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from report import embedding
from report.options import EMBEDDINGS
from utils.errors import UserError


@pytest.mark.parametrize("method", EMBEDDINGS)
def test_clusters_stay_apart_and_the_same_seed_gives_the_same_points(method):
    if method == "umap":
        pytest.importorskip("umap", reason="umap-learn is optional")
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(30, 16, generator=generator)
    features = torch.eye(3, 16).repeat_interleave(10, 0) + noise

    points = embedding.embed(features, method, seed=1)
    assert torch.equal(points, embedding.embed(features, method, seed=1))
    centres = torch.stack([part.mean(0) for part in points.split(10)])
    nearest = torch.cdist(points, centres).argmin(1)
    assert torch.equal(nearest, torch.arange(3).repeat_interleave(10))


def test_too_few_images():
    with pytest.raises(UserError, match="4 images in all: too few for an embedding"):
        embedding.embed(torch.ones(4, 3), "tsne", 0)


def test_umap_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=None))
    assert embedding.settle_method("auto") == embedding.settle_method("umap") == "umap"
    monkeypatch.setitem(sys.modules, "umap", None)
    assert embedding.settle_method("tsne") == "tsne"
    assert capsys.readouterr().out == ""
    assert embedding.settle_method("auto") == "tsne"
    assert "note: umap-learn, which the paper used, is not installed" in capsys.readouterr().out
    with pytest.raises(UserError, match="umap-learn is not installed. Run pip install umap-learn, "
                       "or give --embedding tsne"):
        embedding.settle_method("umap")


def test_panels_share_their_axes_and_classes_their_colours():
    labels = torch.tensor([4, 4, 4, 4, 7, 7, 7, 7])
    panels = {name: (torch.randn(8, 2) + shift, labels) for name, shift in (("a", 0), ("b", 5))}
    figure = embedding.draw(panels, {7: "seven", 4: "four"}, "title")

    left, right = figure.axes
    assert [left.get_title(), right.get_title()] == ["a", "b"]
    assert left.get_xlim() == right.get_xlim()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["seven", "four"]
    assert np.allclose(right.collections[1].get_offsets(), panels["b"][0][:4])
    assert np.allclose(left.collections[1].get_facecolor(), right.collections[1].get_facecolor())


def test_twenty_classes_differ_in_colour_or_marker():
    panels = {"a": (torch.randn(20, 2), torch.arange(20))}
    figure = embedding.draw(panels, {i: str(i) for i in range(20)}, "title")
    looks = {(tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes())
             for dots in figure.axes[0].collections}
    assert len(looks) == 20


def test_seven_sets_leave_an_empty_place():
    panels = {str(i): (torch.zeros(1, 2), torch.zeros(1)) for i in range(7)}
    figure = embedding.draw(panels, {0: "zero"}, "title")
    assert [axes.axison for axes in figure.axes] == [True] * 7 + [False]
