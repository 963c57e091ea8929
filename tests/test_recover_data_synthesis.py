import json
import re
import shutil

import numpy as np
import pytest
import tiny
import torch
from interrupting import interrupt
from PIL import Image

from data import images
from data.opening import open_real
from models.networks import build, save_network
from recover import inversion, synthesize, unit_run
from recover.data_synthesis import main
from recover.options import parse
from recover.unit_files import UnitFiles
from utils.errors import UserError
from utils.options import with_values

CLASSES = ("n01440764", "n01443537", "n01484850")
TEACHERS = ("resnet18", "shufflenet_v2_x0_5")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("recover")
    tiny.image_folder(root / "train", CLASSES, per_class=4)
    tiny.teacher_folder(root / "teachers", TEACHERS, CLASSES)
    return root


def command(data, out, *more):
    return ["--train-dir", str(data / "train"), "--output-dir", str(out),
            "--teacher-weights", str(data / "teachers"),
            "--bn-teachers", "shufflenet_v2_x0_5", "alexnet", "--image-size", "32",
            "--ipc-end", "2", "--iteration", "4", "--batch-size", "2", "--units-per-step", "2",
            "--min-teacher-accuracy", "0", "--checkpoint-every", "2", *more]


def files(out, *folders):
    return {str(p.relative_to(out)): p.read_bytes() for folder in folders
            for p in sorted((out / folder).rglob("*")) if p.is_file()}


def test_same_command_twice_same_bytes_and_what_lies_on_disk(data, tmp_path, capsys):
    for name in ("a", "b"):
        main(command(data, tmp_path / name))
    a, b = tmp_path / "a", tmp_path / "b"
    assert files(a, "images", "previews") == files(b, "images", "previews")
    assert sorted(files(a, "images")) == [f"images/new00{c}/class00{c}_id00{i}.png"
                                          for c in range(3) for i in range(2)]
    assert (a / "images.json").read_bytes() == (b / "images.json").read_bytes()
    record = json.loads((a / "units/slice00001_chunk000.json").read_text())
    assert record["steps"] == 3
    assert record["bn_teachers"][0] == record["logit_teacher"] == "resnet18"
    assert record["units_together"] == ["slice00000_chunk000", "slice00001_chunk000"]
    assert record["terms"][0]["step"] == 0
    assert record["terms"][0]["ce"] > 0
    names = [f"images/new00{c}/class00{c}_id001.png" for c in range(3)]
    assert list(record["start"]) == list(record["files"]) == names
    assert record["start"]["images/new001/class001_id001.png"] == f"{CLASSES[1]}/img_001.JPEG"
    assert not list((a / "units").glob("unfinished*"))
    assert "image-steps, about" in capsys.readouterr().out


def test_second_start_does_nothing_and_more_ipc_may_be_added(data, tmp_path, monkeypatch):
    main(command(data, tmp_path))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "images").rglob("*.png")}
    with monkeypatch.context() as patch:
        patch.setattr(inversion, "synthesize", lambda *_: pytest.fail("worked again"))
        main(command(data, tmp_path))
    main(command(data, tmp_path, "--ipc-end", "4"))
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert len(list((tmp_path / "images").rglob("*_id003.png"))) == 3
    assert json.loads((tmp_path / "images.json").read_text())["asked"] == [0, 4]


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_stopped_and_resumed_equals_uninterrupted(data, tmp_path, monkeypatch, stop_at):
    more = ("--frames", "3", "--log-every", "1")
    main(command(data, tmp_path / "whole", *more))
    with monkeypatch.context() as patch:
        interrupt(patch, unit_run.UnitRun, "show", stop_at)
        with pytest.raises(KeyboardInterrupt):
            main(command(data, tmp_path / "resumed", *more))
    main(command(data, tmp_path / "resumed", *more))
    for folder in ("images", "previews", "frames"):
        assert files(tmp_path / "whole", folder) == files(tmp_path / "resumed", folder)
    records = [json.loads((tmp_path / run / "units/slice00000_chunk000.json").read_text())
               for run in ("whole", "resumed")]
    assert records[0]["terms"] == records[1]["terms"]
    assert [row["step"] for row in records[0]["terms"]] == [0, 1, 2, 3]
    assert not list((tmp_path / "resumed").rglob("unfinished*"))


