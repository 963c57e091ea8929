"""hf:USER/NAME as a folder of images; the hub is a stand-in, its files are the library's own."""

import importlib
import io
import sys

import pytest
from PIL import Image

import report.options
from data import hugging_face
from data.opening import open_distilled, open_real
from reproduce import compare
from utils import options
from utils.errors import UserError

NAMES = ["cat", "dog", "owl"]
WITH_LIBRARY = "the library datasets is not installed (requirements-exchange.txt)"


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The library, with its caches below tmp_path and no network."""
    library = pytest.importorskip("datasets", reason=WITH_LIBRARY)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)

    def no_such_file(*_, **__):
        raise OSError("there is no such file")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_such_file)
    return library


def png(colour, kind="PNG", size=(8, 8)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def hub(datasets, monkeypatch, **splits):
    """A hub whose only dataset is USER/NAME. splits: (features, columns). Returns its calls."""
    made = {name: datasets.Dataset.from_dict(columns, features=datasets.Features(features))
            for name, (features, columns) in splits.items()}
    calls = []

    def load(name, revision=None):
        calls.append((name, revision))
        if name != "USER/NAME":
            raise ConnectionError(f"Couldn't reach {name!r} on the Hub\nmore words")
        return datasets.DatasetDict(made)

    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


def columns(labels, image="image", label="label", kind="PNG"):
    return {image: [{"bytes": png((40 * i, 9, 7), kind), "path": f"{i}"}
                    for i in range(len(labels))], label: labels}


def test_a_split_becomes_class_folders_once(datasets, monkeypatch, tmp_path, capsys):
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    calls = hub(datasets, monkeypatch, train=(features, columns([2, 0, 1, 1])),
                validation=(features, columns([0, 1, 2], kind="JPEG")))
    folder = hugging_face.train_images("hf:USER/NAME@v1")
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*")}
    assert files == {"owl/0.png": png((0, 9, 7)), "cat/1.png": png((40, 9, 7)),
                     "dog/2.png": png((80, 9, 7)), "dog/3.png": png((120, 9, 7))}
    assert folder == tmp_path / "home/class_folders/USER--NAME@v1/train"
    assert "Remove that folder to fetch them anew" in capsys.readouterr().out

    real = open_real("imagefolder", "train", folder, 8)
    assert (real.classes, real.labels.tolist()) == (NAMES, [0, 1, 1, 2])
    assert open_distilled(folder).classes == NAMES
    test = open_real("imagefolder", "test", hugging_face.test_images("hf:USER/NAME"), 8, NAMES)
    assert [path.suffix for path in test.paths] == [".jpg"] * 3

    # From now on without the library and without a network.
    assert calls == [("USER/NAME", "v1"), ("USER/NAME", None)]
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert hugging_face.train_images("hf:USER/NAME@v1") == folder
    assert len(calls) == 2


@pytest.mark.parametrize("module", [
    "recover.options", "recover.dap.options", "relabel.options", "validate.options",
    "validate.hard_options", "models.pretrain_options", "models.diffusion_options"])
def test_every_stage_takes_it(datasets, monkeypatch, tmp_path, module):
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    hub(datasets, monkeypatch, train=(features, columns([0, 1, 2])))
    words = ["--output-dir", "x", "--train-dir", "hf:USER/NAME"]
    words += ["--teachers", "resnet18"] if module == "models.pretrain_options" else []
    values = options.as_dict(importlib.import_module(module).parse(words))
    assert values["train_dir"] == tmp_path / "home/class_folders/USER--NAME/train"


def report_options(argv):
    return options.as_dict(report.options.parse_diversity(
        ["--runs", f"theirs={argv[0]}", "--output", "x.png", *argv[1:]]))


def page_options(argv):
    sets, page = report.options.parse_page(argv)
    return options.as_dict(page) | {"runs": sets}


def compare_options(argv):
    sets, o = compare.parse(argv)
    return options.as_dict(o) | {"runs": sets}


@pytest.mark.parametrize(("parse", "name"), [
    (report_options, "theirs"), (page_options, "USER/NAME"), (compare_options, "USER/NAME")])
def test_reports_take_it(datasets, monkeypatch, tmp_path, parse, name):
    """As a set, and as the real images."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    rows = features, columns([0, 1, 2])
    hub(datasets, monkeypatch, train=rows, test=rows)
    values = parse(["hf:USER/NAME", "--train-dir", "hf:USER/NAME", "--val-dir", "hf:USER/NAME"])
    place = tmp_path / "home/class_folders/USER--NAME"
    assert list(values["runs"]) == [(name, place / "train")]
    assert (values["train_dir"], values["val_dir"]) == (place / "train", place / "test")
    if parse is not report_options:
        assert parse(["theirs=hf:USER/NAME"])["runs"] == [("theirs", place / "train")]


