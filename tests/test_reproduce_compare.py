import csv
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny

from relabel import generate_soft_label
from reproduce import compare, compare_plan, compare_report
from utils.errors import UserError
from utils.files import write_json
from validate import train_fkd

CLASSES = tuple("0123456789")
NET = "shufflenet_v2_x0_5"


@pytest.fixture
def root(tmp_path):
    """A run folder of digits with labels by a teacher, and a folder that no tool of ours wrote."""
    tiny.image_folder(tmp_path / "other", CLASSES, 2, (32, 32), seed=1)
    run = tiny.distilled_folder(tmp_path / "run", tmp_path / "other", CLASSES, 2)
    write_json(run / "images.json", {"options": {"dataset": "digits", "seed": 0},
                                     "identity": {"classes": list(CLASSES)}})
    tiny.teacher_folder(tmp_path / "teachers", [NET], CLASSES)
    return tmp_path


def command_line(root, *more):
    return [str(word) for word in (
        f"A={root / 'run'}", f"B={root / 'other'}", "--output-dir", root / "out", "--students", NET,
        "--seeds", 0, "--epochs", 1, "--teachers", NET, "--teacher-weights", root / "teachers",
        "--device", "cpu", "--threads", 1, *more)]


def plan_of(root, *more):
    sets, o = compare.parse(command_line(root, *more))
    return compare_plan.make(dict(sets), o), o


def commands(plan):
    return [command.title for command in plan.graph]


# What is done

def test_every_set_and_a_random_subset_of_its_size_get_students_and_labels(root):
    plan, _ = plan_of(root)
    assert commands(plan) == [
        "relabel: set_A/labels_soft", f"validate: set_A/soft-{NET}_seed0",
        f"validate: set_A/hard-{NET}_seed0",
        "relabel: set_B/labels_soft", f"validate: set_B/soft-{NET}_seed0",
        f"validate: set_B/hard-{NET}_seed0",
        "recover: random_ipc2_seed0", "relabel: random_ipc2_seed0/labels_soft",
        f"validate: random_ipc2_seed0/soft-{NET}_seed0",
        f"validate: random_ipc2_seed0/hard-{NET}_seed0"]
    needs = {command.title: [other.title for other in needed]
             for command, needed in plan.graph.items()}
    assert needs["relabel: random_ipc2_seed0/labels_soft"] == ["recover: random_ipc2_seed0"]
    assert needs[f"validate: set_B/soft-{NET}_seed0"] == ["relabel: set_B/labels_soft"]
    for command in plan.graph:
        command.parsed()  # the stage has these options


def test_a_random_subset_is_drawn_anew_for_every_seed(root):
    plan, _ = plan_of(root, "--seeds", 3, 4, "--protocol", "hard")
    drawn = [command for command in plan.graph if command.stage == "recover"]
    assert [command.options["seed"] for command in drawn] == [3, 4]
    students = [command.title for command in plan.graph if "random" in command.title]
    assert [title for title in students if "validate" in title] == [
        f"validate: random_ipc2_seed{seed}/hard-{NET}_seed{seed}" for seed in (3, 4)]


def test_a_sets_own_labels_serve_where_they_are_the_recipe(root):
    write_json(root / "run/labels/labels.json", {
        "options": {"teachers": [NET], "flip_prob": 0.0, "batch_size": 7, "image_size": 32,
                    "fkd_seed": 42, "label_format": "int8", "label_top_k": None},
        "asked": [0, 6], "identity": {},
        "teacher_weights": str(root / "teachers"), "stem": "small"})
    sets, o = compare.parse([f"A={root / 'run'}", f"B={root / 'other'}", "--protocol", "soft",
                             "--output-dir", str(root / "out"), "--seeds", "0"])
    plan = compare_plan.make(dict(sets), o)
    relabels = [command for command in plan.graph if command.stage == "relabel"]
    assert [c.title for c in relabels] == ["relabel: set_B/labels_soft",
                                           "relabel: random_ipc2_seed0/labels_soft"]
    assert (relabels[0].options["batch_size"], relabels[0].options["label_format"]) == (7, "int8")
    student = next(iter(plan.graph))
    assert student.options["fkd_path"] == root / "run/labels"
    assert (student.options["epochs"], student.options["stem"]) == (6, "small")


