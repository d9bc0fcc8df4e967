"""What is written where: files whole or not at all, links and devices through to what they stand for."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from reference.command.main import main
from reference.reporting.files import stream_of, write_file

ROOT = Path(__file__).parent.parent


def test_new_file_has_the_permissions_of_new_files(tmp_path):
    write_file(tmp_path / "a", b"new")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


def test_older_file_keeps_its_permissions_and_is_replaced(tmp_path):
    path = tmp_path / "a"
    path.write_text("older")
    path.chmod(0o640)
    before = path.stat().st_ino
    with path.open() as reading:
        write_file(path, b"new")
        assert reading.read() == "older", "who reads it has it whole"
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o640)
    assert path.stat().st_ino != before
    assert [found.name for found in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("there", [True, False], ids=["of a file", "of none yet"])
def test_symbolic_link_stays_one(tmp_path, there):
    target, link = tmp_path / "deep" / "target", tmp_path / "link"
    target.parent.mkdir()
    if there:
        target.write_text("older")
    link.symlink_to(Path("deep") / "target")
    (tmp_path / "second").symlink_to(link)
    write_file(tmp_path / "second", b"new")
    assert link.is_symlink()
    assert (tmp_path / "second").is_symlink()
    assert target.read_bytes() == b"new"


def test_pipe_is_written_into(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_file(tmp_path / "pipe", b"new" * 100_000)
    reader.join(10)
    assert read == [b"new" * 100_000]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_device_is_written_into():
    write_file(Path("/dev/null"), b"new")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_full_device_is_an_error_with_the_path():
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'") as error:
        write_file(Path("/dev/full"), b"new")
    assert error.value.filename == "/dev/full"


@pytest.mark.parametrize("make", ["link to a folder", "folder that is not there", "loop"])
def test_what_cannot_be_written_is_an_error_with_the_path(tmp_path, make):
    path = tmp_path / "link"
    path.symlink_to({"link to a folder": tmp_path, "loop": path}.get(make, tmp_path / "no" / "file"))
    with pytest.raises(OSError, match=r".+") as error:
        write_file(path, b"new")
    assert error.value.filename == str(path)
    assert error.value.strerror


def test_file_is_as_it_was_where_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("older")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "a", b"new")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("a", "older")]


def test_only_what_output_goes_to_is_a_stream(tmp_path):
    assert stream_of(tmp_path / "not there") is None
    (tmp_path / "a").write_text("")
    assert stream_of(tmp_path / "a") is None
    assert stream_of(Path("/dev/fd/1")) == 1


# --- from the command -------------------------------------------------------------------------------------------------


def run(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "reference", "npnorm:RMSNorm", "--examples", "0", "--ndims", "2", *arguments]
    return subprocess.run(command, env=environment, check=False, timeout=60, **options)


def test_json_into_standard_output_is_all_that_is_in_it(tmp_path):
    """And the same as from this process, which has imported torch whole."""
    done = run("--json", "/dev/stdout", capture_output=True, text=True)
    assert done.returncode == 0
    assert json.loads(done.stdout)["subjects"][0]["passed"] is True
    assert done.stderr.splitlines()[-1].startswith("PASS  ")
    main(["npnorm:RMSNorm", "--examples", "0", "--ndims", "2", "--json", str(tmp_path / "here.json")])
    assert json.loads(done.stdout) == json.loads((tmp_path / "here.json").read_text())


def test_json_into_a_redirected_output_does_not_begin_it_anew(tmp_path):
    with (tmp_path / "out").open("w") as out:
        out.write("first\n")
        out.flush()
        done = run("--json", "/dev/stdout", stdout=out, stderr=subprocess.DEVNULL)
    assert done.returncode == 0
    first, _, rest = (tmp_path / "out").read_text().partition("\n")
    assert first == "first"
    assert json.loads(rest)["schema"] == 2


def test_picture_into_standard_output_is_a_png():
    done = run("--plot", "/dev/stdout", capture_output=True)
    assert done.returncode == 0
    assert done.stdout.startswith(b"\x89PNG\r\n\x1a\n")
    assert b"PASS  " in done.stderr


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_full_device_is_one_line(option):
    done = run(option, "/dev/full", capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "normcheck: /dev/full cannot be written: No space left on device\n"
    assert "PASS  " in done.stdout
