"""Every preset and variant of recover: a few steps on a tiny folder, as records and images show."""

import json
import re

import pytest
import tiny
import torch
from interrupting import interrupt

from data.opening import open_distilled, open_real
from models.networks import load_network, save_network
from models.teachers import fit_head
from recover import unit_run
from recover.data_synthesis import main
from utils.errors import UserError

CLASSES = ("n01440764", "n01443537", "n01484850")
TEACHERS = ("resnet18", "shufflenet_v2_x0_5", "alexnet")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("variants")
    tiny.image_folder(root / "train", CLASSES, per_class=10)
    tiny.teacher_folder(root / "teachers", TEACHERS, CLASSES, input_resize={"alexnet": 64})
    return root


def run(data, out, *more):
    main(["--train-dir", str(data / "train"), "--output-dir", str(out), "--teacher-weights",
          str(data / "teachers"),
          "--bn-teachers", "shufflenet_v2_x0_5", "alexnet", "--image-size", "32", "--ipc-end", "2",
          "--iteration", "4",
          "--min-teacher-accuracy", "0", "--workers", "0", *map(str, more)])
    return open_distilled(out / "images").all_pixels, settings(out), records(out)


def settings(out):
    return json.loads((out / "images.json").read_text())["options"]


def records(out):
    return [json.loads(p.read_text()) for p in sorted((out / "units").glob("*.json"))]


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    return run(data, tmp_path_factory.mktemp("plain"))[0]


def test_sre2l(data, tmp_path):
    _, options, units = run(data, tmp_path, "--preset", "sre2l")
    assert (options["lr"], options["r_bn"], options["jitter"]) == (0.25, 0.01, 4)
    content = json.loads((tmp_path / "images.json").read_text())
    assert content["preset"] == "sre2l"  # beside the options
    assert content["preset_changed"] == ["bn_teachers", "image_size", "iteration"]
    assert all((r["logit_teacher"], r["bn_teachers"], r["steps"]) == ("resnet18", ["resnet18"], 4)
               for r in units)
    assert set(units[0]["start"].values()) == {"noise"}


def test_cda(data, tmp_path):
    pixels, options, _ = run(data, tmp_path / "cda", "--preset", "cda")
    assert (options["crop_schedule"], options["crop_milestone"]) == ("cosine", 1.0)
    assert not torch.equal(pixels, run(data, tmp_path / "sre2l", "--preset", "sre2l")[0])


def test_rded_makes_mosaics_and_optimises_nothing(data, tmp_path):
    pixels, options, units = run(data, tmp_path, "--preset", "rded", "--iteration", "0",
                                 "--mosaic-candidates", "9")
    assert pixels.shape == (6, 3, 32, 32)
    assert all(words.startswith("mosaic of n01") for r in units for words in r["start"].values())
    assert (options["ranker"], options["ipc"]) == ("resnet18", 2)
    # more images per class: other mosaics
    with pytest.raises(UserError, match="was made with ipc = 2, now ipc = 1"):
        run(data, tmp_path, "--preset", "rded", "--iteration", "0", "--mosaic-candidates", "9",
            "--ipc-end", "1")


def test_edc_from_rded_images_of_another_run(data, tmp_path):
    with pytest.raises(UserError,
                       match="--preset edc starts from RDED's images, found no --start-dir"):
        run(data, tmp_path / "edc", "--preset", "edc")
    start = ["--preset", "rded", "--iteration", "0", "--mosaic-candidates", "9"]
    run(data, tmp_path / "rded", *start)
    _, options, units = run(data, tmp_path / "edc", "--preset", "edc", "--start-dir",
                            tmp_path / "rded/images", "--iteration", "7",
                            "--batch-size", "4", "--log-every", "1", "--checkpoint-every", "2")
    assert (options["class_statistics"], options["statistics_ema"], options["jitter"],
            options["r_bn"]) == (0.5, 0.8, 0, 0.1)
    assert [set(row) - {"step", "ce"} for row in units[0]["terms"]] == [
        # nets in turn, AlexNet through its convolutions
        {f"bn {name}"} for name in (*TEACHERS, *TEACHERS, TEACHERS[0])]
    assert units[0]["classes"] == [0, 0, 1, 1]  # class by class
    assert all(words.startswith("new00") for words in units[0]["start"].values())
    # measured once, beside the weights
    assert len(list((data / "teachers").glob("*.convolution.*.safetensors"))) == 3
    other = data / "train" / CLASSES[0] / "img_000.JPEG"
    (tmp_path / "rded/images/new000/class000_id000.png").write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="was made with other start images than those given now"):
        run(data, tmp_path / "edc", "--preset", "edc", "--start-dir", tmp_path / "rded/images",
            "--iteration", "7",
            "--batch-size", "4")