def soft_plan(root, *more):
    sets, o = compare.parse([f"A={root / 'run'}", f"B={root / 'other'}", "--protocol", "soft",
                             "--output-dir", str(root / "out"), "--seeds", "0", *more])
    return compare_plan.make(dict(sets), o)


def test_own_labels_serve_however_the_folder_of_weights_is_written(root, monkeypatch):
    write_json(root / "run/labels/labels.json", {
        "options": {"teachers": [NET]}, "asked": [0, 6], "identity": {},
        "teacher_weights": str(root / "teachers")})
    monkeypatch.setenv("CALLER_DIR", str(root))
    for words in ("teachers", f"{root / 'teachers'}/"):
        plan = soft_plan(root, "--teacher-weights", words)
        assert "relabel: set_A/labels_soft" not in commands(plan)
        assert all(command.options["teacher_weights"] == str(root / "teachers")
                   for command in plan.graph if command.stage == "relabel")
    assert "relabel: set_A/labels_soft" in commands(soft_plan(root, "--teacher-weights", "."))


def test_labels_of_another_tool_serve_their_set_alone(root):
    write_json(root / "run/labels/labels.json", {
        "options": {"teachers": [], "ensemble": None, "batch_size": 7, "source": "FKD files"},
        "store": "imported", "asked": [0, 6], "identity": {}, "teacher_weights": None})
    plan = soft_plan(root)
    student, *others = plan.graph
    assert (student.options["fkd_path"], student.options["epochs"]) == (root / "run/labels", 6)
    relabels = [command for command in others if command.stage == "relabel"]
    assert len(relabels) == 2
    for command in relabels:  # their recipe is unknown, so the others have relabel's defaults
        assert not {"teachers", "source", "batch_size"} & set(command.options)
        command.parsed()

    assert len([c for c in soft_plan(root, "--teachers", NET).graph if c.stage == "relabel"]) == 3
    with pytest.raises(UserError, match="A: its labels were imported and have 6 epochs, expected"
                                        " 7. Give --epochs, or --teachers"):
        soft_plan(root, "--epochs", "7")


@pytest.mark.parametrize(("protocol", "network", "stage", "options"), [
    ("plain", NET, "validate", {"loss_type": "ce", "augment": "none", "mix_type": "none"}),
    ("soft", "mobilenet_v2", "validate", {"lr": 2.5e-3}),
    ("hard", "mobilenet_v2@0.02", "validate", {"lr": 0.02, "loss_type": "ce"}),
    ("hard-label", "mobilenet_v2", "validate", {"preset": "hard-label"}),
    ("delt", "mobilenet_v2", "validate", {"preset": "delt", "teachers": (NET,)}),
    ("gvbsm", "resnet18", "validate", {"preset": "gvbsm"}),
    ("dc", "convnet3", "hard", {"protocol": "dc", "seeds": [0]})])
def test_protocols_and_students(root, protocol, network, stage, options):
    plan, _ = plan_of(root, "--protocol", protocol, "--students", network)
    students = [command for command in plan.graph if command.stage in ("validate", "hard")]
    assert len(students) == 3
    for command in students:
        assert command.stage == stage
        assert options.items() <= command.options.items()
        assert ("lr" in command.options) == ("lr" in options)
        command.parsed()
    if protocol == "gvbsm":
        labels = [c.options for c in plan.graph if c.stage == "relabel"]
        assert [o["preset"] for o in labels] == ["gvbsm"] * 3


