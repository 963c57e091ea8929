"""The laboratories with students that only wrote their numbers."""

import json

import pytest

from reproduce import commands, lab_report, laboratory
from reproduce.steps import Failure
from utils.errors import UserError


@pytest.fixture
def ran(monkeypatch):
    """Instead of running commands: a result per student, better with every one.

    Returns the calls: (commands, Sizes).
    """
    calls = []

    def run_commands(needs, sizes):
        calls.append((list(needs), sizes))
        students = [command for command in needs if command.stage in commands.STUDENTS]
        for place, command in enumerate(students):
            path = command.folder / "result.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({
                "best": {"top1": 20.0 + place / 10}, "last": {"top1": 10.0},
                "options": {"epochs": command.resolved()["epochs"]}}))
        return [], 7

    monkeypatch.setattr(laboratory, "run_commands", run_commands)
    return calls


def test_rows_csv_and_report(ran, tmp_path, capsys):
    out, csv = tmp_path / "out", tmp_path / "csv"
    laboratory.main(["digits", "table2", "table3", "--seeds", "0", "4", "--output-dir", str(out),
                     "--csv-dir", str(csv)])
    sizes2, sizes3 = (sizes for _, sizes in ran)
    assert (sizes2.ipc, sizes3.ipc, sizes2.full_seeds, sizes3.dataset) == (10, 5, 1, "digits")
    for name, rows in (("table2", 9), ("table3", 25 - 3)):
        lines = lab_report.read_csv(csv / f"digits_{name}.csv")
        assert (len(lines), {line["seed"] for line in lines}) == (2 * rows, {0, 4})
        assert not {"batch b1024", "batch b64", "batch b128"} & {line["row"] for line in lines}
    report = (out / "report.md").read_text()
    assert "## table2: IPC 10, 100 steps, 50 epochs, 2 seeds" in report
    assert (out / "lab.png").read_bytes().startswith(b"\x89PNG")
    assert "| does not hold | real data above 4 BN teachers" in capsys.readouterr().out


def test_collect_runs_nothing(ran, tmp_path):
    asked = ["digits", "table2", "--seeds", "0", "--output-dir", str(tmp_path)]
    laboratory.main(asked)
    made = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert {"digits_table2.csv", "report.md"} <= set(made)
    for name in made:
        (tmp_path / name).unlink()
    laboratory.main([*asked, "--collect"])
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == made
    assert len(ran) == 1


def test_collect_names_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"result\.json"):
        laboratory.main(["digits", "table2", "--output-dir", str(tmp_path), "--collect"])


def test_one_part_with_other_sizes(ran, tmp_path):
    laboratory.main(["digits", "table3", "--ipc", "2", "--epochs", "3", "--iteration", "7",
                     "--seeds", "0", "--output-dir", str(tmp_path)])
    ((_, sizes),) = ran
    assert (sizes.ipc, sizes.epochs, sizes.iteration, sizes.units_per_step) == (2, 3, 7, 2)
    assert [path.name for path in tmp_path.glob("*.csv")] == ["digits_table3.csv"]


def test_a_failed_row_ends_it_after_the_other_part(tmp_path, monkeypatch):
    """A report without a row would not be the table's."""
    ran = []
    monkeypatch.setattr(laboratory, "run_commands", lambda _, sizes: (
        ran.append(sizes.ipc) or [Failure("recover: x", 2)], 4))
    with pytest.raises(UserError, match=r"2 of 8 steps failed \(recover: x; recover: x\), 6 are"):
        laboratory.main(["digits", "table2", "table3", "--output-dir", str(tmp_path)])
    assert ran == [10, 5]


def part_commands(*words):
    """The commands of a part of a laboratory."""
    lab, (name,), run = laboratory.parse(words)
    part = lab.parts[name]
    return list(commands.graph(part.cells, laboratory.lab_sizes(lab, run, part)))