def test_figures_of_starts_take_it(datasets, monkeypatch, tmp_path):
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    hub(datasets, monkeypatch, train=(features, columns([0, 1, 2])))
    _, figure = report.options.parse(["fig5", "--runs", "x=hf:USER/NAME", "--output", "x.png",
                                      "--train-dir", "hf:USER/NAME"])
    assert figure.starts.train_dir == tmp_path / "home/class_folders/USER--NAME/train"


@pytest.mark.parametrize(("content", "classes", "dataset"), [
    ('{"options": {"dataset": "digits"}, "identity": {"classes": ["zero", "one", "two"]}}',
     ["zero", "one", "two"], "digits"),
    ('{"options": {"dataset": "digits"}, "identity": {"classes": ["zero"]}}', NAMES, "imagefolder"),
    ('[{"file": "0.png"}]', NAMES, "imagefolder")])
def test_a_set_of_ours_keeps_what_images_json_says(datasets, monkeypatch, tmp_path, content,
                                                   classes, dataset):
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    hub(datasets, monkeypatch, train=(features, columns([0, 1, 2])))
    theirs = tmp_path / "theirs.json"
    theirs.write_text(content)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: theirs)
    images = open_distilled(hugging_face.train_images("hf:USER/NAME"))
    assert (images.classes, images.dataset) == (classes, dataset)


@pytest.mark.parametrize(("names", "expected"), [
    (["b", "a"], ["0_b", "1_a"]), (["T-shirt/top", "Z"], ["T-shirt-top", "Z"]),
    ([".hidden", "a"], ["0_.hidden", "1_a"]), (["a", "b"], ["a", "b"])])
def test_names_of_folders_keep_the_order_of_the_classes(datasets, monkeypatch, names, expected):
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    hub(datasets, monkeypatch, train=(features, columns([0, 1])))
    assert open_distilled(hugging_face.train_images("hf:USER/NAME")).classes == expected


@pytest.mark.parametrize(("labels", "kind", "classes"), [
    ([2, 0, 1], "int64", ["new000", "new001", "new002"]), (["owl", "cat", "dog"], "string", NAMES)])
def test_class_id_of_numbers_or_names(datasets, monkeypatch, labels, kind, classes):
    features = {"img": datasets.Image(), "class_id": datasets.Value(kind)}
    hub(datasets, monkeypatch, other=(features, columns(labels, "img", "class_id")))
    images = open_distilled(hugging_face.train_images("hf:USER/NAME"))
    assert images.classes == classes
    assert [image.getpixel((0, 0))[0] for image in map(images.picture, range(3))] == [40, 80, 0]


