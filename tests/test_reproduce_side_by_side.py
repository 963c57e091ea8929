"""Tasks on several GPUs, or side by side on the CPU: order, places, failures, stops; and the same bytes as one by one."""

import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from reproduce import commands, run, side_by_side, steps
from reproduce.side_by_side import Place, Task
from reproduce.sizes import Sizes
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
TWO = [Place("process 0", {"WHERE": "0"}), Place("process 1", {"WHERE": "1"})]


def task(title, code, *needs):
    return Task(title, [sys.executable, "-c", code], f"python {title}", needs)


def noted(tmp_path, title, *needs, seconds=0.0):
    """A task that writes down when it began and ended, and where."""
    path = tmp_path / title
    code = (f"import os, time; b = time.time(); time.sleep({seconds}); "
            f"open({str(path)!r}, 'w').write(f'{{b}} {{time.time()}} ' + os.environ['WHERE'])")
    return task(title, code, *needs)


def read(tmp_path, title):
    begin, end, where = (tmp_path / title).read_text().split()
    return float(begin), float(end), where


def test_tasks_wait_for_what_they_need_and_fill_both_places(tmp_path):
    a, b = noted(tmp_path, "a", seconds=0.6), noted(tmp_path, "b", seconds=0.6)
    after = noted(tmp_path, "after", a, b)
    ended = []
    found = side_by_side.run([after, a, b], TWO, tmp_path / "logs", "tasks", lambda task, _, ok: ended.append((task, ok)))
    assert found == []
    (a_begin, a_end, a_where), (b_begin, b_end, b_where) = read(tmp_path, "a"), read(tmp_path, "b")
    assert max(a_begin, b_begin) < min(a_end, b_end), "side by side"
    assert {a_where, b_where} == {"0", "1"}
    assert read(tmp_path, "after")[0] >= max(a_end, b_end)
    assert sorted(task.title for task, ok in ended if ok) == ["a", "after", "b"]


def test_earlier_tasks_of_the_list_go_first(tmp_path):
    tasks = [noted(tmp_path, str(number)) for number in range(4)]
    side_by_side.run(tasks, TWO[:1], tmp_path / "logs", "tasks")
    begins = [read(tmp_path, str(number))[0] for number in range(4)]
    assert begins == sorted(begins)


def test_a_failed_task_is_reported_and_only_what_needs_it_is_left_out(tmp_path, capsys):
    bad = task("recover: x/bad", "import sys; print(*range(100), sep='\\n'); print('error: no such thing'); sys.exit(2)")
    killed = task("killed", "import os; os.kill(os.getpid(), 9)")
    need = noted(tmp_path, "need", bad)
    need_more = noted(tmp_path, "need more", need)
    good = noted(tmp_path, "good")
    found = side_by_side.run([bad, need, need_more, killed, good], TWO, tmp_path / "logs", "tasks")
    assert [(f.title, f.status) for f in found] == [("recover: x/bad", 2), ("need", None), ("need more", None), ("killed", -9)]
    assert (tmp_path / "good").exists()
    assert not (tmp_path / "need").exists()
    said = capsys.readouterr().out
    log = tmp_path / "logs" / "recover.x.bad.log"
    assert "s: status 2\n  $ python recover: x/bad\n    86\n" in said.replace("\r", "")
    assert f"    error: no such thing\n  All of it: {log}\n" in said
    assert log.read_text().startswith("$ python recover: x/bad\n0\n")
    assert "s: SIGKILL, as the system does when memory runs out" in said


def test_a_second_start_adds_to_the_log_and_reports_its_own_part(tmp_path, capsys):
    for words in ("first", "second"):
        side_by_side.run([task("a", f"print('{words}'); 1 / 0")], TWO, tmp_path / "logs", "tasks")
    assert "first" not in capsys.readouterr().out.split("failed")[-1]
    assert "first" in (tmp_path / "logs/a.log").read_text()