def test_gvbsm(data, tmp_path):
    options = ["--preset", "gvbsm", "--log-every", "1", "--batch-size", "4", "--bn-teachers",
               "shufflenet_v2_x0_5"]
    pixels, chosen, units = run(data, tmp_path / "a", *options)
    assert (chosen["statistics_ema"], chosen["density"], chosen["lr"]) == (0.4, 1.0, 0.1)
    assert all("density" in row for row in units[0]["terms"])
    assert not torch.equal(pixels, run(data, tmp_path / "b", *options, "--density", "0")[0])
    assert not torch.equal(pixels, run(data, tmp_path / "c", *options, "--statistics-ema", "0")[0])


def test_delt_lets_groups_of_a_class_join_one_after_the_other(data, tmp_path):
    pixels, options, units = run(data, tmp_path, "--preset", "delt", "--ipc-end", "5",
                                 "--early-late", "4", "--log-every", "1",
                                 "--bn-teachers")
    assert (options["start"], options["crop_schedule"], options["jitter"],
            options["ipc"]) == ("medium", "cosine", 0, 5)
    assert units[0]["joins"] == [0, 0, 1, 2, 3] * 3
    assert units[0]["ipc_ids"] == [0, 1, 2, 3, 4] * 3
    assert pixels.shape[0] == 15
    chosen = [words.split("/")[-1] for words in list(units[0]["start"].values())[:5]]
    order = json.loads((tmp_path / "selection/class00000.json").read_text())["order"]
    assert chosen == list(order)[:5]


@pytest.mark.parametrize("options", [
    ["--decoupling", "single", "--logit-teacher", "drawn"],
    ["--decoupling", "dual"],
    ["--decoupling", "dual", "--selection", "intra", "--logit-teacher", "drawn"],
    ["--decoupling", "single", "--selection", "intra", "--logit-teacher", "drawn"],
    ["--bn-law", "exact", "--bn-count", "3", "--theta1", "free", "--logit-teacher", "drawn"],
    ["--bn-law", "uniform", "--bn-count", "2", "--seed", "1"],
    ["--drawn-per", "image", "--seed", "1"],
    ["--bn-terms", "sum", "--bn-slot-prob", "1"],
    ["--without-bn", "left-out", "--bn-slot-prob", "1"],
    ["--without-bn", "calibrated", "--bn-slot-prob", "1"],
    ["--bn-normalise", "layers"],
    ["--match", "convolution"],
    ["--match", "convolution", "--decoupling", "dual", "--units-per-step", "2", "--logit-teacher",
     "drawn", "--seed", "2"],
    ["--crop-schedule", "linear"],
    ["--start", "drawn", "--start-flip", "1"],
    ["--batch-layout", "class", "--steps", "constant"],
    ["--precision", "bf16"],
    ["--precision", "bf16", "--match", "convolution", "--batch-layout", "class", "--steps",
     "constant", "--density", "1"],
], ids=" ".join)
def test_variants_differ_from_the_default(data, tmp_path, plain, options):
    pixels, _, units = run(data, tmp_path, *options)
    assert pixels.shape == plain.shape
    assert not torch.equal(pixels, plain)
    assert all(row["ce"] > 0 for r in units for row in r["terms"])


def test_calibrated_aligns_alexnet_where_counted_adds_nothing(data, tmp_path):
    options = ["--primary-teacher", "alexnet", "--decoupling", "single", "--bn-teachers"]
    counted = run(data, tmp_path / "a", *options)
    calibrated = run(data, tmp_path / "b", *options, "--without-bn", "calibrated")
    assert "bn alexnet" not in counted[2][0]["terms"][0]
    assert calibrated[2][0]["terms"][0]["bn alexnet"] > 0
    assert not torch.equal(counted[0], calibrated[0])


@pytest.mark.slow  # compiles two nets, some minutes
@pytest.mark.parametrize("match", [[], ["--match", "convolution"]], ids=["batchnorm",
                                                                         "convolution"])