def test_frames_show_the_course_and_change_no_image(data, tmp_path, monkeypatch):
    """Units of 4 and 3 steps, which are cut into 3 parts; a second chunk has no preview."""
    calls, to_uint8 = [], images.to_uint8
    monkeypatch.setattr(images, "to_uint8", lambda x: calls.append(len(x)) or to_uint8(x))
    main(command(data, tmp_path / "without"))
    assert calls == [3, 3]  # only the results ever leave the device
    assert not (tmp_path / "without/frames").exists()

    main(command(data, tmp_path / "with", "--frames", "3"))
    assert files(tmp_path / "without", "images", "previews") == files(
        tmp_path / "with", "images", "previews")
    read = {str(path.relative_to(tmp_path / "with/frames")): images.to_tensor(Image.open(path))
            for path in sorted((tmp_path / "with/frames").rglob("*.png"))}
    assert list(read) == [f"new00{c}/class00{c}_id00{i}/step0000{step}.png"
                          for c in range(3) for i, steps in enumerate(((0, 1, 2, 4), range(4)))
                          for step in steps]

    real = open_real("imagefolder", "train", data / "train", 32)
    course = [read[f"new001/class001_id000/step0000{step}.png"] for step in (0, 1, 2, 4)]
    assert torch.equal(course[0], real.image(real.by_class[1][0]))
    assert all(not torch.equal(a, b) for a, b in zip(course, course[1:], strict=False))
    result = Image.open(tmp_path / "with/images/new001/class001_id000.png")
    assert torch.equal(course[3], images.to_tensor(result))


def test_frames_are_of_previews_and_count_as_bytes(data, tmp_path, monkeypatch):
    monkeypatch.setattr(unit_run, "PREVIEW_IMAGES", 2)
    options = command(data, tmp_path / "run", "--ipc-end", "1", "--frames", "1")
    main(options)
    assert sorted(path.name for path in (tmp_path / "run/frames").rglob("*_id*")) == [
        "class000_id000", "class001_id000"]
    job = inversion.prepare(parse([*options, "--output-dir", str(tmp_path / "other")]))
    alone = with_values(job.options, frames=0)
    assert (job.files.space(job.units, job.options) - job.files.space(job.units, alone)
            == 3 * 2 * 3 * 32**2)  # three images, two frames


def test_shards_share_a_folder_and_a_run_without_completes_it(data, tmp_path, capsys):
    """The shards are jobs that know nothing of one another; one of four never ran."""
    more = ("--ipc-end", "4", "--units-per-step", "1")
    main(command(data, tmp_path / "whole", *more))
    done = []
    for i in (2, 0, 3):
        main(command(data, tmp_path / "shared", *more, "--shard", f"{i}/4"))
        done.append(len(files(tmp_path / "shared", "images")))
    assert done == [3, 6, 9]  # a slice each
    assert "recover: this share is done" in capsys.readouterr().out
    main(command(data, tmp_path / "shared", *more))
    for folder in ("images", "previews"):
        assert files(tmp_path / "whole", folder) == files(tmp_path / "shared", folder)
    whole, shared = (tmp_path / name / "images.json" for name in ("whole", "shared"))
    assert whole.read_bytes() == shared.read_bytes()


def test_the_image_size_is_what_the_teachers_were_trained_at(data, tmp_path):
    for name in TEACHERS:
        network = build(name, 3, image_size=48)
        network.classes = list(CLASSES)
        save_network(tmp_path / f"teachers/{name}.safetensors", network, {})
    words = command(data, tmp_path / "run")
    words[words.index("--teacher-weights") + 1] = str(tmp_path / "teachers")
    with pytest.raises(UserError, match="resnet18: was trained on images of 48 px, found 32 px"):
        inversion.prepare(parse(words))
    assert not (tmp_path / "run").exists()

    place = words.index("--image-size")
    job = inversion.prepare(parse(words[:place] + words[place + 2 :]))
    assert (job.real.image_size, job.options.data.image_size) == (48, 48)