def test_all_real_images_get_students_with_hard_labels(root):
    plan, _ = plan_of(root, "--real-top1", "train")
    assert commands(plan)[-2:] == ["recover: all_real", f"validate: all_real/hard-{NET}_seed0"]
    assert list(plan.graph)[-2].options["ipc_end"] == 132  # of the largest class of digits


@pytest.mark.parametrize("name", ["new00{}", "0000{}", "class{}"])
def test_folders_of_other_tools_that_are_numbered(root, name):
    for c in CLASSES:
        (root / "other" / c).rename(root / "other" / name.format(c))
    plan, _ = plan_of(root, "--protocol", "soft")
    relabel, student = [command for command in plan.graph if "set_B" in command.title]
    generate_soft_label.main(relabel.arguments)
    train_fkd.main(student.arguments)
    assert (root / f"out/set_B/students/soft-{NET}_seed0/result.json").exists()


@pytest.mark.parametrize(("argv", "message"), [
    (["--dataset", "imagefolder"], "no folder was given of real images. Give --train-dir"),
    (["--dataset", "imagefolder", "--train-dir", "no"], "no: no such folder of real images"),
    (["--protocol", "sreel"], "invalid choice: 'sreel'"),
    (["--students", "resnet81"], "resnet81"),
    (["--students", "resnet18@fast"], "found 'fast', expected a number"),
    (["--students", "resnet18", "resnet18@0.01"], "resnet18: found two learning rates in"),
    (["--real-top1", "train", "--protocol", "soft"], "found --protocol soft, expected hard among"),
    (["--real-top1", "567"], "found '567', expected per cent, or train")])
def test_what_cannot_be_meant(root, argv, message):
    with pytest.raises(UserError, match=message):
        plan_of(root, *argv)


def test_names_that_give_one_folder_are_refused(root):
    sets, o = compare.parse(["a b=" + str(root / "run"), "a_b=" + str(root / "other")])
    with pytest.raises(UserError, match="a_b: another set's name differs from it in signs alone"):
        compare_plan.make(dict(sets), o)


@pytest.mark.parametrize("name", ["random real", "all real"])
def test_names_of_real_images_are_refused(root, name):
    sets, o = compare.parse([f"{name}={root / 'run'}"])
    with pytest.raises(UserError, match=f"{name}: the page calls real images so"):
        compare_plan.make(dict(sets), o)


def test_the_variables_of_the_script_are_options(root):
    variables = {"STUDENTS": "resnet18 timm/vit_tiny_patch16_224@0.0005", "SEEDS": "7 8",
                 "PROTOCOL": "soft dc", "REAL_TOP1": "56.5", "TEACHERS": f"{NET} alexnet",
                 "EPOCHS": "3", "OUTPUT_DIR": str(root / "out"), "TRAIN_DIR": str(root),
                 "PYTHON": shutil.which("echo")}
    script = Path(compare.__file__).parents[1] / "report/compare.sh"
    printed = subprocess.run(["sh", script, f"A={root / 'run'}", "--threads", "3", "--dry-run"],
                             env={**os.environ, **variables}, check=True, capture_output=True,
                             text=True).stdout
    module, *argv = shlex.split(printed)[1:]
    sets, o = compare.parse(argv)
    assert (module, sets) == ("reproduce.compare", [("A", root / "run")])
    assert o.students.students == (("resnet18", None), ("timm/vit_tiny_patch16_224", 5e-4))
    assert (o.students.seeds, o.students.protocol) == ((7, 8), ("soft", "dc"))
    assert (o.students.real_top1, o.students.epochs) == (56.5, 3)
    assert (o.labels.teachers, o.real.train_dir) == ((NET, "alexnet"), root)
    assert (o.run.threads, o.run.dry_run) == (3, True)


# The scores

def students(place, **top1):
    for protocol, value in top1.items():
        write_json(place.work / f"students/{protocol}-{NET}_seed0/result.json",
                   {"best": {"top1": value}})