def test_what_cannot_be_read_is_one_sentence(datasets, monkeypatch, tmp_path):
    image, label = datasets.Image(), datasets.ClassLabel(names=NAMES)
    number = datasets.Value("int64")
    hub(datasets, monkeypatch, a=({"image": image, "label": label}, columns([0])),
        b=({"image": image, "label": label}, columns([0])))
    with pytest.raises(UserError, match="hf:USER/NAME: has the splits a, b, expected train."):
        hugging_face.train_images("hf:USER/NAME")
    with pytest.raises(UserError, match="hf:no: cannot be loaded .Couldn't reach 'no' on the Hub"):
        hugging_face.train_images("hf:no")
    hub(datasets, monkeypatch, train=({"image": number, "text": number}, {"image": [1],
                                                                         "text": [2]}))
    with pytest.raises(UserError, match=r"has the columns image \(Value\), text \(Value\); expect"):
        hugging_face.train_images("hf:USER/NAME")
    hub(datasets, monkeypatch, train=({"image": image, "label": label}, columns([0, -1])))
    with pytest.raises(UserError, match="row 1 has no label, found -1"):
        hugging_face.train_images("hf:USER/NAME")
    broken = {"image": [{"bytes": b"%!PS-Adobe", "path": "x"}], "label": [0]}
    hub(datasets, monkeypatch, train=({"image": image, "label": label}, broken))
    with pytest.raises(UserError, match="row 0: not a readable image"):
        hugging_face.train_images("hf:USER/NAME")
    hub(datasets, monkeypatch, train=({"image": image, "label": label}, columns([])))
    with pytest.raises(UserError, match="hf:USER/NAME: its split train has no images."):
        hugging_face.train_images("hf:USER/NAME")
    assert not list((tmp_path / "home").rglob("train"))


def test_a_jpeg_of_several_pictures_is_a_jpeg(datasets, monkeypatch):
    buffer = io.BytesIO()
    one, other = (Image.new("RGB", (8, 8), colour) for colour in ("white", "black"))
    one.save(buffer, "MPO", save_all=True, append_images=[other])
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a"])}
    row = {"image": [{"bytes": buffer.getvalue(), "path": "x"}], "label": [0]}
    hub(datasets, monkeypatch, train=(features, row))
    images = open_distilled(hugging_face.train_images("hf:USER/NAME"))
    assert images.paths[0].name == "0.jpg"
    assert images.picture(0).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("labels", "kind"), [([[0], [1]], "list"), ([0.0, 1.5], "float32"),
                                              ([0, -2], "int64"), ([None, 1], "int64")])
def test_labels_of_other_kinds_are_refused(datasets, monkeypatch, labels, kind):
    feature = (datasets.Sequence(datasets.Value("int64")) if kind == "list" else
               datasets.Value(kind))
    hub(datasets, monkeypatch, train=({"image": datasets.Image(), "label": feature},
                                      columns(labels)))
    with pytest.raises(UserError, match="hf:USER/NAME: the column label is not made of class numb"):
        hugging_face.train_images("hf:USER/NAME")


def test_a_dataset_that_the_library_has_in_its_cache_is_read_without_a_network(datasets, tmp_path):
    """The library's own cache, as a fetch of user/set leaves it."""
    features = datasets.Features({"image": datasets.Image(),
                                  "label": datasets.ClassLabel(names=NAMES)})
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(columns([2, 0, 1]), features=features).to_parquet(
        tmp_path / "set/train.parquet")
    datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    (config,) = (tmp_path / "cache").glob("*/*/")
    config.rename(config.parent / "default")
    config.parent.rename(tmp_path / "cache/user___set")
    images = open_distilled(hugging_face.train_images("hf:user/set"))
    assert (images.classes, len(images)) == (NAMES, 3)


def test_without_the_library_there_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="need the library `datasets`.*requirements-exchange.txt"):
        hugging_face.train_images("hf:USER/NAME")
    assert hugging_face.test_images(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["hf:", "hf:../up", "hf:/etc", "hf:a/b/c", "hf:a/b@", "hf:a b"])
def test_other_names_are_refused(monkeypatch, tmp_path, name):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match="expected hf:USER/NAME or hf:USER/NAME@REVISION"):
        hugging_face.train_images(name)
    assert not list(tmp_path.iterdir())