def test_compiled_nets_make_nearly_the_same_images(data, tmp_path, match):
    options = [*match, "--bn-slot-prob", "1", "--lr", "0.001", "--bn-teachers",
               "shufflenet_v2_x0_5"]
    plain, compiled = run(data, tmp_path / "a", *options)[0], run(data, tmp_path / "b", *options,
                                                                  "--compile")[0]
    assert (plain.int() - compiled.int()).abs().float().mean() < 0.1


def test_how_nets_run_belongs_to_the_folder(data, tmp_path):
    run(data, tmp_path)
    with pytest.raises(UserError, match="made with precision = \"fp32\", now precision = \"bf16\""):
        run(data, tmp_path, "--precision", "bf16")


def test_each_image_its_own_draw(data, tmp_path):
    units = run(data, tmp_path, "--drawn-per", "image", "--ipc-end", "4")[2]
    assert sum(len(r["classes"]) for r in units) == 12
    assert len({(tuple(r["ipc_ids"])[0], tuple(r["bn_teachers"])) for r in units}) == len(units)


def test_images_of_any_folder_are_a_start_and_kept_as_they_are(data, tmp_path):
    first = run(data, tmp_path / "first", "--image-format", "png")[0]
    kept = run(data, tmp_path / "kept", "--iteration", "0", "--image-format", "png", "--start-dir",
               tmp_path / "first/images")[0]
    assert torch.equal(first, kept)
    flipped = run(data, tmp_path / "flipped", "--iteration", "0", "--image-format", "png",
                  "--start-flip", "1", "--start-dir",
                  tmp_path / "first/images")[0]
    assert torch.equal(first.flip(3), flipped)
    tiny.image_folder(tmp_path / "other", ("n01440764", "n01443537"), per_class=2)
    with pytest.raises(UserError,
                       match="has 2 classes .n01440764, .*the training images have 3"):
        run(data, tmp_path / "bad", "--start-dir", tmp_path / "other")


def test_drawn_is_with_replacement_and_random_without(data, tmp_path):
    real = open_real("imagefolder", "train", data / "train", 64)
    drawn = run(data, tmp_path / "drawn", "--iteration", "0", "--start", "drawn", "--ipc-end",
                "30")[2]
    names = [words for r in drawn for words in r["start"].values()]
    assert len(names) == 90 > len(set(names)) > len(real) // 2


def test_a_verifier_is_printed_and_changes_nothing(data, tmp_path, plain, capsys):
    pixels, _, units = run(data, tmp_path, "--verifier", "shufflenet_v2_x0_5")
    assert torch.equal(pixels, plain)
    text = capsys.readouterr().out
    assert "slice00000_chunk000 step 0/4  verifier shufflenet_v2_x0_5 " in text

    # After the last step it is measured on the images that are saved, and kept.
    top1 = {name: float(value) for name, value in re.findall(
        r"(slice\d+_chunk000) step [32]/[43]  verifier shufflenet_v2_x0_5 ([\d.]+) %", text)}
    assert units[0]["verifier"]["name"] == "shufflenet_v2_x0_5"
    for unit, name in zip(units, ("slice00000_chunk000", "slice00001_chunk000"), strict=True):
        assert unit["verifier"]["top1"] == pytest.approx(top1[name], abs=0.05)
        assert f"{name} step {unit['steps'] - 1}/{unit['steps']}  ce " in text


def test_a_bn_term_that_outweighs_all_else_is_noted_once(data, tmp_path, capsys):
    run(data, tmp_path / "heavy", "--r-bn", "100")
    notes = re.findall(r"note: slice\d+_chunk000: in the loss .*", capsys.readouterr().out)
    assert len(notes) == 1
    assert notes[0].endswith("A smaller --r-bn (found 100) weakens it.")
    run(data, tmp_path / "light", "--r-bn", "0")
    assert "note: slice" not in capsys.readouterr().out


