"""FKD label folders, against files and a reader that are written here from their description."""

import re
import shutil

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import RandomSampler

import data
from data.images import MEAN, STD
from data.labels import LabelStore, epoch_file
from data.opening import open_distilled
from exchange.fkd import main
from report.run_checks import check
from utils.errors import UserError
from utils.files import read_json
from validate.train_fkd import main as train

CLASSES = tiny.WNIDS
SIZE, BATCH = 24, 4
NET = "shufflenet_v2_x0_5"


@pytest.fixture
def run(tmp_path):
    """A run folder of 9 images of 3 classes, without labels."""
    tiny.image_folder(tmp_path / "train", CLASSES, 3)
    return tiny.distilled_folder(tmp_path / "run", tmp_path / "train", CLASSES, 3, SIZE)


def export(run, folder, *more):
    main(["export", "--output-dir", str(run), "--folder", str(folder), *more])


def import_(run, folder, *more):
    main(["import", "--output-dir", str(run), "--folder", str(folder), *more])


def without_labels(run, name):
    """A copy of a run folder's images, as another run folder."""
    shutil.copytree(run / "images", run.parent / name / "images")
    shutil.copy(run / "images.json", run.parent / name)
    return run.parent / name


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


# Out

@pytest.mark.parametrize(("mix", "number"), [("cutmix", "fp16"), ("mixup", "fp32"),
                                             ("none", "fp16")])
def test_files_have_the_items_of_the_field(run, tmp_path, mix, number):
    store = tiny.label_folder(run, 2, batch_size=BATCH, mix_type=mix, label_format=number)
    export(run, tmp_path / "FKD")
    assert sorted(files(tmp_path / "FKD")) == [f"epoch_{e}/batch_{b}.tar" for e in range(2)
                                               for b in range(3)]
    seen = []
    for batch, rows in enumerate((4, 4, 1)):
        path = tmp_path / f"FKD/epoch_1/batch_{batch}.tar"
        items = torch.load(path, weights_only=True)
        assert type(items) is list
        crops, flips, partners, lam, box, logits, order = items
        assert (crops.dtype, crops.shape) == (torch.float32, (rows, 4))
        assert (flips.dtype, flips.shape) == (torch.bool, (rows,))
        assert logits.dtype == {"fp16": torch.float16, "fp32": torch.float32}[number]
        assert logits.shape == (rows, 3)
        assert (order.dtype, order.shape) == (torch.int64, (rows,))
        assert torch.equal(logits.float(), store.epoch(1).logits(slice(4 * batch, 4 * batch + 4)))
        seen += order.tolist()

        if mix == "none":
            assert (partners, lam, box) == (None, None, None)
            continue
        assert (partners.dtype, sorted(partners.tolist())) == (torch.int64, list(range(rows)))
        assert type(lam) is float
        if mix == "mixup":
            assert box is None
        else:
            assert [type(value) for value in box] == [int] * 4
            x1, y1, x2, y2 = box
            assert 0 <= x1 <= x2 <= SIZE
            assert 0 <= y1 <= y2 <= SIZE
    assert sorted(seen) == list(range(9))


def test_folders_of_their_own_need_no_run_folder(run, tmp_path):
    tiny.label_folder(run, 1, batch_size=BATCH)
    export(run, tmp_path / "FKD")
    main(["export", "--train-dir", str(run / "images"), "--fkd-path", str(run / "labels"),
          "--folder", str(tmp_path / "same")])
    assert files(tmp_path / "same") == files(tmp_path / "FKD")
    with pytest.raises(UserError, match="where are the images and their labels. Give --output-dir"):
        main(["import", "--train-dir", str(run / "images"), "--folder", str(tmp_path / "FKD")])