def test_a_slurm_arrays_share_is_not_handed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    (problem,) = side_by_side.run([task("a", "import os, sys; sys.exit('SLURM_ARRAY_TASK_ID' in os.environ or 7)")], TWO,
                                  tmp_path / "logs", "tasks")
    assert problem.status == 7


PARENT = """
import sys
from pathlib import Path
from reproduce import side_by_side
from utils.errors import run_entry
code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), print('clean'), sys.exit(143)));"
code += "print('ready', flush=True); time.sleep(60)"
task = lambda title, *needs: side_by_side.Task(title, [sys.executable, "-c", code], title, needs)
a, b = task("a"), task("b")
ended = lambda task, seconds, ok: print("ended", task.title, ok, flush=True)
places = [side_by_side.Place(name, {}) for name in "01"]
run_entry(lambda _: side_by_side.run([a, b, task("c", a)], places, Path(sys.argv[1]), "t", ended))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_all_and_waits_for_them(tmp_path, number, status):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
    logs = [tmp_path / f"{name}.log" for name in "ab"]
    deadline = time.monotonic() + 60
    while not all(log.exists() and "ready" in log.read_text() for log in logs):
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(number)
    out, err = parent.communicate(timeout=60)
    assert parent.returncode == status, err
    assert all("clean" in log.read_text() for log in logs), "told to stop, waited for"
    assert not (tmp_path / "c.log").exists()
    assert "ended a False" in out
    assert "ended b False" in out
    assert "failed" not in out
    assert "stopping 2 running tasks" in err


def test_places_without_a_gpu_share_the_cores(monkeypatch):
    monkeypatch.setattr(side_by_side.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(side_by_side.torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    found = side_by_side.places(3, None)
    assert [(p.name, p.environment) for p in found] == [(f"process {n}", {}) for n in range(3)]
    assert found[0].options == ("--threads", "2", "--workers", "4")
    assert side_by_side.places(3, 5)[0].options[:2] == ("--threads", "5")  # each has what was asked for: results depend on it
    with pytest.raises(UserError, match="NGPU=13: this machine has no GPU that PyTorch finds, and 12 CPU cores. Give at most NGPU"):
        side_by_side.places(13, None)


@pytest.mark.parametrize(("visible", "names"), [(None, ["0", "1"]), ("5, GPU-abc,7", ["5", "GPU-abc"])])
def test_places_see_one_gpu_each_of_those_that_are_visible(monkeypatch, visible, names):
    monkeypatch.setattr(side_by_side.torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = side_by_side.places(2, None)
    assert [p.environment for p in found] == [{"CUDA_VISIBLE_DEVICES": name} for name in names]
    assert [p.name for p in found] == [f"GPU {name}" for name in names]
    assert found[0].options[:2] == ("--device", "cuda")  # a GPU that is gone must not mean weeks on the CPU
    with pytest.raises(UserError, match=r"NGPU=4: PyTorch finds 3 GPUs here \(CUDA_VISIBLE_DEVICES counts\). Give at most NGPU=3."):
        side_by_side.places(4, None)


@pytest.mark.parametrize(("script", "value"), [("table1", "0"), ("table3", "two"), ("digits", "-1")])
def test_a_bad_ngpu_is_one_sentence(tmp_path, script, value):
    env = {**os.environ, "PYTHON": sys.executable, "OUTPUT_DIR": str(tmp_path / "out"), "NGPU": value}
    done = subprocess.run(["sh", ROOT / "reproduce" / f"{script}.sh"], env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: argument --ngpu: NGPU: found ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_more_processes_than_cores_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side.torch.cuda, "device_count", lambda: 0)
    given = ["table1", "r18", "ipc10", "prism", "--dataset", "digits", "--output-dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match="NGPU=9999: this machine has no GPU"):
        run.main([*given, "--ngpu", "9999"])
    assert not (tmp_path / "out").exists()


def tasks_of(table, *names, ngpu=8, classes=1000, timings=None, **sizes):
    found = Sizes(output_dir=Path("/out"), ngpu=ngpu, **sizes)
    needs = commands.needs([run.TABLES[table].cell(name) for name in names], found)
    return run.share_out(needs, ngpu, classes, timings or types.SimpleNamespace(is_complete=lambda *_: False))


def test_recover_and_relabel_are_shared_out_and_students_are_not():
    """The paper's PRISM cell on 8 GPUs: 8 parts of its images, 8 of its labels, 3 students, in that order."""
    shared = tasks_of("table1", "r18 ipc10 prism")
    assert [(command.stage, len(own)) for command, own in shared.items()] == [
        ("recover", 8), ("relabel", 8), ("validate", 1), ("validate", 1), ("validate", 1)]
    recover, relabel, *students = shared.values()
    assert [own.argv[-2:] for own in recover] == [["--shard", f"{part}/8"] for part in range(8)]
    assert [own.needs for own in recover] == [()] * 8
    assert [own.needs for own in relabel] == [tuple(recover)] * 8
    assert [own.needs for (own,) in students] == [tuple(relabel)] * 3
    assert "--shard" not in students[0][0].argv
    assert students[0][0].argv[1:3] == ["-m", "validate.train_fkd"]
    assert recover[1].line.endswith("--shard 1/8")
    titles = [own.title for tasks in shared.values() for own in tasks]
    assert len(set(titles)) == len(titles)


