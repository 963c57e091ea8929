import multiprocessing
import os

import pytest

from data import run_folder
from utils.errors import UserError
from utils.files import (
    check_space,
    check_writable,
    read_json,
    remove_leftovers,
    write_bytes,
    write_json,
    written_whole,
)


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "sub" / "file.json"
    write_json(path, {"a": 1})

    def fail():
        with written_whole(path) as temporary:
            temporary.write_text("half")
            raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        fail()
    assert read_json(path, "x") == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    dead = tmp_path / f".a.json.{run_folder._HOST}.999999999.tmp"
    alive = tmp_path / f".b.json.{run_folder._HOST}.{os.getppid()}.tmp"
    elsewhere = tmp_path / ".c.json.another-host.999999999.tmp"
    for p in (dead, alive, elsewhere):
        p.write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([alive.name, elsewhere.name])


def test_manifest_is_written_once_and_compared(tmp_path):
    path, content = tmp_path / "m.json", {"options": {"lr": 0.1, "names": ("a",)}, "identity": {"n": 3}, "versions": {"torch": "1"}}
    run_folder.settle_manifest(path, content, "Start afresh.")
    before = path.read_bytes()
    run_folder.settle_manifest(path, {**content, "versions": {"torch": "2"}}, "Start afresh.")
    assert path.read_bytes() == before  # other versions do not matter
    with pytest.raises(UserError, match="m.json: was made with lr = 0.1, now lr = 0.2. Start afresh."):
        run_folder.settle_manifest(path, {**content, "options": {"lr": 0.2, "names": ["a"]}}, "Start afresh.")
    with pytest.raises(UserError, match="was made with n = 3, now n = null"):
        run_folder.settle_manifest(path, {**content, "identity": {}}, "Start afresh.")


@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_damaged_json(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UserError, match="m.json: .*written by recover"):
        read_json(tmp_path / "m.json", "recover")
    with pytest.raises(UserError, match="n.json: not found. It is written by recover"):
        read_json(tmp_path / "n.json", "recover")


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(tmp_path / "file" / "sub")


def test_many_processes_begin_in_one_new_folder(tmp_path):
    """check_writable removes the folders it made, which must not pull them from under another process's file."""
    def start(i):
        for n in range(100):
            folder = tmp_path / "new" / str(n)
            check_writable(folder)
            write_bytes(folder / f"{i}.txt", b"x")

    processes = [multiprocessing.get_context("fork").Process(target=start, args=(i,)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(p.name for p in (tmp_path / "new/42").iterdir()) == [f"{i}.txt" for i in range(4)]


def test_a_sealed_file_notices_any_change(tmp_path):
    path, content = tmp_path / "m.json", {"b": [1, 0.1, None], "a": {"é": "x"}}
    write_json(path, content)
    assert read_json(path, "recover") == content
    for old, new in (("0.1", "0.2"), ('"x"', '"y"'), ('"b"', '"c"')):
        path.write_text(path.read_text().replace(old, new))
        with pytest.raises(UserError, match="m.json: does not match its checksum. .* It is written by recover"):
            read_json(path, "recover")
        write_json(path, content)
    write_json(path, {**content, "sha256": "of an older content"})
    assert read_json(path, "recover") == content


@pytest.mark.parametrize(("text", "words"), [("[" * 100_000, "nested too deep"), ('{"a": ' + "9" * 5000 + "}", "limit"),
                                             (" " * (1 << 20) + "{}", "more than 0 MB")])
def test_json_that_would_exhaust_its_reader(tmp_path, monkeypatch, text, words):
    monkeypatch.setattr(run_folder, "_LARGEST_JSON", 1 << 19)
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UserError, match=f"m.json: damaged .*{words}"):
        read_json(tmp_path / "m.json", "recover")


def test_space_is_printed_and_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_folder, "free_bytes", lambda _: 3_000_000)
    check_space("recover", tmp_path, 2_000_000, "Choose.")
    assert capsys.readouterr().out == "recover: about 2.0 MB to write, 3.0 MB free\n"
    with pytest.raises(UserError, match="about 4.0 GB will be written, the disk has 3.0 MB free. Choose."):
        check_space("recover", tmp_path, 4_000_000_000, "Choose.")