def test_single_teacher_from_noise_without_reading_images(data, tmp_path):
    main(command(data, tmp_path, "--start", "noise", "--decoupling", "single", "--steps",
                 "constant", "--ipc-end", "9"))
    record = json.loads((tmp_path / "units/slice00008_chunk000.json").read_text())
    assert record["bn_teachers"] == ["resnet18"]
    assert record["steps"] == 4
    assert set(record["start"].values()) == {"noise"}


def without_images(data, out, *more):
    """The command of noise from teachers alone."""
    args = command(data, out, "--start", "noise", "--ipc-end", "1", *more)
    place = args.index("--train-dir")
    return args[:place] + args[place + 2 :]


def test_noise_needs_classes_and_no_images(data, tmp_path, capsys):
    classes = ["--classes", ",".join(CLASSES), "--min-teacher-accuracy", "50"]
    main(without_images(data, tmp_path / "alone", *classes))
    assert "note: there are no real images to measure" in capsys.readouterr().out
    identity = json.loads((tmp_path / "alone/images.json").read_text())["identity"]
    assert identity == {"classes": list(CLASSES), "train_images": None, "start_images": None}
    main(command(data, tmp_path / "beside", "--start", "noise", "--ipc-end", "1"))
    assert files(tmp_path / "alone", "images") == files(tmp_path / "beside", "images")


