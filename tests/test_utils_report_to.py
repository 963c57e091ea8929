"""Curves by --report-to: what the stages print or write, once per step, also after a stop."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import stages

from models.teacher_epochs import TeacherEpochs
from recover.unit_run import UnitRun
from utils.errors import UserError
from utils.options import StageRun
from utils.report_to import _TRACKERS, check, open_tracker
from validate import train_hard
from validate.student_folder import StudentFolder
from validate.training import Training


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return stages.make_inputs(tmp_path_factory.mktemp("report_to"))


class Events:
    """What a library was given: {folder: [(step, name, number)]}, as its page would show it."""

    def __init__(self):
        self.shown, self.purged, self.closed = {}, [], 0

    def writer(self, folder, purge_step):
        """TensorBoard's SummaryWriter: drops what it has from purge_step on."""
        folder = Path(folder)
        self.purged.append((folder.name, purge_step))
        kept = [event for event in self.shown.get(folder, []) if event[0] < purge_step]
        events = self.shown[folder] = kept
        return SimpleNamespace(
            add_scalar=lambda name, number, step: events.append((step, name, number)),
            flush=lambda: None, close=self.close)

    def close(self):
        self.closed += 1


@pytest.fixture
def tensorboard(monkeypatch):
    events, module = Events(), ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = events.writer
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return events


def run(stage, inputs, out, *more):
    stages.main_of(stage)(stages.command(stage, inputs, out, "--report-to", "tensorboard", *more))


