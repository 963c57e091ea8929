import multiprocessing
import os
import time

import pytest

from utils import files
from utils.errors import UserError
from utils.files import check_space, check_writable, read_json, write_bytes, write_json


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "sub" / "file.json"
    write_json(path, {"a": 1, "b": "é"})

    def fail():
        with files.written_whole(path) as temporary:
            temporary.write_text("half")
            raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        fail()
    assert read_json(path, "recover") == {"a": 1, "b": "é"}
    assert [path.name for path in path.parent.iterdir()] == ["file.json"]


def test_an_error_names_the_file_that_was_meant(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file") as raised:
        write_bytes(tmp_path / "file" / "a", b"x")
    assert "tmp" not in str(raised.value.filename).rsplit("/", 1)[1]


def test_a_temporary_file_is_a_new_one(tmp_path, monkeypatch):
    """A link that somebody planted under its name is neither followed nor written through."""
    monkeypatch.setattr(files.os, "urandom", bytes)
    (tmp_path / "mine").write_text("kept")
    planted = files._temporary(tmp_path / "a.json")
    planted.symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError):
        write_bytes(tmp_path / "a.json", b"x")
    assert (tmp_path / "mine").read_text() == "kept"
    assert not (tmp_path / "a.json").exists()


def test_temporary_names_differ_and_permissions_are_the_users(tmp_path):
    assert files._temporary(tmp_path / "a") != files._temporary(tmp_path / "a")
    mask = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    dead = tmp_path / f".a.json.{files._HOST}.999999999.tmp"
    alive = tmp_path / f".b.json.{files._HOST}.{os.getppid()}.tmp"
    elsewhere = tmp_path / ".c.json.another-host.999999999.tmp"
    impossible = tmp_path / f".d.json.{files._HOST}.9999999999.tmp"
    for path in (dead, alive, elsewhere, impossible):
        path.write_text("x")
    found = {path for path, _, _ in files.leftovers(tmp_path)}
    assert found == {dead, alive, elsewhere, impossible}
    files.remove_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == {alive, elsewhere}
    os.utime(elsewhere, (time.time() - 25 * 3600,) * 2)  # nobody writes a file for a day
    files.remove_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == {alive}


def test_leftovers_of_another_container_stay(tmp_path, monkeypatch):
    """Of one that has the same host name but counts its processes itself: that process may live."""
    inode = os.stat("/proc/self/ns/pid").st_ino
    monkeypatch.setattr(files.os, "stat", lambda _: os.stat_result([0, inode + 1, *[0] * 8]))
    other = tmp_path / f".a.json.{files._host()}.999999999.tmp"
    monkeypatch.undo()
    other.write_text("x")
    files.remove_leftovers(tmp_path)
    assert other.exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", "[" * 100_000])
def test_damaged_json(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UserError, match="m.json: damaged .* Remove it and run recover again"):
        read_json(tmp_path / "m.json", "recover")


def test_missing_json(tmp_path):
    with pytest.raises(UserError, match="n.json: not found. It is written by recover"):
        read_json(tmp_path / "n.json", "recover")


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(tmp_path / "file" / "sub")
    check_writable(tmp_path / "new" / "sub")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _begin(folder, name):
    for n in range(100):
        check_writable(folder / str(n))
        write_bytes(folder / str(n) / name, b"x")


def test_many_processes_begin_in_one_new_folder(tmp_path):
    """check_writable removes the folders it made, but not from under another process's file."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_begin, args=(tmp_path / "new", f"{i}.txt"))
                 for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    written = sorted(path.name for path in (tmp_path / "new/42").iterdir())
    assert written == [f"{i}.txt" for i in range(4)]


def test_space_is_printed_and_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "free_bytes", lambda _: 3_000_000)
    check_space("recover", tmp_path, 2_000_000, "Choose.")
    assert capsys.readouterr().out == "recover: about 2.0 MB to write, 3.0 MB free\n"
    with pytest.raises(UserError, match="about 4.0 GB will be written, the disk has 3.0 MB free. "
                       "Choose."):
        check_space("recover", tmp_path, 4_000_000_000, "Choose.")


def test_nothing_to_write_is_not_announced(tmp_path, capsys):
    check_space("recover", tmp_path, 0, "Choose.")
    assert capsys.readouterr().out == ""


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "runs/set"
    (tmp_path / "runs/.set.tmp").mkdir(parents=True)
    (tmp_path / "runs/.set.tmp/old").touch()  # of a command that was killed

    def fail():
        with files.whole_folder("--folder", folder) as temporary:
            assert list(temporary.iterdir()) == []
            (temporary / "new").touch()
            raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        fail()
    assert list((tmp_path / "runs").iterdir()) == []

    folder.mkdir()
    with files.whole_folder("--folder", folder) as temporary:
        (temporary / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    with (pytest.raises(UserError, match="--folder: found files in .*set, expected a new folder"),
          files.whole_folder("--folder", folder)):
        pass
