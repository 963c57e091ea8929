"""RDED's folder and file names, against folders that are made here by its rule."""

import pytest
import tiny
from PIL import Image

from data.opening import open_distilled
from exchange.rded import main
from utils.errors import UserError

CLASSES = tiny.WNIDS


def theirs(folder, classes=3, per_class=2, suffix="jpg"):
    """A folder as RDED writes it. Returns {path below it: bytes}."""
    for c in range(classes):
        (folder / f"{c:05d}").mkdir(parents=True)
        for i in range(per_class):
            Image.new("RGB", (32, 32), (40 * c, 40 * i, 7)).save(
                folder / f"{c:05d}/class{c:05d}_id{i:05d}.{suffix}")
    return contents(folder)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")
            if path.is_file()}


def import_(folder, run, *more):
    main(["import", "--folder", str(folder), "--output-dir", str(run), *more])


def export(run, folder):
    main(["export", "--output-dir", str(run), "--folder", str(folder)])


def test_images_come_in_by_our_names_and_go_out_by_theirs(tmp_path):
    before = theirs(tmp_path / "rded")
    import_(tmp_path / "rded", tmp_path / "run", "--classes", ",".join(CLASSES))
    ours = contents(tmp_path / "run/images")
    assert ours == {f"new{c:03d}/class{c:03d}_id{i:03d}.jpg":
                    before[f"{c:05d}/class{c:05d}_id{i:05d}.jpg"]
                    for c in range(3) for i in range(2)}
    images = open_distilled(tmp_path / "run/images")
    assert images.classes == list(CLASSES)
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]

    export(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == before


def test_without_names_the_classes_are_numbers(tmp_path):
    theirs(tmp_path / "rded", suffix="png")
    import_(tmp_path / "rded", tmp_path / "run")
    assert open_distilled(tmp_path / "run/images").known_classes is None
    with pytest.raises(UserError, match="--classes: found 2 names, .* has 3 classes. Give a name"):
        import_(tmp_path / "rded", tmp_path / "other", "--classes", "cat,dog")
    assert not (tmp_path / "other").exists()


def test_any_folder_goes_out(tmp_path, capsys):
    tiny.image_folder(tmp_path / "any", CLASSES, 2, size=(32, 32))
    main(["export", "--train-dir", str(tmp_path / "any"), "--folder", str(tmp_path / "rded")])
    assert sorted(contents(tmp_path / "rded")) == [
        f"{c:05d}/class{c:05d}_id{i:05d}.JPEG" for c in range(3) for i in range(2)]
    assert "note: these images are .JPEG, RDED's own are .jpg" in capsys.readouterr().out


def test_other_names_are_refused(tmp_path):
    theirs(tmp_path / "rded")
    (tmp_path / "rded/00002").rename(tmp_path / "rded/00003")
    with pytest.raises(UserError, match="found the folder 00003, expected 00002. RDED's folders"):
        import_(tmp_path / "rded", tmp_path / "run")
    (tmp_path / "rded/00003").rename(tmp_path / "rded/00002")
    image = tmp_path / "rded/00001/class00001_id00000.jpg"
    image.rename(image.with_name("class001_id000.jpg"))
    with pytest.raises(UserError, match="class001_id000.jpg: expected a name such as class00001_i"):
        import_(tmp_path / "rded", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folders_with_files_are_left_alone(tmp_path):
    theirs(tmp_path / "rded")
    import_(tmp_path / "rded", tmp_path / "run")
    with pytest.raises(UserError, match="--output-dir: found files in .*images, expected a new"):
        import_(tmp_path / "rded", tmp_path / "run")
    with pytest.raises(UserError, match="--folder: found files in .*rded, expected a new folder"):
        export(tmp_path / "run", tmp_path / "rded")
    with pytest.raises(UserError, match="expected a folder outside the images"):
        export(tmp_path / "run", tmp_path / "run/images/theirs")
    with pytest.raises(UserError, match="which images are exported. Give --output-dir"):
        main(["export", "--folder", str(tmp_path / "x")])


def test_numbers_that_five_digits_cannot_write_are_refused(tmp_path):
    tiny.image_folder(tmp_path / "train", CLASSES, 2)
    run = tiny.distilled_folder(tmp_path / "run", tmp_path / "train", CLASSES, 2)
    image = run / "images/new002/class002_id001.png"
    image.rename(image.with_name("class002_id100000.png"))
    with pytest.raises(UserError, match="from 0 to 99999, this would be class 2, image 100000"):
        export(run, tmp_path / "rded")
    assert not (tmp_path / "rded").exists()