def stop_run(monkeypatch, kind, method, calls, *words):
    """`run` that Ctrl-C stops when a method has been called so often."""
    work, done = getattr(kind, method), []

    def stopped(self, *given):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(given)
        return work(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(kind, method, stopped)
        with pytest.raises(KeyboardInterrupt):
            run(*words)


def metrics(folder):
    """The lines of metrics.jsonl as events."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["epoch"], name, number) for line in lines for name, number in line.items()
            if name != "epoch"]


# Stages

def test_a_student_shows_its_metrics_once(inputs, tmp_path, tensorboard, monkeypatch):
    stop_run(monkeypatch, Training, "one_epoch", 2, "validate", inputs, tmp_path)
    run("validate", inputs, tmp_path)

    student = tmp_path / "students/s"
    (folder, events), = tensorboard.shown.items()
    assert folder == student / "tensorboard"
    assert events == metrics(student)
    assert {name for _, name, _ in events} == {"lr", "loss", "train_top1", "top1", "top5",
                                               "seconds"}
    assert tensorboard.purged == [("tensorboard", 0), ("tensorboard", 2)]
    assert tensorboard.closed == 1


def test_hard_labels_show_every_test(inputs, tmp_path, tensorboard):
    train_hard.main([*map(str, (
        "--train-dir", inputs / "run/images", "--output-dir", tmp_path, "--val-dir",
        inputs / "val", "--student", "convnet3", "--image-size", 16, "--epochs", 2, "--tests", 2,
        "--seeds", 3, 4, "--device", "cpu", "--threads", 1, "--student-name", "s", "--report-to",
        "tensorboard"))])
    shown = {folder.parent: events for folder, events in tensorboard.shown.items()}
    students = [tmp_path / f"students/s_seed{seed}" for seed in (3, 4)]
    assert shown == {student: metrics(student) for student in students}


def test_no_result_depends_on_it(inputs, tmp_path, tensorboard):
    for out, kind in (("plain", "none"), ("shown", "tensorboard")):
        run("validate", inputs, tmp_path / out, "--report-to", kind, "--epochs", "2")
    shutil.rmtree(tmp_path / "shown/students/s/tensorboard")
    plain, shown = (stages.contents(tmp_path / out) for out in ("plain", "shown"))
    for files in (plain, shown):
        del files["students/s/curve.png"]
    stages.assert_same(shown, plain)
    assert len(tensorboard.shown) == 1


def test_units_of_recover_show_their_terms_once(inputs, tmp_path, tensorboard, monkeypatch):
    words = ("recover", inputs, tmp_path, "--log-every", "2", "--verifier", stages.NET)
    stop_run(monkeypatch, UnitRun, "after_step", 3, *words)
    run(*words)
    units = {path.stem: json.loads(path.read_text())
             for path in (tmp_path / "units").glob("*.json")}
    assert {folder.name for folder in tensorboard.shown} == set(units)
    assert {step for _, step in tensorboard.purged} == {0, 3}

    for folder, events in tensorboard.shown.items():
        record = units[folder.name]
        terms = [(row["step"], name, number) for row in record["terms"]
                 for name, number in row.items() if name != "step"]
        assert sorted(event for event in events if "top1" not in event[1]) == sorted(terms)
        assert {name for _, name, _ in terms} == {"ce", f"bn {stages.NET}"}
        assert events[-1] == (record["steps"] - 1, f"top1 {stages.NET}",
                              record["verifier"]["top1"])
    assert tensorboard.closed == 1  # the other unit was at its end before the stop


def test_a_teacher_shows_its_epochs_once(inputs, tmp_path, tensorboard, monkeypatch):
    stop_run(monkeypatch, TeacherEpochs, "_one_epoch", 1, "pretrain", inputs, tmp_path)
    run("pretrain", inputs, tmp_path)
    (folder, events), = tensorboard.shown.items()
    assert folder == tmp_path / "tensorboard" / stages.NET
    assert [(step, name) for step, name, _ in events] == [
        (epoch, name) for epoch in range(3) for name in ("loss", "lr", "top1", "top5")]
    result = json.loads((tmp_path / f"{stages.NET}.json").read_text())["result"]
    assert events[-2:] == [(2, "top1", result["top1"]), (2, "top5", result["top5"])]


def test_relabel_shows_the_teachers_accuracy(inputs, tmp_path, tensorboard):
    run("relabel", inputs, tmp_path, "--epochs", "1", "--val-dir", str(inputs / "val"))
    (folder, events), = tensorboard.shown.items()
    scores = json.loads((tmp_path / "labels/labels.json").read_text())["accuracy"][stages.NET]
    assert folder == tmp_path / "labels/tensorboard"
    assert set(events) == {(0, f"top1 {stages.NET} {key}", score)
                           for key, score in scores.items() if score is not None}


def test_another_rank_of_a_student_shows_nothing(inputs, tmp_path, tensorboard):
    shutil.copytree(inputs / "run", tmp_path / "s")
    StudentFolder(tmp_path / "s", writes=False, report_to="tensorboard").restore(None, 3)
    assert not tensorboard.shown


# Libraries

def test_choices_are_the_trackers():
    choices = StageRun.__dataclass_fields__["report_to"].metadata["argument"]["choices"]
    assert list(choices) == ["none", *_TRACKERS]


@pytest.mark.parametrize(("kind", "module"), [("tensorboard", "torch.utils.tensorboard"),
                                              ("wandb", "wandb")])
@pytest.mark.parametrize("stage", stages.STAGES)
def test_a_missing_library_is_one_sentence(inputs, tmp_path, monkeypatch, kind, module, stage):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"--report-to {kind}: the package cannot be imported .* "
                                        rf"Install it \(pip install {kind}\), or leave"):
        stages.main_of(stage)(stages.command(stage, inputs, tmp_path / "out", "--report-to", kind))
    assert not (tmp_path / "out").exists()


def test_none_writes_nothing(tmp_path):
    check("none")
    tracker = open_tracker("none", tmp_path, "unit", 3)
    tracker.log(0, {"loss": 1.0})
    tracker.close()
    assert not list(tmp_path.iterdir())


class WandBFake(ModuleType):
    """Keeps the settings of every run, and what was logged to it by its id."""

    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.runs, self.logged, self.refuses = [], {}, False

    def login(self):
        if self.refuses:
            raise self.Error("No API key configured.")

    def init(self, **settings):
        self.login()
        self.runs.append(settings)
        logged = self.logged.setdefault(settings["id"], [])
        return SimpleNamespace(log=lambda numbers, step: logged.append((step, numbers)),
                               finish=lambda: logged.append("finished"))


@pytest.fixture
def wandb(monkeypatch):
    fake = WandBFake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_goes_on_with_the_run_of_a_folder(tmp_path, wandb):
    check("wandb")
    for step in (0, 1):
        tracker = open_tracker("wandb", tmp_path / "run", "unit", step)
        tracker.log(step, {"loss": 0.5})
    tracker.close()
    (logged,) = wandb.logged.values()
    assert logged == [(0, {"loss": 0.5}), (1, {"loss": 0.5}), "finished"]
    assert wandb.runs[0] == wandb.runs[1]
    assert (wandb.runs[0]["name"], wandb.runs[0]["resume"]) == ("run unit", "allow")
    assert not {"key", "entity", "project"} & set(wandb.runs[0])

    shutil.rmtree(tmp_path / "run")  # anew: not what the page has already
    open_tracker("wandb", tmp_path / "run", "unit")
    assert len(wandb.logged) == 2


def test_wandb_without_a_login_is_one_sentence(inputs, tmp_path, wandb):
    wandb.refuses = True
    sentence = (r"--report-to wandb: No API key configured\. Log in once \(wandb login\), or set "
                r"WANDB_MODE=offline\.")
    with pytest.raises(UserError, match=sentence):
        stages.main_of("recover")(stages.command("recover", inputs, tmp_path / "out",
                                                 "--report-to", "wandb"))
    assert not (tmp_path / "out").exists()


def test_the_real_tensorboard_reads_each_point_once(inputs, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="needs pip install tensorboard, not found here")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stop_run(monkeypatch, Training, "one_epoch", 2, "validate", inputs, tmp_path)
    student = tmp_path / "students/s"
    page = open_tracker("tensorboard", student, first_step=2)
    page.log(2, {"loss": 9.0})  # after the last state: a resumed run makes it again
    page.close()
    run("validate", inputs, tmp_path)

    events = EventAccumulator(str(student / "tensorboard")).Reload()
    seen = [(event.step, name, event.value) for name in events.Tags()["scalars"]
            for event in events.Scalars(name)]
    numbers = {(step, name): number for step, name, number in metrics(student)}
    assert len(seen) == len(numbers)
    assert {(step, name): value for step, name, value in seen} == pytest.approx(numbers, rel=1e-6)
