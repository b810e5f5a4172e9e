"""The published bundle from a server: taken as published, or not at all."""

import io
import zipfile
from pathlib import Path

import pytest

from model.core.bundle import Bundle
from model.core.fetch import published_bundle
from model.core.published import ARCHIVE, SHA256, TASKS
from model.data.download import RetryPolicy
from model.errors import DataError

from ..data.hub import running

QUICK = RetryPolicy(attempts=2, first_pause_s=0.001)


def archive(bundle: Path, changed: str = "") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as written:
        for name in SHA256:
            data = (bundle / "eval_data" / name).read_bytes()
            written.writestr(f"eval_bundle/eval_data/{name}", data + b" " * (name == changed))
        written.writestr("eval_bundle/core.yaml", "icl_tasks: []")
    return content.getvalue()


def test_the_bundle_is_downloaded_once_and_is_the_published_one(
    real_bundle: Path, tmp_path: Path
) -> None:
    with running() as hub:
        hub.files[ARCHIVE] = archive(real_bundle)
        url, lines = f"{hub.url}/{ARCHIVE}", []
        bundle = Bundle(published_bundle(tmp_path, lines.append, url, QUICK))
        requests = len(hub.requests)
        published_bundle(tmp_path, lines.append, url, QUICK)
        assert len(hub.requests) == requests
    assert bundle.tasks == TASKS
    assert bundle.sha256 == Bundle(real_bundle).sha256


def test_an_archive_with_another_file_is_refused(real_bundle: Path, tmp_path: Path) -> None:
    with running() as hub:
        name = "world_knowledge/arc_easy.jsonl"
        hub.files[ARCHIVE] = archive(real_bundle, changed=name)
        with pytest.raises(DataError, match=rf"{name} of SHA-256 {SHA256[name]}"):
            published_bundle(tmp_path, print, f"{hub.url}/{ARCHIVE}", QUICK)


def test_without_network_the_hint_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"core\.bundle: .*no connection.*Set core\.bundle to a fo"):
        published_bundle(tmp_path, print, f"http://127.0.0.1:9/{ARCHIVE}", QUICK)