@pytest.mark.parametrize(("name", "loss"), [("table2", "ce"), ("table3", "mse_gt")])
def test_every_seed_has_its_own_images_labels_and_student(tmp_path, name, loss):
    lab, _, run = laboratory.parse(["digits", name, "--seeds", "0", "1", "--output-dir",
                                    str(tmp_path)])
    part = lab.parts[name]
    made = commands.cell_commands(part.cells[-1], laboratory.lab_sizes(lab, run, part))
    assert len({command.folder for command in made}) == len(made)
    assert len(made) == (4 if name == "table2" else 6)
    assert {c.resolved()["loss_type"] for c in made if c.stage == "validate"} == {loss}


def test_an_unknown_part_is_one_sentence():
    with pytest.raises(UserError, match="table1: the laboratory of digits has no such part. It "
                                        "has table2, table3, labels."):
        laboratory.main(["digits", "table1"])


def test_formats_of_labels_differ_in_nothing_else(tmp_path):
    """All rows share the images of a seed, its views and the student's recipe."""
    made = part_commands("digits", "labels", "--seeds", "3", "--output-dir", str(tmp_path))
    by_stage = {stage: [command for command in made if command.stage == stage]
                for stage in ("recover", "relabel", "validate")}
    assert {stage: len(kind) for stage, kind in by_stage.items()} == {
        "recover": 1, "relabel": 6, "validate": 6}

    for stage, own in (("relabel", {"fkd_path", "label_format", "label_top_k", "label_store"}),
                       ("validate", {"fkd_path", "student_name"})):
        values = [command.resolved() for command in by_stage[stage]]
        assert {name for name in values[0]
                if len({str(each[name]) for each in values}) > 1} == own
    stored = [(o["label_store"], o["label_format"], o["label_top_k"])
              for o in (command.resolved() for command in by_stage["relabel"])]
    assert stored == [("files", "fp32", None), ("files", "fp16", None), ("files", "int8", None),
                      ("files", "topk", 3), ("files", "topk", 1), ("none", "fp16", None)]


@pytest.mark.usefixtures("ran")
def test_bytes_of_labels_are_measured(tmp_path):
    folder = tmp_path / "out/prism_r18_ipc10/labels_prism-int8"
    folder.mkdir(parents=True)
    for epoch in (0, 1):
        (folder / f"epoch_00{epoch}.safetensors").write_bytes(b"12345")
    (folder / "labels.json").write_text("{}")
    laboratory.main(["digits", "labels", "--seeds", "0", "--output-dir", str(tmp_path / "out")])

    lines = lab_report.read_csv(tmp_path / "out/digits_labels.csv")
    assert {line["row"]: line["label_bytes"] for line in lines} == {
        "fp32": 0, "fp16": 0, "int8": 10, "topk3": 0, "topk1": 0, "none": 0}
    report = (tmp_path / "out/report.md").read_text()
    assert "| row | digits, mean ± standard error | last epoch | labels on disk |" in report
    assert "The paper has no ordering of these rows." in report


# Fashion-MNIST

FASHION = ("fashion_mnist", "--train-dir", "/data")


@pytest.mark.parametrize("name", laboratory.LABORATORIES["fashion_mnist"].parts)
def test_commands_of_fashion_mnist(name):
    """Every folder has one command, also over parts, and all can be parsed."""
    made = part_commands(*FASHION, name)
    assert {command.resolved()["dataset"] for command in made
            if command.stage in ("squeeze", "recover")} == {"fashion_mnist"}
    assert {str(command.resolved()["val_dir"]) for command in made
            if command.stage in commands.STUDENTS} == {"/data"}


def test_some_parts_are_made_only_where_they_are_named():
    lab, names, _ = laboratory.parse(FASHION)
    assert names == ["teachers", "methods", "settings", "ipc", "table2", "table3-labels",
                     "table3-images"]
    assert set(lab.words) - set(names) == set(lab.further) == {
        "table2-ipc50", "reasons", "failures", "dap"}
    assert laboratory.parse([*FASHION, "dap"])[1] == ["dap"]