def read_by_hand(path, images):
    """Views float [B, 3, S, S] and logits of a batch file. images: paths in ImageFolder's order."""
    crops, flips, partners, lam, box, logits, order = torch.load(path, weights_only=True)
    views = []
    for row, image in enumerate(order.tolist()):
        picture = Image.open(images[image])
        width, height = picture.size
        top, left, h, w = (round(float(part) * side) for part, side in
                           zip(crops[row], (height, width, height, width), strict=True))
        window = picture.crop((left, top, left + w, top + h))
        array = np.array(window.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        view = np.zeros((3, SIZE, SIZE))
        for c in range(3):
            for y in range(SIZE):
                for x in range(SIZE):
                    from_x = SIZE - 1 - x if flips[row] else x
                    view[c, y, x] = (array[y, from_x, c] / 255 - MEAN[c]) / STD[c]
        views.append(view)
    if partners is None:
        return np.stack(views), logits

    mixed = np.stack(views)
    for row, partner in enumerate(partners.tolist()):
        for y in range(SIZE):
            for x in range(SIZE):
                if box is None:
                    mixed[row, :, y, x] = (lam * views[row][:, y, x]
                                           + (1 - lam) * views[partner][:, y, x])
                elif box[0] <= y < box[2] and box[1] <= x < box[3]:
                    mixed[row, :, y, x] = views[partner][:, y, x]
    return mixed, logits


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_a_reader_of_the_format_sees_what_the_teachers_saw(run, tmp_path, mix):
    tiny.label_folder(run, 2, batch_size=BATCH, mix_type=mix)
    export(run, tmp_path / "FKD")
    paths = sorted((run / "images").glob("*/*"))
    dataset = data.load(run)
    dataset.set_epoch(1)
    for batch in range(3):
        views, logits = read_by_hand(tmp_path / f"FKD/epoch_1/batch_{batch}.tar", paths)
        for row in range(len(logits)):
            image, soft_label, _ = dataset[4 * batch + row]
            assert np.allclose(views[row], image.numpy(), atol=1e-5)
            assert torch.equal(logits[row].float(), soft_label)


@pytest.mark.parametrize(("stored", "given", "written"), [
    ("int8", (), torch.float32), ("fp16", (), torch.float16),
    ("fp32", ("--logits", "fp16"), torch.float16)])
def test_numbers_of_logits(run, tmp_path, stored, given, written):
    tiny.label_folder(run, 1, label_format=stored)
    export(run, tmp_path / "FKD", *given)
    logits = torch.load(tmp_path / "FKD/epoch_0/batch_0.tar", weights_only=True)[5]
    assert logits.dtype == written


def test_logits_that_fp16_cannot_hold_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "random_logits", lambda o, c, _: torch.full((o.images, c), 1e5))
    tiny.label_folder(run, 1, label_format="fp32")
    with pytest.raises(UserError, match="found logits that do not fit. Give --logits fp32"):
        export(run, tmp_path / "FKD", "--logits", "fp16")
    assert not (tmp_path / "FKD/epoch_0").exists()
    export(run, tmp_path / "FKD")
    assert [path.name for path in (tmp_path / "FKD").iterdir()] == ["epoch_0"]


def test_the_size_of_a_file_of_imagenet(run, tmp_path):
    """50 rows of 1000 logits in fp16 take about 104,200 bytes in the released files."""
    items = [torch.rand(50, 4), torch.zeros(50, dtype=torch.bool), torch.arange(50), 0.5,
             [1, 2, 3, 4], torch.zeros(50, 1000, dtype=torch.float16), torch.arange(50)]
    torch.save(items, tmp_path / "theirs.tar")
    tiny.label_folder(run, 1, batch_size=9)
    export(run, tmp_path / "FKD")
    ours = (tmp_path / "FKD/epoch_0/batch_0.tar").stat().st_size - 9 * (6 + 33)
    theirs = (tmp_path / "theirs.tar").stat().st_size - 50 * (2000 + 33)
    assert abs(ours - theirs) < 500


