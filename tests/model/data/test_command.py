"""`python -m model.data`: its last line, its exit codes, and errors without a traceback."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.config.reader import parse_overrides
from model.data.__main__ import main
from model.data.downloaded import DownloadedFiles
from model.describe import describe
from tests.fixtures import warm_python

from .conftest import ROOT, parquet_folder, sentences, write_parquet
from .hub import Hub, running


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    values = {
        "data": parquet_folder(tmp_path / "text"),
        "data.cache_dir": tmp_path / "cache",
        "model.vocab_size": 300,
        "model.context_tokens": 32,
        "eval.tokens": 128,
    }
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def data(*arguments: str) -> subprocess.CompletedProcess[str]:
    return warm_python.run(["-m", "model.data", *arguments])


def test_prepare_ends_in_one_json_line_and_verify_and_show_agree(options):
    overrides = parse_overrides(options[1::2])
    assert describe("x", None, overrides)["text_tokens"] is None
    done = data("prepare", *options)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["train_documents"] == 110
    assert answer["vocab_size"] == 300
    assert Path(answer["path"]).is_dir()
    output = describe("x", None, overrides)
    assert output["text_tokens"] == answer["train_tokens"] > 0
    assert output["identity"]["data_id"] == answer["data_id"]
    assert "training a vocabulary" in done.stderr
    verified = data("verify", *options)
    assert verified.returncode == 0, verified.stderr
    assert "ok  source 002.parquet" in verified.stdout
    shown = data("show", "--rows", "1", *options)
    assert shown.returncode == 0, shown.stderr
    assert answer["data_id"] in shown.stdout
    assert "lost to cropping" in shown.stdout
    assert "<|bos|>" in shown.stdout


def test_verify_reads_every_byte_of_the_source(options, tmp_path):
    data("prepare", *options)
    path = tmp_path / "text" / "000.parquet"
    content, times = path.read_bytes(), path.stat()
    write_parquet(path, [text[::-1] for text in sentences(60)], 25)
    path.write_bytes(path.read_bytes()[: len(content)].ljust(len(content), b"\0"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = data("verify", *options)
    assert done.returncode == 2
    assert "000.parquet: expected text of SHA-256" in done.stderr


@pytest.mark.parametrize("command", ["prepare", "verify", "show"])
def test_errors_have_three_parts_exit_code_2_and_no_traceback(command):
    done = data(command, "--set", "data=pyton-docs")
    assert done.returncode == 2
    assert done.stderr.startswith("error: data.source: expected python-docs")
    assert "Did you mean python-docs?" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupted_prepare_is_reported_and_resumes(options, tmp_path):
    write_parquet(tmp_path / "text" / "000.parquet", sentences(20_000))
    command = [sys.executable, "-m", "model.data", "prepare", *options]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & ignores it
    )
    while "encoding" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "re-run the same command to resume" in rest
    assert "Traceback" not in rest
    assert data("prepare", *options).returncode == 0


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A server with one training file of climbmix, and validation."""
    texts = parquet_folder(tmp_path / "text", sizes=(60, 40))
    with running() as hub:
        for name, path in zip(("00000", "06542"), sorted(texts.iterdir()), strict=True):
            hub.files[f"shard_{name}.parquet"] = path.read_bytes()
        yield hub


@pytest.fixture
def climbmix(hub: Hub, tmp_path: Path) -> list[str]:
    values = {
        "data": "climbmix",
        "data.train_files": 1,
        "data.mirror": hub.url,
        "data.cache_dir": tmp_path / "cache",
        "model.vocab_size": 300,
        "model.context_tokens": 32,
        "eval.tokens": 128,
    }
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def test_killed_download_resumes(hub, climbmix, tmp_path):
    name = "shard_00000.parquet"
    half = len(hub.files[name]) // 2
    hub.faults = {name: ["held"]}
    command = [sys.executable, "-m", "model.data", "prepare", *climbmix]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    downloaded_files = DownloadedFiles(tmp_path / "cache", "climbmix")
    while downloaded_files.partial_bytes(name) < half:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    hub.release.set()
    hub.requests.clear()
    assert main(["prepare", *climbmix]) == 0
    assert (name, f"bytes={half}-") in hub.requests
    assert downloaded_files.path(name).read_bytes() == hub.files[name]


def test_downloads_are_shown_before_and_after_and_verified(climbmix, tmp_path, capsys):
    def run(command: str, *more: str) -> str:
        assert main([command, *climbmix, *more]) == 0
        return "".join(capsys.readouterr())

    assert main(["show", *climbmix]) == 2
    before = capsys.readouterr()
    assert before.out.startswith("downloads   0 of 2 files, 0.0 MB")
    assert "Run `python -m model.data prepare`" in before.err
    assert "climbmix: 2 of 2 files" in run("prepare")
    shown = run("show", "--rows", "1")
    assert "downloads   2 of 2 files" in shown
    assert "source      climbmix (parquet)" in shown
    assert "ok  source shard_00000.parquet" in run("verify")
    (tmp_path / "cache" / "downloads" / "climbmix" / "shard_00000.parquet").unlink()
    assert "--  source shard_00000.parquet: deleted, its tokens exist" in run("verify")


def test_terminal_sees_a_bar(climbmix):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "model.data", "prepare", *climbmix]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)
    screen = read_to_the_end(ours).decode()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, screen
    assert "climbmix  2/2 files ━━━" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen)
    assert json.loads(output.splitlines()[-1])["train_documents"] == 60


def read_to_the_end(terminal: int) -> bytes:
    """Everything the other side of a terminal wrote until it closed, which Linux reports as EIO."""
    output = b""
    with open(terminal, "rb", buffering=0) as file, contextlib.suppress(OSError):
        while block := file.read(4_096):
            output += block
    return output


def test_show_before_prepare_hints_at_prepare(options):
    done = data("show", *options)
    assert done.returncode == 2
    assert "Run `python -m model.data prepare`" in done.stderr
