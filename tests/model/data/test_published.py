"""Published data sets from server to rows: identity, what is downloaded, what may be deleted."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.config import Config, Data
from model.config.identity import config_id
from model.data.manifest import find_view
from model.data.prepare import open_prepared, prepare
from model.data.settings import DataSettings
from model.data.sources import TRAIN
from model.data.tokenizer import train
from model.errors import DataError

from .conftest import parquet_folder, quiet, sentences, token_file
from .hub import Hub, running

NOWHERE = "http://127.0.0.1:9"  # nothing listens on the discard port
Settings = Callable[..., DataSettings]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """What the hub serves, as a folder: three training files and validation."""
    return parquet_folder(tmp_path / "texts", sizes=(60, 50, 45, 40))


@pytest.fixture
def hub(texts: Path) -> Iterator[Hub]:
    with running() as hub:
        names = ("shard_00000", "shard_00001", "shard_00002", "shard_06542")
        for name, path in zip(names, sorted(texts.iterdir()), strict=True):
            hub.files[f"{name}.parquet"] = path.read_bytes()
        yield hub


def test_climbmix_is_the_folder_of_its_files(hub: Hub, settings: Settings, texts: Path):
    published = prepare(settings("climbmix", train_files=3, mirror=hub.url), quiet)
    folder = prepare(settings(texts), quiet)
    assert published.data_id == folder.data_id
    assert published.rows(TRAIN, 5).sha256(5) == folder.rows(TRAIN, 5).sha256(5)
    assert published.manifest.kind == "parquet"
    assert published.view.train_documents == 155


def test_view_is_found_without_network_and_without_the_downloads(hub: Hub, settings: Settings):
    prepared = prepare(settings("climbmix", train_files=2, mirror=hub.url), quiet)
    offline = settings("climbmix", train_files=2, mirror=NOWHERE)
    assert find_view(offline) == prepared.view
    shutil.rmtree(offline.cache / "downloads")
    assert find_view(offline) == prepared.view
    assert prepare(offline, quiet).data_id == prepared.data_id
    assert prepare(settings("climbmix", train_files=2, mirror=NOWHERE, context_tokens=16), quiet)


def test_other_numbers_of_files_are_other_data_and_each_stays_prepared(
    hub: Hub, settings: Settings
):
    ids = {}
    for files in (2, 3, 1):
        ids[files] = prepare(settings("climbmix", train_files=files, mirror=hub.url), quiet).data_id
    assert len(set(ids.values())) == 3
    for files, data_id in ids.items():
        view = find_view(settings("climbmix", train_files=files))
        assert (view.data_id, view.train_files) == (data_id, files)
    assert len(hub.requests) == 4


def test_a_run_before_prepare_is_refused_with_a_hint(settings: Settings):
    assert find_view(settings("climbmix", train_files=1)) is None
    with pytest.raises(DataError, match="Run `python -m model"):
        open_prepared(settings("climbmix", train_files=1))


def test_folder_of_the_same_name_does_not_take_the_place_of_a_published_name(
    hub: Hub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    parquet_folder(tmp_path / "climbmix")
    prepared = prepare(settings("climbmix", train_files=1, mirror=hub.url), quiet)
    assert prepared.view.train_documents == 60
    assert len(hub.requests) == 2


def test_truncated_shard_that_the_user_copied_is_named(hub: Hub, settings: Settings):
    wanted = settings("climbmix", train_files=1, mirror=hub.url)
    folder = wanted.cache / "downloads" / "climbmix"
    folder.mkdir(parents=True)
    (folder / "shard_00000.parquet").write_bytes(hub.files["shard_00000.parquet"][:-20])
    with pytest.raises(DataError, match=r"shard_00000\.parquet: expected a whole parquet file"):
        prepare(wanted, quiet)
    (folder / "shard_00000.parquet").unlink()
    assert prepare(wanted, quiet).data_id


def test_number_of_files_is_required_and_limited(settings: Settings):
    for files, message in ((None, "got null"), (6_543, "got 6543")):
        with pytest.raises(DataError, match=rf"data\.train_files: expected .*{message}"):
            prepare(settings("climbmix", train_files=files, mirror=NOWHERE), quiet)


def test_fineweb_without_gpt2_is_refused_before_the_download(settings: Settings):
    with pytest.raises(DataError, match=r"data\.tokenizer: expected gpt2.* model\.vocab_size"):
        prepare(settings("fineweb10B", train_files=1, mirror=NOWHERE), quiet)


def test_fineweb_is_the_folder_of_its_files(
    tmp_path: Path, hub: Hub, settings: Settings, gpt2_sized: Path
):
    (tmp_path / "bins").mkdir()
    for name, first in (("fineweb_train_000001", 5), ("fineweb_val_000000", 9)):
        ids = [50_256, first, 2, 3, 4] * 100
        hub.files[f"{name}.bin"] = token_file(tmp_path / "bins" / f"{name}.bin", ids).read_bytes()
    gpt2 = {"vocab_size": 50_257, "tokenizer": str(gpt2_sized), "mirror": hub.url}
    published = prepare(settings("fineweb10B", train_files=1, **gpt2), quiet)
    assert published.data_id == prepare(settings(tmp_path / "bins", **gpt2), quiet).data_id
    assert published.view.train_documents == 100


def test_vocabulary_is_trained_until_so_many_characters_were_read():
    documents = sentences(400)
    read = sum(map(len, documents[:100]))
    cut = train(documents, 300, characters=read - 1)
    assert cut.sha256 == train(documents[:100], 300).sha256
    assert cut.sha256 != train(documents, 300).sha256
    assert train(documents, 300, characters=10**9).sha256 == train(documents, 300).sha256


def test_mirror_and_cache_are_no_part_of_an_identity_but_names_and_files_are():
    def of(**data: object) -> str:
        return config_id(Config(data=Data(**data)))

    climbmix = of(source="climbmix", train_files=8)
    assert of(source="climbmix", train_files=8, mirror=NOWHERE, cache_dir="/x") == climbmix
    others = {
        of(source="climbmix", train_files=9),
        of(source="fineweb10B", train_files=8),
        of(source="/some/folder", train_files=8),
    }
    assert len({climbmix, *others}) == 4