def test_an_export_goes_on_where_it_stopped_and_refuses_other_labels(run, tmp_path):
    tiny.label_folder(run, 3, batch_size=BATCH)
    export(run, tmp_path / "FKD")
    before = files(tmp_path / "FKD")
    (tmp_path / "FKD/epoch_2").rename(tmp_path / "FKD/.epoch_2.tmp")  # as a killed export leaves it
    (tmp_path / "FKD/.epoch_2.tmp/batch_2.tar").unlink()
    export(run, tmp_path / "FKD")
    assert files(tmp_path / "FKD") == before

    tiny.label_folder(run, 3, batch_size=BATCH, fkd_seed=1)
    with pytest.raises(UserError, match="batch_0.tar: is not the file that this command writes"):
        export(run, tmp_path / "FKD")
    (tmp_path / "FKD/readme.txt").touch()
    with pytest.raises(UserError, match="found readme.txt, expected nothing but epochs of these"):
        export(run, tmp_path / "FKD")


def test_a_run_without_stored_labels_is_refused(run, tmp_path):
    tiny.label_folder(run, 0, store="none")
    with pytest.raises(UserError, match="no labels here, only their recipe. Run it with --label-s"):
        export(run, tmp_path / "FKD")
    assert not (tmp_path / "FKD").exists()


# In: files as other tools write them