@pytest.mark.parametrize(("options", "message"), [
    ([], "noise without --train-dir knows no classes, found no --classes. Give a list"),
    (["--start", "medium"], "--start medium needs real images, found no --train-dir .* Give it"),
    (["--match", "convolution"], "--match convolution needs real images, found no --train-dir"),
    (["--without-bn", "calibrated"], "--without-bn calibrated needs real images"),
    (["--classes", "n01440764,cat,dog"], "the teacher was trained on other classes: .* 'cat'"),
])
def test_what_needs_real_images_says_so(data, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        main(without_images(data, tmp_path / "run", *options))
    assert not (tmp_path / "run").exists()


def test_every_network_that_runs_is_measured(data, tmp_path, capsys):
    more = ("--verifier", "shufflenet_v2_x0_5", "--bn-teachers", "shufflenet_v2_x0_5",
            "--bn-slot-prob", "1", "--min-teacher-accuracy", "0.001", "--iteration", "1")
    main(command(data, tmp_path, *more))
    text = capsys.readouterr().out
    assert re.search(r"resnet18 .* % \(chance 33.3 %\)  logit, BN\n", text)
    assert re.search(r"shufflenet_v2_x0_5 .* % \(chance 33.3 %\)  BN, verifier\n", text)
    stored = json.loads((tmp_path / "images.json").read_text())
    assert sorted(stored["teachers"]) == sorted(TEACHERS)
    assert stored["teachers"]["resnet18"]["images"] == 12
    main(command(data, tmp_path, *more))
    assert "real images" not in capsys.readouterr().out  # nothing is left to do


def test_zero_iterations_save_the_start_as_it_is(data, tmp_path):
    main(command(data, tmp_path, "--iteration", "0", "--start", "random", "--seed", "1",
                 "--ipc-end", "4"))
    real = open_real("imagefolder", "train", data / "train", 32)
    for c in range(3):
        arrays = {np.array(Image.open(p)).tobytes()
                  for p in (tmp_path / "images" / f"new00{c}").iterdir()}
        originals = {real.image(i).permute(1, 2, 0).numpy().tobytes()
                     for i in real.by_class[c].tolist()}
        assert arrays == originals  # four slices of four images: each real image used once


def test_images_move_away_from_their_start_towards_the_loss(data, tmp_path):
    main(command(data, tmp_path, "--iteration", "30", "--ipc-end", "1", "--log-every", "29",
                 "--r-bn", "0"))
    terms = json.loads((tmp_path / "units/slice00000_chunk000.json").read_text())["terms"]
    assert terms[-1]["step"] == 29
    assert terms[-1]["ce"] < terms[0]["ce"]


def test_other_options_are_refused_by_name(data, tmp_path):
    main(command(data, tmp_path, "--iteration", "1"))
    with pytest.raises(UserError,
                       match="was made with lr = 0.05, now lr = 0.1. Give the same again"):
        main(command(data, tmp_path, "--iteration", "1", "--lr", "0.1"))
    shutil.copytree(data / "teachers", tmp_path / "moved")
    # the same weights elsewhere
    main(command(data, tmp_path, "--iteration", "1", "--teacher-weights", str(tmp_path / "moved")))
    other = build("resnet18", 3, seed=("other",))
    other.classes = list(CLASSES)
    save_network(tmp_path / "moved" / "resnet18.safetensors", other, {})
    with pytest.raises(UserError,
                       match="was made with (other weights of resnet18|primary_weights)"):
        main(command(data, tmp_path, "--iteration", "1", "--teacher-weights",
                     str(tmp_path / "moved")))


def test_a_real_subset_needs_no_teachers(data, tmp_path):
    main(command(data, tmp_path, "--iteration", "0", "--teacher-weights", "IMAGENET1K_V1",
                 "--primary-teacher", "resnet50"))
    record = json.loads((tmp_path / "units/slice00000_chunk000.json").read_text())
    assert (record["logit_teacher"], record["bn_teachers"], record["weights"]) == (None, [], {})


def test_a_unit_made_with_other_weights_is_refused(data, tmp_path):
    main(command(data, tmp_path / "run", "--bn-slot-prob", "1"))
    shutil.copytree(data / "teachers", tmp_path / "teachers")
    other = build("shufflenet_v2_x0_5", 3, seed=("other",))
    other.classes = list(CLASSES)
    save_network(tmp_path / "teachers" / "shufflenet_v2_x0_5.safetensors", other, {})
    message = "slice00000_chunk000.json: was made with other weights of shufflenet_v2_x0_5"
    with pytest.raises(UserError, match=message):
        main(command(data, tmp_path / "run", "--bn-slot-prob", "1", "--ipc-end", "3",
                     "--teacher-weights",
                     str(tmp_path / "teachers")))


@pytest.mark.parametrize("stopped", [True, False])
def test_other_training_images_are_refused(data, tmp_path, monkeypatch, stopped):
    """More images, and as many of the same names with other contents."""
    arguments = command(data, tmp_path / "run", "--iteration", "0")
    with monkeypatch.context() as patch:
        if stopped:
            interrupt(patch, unit_run.UnitRun, "finish", 1)
            with pytest.raises(KeyboardInterrupt):
                main(arguments)
        else:
            main(arguments)
    more = tiny.image_folder(tmp_path / "more", CLASSES, per_class=5)
    other = tiny.image_folder(tmp_path / "other", CLASSES, per_class=4, seed=9)
    assert ([path.name for path in sorted(other.rglob("*.JPEG"))]
            == [path.name for path in sorted((data / "train").rglob("*.JPEG"))])
    for train in (more, other):
        with pytest.raises(UserError, match="images.json: was made with other training images"):
            main([*arguments, "--train-dir", str(train)])


@pytest.mark.parametrize(("crop", "how"), [("auto", images.square_crop),
                                           ("validation", images.centre_crop)])
def test_real_images_are_cropped_as_the_option_says(data, tmp_path, crop, how):
    main(command(data, tmp_path, "--iteration", "0", "--crop", crop))
    stored = json.loads((tmp_path / "images.json").read_text())["options"]["crop"]
    assert stored == {"auto": "square"}.get(crop, crop)
    start = images.to_tensor(Image.open(tmp_path / "images/new001/class001_id001.png"))
    real = images.decode(data / "train" / CLASSES[1] / "img_001.JPEG")
    assert torch.equal(start, how(real, 32))


def test_noise_needs_no_image_per_slice(data, tmp_path):
    """More slices than real images: the teacher is measured on those there are."""
    args = command(data, tmp_path, "--start", "noise", "--ipc-end", "6", "--iteration", "1",
                   "--decoupling", "single")
    args[args.index("--min-teacher-accuracy") + 1] = "100"
    with pytest.raises(UserError,
                       match="of the real images right .chance 33.3 %., expected at least 100.0 %"):
        main(args)


def test_wide_numbers_past_999(tmp_path):
    assert UnitFiles(tmp_path, 1000, 1200, "jpg").image_path(7, 3).name == "class007_id0003.jpg"
    wide = UnitFiles(tmp_path, 10450, 10, "png").image_path(7, 3)
    assert wide == tmp_path / "images/new00007/class00007_id003.png"
    (tmp_path / "images.json").write_text('{"id_digits": 3}')
    assert UnitFiles(tmp_path, 1000, 1200, "jpg").image_path(7, 3).name == "class007_id003.jpg"


def test_teacher_near_chance_stops_the_run(data, tmp_path):
    args = [a for a in command(data, tmp_path) if a not in ("--min-teacher-accuracy", "0")]
    with pytest.raises(UserError,
                       match=re.compile("of the real images right .chance 33.3 %., "
                                        "expected at least 90.0 %."
                                                   ".*another order than the teacher's head")):
        main([*args, "--min-teacher-accuracy", "90"])
    assert not (tmp_path / "units").exists()


@pytest.mark.parametrize(("options", "message"), [
    (["--ipc-end", "0"], "found 0, expected at least 1"),
    (["--ipc-end", "5"],
     "class n01440764 has 4 images, IPC slice 4 needs 5.*--allow-short-classes"),
    (["--ipc-start", "2"], "no slice in between"),
    (["--lr", "-1"], "found -1, expected more than 0"),
    (["--lr", "nan"], "found nan"),
    (["--batch-size", "-3"], "found -3, expected at least 1"),
    (["--iteration", "1.5"], "found '1.5', expected an integer"),
    (["--primary-teacher", "resnet81"], "resnet81: no such network. Did you mean resnet18"),
    (["--train-dir", "/nowhere"], "/nowhere: no such folder"),
    (["--teacher-weights", "/nowhere"], "/nowhere: no such folder of teacher weights"),
    (["--min-scale-crops", "1.5"], "found 1.5, expected more than 0 and at most 1"),
    (["--ipc", "3"], "unrecognized arguments: --ipc"),
])
def test_bad_input(data, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        main(command(data, tmp_path, *options))
    assert not (tmp_path / "images").exists()


def test_short_classes_are_left_out_when_allowed(data, tmp_path):
    train = tiny.image_folder(tmp_path / "train", CLASSES, per_class=2)
    (train / CLASSES[1] / "img_001.JPEG").unlink()
    main(command(data, tmp_path / "run", "--train-dir", str(train), "--allow-short-classes"))
    second = sorted(p.name for p in (tmp_path / "run/images").rglob("*_id001.png"))
    assert second == ["class000_id001.png", "class002_id001.png"]


@pytest.mark.parametrize("removed", [".", "images.json"])
def test_a_folder_that_is_removed_while_recover_works(data, tmp_path, monkeypatch, removed):
    """Nothing is written into a folder that no longer says what its images are."""
    run, keep = tmp_path / "run", unit_run.UnitRun.keep
    small = ("--ipc-end", "1", "--bn-slots", "0")

    def remove(self, step, active):
        if step == 1:
            path = run / removed
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        keep(self, step, active)

    with monkeypatch.context() as patch:
        patch.setattr(unit_run.UnitRun, "keep", remove)
        with pytest.raises(UserError, match="images.json: was removed while recover worked. Run"):
            main(command(data, run, *small))
    assert files(run, "images", "units") == {}
    main(command(data, run, *small))
    main(command(data, tmp_path / "whole", *small))
    assert files(run, "images") == files(tmp_path / "whole", "images")


def test_an_image_that_is_removed_while_recover_works(data, tmp_path, monkeypatch):
    train = shutil.copytree(data / "train", tmp_path / "train")
    removed = train / CLASSES[1] / "img_001.JPEG"
    drop = UnitFiles.drop_checkpoint
    monkeypatch.setattr(UnitFiles, "drop_checkpoint", lambda self, units: (
        drop(self, units), removed.unlink(missing_ok=True)))
    with pytest.raises(UserError, match=f"{removed}: cannot be read .* Put it back"):
        main(command(data, tmp_path / "run", "--train-dir", str(train), "--units-per-step", "1"))


@pytest.mark.parametrize("out", ["images", "images/run", "."])
def test_an_output_folder_among_the_images_is_refused(data, tmp_path, out):
    """In the last case the synthetic images would be written beside the real classes."""
    train = tiny.image_folder(tmp_path / "images", CLASSES, per_class=2)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"--output-dir: found .*images, .* the images in {train},"):
        main(command(data, tmp_path / out, "--train-dir", str(train)))
    assert sorted(tmp_path.rglob("*")) == before


def test_corrupt_jpeg_is_named(data, tmp_path):
    train = tiny.image_folder(tmp_path / "train", CLASSES, per_class=2)
    broken = train / CLASSES[2] / "img_001.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError, match=f"{broken}: not a readable image"):
        main(command(data, tmp_path / "run", "--train-dir", str(train)))


@pytest.mark.parametrize(("every", "kept"), [("2", "the state of step 2 is kept"),
                                             ("9", "no state of it was kept")])
def test_a_loss_that_is_not_finite_stops_the_unit(data, tmp_path, monkeypatch, every, kept):
    """Step 3 of 4 has a bad term: neither a logged step nor one with a checkpoint."""
    args = command(data, tmp_path, "--ipc-end", "1", "--checkpoint-every", every)
    good, steps = synthesize.loss_gradient, []

    def bad(views, *values):
        good(views, *values)
        steps.append(1)
        if len(steps) == 3:
            views[0].terms["ce"] = views[0].terms["ce"] * float("nan")

    with monkeypatch.context() as patch:
        patch.setattr(synthesize, "loss_gradient", bad)
        message = rf"slice00000_chunk000: ce is nan at step 2 of 4 \(bn \S+ [\d.]+.*--lr.*; {kept}"
        with pytest.raises(UserError, match=message):
            main(args)
    assert not list(tmp_path.rglob("*.png"))
    checkpoints = list(tmp_path.rglob("unfinished*"))
    assert len(checkpoints) == (every == "2")
    main(args)
    main(command(data, tmp_path / "whole", "--ipc-end", "1"))
    assert files(tmp_path, "images") == files(tmp_path / "whole", "images")


def test_pixels_that_are_not_finite_are_never_kept(data, tmp_path, monkeypatch):
    """The loss is finite, its gradient is not: only the images tell."""
    good, steps = synthesize.loss_gradient, []

    def bad(views, *values):
        good(views, *values)
        steps.append(1)
        # The first step of one run, and the last of the next, which no later loss can notice
        if len(steps) in (1, 5):
            views[0].images.grad[0, 0, 0, 0] = float("inf")

    monkeypatch.setattr(synthesize, "loss_gradient", bad)
    for every, step in (("1", 0), ("9", 3)):
        message = f"slice00000_chunk000: .* not finite after step {step} of 4.*no state of it was"
        with pytest.raises(UserError, match=message):
            main(command(data, tmp_path / every, "--ipc-end", "1", "--checkpoint-every", every))
        assert not list((tmp_path / every).rglob("*.png"))
        assert not list((tmp_path / every).rglob("unfinished*"))


def test_result_is_truncated_to_uint8():
    white_ish = torch.tensor([0.0, 0.49999, 0.999, 1.2]).view(4, 1, 1, 1).expand(4, 3, 1, 1)
    mean, std = torch.tensor(images.MEAN).view(3, 1, 1), torch.tensor(images.STD).view(3, 1, 1)
    pixels = images.to_uint8((white_ish - mean) / std)
    assert pixels[:, 0, 0, 0].tolist() == [0, 127, 254, 255]
