import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image

from data import decoded_images
from data.datasets import FolderImages
from models.networks import build, load_network, save_network
from relabel.generate_soft_label import main as label
from tests import tiny
from utils.errors import UserError
from utils.files import write_json
from validate import engine
from validate.label_source import HardLabels, own_plan
from validate.train_fkd import main
from validate.training import Training

CLASSES = ("n01440764", "n01443537", "n01484850")
TEACHERS = ["shufflenet_v2_x0_5", "mobilenet_v2"]
EPOCHS = 4
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("validate"))


def make(root):
    """A run of 9 distilled images of 3 classes with labels for 4 epochs in batches of 4, 4 and 1, and real test images."""
    run = root / "run"
    real = tiny.image_folder(root / "distil", CLASSES, 3, size=(32, 32), seed=1)
    for c, name in enumerate(CLASSES):
        (run / f"images/new{c:03d}").mkdir(parents=True)
        for i, file in enumerate(sorted((real / name).iterdir())):
            Image.open(file).save(run / f"images/new{c:03d}/class{c:03d}_id{i:03d}.png")
    write_json(run / "images.json", {"options": {"dataset": "imagefolder", "image_size": 32, "seed": 7},
                                     "identity": {"classes": CLASSES}})
    tiny.image_folder(root / "val", CLASSES, 4, size=(44, 40), seed=2)
    tiny.teacher_folder(root / "teachers", TEACHERS, CLASSES)
    relabel(run, root / "teachers")
    return root


def relabel(run, teachers, *more):
    label(["--output-dir", str(run), "--teachers", *TEACHERS, "--teacher-weights", str(teachers), "--batch-size", "4",
           "--epochs", str(EPOCHS), "--device", "cpu", "--threads", "1", *more])


def command(made, name, *more, run=None):
    return ["--output-dir", str(run or made / "run"), "--val-dir", str(made / "val"), "--student", "shufflenet_v2_x0_5",
            "--epochs", str(EPOCHS), "--eval-every", "2", "--device", "cpu", "--threads", "1", "--student-name", name, *more]


def weights(made, name):
    return [(made / f"run/students/{name}/{which}.safetensors").read_bytes() for which in ("last", "best")]