def test_scores_come_from_the_students(root):
    plan, o = plan_of(root, "--real-top1", 90, "--protocol", "soft", "hard", "plain")
    students(plan.places[0], soft=80.0, hard=70.0, plain=50.0)
    students(plan.random["A"][0], soft=75.0, hard=60.0, plain=60.0)
    first, second = compare_report.score_lines(plan, o)
    assert first["lrs"] == pytest.approx(0.2381992, abs=1e-6)  # as in test_report_scores
    assert first["ars"] == pytest.approx(0.2689414, abs=1e-6)  # of beta = 0
    assert (second["set"], second["lrs"], second["ars"]) == ("B", None, None)

    section = compare_report.score_section([first, second])
    assert section.blocks[0].rows == ((f"LRS, {NET}", "0.238", "–"), (f"ARS, {NET}", "0.269", "–"))
    section = compare_report.score_section([second])
    assert [block.text for block in section.blocks] == [
        "LRS needs the protocols soft and hard and --real-top1.",
        "ARS needs the protocols hard and plain."]


# All of it

def test_a_comparison_stopped_and_resumed_ends_in_a_page(root, monkeypatch, capsys):
    from validate import train_hard

    own, calls = train_hard.main, []

    def stopped(argv):
        calls.append(argv)
        if len(calls) == 2:
            raise KeyboardInterrupt
        own(argv)

    monkeypatch.setattr(train_hard, "main", stopped)
    line = [f"A={root / 'run'}", f"B={root / 'other'}", "--output-dir", str(root / "out"),
            "--students", "convnet3", "--seeds", "0", "--epochs", "1", "--protocol", "dc",
            "--device", "cpu", "--threads", "1"]
    with pytest.raises(KeyboardInterrupt):
        compare.main(line)
    assert not (root / "out/page.html").exists()
    first = root / "out/set_A/students/dc-convnet3_seed0"
    weights = (first / "best.safetensors").stat().st_mtime_ns

    compare.main(line)
    assert (first / "best.safetensors").stat().st_mtime_ns == weights
    printed = capsys.readouterr().out
    assert printed.count("already finished") == 1
    assert f"Page: {root / 'out/page.html'}" in printed
    page = (root / "out/page.md").read_text()
    assert "| top-1 in % | A | B | random real |" in page
    assert "convnet3, hard labels (dc, epochs 1)" in page
    assert "LRS needs the protocols soft and hard" in page
    with open(root / "out/scores.csv") as file:
        assert [row["set"] for row in csv.DictReader(file)] == ["A", "B"]
    assert Path(root / "out/timings.json").exists()


def test_what_fails_is_named_and_the_page_is_of_the_rest(root, capsys):
    (root / f"teachers/{NET}.safetensors").unlink()
    with pytest.raises(UserError, match="3 of 7 steps failed .relabel: set_A/labels_soft; relabel: "
                                        "set_B.*3 that need them were left out, 1 are done"):
        compare.main(command_line(root, "--protocol", "soft"))
    assert "no shufflenet_v2_x0_5.safetensors" in capsys.readouterr().err
    page = (root / "out/page.md").read_text()
    assert "No student was trained on these images yet." in page
    assert "| class | A | B | random real |" in page


@pytest.mark.slow
def test_a_comparison_with_soft_labels_has_both_scores(root, capsys):
    compare.main(command_line(root, "--protocol", "soft", "hard", "plain", "--real-top1", "90"))
    assert f"Page: {root / 'out/page.html'}" in capsys.readouterr().out
    with open(root / "out/scores.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["set"] for line in lines] == ["A", "B"]
    assert all(0 < float(line[score]) < 1 for line in lines for score in ("lrs", "ars"))
    page = (root / "out/page.md").read_text()
    assert f"| LRS, {NET} | " in page
    assert "| held-out real |" in page  # diversity beside the real digits
    for name in ("set_A", "set_B", "random_ipc2_seed0"):
        assert (root / f"out/{name}/labels_soft/labels.json").exists()