def test_no_more_parts_than_there_are_units_of_work():
    digits = tasks_of("table1", "r18 ipc10 prism", classes=10, dataset="digits", units_per_step=4, epochs=2)
    assert [(c.stage, len(own)) for c, own in digits.items()] == [
        ("squeeze", 5), ("recover", 3), ("relabel", 2), ("validate", 1), ("validate", 1), ("validate", 1)]
    squeeze, recover, *_ = digits.values()
    assert all(own.needs == tuple(squeeze) for own in recover)
    recipe = tasks_of("table1", "r18 ipc10 prism", label_store="none")
    assert [len(own) for command, own in recipe.items() if command.stage == "relabel"] == [1]


def test_units_are_counted_as_recover_cuts_them():
    """ImageNet, IPC 10: SRe2L's slices are cut into chunks of 100 classes; DELT's layout puts a class's images together."""
    def recover(row, **sizes):
        return commands.cell_commands(run.TABLES["table1"].cell(f"r18 ipc10 {row}"), Sizes(output_dir=Path("/out"), **sizes))[0]

    assert [commands.shares(recover(row), 1000) for row in ("sre2l", "delt")] == [100, 100]
    assert [commands.shares(recover(row), 15) for row in ("sre2l", "delt")] == [10, 2]
    in_sevens = recover("sre2l", units_per_step=7)
    assert (commands.shares(in_sevens, 110), commands.shares(in_sevens, 3)) == (3, 2)  # 10 slices of 2 chunks, 10 of 1


def test_one_part_looks_at_the_training_images_for_all():
    """DELT chooses medium images, G-VBSM measures statistics: the first part alone, the others find them. RDED only chooses."""
    for row, parts in (("delt", 8), ("gvbsm", 8), ("rded", 1)):
        first, *others = next(iter(tasks_of("table1", f"r18 ipc10 {row}").values()))
        assert len(others) == parts - 1
        assert all(own.needs == (first,) for own in others)


def test_images_that_others_start_from_come_first_and_are_made_once():
    shared = tasks_of("table1", "r18 ipc10 edc", "r50 ipc10 edc", seeds=(0,))
    assert [c.title.split("/")[0] for c in shared if c.stage == "recover"] == ["recover: rded_ipc10", "recover: edc_ipc10"]
    rded, edc, *_ = shared.values()
    assert rded[0] in edc[0].needs
    assert rded[0] in edc[5].needs


