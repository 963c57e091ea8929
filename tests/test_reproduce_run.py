"""The table scripts: lists without PyTorch, failures that leave out only what needs them."""

import os
import shlex
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from reproduce import commands, run
from utils.errors import UserError

ROOT = Path(__file__).parents[1]


def script(name, cwd, *arguments, **variables):
    env = {**os.environ, "PYTHON": sys.executable, **variables}
    return subprocess.run(["sh", ROOT / "reproduce" / f"{name}.sh", *arguments], cwd=cwd, env=env,
                          capture_output=True, text=True)


@pytest.mark.parametrize("table", run.TABLES)
def test_dry_run_prints_the_commands_of_every_cell(table, tmp_path):
    done = script(table, tmp_path, "--dry-run", OUTPUT_DIR="out", VAL_DIR="my images")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []

    students, printed, cell = dict.fromkeys((c.name for c in run.TABLES[table].cells), 0), set(), ""
    for line in done.stdout.splitlines():
        command = line.removeprefix("# as above: ")
        if command.startswith("python"):
            assert (command in printed) == (command != line)
            printed.add(command)
            words = shlex.split(command)
            assert f"{tmp_path}/out/" in command
            if {"validate.train_fkd", "validate.train_hard"} & set(words):
                students[cell] += 1
                assert words[words.index("--val-dir") + 1] == f"{tmp_path}/my images"
        elif line.startswith("# "):
            cell = line[2:].split(": ")[0]
    assert set(students.values()) == {3}


@pytest.mark.parametrize("action", ["--list", "--dry-run", "--help"])
def test_lists_need_no_pytorch_and_answer_at_once(action, tmp_path):
    blocked = tmp_path / "blocked"
    for package in ("torch", "numpy", "PIL", "timm", "tqdm", "matplotlib", "safetensors"):
        (blocked / package).mkdir(parents=True)
        (blocked / package / "__init__.py").write_text("raise SystemExit('heavy')")
    begin = time.perf_counter()
    done = script("table1", tmp_path, action, PYTHONPATH=str(blocked))
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - begin < 2  # on a busy machine; 0.2 s as a rule
    assert "prism-delt" in done.stdout or action == "--help"


def test_list_has_the_papers_numbers_and_notes(capsys):
    run.main(["table3", "recovery", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "table3: ImageNet-1K, IPC 10, ResNet-18; the paper's top-1 %"
    assert lines[3] == "recovery varied    31.30  + varied iterations [1, 2]"
    assert lines[-1].startswith("[3] CDA's cosine curve")


def test_an_online_teacher_that_does_not_exist_is_refused(capsys, monkeypatch):
    words = ["table1", "r18", "ipc10", "delt", "--dry-run", "--online-teacher"]
    with pytest.raises(UserError, match="ONLINE_TEACHER.: resnet81: no such network. Did you"):
        run.main([*words, "resnet81"])
    for name in ("student", "mobilenet_v2"):
        run.main([*words, name])
    assert "--teachers mobilenet_v2" in capsys.readouterr().out

    monkeypatch.setitem(sys.modules, "models.networks", None)  # as where PyTorch is missing
    run.main([*words, "resnet81"])
    assert "--teachers resnet81" in capsys.readouterr().out


def test_several_gpus_are_refused(tmp_path):
    done = script("table1", tmp_path, NGPU="4")
    assert done.returncode == 2
    assert "snakemake -s reproduce/Snakefile table1" in done.stderr


def test_missing_folders_are_named_before_anything_runs(tmp_path):
    (tmp_path / "train/a").mkdir(parents=True)
    words = ["table1", "r18", "ipc10", "prism", "--output-dir", str(tmp_path / "out"),
             "--train-dir", str(tmp_path / "train")]
    with pytest.raises(UserError, match="/val: no such folder of images. Set VAL_DIR .or --val-di"):
        run.main([*words, "--val-dir", str(tmp_path / "val")])
    with pytest.raises(UserError, match="^no folder of images was given. Set VAL_DIR .or --val-d"):
        run.main(words)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_torchvision_has_test_images_too(tmp_path):
    words = ["table1", "r18", "ipc10", "prism", "--dataset", "fashion_mnist"]
    with pytest.raises(UserError, match="no folder of images was given. Set TRAIN_DIR .or --train-"
                       "dir. to where torchvision keeps fashion_mnist or will download it."):
        run.main([*words, "--output-dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    sizes = run.parse([*words, "--train-dir", str(tmp_path / "new")]).sizes
    assert sizes.val_dir == sizes.train_dir == tmp_path / "new"
    run.check_folders(sizes)


@pytest.mark.parametrize("table", run.OF_DIGITS)
def test_tables_of_subsets_of_imagenet_are_not_of_every_dataset(table):
    with pytest.raises(UserError, match=f"{table}: found --dataset fashion_mnist, expected image"):
        run.parse([table, "--dataset", "fashion_mnist", "--list"])


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """Stages that note their calls in `ran`, and that fail as `fails` says."""
    ran, fails = [], {}

    def stage(module):
        def main(arguments):
            folders = [a for a in arguments if str(tmp_path) in a and "labels" not in a]
            call = f"{module.split('.')[0]} {Path(folders[0]).name}"
            ran.append(call)
            if call in fails:
                raise fails[call]
        return types.SimpleNamespace(__spec__=types.SimpleNamespace(name=module), main=main)

    monkeypatch.setattr(run.importlib, "import_module", stage)
    return types.SimpleNamespace(ran=ran, fails=fails)


def run_rows(rows, tmp_path):
    request = run.parse(["table1", "r18", "ipc10", *rows, "--seeds", "0", "--output-dir",
                         str(tmp_path)])
    return run.run_commands(commands.graph(request.cells, request.sizes), request.sizes)


def test_a_failed_step_leaves_out_only_what_needs_it(stages, tmp_path, capsys):
    """RDED's images are refused, so EDC's, which start from them, are left out; SRe2L's are
    made."""
    stages.fails.update({"recover rded_ipc10": UserError("was made with other options"),
                         "relabel sre2l_ipc10": ZeroDivisionError()})
    failures, total = run_rows(["rded", "edc", "sre2l"], tmp_path)
    assert stages.ran == ["recover sre2l_ipc10", "relabel sre2l_ipc10", "recover rded_ipc10"]
    assert total == 8
    assert {f.title.split("/students")[0]: f.status for f in failures} == {
        "relabel: sre2l_ipc10/labels_sre2l": 1, "validate: sre2l_ipc10": None,
        "recover: rded_ipc10": 2, "validate: rded_ipc10": None, "recover: edc_ipc10": None,
        "relabel: edc_ipc10/labels_edc": None, "validate: edc_ipc10": None}
    printed = capsys.readouterr()
    assert "error: recover: rded_ipc10: was made with other options" in printed.err
    assert "ZeroDivisionError" in printed.err
    assert "left out: what it needs has failed" in printed.out


def test_ctrl_c_ends_all_steps(stages, tmp_path):
    stages.fails["recover rded_ipc10"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_rows(["rded", "sre2l"], tmp_path)
    assert stages.ran[-1] == "recover rded_ipc10"


@pytest.mark.usefixtures("stages")
def test_a_slurm_array_does_not_give_the_stages_a_share(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    run_rows(["sre2l"], tmp_path)
    assert "SLURM_ARRAY_TASK_ID" not in os.environ