def test_a_line_has_the_steps_of_its_images():
    lab, _, run = laboratory.parse(FASHION)
    steps = {cell.name: laboratory.image_steps(cell, laboratory.lab_sizes(lab, run, part))
             for part in lab.parts.values() for cell in part.cells}
    assert {name: steps[name] for name in (
        "random soft", "rded soft", "prism soft", "gvbsm-steps-times-4 hard", "dap soft",
        "dap-prism soft")} == {
        "random soft": 0, "rded soft": 0, "prism soft": 200, "gvbsm-steps-times-4 hard": 800,
        "dap soft": None, "dap-prism soft": 200}


def test_parts_agree_on_what_they_share():
    shared = {}
    for name in laboratory.LABORATORIES["fashion_mnist"].parts:
        for command in part_commands(*FASHION, name):
            assert shared.setdefault(command.folder, command.options) == command.options


def test_teachers_are_a_part_of_their_own(ran, tmp_path):
    laboratory.main([*FASHION, "teachers", "--output-dir", str(tmp_path)])
    (made, _), = ran
    assert [command.folder.name for command in made] == [
        "resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet"]
    assert not list(tmp_path.glob("*.csv"))


def test_settings_isolate_the_teachers():
    """Of each pair that is compared, recover's options differ in the law of teachers alone."""
    made = {command.folder.name: command.resolved() for command in part_commands(
        *FASHION, "settings", "--seeds", "0") if command.stage == "recover"}
    assert len(made) == 8
    for start in ("real", "noise"):
        for lr in ("0.05", "0.25"):
            prism = made[f"prism-{start}-{lr}_ipc10"]
            sre2l = made.get(f"sre2l-{start}-{lr}_ipc10", made["sre2l_ipc10"])
            assert (sre2l["start"], sre2l["lr"]) == (start, float(lr))
            assert {name for name in prism if prism[name] != sre2l[name]} == {
                "decoupling", "output_dir"} | ({"preset"} & set(prism))


def test_reasons_change_one_option_each():
    made = [command.resolved() for command in part_commands(*FASHION, "reasons", "--seeds", "0")
            if command.stage == "recover"]
    published, *others = made
    changed = [{name for name in other if other[name] != published[name]} - {"output_dir"}
               for other in others]
    assert changed == [{"r_bn"}, {"r_bn"}, {"first_bn_multiplier"}, {"bn_normalise"},
                       {"iteration"}, {"bn_teachers"}]
    assert (published["iteration"], others[4]["iteration"]) == (200, 800)


def test_failures_change_one_thing_each():
    made = {command.folder.name.removesuffix("_ipc10"): command.resolved()
            for command in part_commands(*FASHION, "failures", "--seeds", "0")
            if command.stage == "recover"}
    for name, other, changed in (("gvbsm", "gvbsm-steps-times-4", "iteration"),
                                 ("rded", "rded-one-crop", "mosaic_grid"),
                                 ("edc", "edc-one-crop", "start_dir")):
        assert {option for option in made[name] if made[name][option] != made[other][option]} == {
            changed, "output_dir"}


def test_dap_samples_from_a_model_that_is_trained_first():
    made = part_commands(*FASHION, "dap", "--seeds", "0")
    (model,) = [command for command in made if command.stage == "diffusion"]
    sampled = {command.folder.name: command.resolved() for command in made
               if command.stage == "dap"}
    assert {name: o["gamma"] for name, o in sampled.items()} == {
        "dap_gamma0_ipc10": 0, "dap_gamma1_ipc10": 1, "dap_gamma4_ipc10": 4}
    assert {o["weights"] for o in sampled.values()} == {str(model.folder)}
    first = min(number for number, command in enumerate(made) if command.stage == "dap")
    assert made.index(model) < first
    (prism,) = [command for command in made if command.folder.name == "dap_prism_ipc10"
                and command.stage == "recover"]
    assert prism.resolved()["start_dir"].parent.name == "dap_gamma1_ipc10"