def metrics(made, name):
    lines = (made / f"run/students/{name}/metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def trained(made):
    main(command(made, "first"))
    return made


def test_everything_is_written(trained, capsys):
    folder = trained / "run/students/first"
    assert {f.name for f in folder.iterdir()} == {"options.json", "last.safetensors", "best.safetensors",
                                                  "metrics.jsonl", "result.json", "curve.png"}
    lines = metrics(trained, "first")
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert [line["epoch"] for line in lines if "top1" in line] == [1, 3]
    assert lines[0]["lr"] == 1e-3
    result = json.loads((folder / "result.json").read_text())
    best = max(line["top1"] for line in lines if "top1" in line)
    assert result["top1"] == result["best"]["top1"] == best
    assert result["last"]["top1"] == lines[-1]["top1"]
    assert result["seeds"] == {"student": 0, "fkd": 42, "images": 7}
    assert (result["images"], result["test_images"]) == (9, 12)
    assert result["options"]["batch_size"] == 4
    assert Image.open(folder / "curve.png").size[0] > 300
    before = weights(trained, "first")
    main(command(trained, "first"))  # finished: printed, not trained again
    assert "already finished" in capsys.readouterr().out
    assert weights(trained, "first") == before


def test_same_command_twice_gives_the_same_bytes(trained):
    main(command(trained, "again"))
    assert weights(trained, "again") == weights(trained, "first")
    assert metrics(trained, "again") == metrics(trained, "first")
    main(command(trained, "seed1", "--seed", "1"))
    assert weights(trained, "seed1")[0] != weights(trained, "first")[0]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_stopped_and_resumed_equals_uninterrupted(trained, stop, monkeypatch):
    name, one_epoch = f"stopped{stop}", Training.one_epoch

    def until(self, epoch):
        if epoch == stop:
            self.folder.add_metrics({"epoch": stop, "half": True})  # a line that the state does not know
            raise KeyboardInterrupt
        one_epoch(self, epoch)

    monkeypatch.setattr(Training, "one_epoch", until)
    with pytest.raises(KeyboardInterrupt):
        main(command(trained, name))
    monkeypatch.undo()
    main(command(trained, name))
    assert weights(trained, name) == weights(trained, "first")
    assert metrics(trained, name) == metrics(trained, "first")


def test_killed_inside_a_batch_and_resumed(trained, monkeypatch):
    step, count = engine.train_step, []

    def dying(*values):
        count.append(1)
        if len(count) == 8:  # in the third epoch
            raise KeyboardInterrupt
        return step(*values)

    monkeypatch.setattr(engine, "train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        main(command(trained, "killed"))
    monkeypatch.undo()
    main(command(trained, "killed"))
    assert weights(trained, "killed") == weights(trained, "first")


# Where rounding stays small: BatchNorm sees more than two numbers a channel, gradients are not divided by their size, short steps.
CALM = ["--stem", "small", "--optimizer", "sgd", "--lr", "1e-5"]


@pytest.fixture(scope="module")
def calm(made):
    main(command(made, "calm", *CALM))
    return made


def test_micro_batches_apart_end_near_those_together(calm):
    main(command(calm, "apart", "--micro-batches", "apart", *CALM))
    for a, b in zip(metrics(calm, "apart"), metrics(calm, "calm"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


@pytest.mark.parametrize(("more", "words"), [(["--precision", "bf16"], 'precision = "fp32", now precision = "bf16"'),
                                             (["--compile"], "compile = false, now compile = true"),
                                             (["--micro-batches", "apart"], 'micro_batches = "together", now')])
def test_what_changes_last_bits_is_refused_in_the_same_folder(trained, more, words):
    with pytest.raises(UserError, match=words):
        main(command(trained, "first", *more))


def test_bf16_trains_and_is_tested_in_fp32(calm, capsys):
    main(command(calm, "bf16", "--precision", "bf16", *CALM))
    folder = calm / "run/students/bf16"
    result = json.loads((folder / "result.json").read_text())
    assert result["options"]["precision"] == "bf16"
    fp32, bf16 = metrics(calm, "calm")[-1]["loss"], metrics(calm, "bf16")[-1]["loss"]
    assert bf16 != fp32
    assert bf16 == pytest.approx(fp32, rel=0.02)
    capsys.readouterr()
    main(["--evaluate", str(folder / "best.safetensors"), "--val-dir", str(calm / "val"), "--device", "cpu"])
    assert f"top-1 {result['best']['top1']:.2f} %" in capsys.readouterr().out


def decoding(monkeypatch):
    calls, pixels = [], FolderImages.pixels
    monkeypatch.setattr(FolderImages, "pixels", lambda self, *args: calls.append(1) or pixels(self, *args))
    return calls


def test_test_images_are_decoded_once_for_all_students(trained, tmp_path, monkeypatch):
    calls = decoding(monkeypatch)
    assert [f.suffix for f in (trained / ".cache").iterdir()] == [".uint8"]  # beside the run folder
    main([*command(trained, "cached", "--seed", "5"), "--epochs", "1"])
    assert calls == []
    main([*command(trained, "uncached", "--seed", "5", "--val-cache", "none"), "--epochs", "1"])
    assert len(calls) == 1
    main([*command(trained, "elsewhere", "--seed", "5", "--val-cache", str(tmp_path / "cache")), "--epochs", "1"])
    assert len(calls) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 1
    results = [json.loads((trained / f"run/students/{name}/result.json").read_text())
               for name in ("cached", "uncached", "elsewhere")]
    assert results[0]["best"] == results[1]["best"] == results[2]["best"]
    assert results[0]["options"] == results[1]["options"]  # where pixels are kept changes nothing


def test_a_folder_that_cannot_keep_test_images(made, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    monkeypatch.setattr(decoded_images, "decoded", full)
    main([*command(made, "full"), "--epochs", "1"])
    assert "No space left on device): they are decoded into memory" in capsys.readouterr().out
    with pytest.raises(OSError, match="No space"):  # asked for: refused
        main([*command(made, "full2", "--val-cache", str(made / "cache")), "--epochs", "1"])
    assert not (made / "run/students/full2").exists()
    with pytest.raises(UserError, match="lies among the test images"):
        main([*command(made, "full2", "--val-cache", str(made / "val/cache")), "--epochs", "1"])


def test_online_labels_give_identical_weights(trained):
    main(command(trained, "online", "--labels", "online"))
    assert weights(trained, "online") == weights(trained, "first")


def test_auto_goes_online_when_relabel_stored_none_and_checks_the_weights(trained, tmp_path):
    run = copy_run(trained, tmp_path)
    shutil.rmtree(run / "labels")
    relabel(run, trained / "teachers", "--label-store", "none")
    assert not list((run / "labels").glob("*.safetensors"))
    with pytest.raises(UserError, match="stored no labels.*--labels online"):
        main(command(trained, "auto", "--labels", "stored", run=run))
    other = shutil.copytree(trained / "teachers", tmp_path / "other")
    changed = build("shufflenet_v2_x0_5", len(CLASSES), seed=("other",))
    save_network(other / "shufflenet_v2_x0_5.safetensors", changed, {})
    with pytest.raises(UserError, match="weights of shufflenet_v2_x0_5.*are not those"):
        main(command(trained, "auto", "--teacher-weights", str(other), run=run))
    assert not (run / "students").exists()
    moved = shutil.copytree(trained / "teachers", tmp_path / "moved")
    main(command(trained, "auto", "--teacher-weights", str(moved), run=run))
    assert (run / "students/auto/last.safetensors").read_bytes() == weights(trained, "first")[0]


def copy_run(made, root):
    run = root / "run"
    for name in ("images", "labels"):
        shutil.copytree(made / "run" / name, run / name)
    shutil.copy(made / "run/images.json", run)
    return run


def test_options_that_differ_from_the_labels_are_refused(made):
    for option, given, there in (("--batch-size", "8", "4"), ("--min-scale-crops", "0.08", "0.25"),
                                 ("--mix-type", "none", "cutmix")):
        with pytest.raises(UserError, match=f"made with {option} {there}, found {option} {given}"):
            main(command(made, "refused", option, given))
    assert not (made / "run/students/refused").exists()


def test_more_epochs_than_stored_names_the_missing_one(made):
    with pytest.raises(UserError, match="epoch 4"):
        main([*command(made, "refused"), "--epochs", "6"])
    assert not (made / "run/students/refused").exists()


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


def test_another_option_in_the_same_folder_is_refused(trained):
    with pytest.raises(UserError, match="lr = 0.001, now lr = 0.01"):
        main(command(trained, "first", "--lr", "0.01"))


@pytest.mark.parametrize("more", [["--loss-type", "mae_gt", "--gt-target", "mixed"], ["--loss-type", "kl"],
                                  ["--loss-type", "dist", "--temperature", "4", "--lr-schedule", "half_cosine"],
                                  ["--optimizer", "sgd", "--lr", "0.001", "--lr-schedule", "step"]])
def test_other_losses_and_optimisers_train(made, more):
    name = "-".join(more).replace("--", "")
    main([*command(made, name, *more), "--epochs", "1"])
    assert json.loads((made / f"run/students/{name}/result.json").read_text())["best"]["epoch"] == 0


def test_a_diverging_student_stops_with_one_sentence(made):
    with pytest.raises(UserError, match=r"epoch \d, batch \d of 3: the training loss is (nan|inf).*smaller --lr"):
        main([*command(made, "diverges"), "--optimizer", "sgd", "--lr", "1e8"])


def test_hard_labels_need_no_labels_folder(made, tmp_path, capsys):
    shutil.copytree(made / "run/images", tmp_path / "images")  # without images.json: any tool's folder, wnids as names
    for c, name in enumerate(CLASSES):
        (tmp_path / f"images/new{c:03d}").rename(tmp_path / "images" / name)
    base = ["--output-dir", str(tmp_path), "--val-dir", str(made / "val"), "--student", "shufflenet_v2_x0_5", "--epochs", "1",
            "--loss-type", "ce", "--device", "cpu", "--threads", "1"]
    main([*base, "--batch-size", "5", "--temperature", "3"])
    assert "--temperature is not read with --loss-type ce" in capsys.readouterr().out
    result = json.loads((tmp_path / "students/shufflenet_v2_x0_5_hard_seed0/result.json").read_text())
    assert result["identity"]["labels"] is None
    assert (result["options"]["mix_type"], result["options"]["min_scale_crops"], result["options"]["batch_size"]) == ("none",
                                                                                                                   0.25, 5)
    main([*base, "--student-name", "mixed", "--mix-type", "cutmix"])
    assert (tmp_path / "students/mixed/result.json").exists()


def test_evaluate_a_saved_student(trained, tmp_path, capsys):
    result = json.loads((trained / "run/students/first/result.json").read_text())
    expected = f"top-1 {result['best']['top1']:.2f} %, top-5 {result['best']['top5']:.2f} % of 12 test images"
    best = trained / "run/students/first/best.safetensors"
    main(["--evaluate", str(best), "--val-dir", str(trained / "val"), "--device", "cpu"])
    assert expected in capsys.readouterr().out
    torch.save(load_network(best)[0].net.state_dict(), tmp_path / "plain.pth")
    main(["--evaluate", str(tmp_path / "plain.pth"), "--student", "shufflenet_v2_x0_5", "--val-dir", str(trained / "val"),
          "--image-size", "32", "--device", "cpu"])
    assert expected in capsys.readouterr().out
    with pytest.raises(UserError, match="no such file"):
        main(["--evaluate", str(tmp_path / "none.safetensors"), "--val-dir", str(trained / "val"), "--device", "cpu"])


def test_batches_carry_the_classes_of_both_images():
    images, labels = 7, torch.tensor([0, 1, 2, 3, 4, 5, 6])
    pixels = (labels.view(-1, 1, 1, 1) * 30).to(torch.uint8).expand(images, 3, 8, 8)  # a grey level per class
    source = HardLabels(own_plan(images, 8, 0.0, seed=3, batch_size=5, mix="mixup"))
    plan, none = source.epoch(0)
    assert none is None
    for mixed in (True, False):
        batches = list(engine.planned_batches(lambda i: pixels[i], labels, plan, source.options, None, mixed,
                                              torch.device("cpu")))
        assert [len(b.images) for b in batches] == [5, 2]
        assert torch.cat([b.classes for b in batches]).tolist() == plan.order.tolist()
    for batch in list(engine.planned_batches(lambda i: pixels[i], labels, plan, source.options, None, True,
                                             torch.device("cpu"))):
        grey = (batch.images[:, 0, 0, 0] * 0.229 + 0.485) * 255 / 30
        torch.testing.assert_close(grey, batch.lam * batch.classes + (1 - batch.lam) * batch.partner_classes, atol=1e-3, rtol=0)


def test_hard_label_plans_follow_the_seed():
    a, b, c = (HardLabels(own_plan(9, 32, 0.5, seed)).epoch(0)[0] for seed in (0, 0, 1))
    assert a == b
    assert a != c
    assert asdict(own_plan(9, 32, 0.5, 0))["mix"] == "none"


def test_bad_input_through_the_command_line(made):
    def run(*more, **environment):
        return subprocess.run([sys.executable, "-m", "validate.train_fkd", *more], cwd=ROOT, capture_output=True, text=True,
                              env={**os.environ, **environment})

    found = run(*command(made, "x", "--student", "resnet81"))
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert "resnet18" in found.stderr
    for rank, words in (("0", "NGPU=3, but a batch has 2 micro-batches.*Set NGPU=2.*side by side"), ("1", "")):
        found = run(*command(made, "x"), WORLD_SIZE="3", RANK=rank, LOCAL_RANK=rank)  # no process group: no rank waits for another
        assert found.returncode == 2
        assert re.search(words, found.stderr)
        assert found.stderr.count("\n") == (rank == "0")  # one speaks for all


def test_bad_input_in_one_sentence(made, tmp_path):
    for more, words in ((["--val-dir", str(tmp_path / "no")], "no such folder"), (["--epochs", "0"], "at least 1"),
                        (["--train-dir", str(tmp_path / "no")], "no such folder"), (["--student-name", "a/b"], "plain name"),
                        (["--fkd-path", str(tmp_path)], "labels.json: not found"), (["--input-resize", "alexnet=64"], "student is"),
                        (["--student", "alexnet"], "--input-resize alexnet="), (["--lr", "-1"], "more than 0")):
        with pytest.raises(UserError, match=words):
            main([*command(made, "refused"), *more])
    assert not (made / "run/students/refused").exists()
    with pytest.raises(UserError, match="--output-dir"):
        main(["--val-dir", str(made / "val")])