def test_the_head_of_more_classes(data, tmp_path, capsys):
    """--head classes is what teachers with a cut head give; with full all outputs count."""
    classes = tmp_path / "two.txt"
    classes.write_text("\n".join((CLASSES[2], CLASSES[0])))
    cut = tmp_path / "cut"
    for name in TEACHERS[:2]:
        network = load_network(data / f"teachers/{name}.safetensors")[0]
        save_network(cut / f"{name}.safetensors",
                     fit_head(network, [CLASSES[2], CLASSES[0]]), {})

    options = ["--classes", classes, "--bn-teachers", TEACHERS[1], "--min-teacher-accuracy",
               "0.001", "--verifier", TEACHERS[1]]
    full, stored, units = run(data, tmp_path / "full", *options)
    assert stored["head"] == "full"
    assert "(chance 33.3 %)" in capsys.readouterr().out
    parts = run(data, tmp_path / "classes", *options, "--head", "classes")
    assert "(chance 50.0 %)" in capsys.readouterr().out
    before = run(data, tmp_path / "before", *options, "--teacher-weights", cut)
    assert torch.equal(parts[0], before[0])
    assert [r["terms"] for r in parts[2]] == [r["terms"] for r in before[2]]
    assert units[0]["terms"][0]["ce"] > parts[2][0]["terms"][0]["ce"]  # more outputs compete
    assert not torch.equal(full, parts[0])
    assert units[0]["weights"] == parts[2][0]["weights"]


def test_stopped_inside_smoothed_statistics_and_early_late_groups(data, tmp_path, monkeypatch):
    # Two images or more at every step: PyTorch's gradient of a single one at 32 px differs in last
    # bits from run to run on several threads.
    options = ["--preset", "gvbsm", "--iteration", "6", "--ipc-end", "4", "--batch-size", "6",
               "--early-late", "2",
               "--checkpoint-every", "2", "--bn-teachers", "shufflenet_v2_x0_5"]
    whole = run(data, tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        interrupt(patch, unit_run.UnitRun, "keep", 3)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "stopped", *options)
    resumed = run(data, tmp_path / "stopped", *options)
    assert [r["joins"] for r in whole[2]] == [[0, 0, 3, 3, 0, 0], [3, 3, 0, 0, 3, 3]]
    assert torch.equal(whole[0], resumed[0])
    assert [r["terms"] for r in whole[2]] == [r["terms"] for r in resumed[2]]


def test_the_net_that_chooses_is_measured_too(data, tmp_path):
    with pytest.raises(UserError, match="resnet18 classifies .* expected at least 99"):
        run(data, tmp_path, "--preset", "rded", "--iteration", "0", "--mosaic-candidates", "9",
            "--min-teacher-accuracy", "99.9")
    assert not (tmp_path / "images.json").exists()


@pytest.mark.parametrize(("wrong", "right", "message"), [
    (["--mosaic-candidates", "4"], ["--mosaic-candidates", "9"],
     "class n01440764: 4 candidates for mosaics"),
    (["--mosaic-grid", "3"], ["--mosaic-candidates", "9"], "grid"),
], ids=["too few", "grid"])
def test_a_refused_mosaic_can_be_mended_in_the_same_folder(data, tmp_path, wrong, right, message):
    options = ["--preset", "rded", "--iteration", "0"]
    with pytest.raises(UserError, match=message):
        run(data, tmp_path, *options, *wrong)
    run(data, tmp_path, *options, *right)


@pytest.mark.parametrize(("options", "message"), [
    (["--batch-layout", "class"], "found --steps varied. Give --steps constant"),
    (["--batch-layout", "class", "--steps", "constant", "--ipc-start", "1"],
     "--ipc-start 1: with --batch-layout class"),
    (["--batch-layout", "class", "--steps", "constant", "--drawn-per", "image"],
     "found --drawn-per image"),
    (["--early-late", "4"], "--early-late 4 lets the images of a class join"),
    (["--density", "1"], "--density 1 compares images of one class"),
    (["--start", "noise", "--start-dir", "x"], "--start noise does not read --start-dir"),
    (["--selection", "in-turn"], "found --decoupling multi. Give --decoupling single"),
    (["--bn-law", "exact", "--bn-count", "9"],
     "--bn-count 9: the primary and the pool are 3 networks"),
    (["--statistics-ema", "1", "--match", "convolution"],
     "--statistics-ema 1 would forget every batch"),
    (["--decoupling", "dual", "--bn-teachers"], "needs another network than resnet18"),
    (["--drawn-per", "image", "--selection", "intra"],
     "found --selection intra. Give --selection pre"),
    (["--preset", "srel2"], "invalid choice: 'srel2'"),
])
def test_contradictions_end_in_one_sentence(data, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(data, tmp_path, *options)
    assert not (tmp_path / "images").exists()
