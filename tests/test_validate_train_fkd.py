"""A student from the command line: what is written, resumed, refused and tested."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from filelock import FileLock
from interrupting import interrupt
from PIL import Image

from data.image_set import ImageSet
from data.images import centre_crop, square_crop
from models.networks import build, load_network, save_network
from relabel.generate_soft_label import main as label
from utils.errors import UserError
from validate import engine, student_folder, testing
from validate.experiment import prepare
from validate.options import parse
from validate.student_folder import StudentFolder
from validate.train_fkd import main
from validate.training import Training

CLASSES = tiny.WNIDS
TEACHERS = ["shufflenet_v2_x0_5", "mobilenet_v2"]
EPOCHS = 4
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("validate"))


def make(root):
    """A run of 9 distilled images of 3 classes, and real test images.

    It has labels for 4 epochs in batches of 4, 4 and 1.
    """
    real = tiny.image_folder(root / "distil", CLASSES, 3, size=(32, 32), seed=1)
    tiny.distilled_folder(root / "run", real, CLASSES, 3)
    tiny.image_folder(root / "val", CLASSES, 4, size=(44, 40), seed=2)
    tiny.teacher_folder(root / "teachers", TEACHERS, CLASSES)
    relabel(root / "run", root / "teachers")
    return root


def relabel(run, teachers, *more):
    label(["--output-dir", str(run), "--teachers", *TEACHERS, "--teacher-weights", str(teachers),
           "--batch-size", "4", "--epochs", str(EPOCHS), "--device", "cpu", "--threads", "1",
           *more])


def command(made, name, *more, run=None):
    return ["--output-dir", str(run or made / "run"), "--val-dir", str(made / "val"),
            "--student", "shufflenet_v2_x0_5", "--epochs", str(EPOCHS), "--eval-every", "2",
            "--device", "cpu", "--threads", "1", "--student-name", name, *more]


def weights(made, name):
    return [(made / f"run/students/{name}/{which}.safetensors").read_bytes()
            for which in ("last", "best")]


def metrics(made, name):
    lines = (made / f"run/students/{name}/metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in lines]


def result(made, name):
    return json.loads((made / f"run/students/{name}/result.json").read_text())


@pytest.fixture(scope="module")
def trained(made):
    main(command(made, "first"))
    return made


def test_everything_is_written(trained, capsys):
    folder = trained / "run/students/first"
    assert {file.name for file in folder.iterdir()} == {
        "options.json", "last.safetensors", "best.safetensors", "metrics.jsonl", "result.json",
        "curve.png"}
    assert Image.open(folder / "curve.png").size[0] > 300

    lines, found = metrics(trained, "first"), result(trained, "first")
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert [line["epoch"] for line in lines if "top1" in line] == [1, 3]
    assert lines[0]["lr"] == 1e-3
    best = max(line["top1"] for line in lines if "top1" in line)
    assert found["top1"] == found["best"]["top1"] == best
    assert found["last"]["top1"] == lines[-1]["top1"]
    assert found["seeds"] == {"student": 0, "fkd": 42, "images": 0}
    assert (found["images"], found["test_images"]) == (9, 12)
    assert found["options"]["batch_size"] == 4

    before = weights(trained, "first")
    main(command(trained, "first"))  # finished: printed, not trained again
    assert "already finished" in capsys.readouterr().out
    assert weights(trained, "first") == before


def test_the_same_command_gives_the_same_bytes(trained):
    main(command(trained, "again"))
    assert weights(trained, "again") == weights(trained, "first")
    assert metrics(trained, "again") == metrics(trained, "first")
    main(command(trained, "seed1", "--seed", "1"))
    assert weights(trained, "seed1")[0] != weights(trained, "first")[0]


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_stopped_and_resumed_equals_uninterrupted(trained, epochs, monkeypatch):
    name = f"stopped{epochs}"
    interrupt(monkeypatch, Training, "one_epoch", epochs)
    with pytest.raises(KeyboardInterrupt):
        main(command(trained, name))
    monkeypatch.undo()
    # What a power loss may leave of the file: the state has its lines.
    file = trained / f"run/students/{name}/metrics.jsonl"
    file.write_bytes(bytes(file.stat().st_size) + b'[1]\n{"epoch": 3, "loss": 0.5}\n\xff{"epoch"')
    main(command(trained, name))
    assert weights(trained, name) == weights(trained, "first")
    assert metrics(trained, name) == metrics(trained, "first")


def test_killed_inside_an_epoch_and_resumed(trained, monkeypatch):
    step, calls = engine.train_step, []

    def dying(*values):
        calls.append(1)
        if len(calls) == 8:  # in the third epoch
            raise KeyboardInterrupt
        return step(*values)

    monkeypatch.setattr(engine, "train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        main(command(trained, "killed"))
    monkeypatch.undo()
    main(command(trained, "killed"))
    assert weights(trained, "killed") == weights(trained, "first")


@pytest.mark.parametrize("state", [
    {"net": {}}, [1], None, "the other optimiser's", "the other network's", "half of it"])
def test_a_state_that_cannot_be_taken_over_is_damaged(made, tmp_path, monkeypatch, state):
    run = copy_run(made, tmp_path)
    interrupt(monkeypatch, Training, "one_epoch", 2)
    with pytest.raises(KeyboardInterrupt):
        main(command(made, "damaged", run=run))
    monkeypatch.undo()

    file = run / "students/damaged/state.pt"
    content = torch.load(file, weights_only=True)
    if state == "half of it":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif state == "the other optimiser's":
        moments = content["optimizer"]["state"][0]
        moments["exp_avg"] = torch.zeros(3)
        torch.save(content, file)
    elif state == "the other network's":
        content["net"]["fc.weight"] = torch.zeros(5, 2)
        torch.save(content, file)
    else:
        torch.save(state, file)
    with pytest.raises(UserError, match="state.pt: damaged.*Remove it"):
        main(command(made, "damaged", run=run))


TEST = {"epoch": 1, "top1": 50.0, "top5": 100.0}
RESULT = {"top1": 50.0, "best": TEST, "last": TEST, "seconds": 1.0, "options": {"seed": 0}}
LINE = {"epoch": 0, "lr": 0.1, "loss": 2.0, "train_top1": 50.0, "seconds": 1.0}
PROGRESS = {"epochs": 2, "seconds": 3.5, "last": TEST, "best": TEST, "metrics": [LINE, LINE]}


@pytest.mark.parametrize("changed", [
    {}, {"last": None, "best": None}, {"epochs": 4}])
def test_progress_that_is_taken_over(tmp_path, changed):
    folder, states = StudentFolder(tmp_path), []
    folder.settle({})
    folder.metrics = PROGRESS["metrics"]
    folder.save_state({**PROGRESS, **changed})
    folder = StudentFolder(tmp_path)
    folder.restore(states.append, EPOCHS)
    assert states == [{**PROGRESS, **changed}]
    assert folder.metrics == PROGRESS["metrics"]


@pytest.mark.parametrize("changed", [
    {"epochs": "2"}, {"epochs": 0}, {"epochs": 5}, {"epochs": 10**30}, {"seconds": float("nan")},
    {"best": 5}, {"last": {**TEST, "top1": "high"}}, {"epochs": 4, "best": None},
    {"metrics": [1]}, {"metrics": [{**LINE, "loss": float("inf")}]}, {"metrics": [TEST]}])
def test_progress_that_is_damaged(tmp_path, changed):
    torch.save({**PROGRESS, **changed}, tmp_path / "state.pt")
    with pytest.raises(UserError, match="state.pt: damaged.*Remove it and run validate again"):
        StudentFolder(tmp_path).restore(lambda _: None, EPOCHS)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_one_process_trains_a_student_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(student_folder, "LOCK_SECONDS", 0)
    network = SimpleNamespace(net=torch.nn.Linear(2, 2))
    first, second = StudentFolder(tmp_path / "s"), StudentFolder(tmp_path / "s")
    other_rank = StudentFolder(tmp_path / "s", writes=False)
    with first.claimed(network, {}), other_rank.claimed(network, {}):
        with (pytest.raises(UserError, match="another process trains this student. Wait"),
              second.claimed(network, {})):
            pass
        first.save_state(PROGRESS)
        (first.path / "metrics.jsonl").touch()
        first.add_metrics(LINE)
        first.finish(RESULT)
        assert {path.name for path in first.path.iterdir()} == {
            "options.json", "metrics.jsonl", "result.json", "curve.png"}

    with (pytest.raises(UserError, match="has just finished this student. Run the same"),
          second.claimed(network, {})):
        pass


def test_a_stopped_student_is_not_locked(made, monkeypatch):
    monkeypatch.setattr(student_folder, "LOCK_SECONDS", 0)
    interrupt(monkeypatch, Training, "one_epoch", 1)
    with pytest.raises(KeyboardInterrupt):
        main(command(made, "unlocked"))
    with (FileLock(made / "run/students/unlocked/.training.lock"),
          pytest.raises(UserError, match="unlocked: another process trains this student")):
        main(command(made, "unlocked"))
    main(command(made, "unlocked"))


def test_a_folder_that_is_removed_while_it_is_written(tmp_path):
    network = SimpleNamespace(net=torch.nn.Linear(2, 2))
    folder = StudentFolder(tmp_path / "s")
    with folder.claimed(network, {}):
        shutil.rmtree(folder.path)
        for write in (lambda: folder.add_metrics(LINE), lambda: folder.save_state(PROGRESS),
                      lambda: folder.save_weights("best", network, {}), lambda: folder.finish({})):
            with pytest.raises(UserError, match="s: was removed while the student was trained"):
                write()
    assert not folder.path.exists()


def test_last_weights_that_are_the_best_are_stored_once(trained):
    main([*command(trained, "one"), "--epochs", "1"])
    last, best = (trained / f"run/students/one/{name}.safetensors" for name in ("last", "best"))
    assert last.samefile(best)
    with_other = json.loads((trained / "run/students/first/result.json").read_text())
    folder = trained / "run/students/first"
    once = with_other["last"] == with_other["best"]
    assert (folder / "last.safetensors").samefile(folder / "best.safetensors") == once


@pytest.mark.parametrize("content", [
    {"best": {"top1": 50.0}}, {"best": TEST, "last": [TEST], "seconds": 1.0}, [],
    {"best": TEST, "last": {**TEST, "epoch": "2"}, "seconds": 1.0},
    {**RESULT, "seconds": None}, {**RESULT, "best": {**TEST, "top1": float("nan")}},
    {**RESULT, "options": ["seed"]}, {**RESULT, "options": {"seed": [1]}}])
def test_a_result_that_says_too_little_is_damaged(tmp_path, content):
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="result.json: damaged"):
        StudentFolder(tmp_path).result()


# Rounding stays small where BatchNorm sees more than two numbers per channel, gradients are not
# divided by their size and steps are short.
CALM = ["--stem", "small", "--optimizer", "sgd", "--lr", "1e-5"]


@pytest.fixture(scope="module")
def calm(made):
    main(command(made, "calm", *CALM))
    return made


def test_micro_batches_apart_end_near_those_together(calm):
    main(command(calm, "apart", "--micro-batches", "apart", *CALM))
    for a, b in zip(metrics(calm, "apart"), metrics(calm, "calm"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_bf16_trains_and_is_tested_in_fp32(calm, capsys):
    main(command(calm, "bf16", "--precision", "bf16", *CALM))
    fp32, bf16 = metrics(calm, "calm")[-1]["loss"], metrics(calm, "bf16")[-1]["loss"]
    assert bf16 != fp32
    assert bf16 == pytest.approx(fp32, rel=0.02)
    found = result(calm, "bf16")
    assert found["options"]["precision"] == "bf16"
    capsys.readouterr()
    main(["--evaluate", str(calm / "run/students/bf16/best.safetensors"), "--val-dir",
          str(calm / "val"), "--device", "cpu"])
    assert f"top-1 {found['best']['top1']:.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize(("more", "difference"), [
    (["--lr", "0.01"], "lr = 0.001, now lr = 0.01"),
    (["--crop", "validation"], 'crop = "square", now crop = "validation"'),
    (["--precision", "bf16"], 'precision = "fp32", now precision = "bf16"'),
    (["--compile"], "compile = false, now compile = true"),
    (["--micro-batches", "apart"], 'micro_batches = "together", now')])
def test_another_option_in_the_same_folder_is_refused(trained, more, difference):
    with pytest.raises(UserError, match=difference):
        main(command(trained, "first", *more))


@pytest.mark.parametrize("stopped", [True, False])
def test_other_test_images_of_the_same_names_are_refused(trained, tmp_path, monkeypatch, stopped):
    name = "first"
    if stopped:
        name = "first_stopped"
        interrupt(monkeypatch, Training, "one_epoch", 1)
        with pytest.raises(KeyboardInterrupt):
            main(command(trained, name))
        monkeypatch.undo()
    other = tiny.image_folder(tmp_path / "val", CLASSES, 4, size=(44, 40), seed=3)
    with pytest.raises(UserError, match="options.json: was made with other test images than those "
                       "given now.*Give another --student-name, or remove the folder"):
        main(command(trained, name, "--val-dir", str(other)))


def test_test_images_are_decoded_once_for_all_students(trained, tmp_path, monkeypatch):
    calls, pixels = [], ImageSet.pixels

    def counted(self, *values):
        calls.append(1)
        return pixels(self, *values)

    monkeypatch.setattr(ImageSet, "pixels", counted)
    kept = set((trained / ".cache").glob("*.uint8"))  # beside the run folder, a file per crop
    assert kept
    for name, more, decoded in (
            ("cached", [], 0), ("uncached", ["--val-cache", "none"], 1),
            ("elsewhere", ["--val-cache", str(tmp_path / "cache")], 2)):
        main([*command(trained, name, "--seed", "5", *more), "--epochs", "1"])
        assert len(calls) == decoded
    assert set((trained / ".cache").glob("*.uint8")) == kept
    assert len(list((tmp_path / "cache").glob("*.uint8"))) == 1
    results = [result(trained, name) for name in ("cached", "uncached", "elsewhere")]
    assert results[0]["best"] == results[1]["best"] == results[2]["best"]
    assert results[0]["options"] == results[1]["options"]  # where pixels are kept changes nothing


def test_a_folder_that_cannot_keep_test_images(made, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    monkeypatch.setattr(testing, "decoded", full)
    main([*command(made, "full"), "--epochs", "1"])
    assert "No space left on device): they are decoded into memory" in " ".join(
        capsys.readouterr().out.split())
    with pytest.raises(UserError, match="--val-cache .*cache: cannot keep the decoded test images "
                       ".No space left on device.. Choose another folder, or none."):
        main([*command(made, "full2", "--val-cache", str(made / "cache")), "--epochs", "1"])
    assert not (made / "run/students/full2").exists()


def test_a_cache_that_cannot_be_made(made):
    with pytest.raises(UserError, match="--val-cache /proc/cache: cannot keep the decoded test "
                       "images .No such file or directory.. Choose another folder, or none."):
        main([*command(made, "proc", "--val-cache", "/proc/cache"), "--epochs", "1"])
    assert not (made / "run/students/proc").exists()


def test_online_labels_give_identical_weights(trained):
    main(command(trained, "online", "--labels", "online"))
    assert weights(trained, "online") == weights(trained, "first")


def test_a_recipe_without_labels_gives_identical_weights(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    shutil.rmtree(run / "labels")
    relabel(run, trained / "teachers", "--label-store", "none")
    assert not list((run / "labels").glob("*.safetensors"))

    other = shutil.copytree(trained / "teachers", tmp_path / "other")
    network = build("shufflenet_v2_x0_5", len(CLASSES), seed=("other",))
    network.classes = list(CLASSES)
    save_network(other / "shufflenet_v2_x0_5.safetensors", network, {})
    with pytest.raises(UserError, match="weights of shufflenet_v2_x0_5.*are not those"):
        main(command(trained, "auto", "--teacher-weights", str(other), run=run))
    assert not (run / "students").exists()

    moved = shutil.copytree(trained / "teachers", tmp_path / "moved")
    main(command(trained, "auto", "--teacher-weights", str(moved), run=run))
    last = (run / "students/auto/last.safetensors").read_bytes()
    assert last == weights(trained, "first")[0]


def copy_run(made, root):
    """A run folder with the same images and labels, and no students."""
    for name in ("images", "labels"):
        shutil.copytree(made / "run" / name, root / "run" / name)
    shutil.copy(made / "run/images.json", root / "run")
    return root / "run"


def test_changed_images_are_refused(made, tmp_path):
    run = copy_run(made, tmp_path)
    image = run / "images/new001/class001_id000.png"
    Image.new("RGB", (32, 32)).save(image)
    with pytest.raises(UserError, match="renamed or changed"):
        main(command(made, "refused", run=run))
    image.unlink()
    with pytest.raises(UserError, match="removed"):
        main(command(made, "refused", run=run))
    assert not (run / "students").exists()


@pytest.mark.parametrize("more", [
    ["--loss-type", "mae_gt", "--gt-target", "mixed"], ["--loss-type", "kl"],
    ["--loss-type", "dist", "--temperature", "4", "--lr-schedule", "half_cosine"],
    ["--optimizer", "sgd", "--lr", "0.001", "--lr-schedule", "step"]])
def test_other_losses_and_optimisers_train(made, more):
    name = "-".join(more).replace("--", "")
    main([*command(made, name, *more), "--epochs", "1"])
    assert result(made, name)["best"]["epoch"] == 0


def test_a_diverging_student_stops_with_one_sentence(made):
    with pytest.raises(UserError, match=r"epoch \d, batch \d of 3: the training loss is (nan|inf)"
                                        ".*smaller --lr"):
        main([*command(made, "diverges"), "--optimizer", "sgd", "--lr", "1e8"])


def test_hard_labels_need_no_labels_folder_and_no_images_json(made, tmp_path):
    shutil.copytree(made / "run/images", tmp_path / "images")
    for c, name in enumerate(CLASSES):  # any tool's folder, with wnids as names
        (tmp_path / f"images/new{c:03d}").rename(tmp_path / "images" / name)
    hard = ["--output-dir", str(tmp_path), "--val-dir", str(made / "val"), "--student",
            "shufflenet_v2_x0_5", "--epochs", "1", "--loss-type", "ce", "--device", "cpu",
            "--threads", "1"]
    main([*hard, "--batch-size", "5"])
    file = tmp_path / "students/shufflenet_v2_x0_5_hard_seed0/result.json"
    found = json.loads(file.read_text())
    assert found["identity"]["labels"] is None
    assert found["options"]["mix_type"] == "none"
    assert found["options"]["min_scale_crops"] == 0.25
    assert found["options"]["batch_size"] == 5
    main([*hard, "--student-name", "mixed", "--mix-type", "cutmix"])
    assert (tmp_path / "students/mixed/result.json").exists()


def test_the_stem_is_that_of_the_labels_teacher(made, tmp_path, capsys):
    run = copy_run(made, tmp_path)
    shutil.rmtree(run / "labels")
    tiny.teacher_folder(tmp_path / "teachers", TEACHERS, CLASSES, stem="small")
    relabel(run, tmp_path / "teachers")

    def stem(name, *more):
        o = parse(command(made, name, "--epochs", "1", *more, run=run))
        return prepare(o, torch.device("cpu")).options.student.stem

    assert stem("small") == "small"
    assert stem("no-small-stem", "--student", "convnet3") == "imagenet"
    online = ["--labels", "teacher", "--teachers", TEACHERS[0], "--teacher-weights"]
    assert stem("teacher", *online, str(tmp_path / "teachers")) == "small"
    assert stem("hard", "--loss-type", "ce") == "imagenet"
    assert "note: the student has" not in capsys.readouterr().out
    assert stem("given", "--stem", "imagenet") == "imagenet"
    assert "--stem imagenet, the labels' teacher has stem small" in capsys.readouterr().out


def test_evaluate_a_saved_student(trained, tmp_path, capsys):
    test = result(trained, "first")["best"]
    expected = f"top-1 {test['top1']:.2f} %, top-5 {test['top5']:.2f} % of 12 test images"
    best = trained / "run/students/first/best.safetensors"
    images = ["--val-dir", str(trained / "val"), "--device", "cpu"]
    main(["--evaluate", str(best), *images])
    assert expected in capsys.readouterr().out
    torch.save(load_network(best)[0].net.state_dict(), tmp_path / "plain.pth")
    main(["--evaluate", str(tmp_path / "plain.pth"), "--student", "shufflenet_v2_x0_5",
          "--image-size", "32", *images])
    assert expected in capsys.readouterr().out
    with pytest.raises(UserError, match="no such file"):
        main(["--evaluate", str(tmp_path / "none.safetensors"), *images])


def test_test_images_are_cropped_as_the_option_says(trained, monkeypatch):
    """--evaluate does it as the student was tested, if nothing else is said."""
    first = Image.open(trained / f"val/{CLASSES[0]}/img_000.JPEG")
    square, validation = square_crop(first, 32), centre_crop(first, 32)
    assert json.loads((trained / "run/students/first/options.json").read_text())["options"][
        "crop"] == "square"
    main([*command(trained, "cropped", "--crop", "validation"), "--epochs", "1"])
    for name, more, expected in (("first", [], square), ("cropped", [], validation),
                                 ("cropped", ["--crop", "square"], square)):
        seen = []
        monkeypatch.setattr(testing, "accuracy", lambda _, pixels, *__, seen=seen, **___: (
            seen.append(pixels[0]) or {"top1": 1.0, "top5": 1.0, "count": 1}))
        main(["--evaluate", str(trained / f"run/students/{name}/best.safetensors"), "--output-dir",
              str(trained / "run"), "--val-dir", str(trained / "val"), "--device", "cpu", *more])
        assert torch.equal(seen[0], expected)


def test_evaluate_on_the_images_of_a_run(trained, tmp_path, capsys):
    """Its class folders are only numbered; images.json beside them says which classes they are."""
    classes = CLASSES[::-1]
    tiny.distilled_folder(tmp_path / "run", trained / "distil", classes, 2)
    for number, name in enumerate(classes):
        shutil.copytree(tmp_path / f"run/images/new{number:03d}", tmp_path / "named" / name)
    printed = []
    for folder in (tmp_path / "run/images", tmp_path / "named"):
        main(["--evaluate", str(trained / "run/students/first/best.safetensors"), "--val-dir",
              str(folder), "--device", "cpu"])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "of 6 test images (shufflenet_v2_x0_5, 32 px)" in printed[0]


@pytest.mark.parametrize(("more", "sentence"), [
    (["--val-dir", "nowhere"], "no such folder"), (["--train-dir", "nowhere"], "no such folder"),
    (["--fkd-path", "nowhere"], "labels.json: not found"), (["--epochs", "0"], "at least 1"),
    (["--epochs", "6"], "the first missing is epoch 4"), (["--lr", "-1"], "more than 0"),
    (["--student", "alexnet"], "--input-resize alexnet="),
    (["--input-resize", "99999999"], "--input-resize 99999999: expected a side .* 1 to 4096"),
    (["--loss-type", "ce", "--shuffle-patches", "33"], "images have 32 px. Give at most"),
    (["--image-size", "99999999"], "--image-size 99999999: expected at most 4096 pixels")])
def test_bad_input_in_one_sentence(made, more, sentence):
    with pytest.raises(UserError, match=sentence):
        main([*command(made, "refused"), *more])
    assert not (made / "run/students/refused").exists()


@pytest.mark.parametrize("option", ["--train-dir", "--val-dir"])
def test_students_among_the_images_are_refused(made, tmp_path, option):
    root = tiny.image_folder(tmp_path / "images", CLASSES, 1, size=(32, 32))
    with pytest.raises(UserError, match="--output-dir: found .*images/students, expected a folder "
                       f"outside the images in {root},"):
        main(["--loss-type", "ce", "--train-dir", str(made / "run/images"), *command(
            made, "x", option, str(root), run=root)])
    assert not (root / "students").exists()


def test_bad_input_through_the_command_line(made):
    def run(*more, **environment):
        return subprocess.run([sys.executable, "-m", "validate.train_fkd", *more], cwd=ROOT,
                              capture_output=True, text=True, env={**os.environ, **environment})

    done = run(*command(made, "x", "--student", "resnet81"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "resnet18" in done.stderr

    # Without a process group no rank waits for another, and rank 0 speaks for all.
    for rank, words in (("0", "NGPU=3, but a batch has 2 micro-batches.*Set NGPU=2.*side by side"),
                        ("1", "")):
        done = run(*command(made, "x"), WORLD_SIZE="3", RANK=rank, LOCAL_RANK=rank)
        assert done.returncode == 2
        assert re.search(words, done.stderr)
        assert done.stderr.count("\n") == (rank == "0")