def test_cells_that_need_no_teacher_do_not_wait_for_them(tmp_path):
    found = Sizes(output_dir=tmp_path, dataset="digits", seeds=(0,))
    needs = commands.needs([run.TABLES["table2"].cell(name) for name in ("real", "sre2l")], found)
    assert {c.title.split("/")[0]: [n.stage for n in before] for c, before in needs.items()} == {
        "squeeze: resnet18": [], "recover: real_ipc1300": [], "validate: real_ipc1300": ["recover"],
        "recover: t2_sre2l_ipc1300": ["squeeze"], "validate: t2_sre2l_ipc1300": ["recover"]}


def test_what_is_finished_is_looked_at_by_one_process(tmp_path):
    found = Sizes(output_dir=tmp_path, seeds=(0,))
    needs = commands.needs([run.TABLES["table1"].cell("r18 ipc10 prism")], found)
    timings = steps.Timings(tmp_path / "timings.json")
    recover, relabel, _ = needs
    for command in (recover, relabel):
        timings.add(command.title, command.line(), 9.0, complete=True)
    recover.folder.mkdir()
    shared = run.share_out(needs, 8, 1000, timings)
    assert [len(own) for own in shared.values()] == [1, 8, 1]  # of the labels the folder is gone


NETS = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet")
CLASSES = ("n01440764", "n01443537", "n01484850")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("side_by_side")
    tiny.image_folder(root / "train", CLASSES, per_class=4, size=(40, 36))
    tiny.image_folder(root / "val", CLASSES, per_class=2, size=(40, 36), seed=1)
    tiny.teacher_folder(root / "teachers", NETS, CLASSES, input_resize={"alexnet": 64})
    return root


def files_of(out):
    """{path: bytes} of images, labels and the students' weights."""
    kept = [*out.glob("*/images/*/*"), *out.glob("*/labels_*/*.safetensors"), *out.glob("*/students/*/last.safetensors")]
    return {path.relative_to(out): path.read_bytes() for path in kept}


def without_accuracy(cell):
    """The cell, with teachers whose random weights know no image."""
    return replace(cell, images=replace(cell.images, options={**cell.images.options, "min_teacher_accuracy": 0}))


@pytest.mark.slow  # makes the cells twice
def test_two_at_a_time_make_the_bytes_of_one_by_one(data, monkeypatch):
    """Two cells that share images, one with two seeds: images in two parts, labels in two parts, students beside one another."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    panel = run.TABLES["table3"]
    cells = [without_accuracy(panel.cell(name)) for name in ("backbones alexnet-recover", "schedule ssrs")]
    found = Sizes(output_dir=data / "one", train_dir=data / "train", val_dir=data / "val", teacher_weights=str(data / "teachers"),
                  image_size=32, iteration=2, epochs=2, ipc=2, seeds=(0, 1), threads=1)
    assert run.run_cells(cells, found) == ([], 1 + 2 + 4)
    two = replace(found, output_dir=data / "two", ngpu=2)
    assert run.run_cells(cells, two) == ([], 2 + 4 + 4)
    one_by_one, side = files_of(found.output_dir), files_of(two.output_dir)
    assert len(one_by_one) == 3 * 2 + 2 * 2 + 4
    assert side == one_by_one
    spent = steps.Timings(two.output_dir / "timings.json")
    for command in commands.needs(cells, two):
        assert spent.is_complete(command.title, command.line())
    logs = sorted(path.name for path in (two.output_dir / "logs").iterdir())
    assert len(logs) == 10
    assert logs[0] == "recover.prism_r18_ipc2_part_0_of_2.log"
    before = {path: path.stat().st_mtime_ns for path in two.output_dir.rglob("*.safetensors")}
    assert run.run_cells(cells, two) == ([], 7)  # what is finished is not shared out again
    assert before == {path: path.stat().st_mtime_ns for path in two.output_dir.rglob("*.safetensors")}
    assert steps.Timings(two.output_dir / "timings.json").seconds == spent.seconds
