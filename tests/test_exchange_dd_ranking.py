"""DD-Ranking's tensors, against tensors that are made here."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import data
from data.images import MEAN, STD
from data.labels import LabelStore
from data.opening import open_distilled
from exchange.dd_ranking import main
from utils.errors import UserError

CLASSES = tiny.WNIDS


@pytest.fixture
def run(tmp_path):
    """A run folder of 9 images of 3 classes, without labels."""
    tiny.image_folder(tmp_path / "train", CLASSES, 3)
    return tiny.distilled_folder(tmp_path / "run", tmp_path / "train", CLASSES, 3, 16)


def call(command, run, images, *more):
    main([command, "--output-dir", str(run), "--images", str(images), *map(str, more)])


def arrays(run):
    return [np.array(Image.open(path)) for path in sorted((run / "images").glob("*/*"))]


def test_images_are_class_after_class(run, tmp_path):
    call("export", run, tmp_path / "images.pt")
    tensor = torch.load(tmp_path / "images.pt", weights_only=True)
    assert (tensor.dtype, tensor.shape) == (torch.float32, (9, 3, 16, 16))
    for i, array in enumerate(arrays(run)):  # names sort class after class
        for c in range(3):
            expected = (array[:, :, c] / 255 - MEAN[c]) / STD[c]
            assert np.allclose(tensor[i, c], expected, atol=1e-5)


@pytest.mark.parametrize("more", [
    ("--values", "unit"), ("--values", "bytes"), (),
    ("--mean", 0.5, 0.4, 0.3, "--std", 0.2, 0.3, 0.1)])
def test_a_round_trip_gives_the_same_pixels(run, tmp_path, more):
    call("export", run, tmp_path / "images.pt", *more)
    call("import", tmp_path / "back", tmp_path / "images.pt", "--classes", ",".join(CLASSES), *more)
    assert all(np.array_equal(a, b) for a, b in zip(arrays(run), arrays(tmp_path / "back"),
                                                    strict=True))
    images = open_distilled(tmp_path / "back/images")
    assert (images.classes, images.labels.tolist()) == (list(CLASSES), [0, 0, 0, 1, 1, 1, 2, 2, 2])
    call("export", tmp_path / "back", tmp_path / "again.pt", *more)
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "images.pt").read_bytes()


def test_labels_are_the_mean_over_the_views_of_an_image(run, tmp_path):
    store = tiny.label_folder(run, 3, batch_size=4, mix_type="none")
    call("export", run, tmp_path / "images.pt", "--labels", tmp_path / "labels.pt",
         "--label-values", "logits")
    logits = torch.load(tmp_path / "labels.pt", weights_only=True)
    assert (logits.dtype, logits.shape) == (torch.float32, (9, 3))
    for image in range(9):
        views = [store.epoch(e).logits(slice(0, 9))[store.epoch(e).plan.order.tolist().index(image)]
                 for e in range(3)]
        assert torch.allclose(logits[image], sum(views) / 3, atol=1e-5)

    call("export", run, tmp_path / "images.pt", "--labels", tmp_path / "labels.pt")
    probabilities = torch.load(tmp_path / "labels.pt", weights_only=True)
    assert torch.allclose(probabilities, logits.softmax(1))


def test_labels_of_mixed_views_are_refused(run, tmp_path):
    tiny.label_folder(run, 1)
    with pytest.raises(UserError, match="views that are mixed from two images, DD-Ranking has one"):
        call("export", run, tmp_path / "images.pt", "--labels", tmp_path / "labels.pt")
    assert not (tmp_path / "images.pt").exists()
    (run / "images/new001/class001_id002.png").unlink()
    with pytest.raises(UserError, match="classes have 2 to 3 images, expected as many of each"):
        call("export", run, tmp_path / "images.pt")


def test_images_of_another_tool_need_no_run_folder(run, tmp_path):
    images = "--images", str(tmp_path / "a.pt")
    main(["export", "--train-dir", str(run / "images"), *images])
    call("export", run, tmp_path / "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()

    sentence = "where are the images and their labels. Give --output-dir, a run folder, or --train"
    with pytest.raises(UserError, match=f"{sentence}-dir.$"):
        main(["export", *images])
    with pytest.raises(UserError, match=f"{sentence}-dir and --fkd-path.$"):
        main(["export", "--train-dir", str(run / "images"), *images, "--labels",
              str(tmp_path / "labels.pt")])


def theirs(folder, labels=None):
    """Tensors of 2 classes of 2 images, made by hand."""
    images = torch.arange(4).view(4, 1, 1, 1).expand(4, 3, 8, 8).clone().float() / 4
    torch.save(images, folder / "images.pt")
    torch.save(torch.tensor([[0.9, 0.1], [1, 0], [0.2, 0.8], [0.5, 0.5]]) if labels is None
               else labels, folder / "labels.pt")
    return folder / "images.pt", folder / "labels.pt"


def test_foreign_tensors_become_a_run_that_validate_trains_from(tmp_path):
    images, labels = theirs(tmp_path)
    call("import", tmp_path / "run", images, "--labels", labels, "--values", "unit", "--epochs", 2,
         "--batch-size", 3)
    assert [array[0, 0, 0] for array in arrays(tmp_path / "run")] == [0, 64, 128, 191]
    assert open_distilled(tmp_path / "run/images").known_classes is None
    store = LabelStore(tmp_path / "run/labels", open_distilled(tmp_path / "run/images"))
    store.check(2)

    dataset = data.load(tmp_path / "run")
    expected = torch.load(labels, weights_only=True)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        order = store.epoch(epoch).plan.order
        for i in range(4):
            view, label, c = dataset[i]
            assert torch.allclose(label.softmax(0), expected[order[i]], atol=1e-6)
            assert c == int(order[i]) // 2
            assert round(float(view[0, 0, 0]) * STD[0] * 255 + MEAN[0] * 255) == [
                0, 64, 128, 191][order[i]]


@pytest.mark.parametrize(("more", "sentence"), [
    ((), "how many classes are there. Give --ipc, --classes or --labels"),
    (("--ipc", 3), "4 images cannot be 1 classes of as many"),
    (("--classes", "a,b,c"), "4 images cannot be 3 classes of as many"),
    (("--ipc", 1, "--classes", "a,b"), "--classes says that there are 2 classes, --ipc that .* 4"),
    (("--ipc", 2, "--values", "bytes"), "found torch.float32, expected torch.uint8"),
    (("--ipc", 2, "--values", "normalised", "--mean", 0, 0, 0, "--std", 9, 9, 9),
     "values are not from black to white"),
    (("--ipc", 2, "--values", "normalised"), "no value is below 0, .* Then give --values unit"),
    (("--labels", "images.pt"), r"images.pt: found \[4, 3, 8, 8\], expected a tensor of 2 dimens"),
    (("--labels", "three.pt"), "three.pt: has 3 labels, .*images.pt has 4 images"),
    (("--labels", "logits.pt"), "rows are no probabilities, .* give --label-values logits")])
def test_what_does_not_fit_is_refused(tmp_path, more, sentence):
    images, _ = theirs(tmp_path)
    torch.save(torch.full((3, 2), 0.5), tmp_path / "three.pt")
    torch.save(torch.full((4, 2), 3.0), tmp_path / "logits.pt")
    words = [tmp_path / word if str(word).endswith(".pt") else word for word in more]
    values = [] if "--values" in words else ["--values", "unit"]
    with pytest.raises(UserError, match=sentence):
        call("import", tmp_path / "run", images, *words, *values)
    assert not (tmp_path / "run").exists()


def test_a_file_that_could_run_code_is_not_read(tmp_path):
    torch.save(np.zeros(3), tmp_path / "images.pt")
    with pytest.raises(UserError, match="images.pt: holds numpy.* could run code, so it is not"):
        call("import", tmp_path / "run", tmp_path / "images.pt", "--ipc", 1)