def foreign_folder(folder, images, epochs=2, items=7, mix="cutmix", number=torch.float16, seed=0):
    """FKD files of these images, written item by item. The logits name each image's class.

    images: ImageSet. Returns the logits by epoch and image, float [epochs, N, C].
    """
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(range(len(images)), generator=torch.Generator().manual_seed(42))
    random, kept = np.random.default_rng(seed), torch.zeros(epochs, len(images), 3)
    for epoch in range(epochs):
        order = list(sampler)
        for batch in range(-(-len(images) // BATCH)):
            chosen = order[BATCH * batch : BATCH * (batch + 1)]
            crops = [[random.integers(0, 5) / SIZE, random.integers(0, 5) / SIZE,
                      random.integers(10, 19) / SIZE, random.integers(10, 19) / SIZE]
                     for _ in chosen]
            logits = torch.randn(len(chosen), 3, generator=generator)
            for row, image in enumerate(chosen):
                logits[row, images.labels[image]] += 9
                kept[epoch, image] = logits[row].to(number).float()
            partners = torch.randperm(len(chosen), generator=generator)
            saved = [torch.tensor(crops), torch.tensor(random.random(len(chosen)) < 0.5),
                     None if mix == "none" else partners,
                     None if mix == "none" else float(random.random()),
                     [3, 5, 20, 24] if mix == "cutmix" else None, logits.to(number),
                     torch.tensor(chosen), torch.zeros(len(chosen), 2, 2, dtype=torch.int32)]
            (folder / f"epoch_{epoch}").mkdir(parents=True, exist_ok=True)
            torch.save(saved[:items], folder / f"epoch_{epoch}/batch_{batch}.tar")
    return kept


@pytest.mark.parametrize(("items", "mix", "number"), [
    (6, "cutmix", torch.float16), (6, "mixup", torch.float32), (7, "cutmix", torch.float16),
    (7, "none", torch.float32), (8, "cutmix", torch.float16)])
def test_foreign_files_become_our_labels(run, tmp_path, capsys, items, mix, number):
    images = open_distilled(run / "images")
    kept = foreign_folder(tmp_path / "FKD", images, 3, items, mix, number)
    import_(run, tmp_path / "FKD")
    assert re.search(r"100.0 % of \d+ labels name the class", capsys.readouterr().out)

    store = LabelStore(run / "labels", images)
    store.check(3)
    assert (store.plan_options.batch_size, store.plan_options.mix) == (BATCH, mix)
    assert store.number_format.name == ("fp16" if number == torch.float16 else "fp32")
    dataset = data.load(run)
    for epoch in range(3):
        plan, labels = store.epoch(epoch).plan, store.epoch(epoch).logits(slice(0, 9))
        assert sorted(plan.order.tolist()) == list(range(9))
        assert torch.equal(labels, kept[epoch, plan.order])
        dataset.set_epoch(epoch)
        if items == 7:
            for batch in range(3):
                views, _ = read_by_hand(tmp_path / f"FKD/epoch_{epoch}/batch_{batch}.tar",
                                        images.paths)
                for row, view in enumerate(views):
                    assert np.allclose(view, dataset[4 * batch + row][0].numpy(), atol=1e-5)
    assert check(run, 1) is False  # no units' records: the images are another tool's
    assert "no problem, 2 things not verified" in capsys.readouterr().out


def test_an_order_that_the_labels_contradict_is_refused(run, tmp_path):
    foreign_folder(tmp_path / "FKD", open_distilled(run / "images"), 4, items=6)
    with pytest.raises(UserError, match="six items, without the images. order. .* chance. So the"):
        import_(run, tmp_path / "FKD", "--fkd-seed", "43")
    assert not (run / "labels").exists()


def test_labels_at_chance_get_a_note(run, tmp_path, capsys):
    tiny.label_folder(run, 2, batch_size=BATCH)
    export(run, tmp_path / "FKD")
    import_(without_labels(run, "other"), tmp_path / "FKD")
    assert "note: that is no more than chance" in capsys.readouterr().out


def test_old_files_with_numpy_numbers(run, tmp_path):
    images = open_distilled(run / "images")
    foreign_folder(tmp_path / "FKD", images)
    for path in sorted((tmp_path / "FKD").rglob("*.tar")):
        items = torch.load(path, weights_only=True)
        items[3], items[4] = np.float64(items[3]), [np.int64(value) for value in items[4]]
        torch.save(items, path)
    with pytest.raises(UserError, match="numpy.*scalar, which PyTorch refuses to load, because unp"
                       ".* could run code. Old label .* give --numpy-numbers to read these, too"):
        import_(run, tmp_path / "FKD")
    assert not (run / "labels").exists()
    import_(run, tmp_path / "FKD", "--numpy-numbers")
    assert LabelStore(run / "labels", images).epoch(0).plan.boxes.tolist() == [[3, 5, 20, 24]] * 3


class Evil:
    """What runs a command where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("given", [(), ("--numpy-numbers",)])
def test_no_file_can_run_code(run, tmp_path, given):
    foreign_folder(tmp_path / "FKD", open_distilled(run / "images"))
    torch.save([Evil(tmp_path / "ran")], tmp_path / "FKD/epoch_0/batch_0.tar")
    with pytest.raises(UserError, match="holds .*open, which PyTorch refuses .* Ask its author"):
        import_(run, tmp_path / "FKD", *given)
    assert not (tmp_path / "ran").exists()


def changed(folder, place, value, epoch=0, batch=1):
    """Change one item of a file."""
    path = folder / f"epoch_{epoch}/batch_{batch}.tar"
    items = torch.load(path, weights_only=True)
    items[place] = value(items[place]) if callable(value) else value
    torch.save(items, path)


@pytest.mark.parametrize(("place", "value", "sentence"), [
    (0, lambda crops: crops[:2], "batch_1.tar: item 0 .* expected crops as parts of the image"),
    (0, lambda crops: crops * SIZE / 32, "crops are not whole pixels of images of 24 px"),
    (1, None, "item 1 .* expected flips"),
    (2, lambda partners: partners + 1, "item 2 .* positions in the batch"),
    (2, lambda partners: partners * 0.5, "item 2 .* positions in the batch"),
    (2, None, "batch_1.tar: found mixing none, expected cutmix as in the files before"),
    (3, 1.5, "item 3 .* a number from 0 to 1"),
    (4, [1, 2, 3, 2.5], "item 4 .* a box of four integers"),
    (4, [1, 2, 3, 99], "a CutMix box reaches to 99, the images have 24 px"),
    (5, lambda logits: logits * torch.inf, "item 5 .* expected finite logits"),
    (5, lambda logits: logits.float(), "found logits fp32, expected fp16"),
    (6, lambda order: order * 0, "epoch_0: does not show each of the 9 images once"),
    (6, lambda order: order - 10, "item 6 .* numbers of images")])
def test_what_does_not_fit_is_refused(run, tmp_path, place, value, sentence):
    foreign_folder(tmp_path / "FKD", open_distilled(run / "images"))
    changed(tmp_path / "FKD", place, value)
    with pytest.raises(UserError, match=sentence):
        import_(run, tmp_path / "FKD")
    assert not (run / "labels").exists()


def test_folders_that_are_no_fkd_folder(run, tmp_path):
    folder = tmp_path / "FKD"
    with pytest.raises(UserError, match="FKD: no such folder. Expected epoch folders"):
        import_(run, folder)
    folder.mkdir()
    with pytest.raises(UserError, match="FKD: has no folder epoch_0. Give the FKD folder"):
        import_(run, folder)
    foreign_folder(folder, open_distilled(run / "images"), 3)
    (folder / "epoch_2/batch_1.tar").unlink()
    with pytest.raises(UserError, match="epoch_2: number 1 of the files .* Was relabelling stop"):
        import_(run, folder)
    shutil.rmtree(folder / "epoch_1")
    with pytest.raises(UserError, match="FKD: number 1 of the epoch folders .* is missing"):
        import_(run, folder)
    (folder / "epoch_0/batch_0.tar").write_text("not a pickle")
    shutil.rmtree(folder / "epoch_2")
    with pytest.raises(UserError, match="batch_0.tar: damaged or not safe to load"):
        import_(run, folder)


def test_labels_of_another_number_of_images(run, tmp_path):
    foreign_folder(tmp_path / "FKD", open_distilled(run / "images"))
    (run / "images/new001/class001_id000.png").unlink()
    with pytest.raises(UserError, match="labels are for 9 images and 3 classes, .* has 8 images"):
        import_(run, tmp_path / "FKD")


# Round trips

@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
@pytest.mark.parametrize("kind", ["crop", "shift", "none"])
def test_round_trips(run, tmp_path, mix, kind):
    """Ours, theirs, ours: the same tensors. Theirs, ours, theirs: the same bytes."""
    store = tiny.label_folder(run, 2, batch_size=BATCH, mix_type=mix, augment=kind)
    export(run, tmp_path / "FKD")
    other = without_labels(run, "other")
    import_(other, tmp_path / "FKD")
    again = LabelStore(other / "labels", open_distilled(other / "images"))
    for epoch in range(2):
        assert again.epoch(epoch).plan == store.epoch(epoch).plan
        assert torch.equal(again.epoch(epoch).logits(slice(0, 9)),
                           store.epoch(epoch).logits(slice(0, 9)))
    export(other, tmp_path / "FKD2")
    assert files(tmp_path / "FKD") == files(tmp_path / "FKD2")


def test_an_import_goes_on_and_refuses_other_files(run, tmp_path):
    images = open_distilled(run / "images")
    foreign_folder(tmp_path / "FKD", images, 3)
    import_(run, tmp_path / "FKD")
    before = files(run / "labels")
    epoch_file(run / "labels", 1).unlink()
    import_(run, tmp_path / "FKD")
    assert files(run / "labels") == before

    foreign_folder(tmp_path / "FKD", images, 3, seed=1)
    with pytest.raises(UserError, match="labels.json: was made with source = .* Choose another"):
        import_(run, tmp_path / "FKD")


def student(run, tmp_path, *more):
    train(["--output-dir", str(run), "--val-dir", str(tmp_path / "val"), "--student", NET,
           "--epochs", "2", "--eval-every", "2", "--device", "cpu", "--threads", "1",
           "--student-name", "s", *more])
    return load_file(run / "students/s/last.safetensors")


def test_a_student_of_imported_labels_is_the_same_to_the_last_bit(run, tmp_path):
    tiny.image_folder(tmp_path / "val", CLASSES, 2, size=(30, 26), seed=1)
    tiny.label_folder(run, 2, batch_size=BATCH)
    expected = student(run, tmp_path)
    other = without_labels(run, "other")
    export(run, tmp_path / "FKD")
    import_(other, tmp_path / "FKD")
    found = student(other, tmp_path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    options = read_json(other / "students/s/options.json", "validate")["options"]
    assert (options["min_scale_crops"], options["mix_type"]) == (None, "cutmix")

    with pytest.raises(UserError, match="these labels were imported, .* Give --labels stored"):
        student(other, tmp_path, "--labels", "online")
