"""Hugging Face datasets in and out; the `datasets` library reads what is exported."""

import io
import json
import shlex
import sys

import pytest
import tiny
import yaml
from PIL import Image

from data.labels import LabelStore
from data.opening import open_distilled
from exchange.card import command
from exchange.huggingface import main
from recover import options as recover_options
from recover.dap import options as dap_options
from utils import options
from utils.errors import UserError

NAMES = ["cat", "dog", "owl"]
WITH_LIBRARY = "the library datasets is not installed (requirements-exchange.txt)"
MADE = {"preset": "prism", "preset_changed": ["bn_teachers", "lr"],
        "options": {"dataset": "digits", "lr": 0.05, "bn_teachers": ["alexnet", "resnet18"],
                    "compile": False, "classes": None},
        "asked": [0, 3], "versions": {"torch": "2.9"}, "identity": {"classes": NAMES}}


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The library, with its caches below tmp_path and no network."""
    library = pytest.importorskip("datasets", reason=WITH_LIBRARY)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    return library


@pytest.fixture
def run(tmp_path):
    """A run folder of 9 images of 3 classes, with a full images.json."""
    tiny.image_folder(tmp_path / "real", NAMES, 3)
    run = tiny.distilled_folder(tmp_path / "run", tmp_path / "real", NAMES, 3, 16)
    (run / "images.json").write_text(json.dumps(MADE))
    return run


def export(run, folder, *more):
    main(["export", "--output-dir", str(run), "--folder", str(folder), *more])


def import_(name, run, *more):
    main(["import", "--name", str(name), "--output-dir", str(run), *more])


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file()}


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_the_library_reads_what_is_exported(datasets, run, tmp_path, layout):
    export(run, tmp_path / "hf", "--layout", layout)
    loaded = datasets.load_dataset(str(tmp_path / "hf"))
    assert list(loaded) == ["train"]
    train = loaded["train"]
    assert train.features["label"].names == NAMES
    images = open_distilled(run / "images")
    assert train["label"] == images.labels.tolist()
    for i, picture in enumerate(train["image"]):
        assert picture.convert("RGB").tobytes() == images.picture(i).tobytes()


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_a_round_trip_gives_the_same_bytes(datasets, run, tmp_path, layout):  # noqa: ARG001
    tiny.label_folder(run, 1)
    export(run, tmp_path / "hf", "--layout", layout)
    import_(tmp_path / "hf", tmp_path / "back")
    assert files(tmp_path / "back/images") == files(run / "images")
    assert (tmp_path / "back/images.json").read_bytes() == (run / "images.json").read_bytes()
    LabelStore(run / "labels", open_distilled(tmp_path / "back/images"))  # labels still belong

    export(tmp_path / "back", tmp_path / "again", "--layout", layout)
    assert files(tmp_path / "again") == files(tmp_path / "hf")


def test_large_sets_are_cut_into_files(datasets, run, tmp_path, monkeypatch):
    monkeypatch.setattr("exchange.huggingface._SHARD_BYTES", 1500)
    export(run, tmp_path / "hf")
    names = sorted(path.name for path in (tmp_path / "hf/data").iterdir())
    count = len(names)
    assert count > 1
    assert names[1] == f"train-00001-of-{count:05d}.parquet"
    assert len(datasets.load_dataset(str(tmp_path / "hf"), split="train")) == 9


def test_a_foreign_parquet_file_comes_in(datasets, tmp_path):  # noqa: ARG001 - needed to read it
    """Written by pyarrow alone: bytes, no class names, the columns in another order."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    pictures = []
    for i in range(4):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (50 * i, 1, 2)).save(buffer, "JPEG")
        pictures.append({"bytes": buffer.getvalue(), "path": None})
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"class_id": [1, 0, 0, 1], "image": pyarrow.array(pictures, kind)})
    feature = {"info": {"features": {"class_id": {"dtype": "int64", "_type": "Value"},
                                     "image": {"_type": "Image"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(feature)})
    (tmp_path / "theirs").mkdir()
    parquet.write_table(table, tmp_path / "theirs/train.parquet")

    import_(tmp_path / "theirs", tmp_path / "run")
    assert files(tmp_path / "run") == {
        f"images/new{c:03d}/class{c:03d}_id{i:03d}.jpg": pictures[place]["bytes"]
        for place, (c, i) in {1: (0, 0), 2: (0, 1), 0: (1, 0), 3: (1, 1)}.items()}
    assert open_distilled(tmp_path / "run/images").known_classes is None


def test_a_foreign_folder_of_classes_comes_in(datasets, tmp_path):  # noqa: ARG001
    tiny.image_folder(tmp_path / "theirs/train", ("owl", "ant"), 2, size=(16, 16))
    import_(tmp_path / "theirs", tmp_path / "run")
    images = open_distilled(tmp_path / "run/images")
    assert (images.classes, images.labels.tolist()) == (["ant", "owl"], [0, 0, 1, 1])
    assert (tmp_path / "run/images/new001/class001_id000.jpg").read_bytes() == (
        tmp_path / "theirs/train/owl/img_000.JPEG").read_bytes()
    with pytest.raises(UserError, match="found images.json in .*run, expected a new run folder"):
        import_(tmp_path / "theirs", tmp_path / "run")


def test_classes_by_other_names_get_those_of_the_training_data(datasets, tmp_path):  # noqa: ARG001
    tiny.image_folder(tmp_path / "theirs/train", ("great white", "tench"), 2, size=(16, 16))
    with pytest.raises(UserError, match="--classes: found 3 names, .*theirs has 2 classes .great"):
        import_(tmp_path / "theirs", tmp_path / "run", "--classes", "a,b,c")
    assert not (tmp_path / "run").exists()
    import_(tmp_path / "theirs", tmp_path / "run", "--classes", "n01484850,n01440764")
    images = open_distilled(tmp_path / "run/images")
    assert (images.classes, images.labels.tolist()) == (["n01484850", "n01440764"], [0, 0, 1, 1])


def test_a_class_without_an_image_is_refused(datasets, tmp_path):
    features = datasets.Features({"image": datasets.Image(),
                                  "label": datasets.ClassLabel(names=NAMES)})
    image = {"bytes": None, "path": str(next(tiny.image_folder(tmp_path / "a").glob("*/*")))}
    (tmp_path / "theirs").mkdir()
    datasets.Dataset.from_dict({"image": [image, image], "label": [0, 2]},
                               features=features).to_parquet(tmp_path / "theirs/train.parquet")
    with pytest.raises(UserError, match="has no image of the class dog. A distilled set needs"):
        import_(tmp_path / "theirs", tmp_path / "run")
    assert files(tmp_path / "run") == {}


# The card

def front_matter(text):
    return yaml.safe_load(text.split("---")[1])


def test_the_card_says_what_images_json_says_and_nothing_more(run, tmp_path):
    export(run, tmp_path / "hf", "--layout", "imagefolder")
    text = (tmp_path / "hf/README.md").read_text()
    assert "# Distilled digits, IPC 3" in text
    assert "9 images of 3 classes (3 per class), 16 x 16 pixels" in text
    assert "| method | prism |" in text
    assert "| licence of that data | not stated |" in text
    assert "| licence of the generator's weights | not stated |" in text
    assert ("```sh\npython -m recover.data_synthesis \\\n    --preset prism \\\n    --ipc-start 0 "
            "--ipc-end 3 \\\n    --bn-teachers alexnet resnet18 \\\n    --lr 0.05 \\\n    "
            "--output-dir OUTPUT_DIR\n```") in text
    assert '| bn_teachers | ["alexnet", "resnet18"] |' in text
    assert "Versions: torch 2.9" in text
    assert "| 1 | dog |  |" in text
    assert front_matter(text)["configs"][0]["data_files"][0]["path"] == "train/**"
    assert "license" not in front_matter(text)


def test_the_card_says_what_the_user_states(run, tmp_path):
    dap = {**MADE, "method": "dap", "licence": "OpenRAIL-M: no harm"}
    del dap["preset"], dap["preset_changed"]
    (run / "images.json").write_text(json.dumps(dap))
    export(run, tmp_path / "a", "--layout", "imagefolder")
    assert "| licence of the generator's weights | OpenRAIL-M: no harm |" in (
        tmp_path / "a/README.md").read_text()
    export(run, tmp_path / "b", "--layout", "imagefolder", "--title", "My set", "--data",
           "ImageNet-1K", "--data-licence", "non-commercial | research", "--weights-licence", "MIT",
           "--method", "ours")
    text = (tmp_path / "b/README.md").read_text()
    for line in ("# My set", "| method | ours |", "| data that was distilled | ImageNet-1K |",
                 r"| licence of that data | non-commercial \| research |",
                 "| licence of the generator's weights | MIT |",
                 "python -m recover.dap_synthesis \\"):
        assert f"{line}\n" in text


def test_images_without_a_record(tmp_path):
    tiny.image_folder(tmp_path / "any", tiny.WNIDS, 2, size=(16, 16))
    main(["export", "--train-dir", str(tmp_path / "any"), "--folder", str(tmp_path / "hf"),
          "--layout", "imagefolder"])
    text = (tmp_path / "hf/README.md").read_text()
    assert "Not recorded: the images came without a record" in text
    assert "| method | not recorded |" in text
    assert "| 0 | n01440764 | tench |" in text
    assert not (tmp_path / "hf/images.json").exists()


def test_class_names_must_be_known(run, tmp_path):
    (run / "images.json").unlink()
    with pytest.raises(UserError, match="only numbered, so the names .* not known. Give --classes"):
        export(run, tmp_path / "hf", "--layout", "imagefolder")
    export(run, tmp_path / "hf", "--layout", "imagefolder", "--classes", "b,a,c")
    assert sorted(path.name for path in (tmp_path / "hf/train").iterdir()) == ["0_b", "1_a", "2_c"]
    with pytest.raises(UserError, match="--classes: found 2 names, .* has 3 classes"):
        export(run, tmp_path / "other", "--layout", "imagefolder", "--classes", "b,a")
    assert not (tmp_path / "other").exists()


def test_without_the_library_there_is_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="need the library `datasets`.*requirements-exchange.txt"):
        export(run, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


# The hub

class Hub:
    """A stand-in for huggingface_hub.HfApi."""

    calls: list = []
    answer = None

    def __init__(self, token):
        self.calls.append(("token", token))

    def create_repo(self, name, **settings):
        if self.answer:
            raise RuntimeError(self.answer)
        self.calls.append(("create", name, settings))

    def upload_folder(self, **settings):
        self.calls.append(("upload", settings))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return Hub


def push(folder, *more):
    main(["push", "--folder", str(folder), "--name", "USER/NAME", *more])


def test_push_uses_the_users_token_and_keeps_it_nowhere(hub, run, tmp_path, capsys):
    export(run, tmp_path / "hf", "--layout", "imagefolder")
    before = files(tmp_path)
    push(tmp_path / "hf", "--private")
    assert hub.calls == [
        ("token", "hf_secret"),
        ("create", "USER/NAME", {"repo_type": "dataset", "private": True, "exist_ok": True}),
        ("upload", {"repo_id": "USER/NAME", "repo_type": "dataset",
                    "folder_path": tmp_path / "hf"})]
    assert files(tmp_path) == before
    said = capsys.readouterr()
    assert "push: " in said.out
    assert "secret" not in said.out + said.err


def test_push_says_why_it_cannot(hub, run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="hf: has no README.md. Give a folder that export made"):
        push(tmp_path / "hf")
    export(run, tmp_path / "hf", "--layout", "imagefolder")
    monkeypatch.setattr(hub, "answer", "401 for token hf_secret\nmore")
    with pytest.raises(UserError, match="USER/NAME: the hub did not take it .401 for token HF_TOK"):
        push(tmp_path / "hf")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="needs your own token of the hub, found none in the env"):
        push(tmp_path / "hf")


def test_names_with_spaces_are_whole(datasets, run, tmp_path):
    export(run, tmp_path / "hf", "--classes", "number zero,one,golden nine")
    train = datasets.load_dataset(str(tmp_path / "hf"))["train"]
    assert train.features["label"].names == ["number zero", "one", "golden nine"]


DAP = ["--output-dir", "x", "--train-dir", "y"]


def words_of(text):
    """What a shell makes of a command over several lines."""
    return shlex.split(text.replace("\\\n", ""))


@pytest.mark.parametrize("argv", [
    DAP, [*DAP, "--backbone", "sd", "--prompt", "a photo of {}, sharp", "--negative-prompt", ""],
    [*DAP, "--backbone", "pixel-dit", "--weights", "w", "--gamma", "0", "--dataset", "digits"]])
def test_the_command_of_a_dap_card_is_one(argv):
    made = dap_options.resolve(dap_options.parse([*argv, "--ipc-end", "3"]))
    text = command({"method": "dap", "options": options.stored(made), "asked": [0, 3]})
    python, flag, module, *words = words_of(text)
    assert (python, flag, module) == ("python", "-m", "recover.dap_synthesis")
    again = dap_options.resolve(dap_options.parse(words))
    assert options.stored(again) == options.stored(made)
    assert again.images.ipc_end == 3


def test_the_command_of_a_card_is_one():
    argv = ["--output-dir", "x", "--train-dir", "y", "--preset", "prism", "--lr", "0.3",
            "--bn-teachers", "alexnet", "resnet18", "--classes", "red shoes,bags", "--ipc-end", "2"]
    made = recover_options.parse(argv)
    stored = options.stored(made)
    text = command({"preset": "prism", "options": json.loads(json.dumps(stored)),
                    "asked": [0, 2], "preset_changed": sorted(made.changed & set(stored))})
    again = recover_options.parse(words_of(text)[3:])
    assert options.stored(again) == stored
