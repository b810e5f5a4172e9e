"""Text, tokens and configurations of any content: documents, or an error that names the place."""

import contextlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.config.reader import load_config, parse_overrides
from model.data.documents import held_out_threshold, read_part
from model.data.sources import describe_source
from model.errors import DataError, ModelError
from tests.fixtures.damaged import ODD, damaged

from .conftest import sentences, token_file

JSONL = "".join(f'{{"text": "{text}"}}\n' for text in sentences(4))
CONFIG = "dial: {depth: 2, steps: 20}\nmodel:\n  width: 64\n  vocab_size: 1024\ndata: python-docs\n"
bounded = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("suffix", ["jsonl", "txt"])
@bounded
@given(data=damaged(JSONL))
def test_text_of_any_bytes_is_refused_by_place_or_read(tmp_path, suffix, data):
    check_folder(tmp_path / "text", suffix, data)


@pytest.mark.parametrize("suffix", ["parquet", "bin"])
@bounded
@given(data=st.data())
def test_binary_files_of_any_bytes_are_refused_by_place_or_read(tmp_path, suffix, data):
    if suffix == "bin":
        whole = token_file(tmp_path / "whole.bin", [50_256, 1, 2, 50_256, 3]).read_bytes()
    else:
        buffer = io.BytesIO()
        pq.write_table(pa.table({"text": sentences(4)}), buffer)
        whole = buffer.getvalue()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    check_folder(tmp_path / "text", suffix, bytes(content[:length]))


def check_folder(folder, suffix, data):
    folder.mkdir(exist_ok=True)
    (folder / f"a.{suffix}").write_bytes(data)
    (folder / f"b.{suffix}").write_bytes(data)
    with contextlib.suppress(DataError):
        source = describe_source(str(folder))
        threshold = held_out_threshold(source)
        for part in source.parts():
            for chunk in read_part(source, part, threshold):
                for document in chunk.documents:
                    assert isinstance(document, (str, np.ndarray))


@bounded
@given(data=damaged(CONFIG))
def test_a_configuration_of_any_bytes_is_refused_or_resolved(tmp_path, data):
    path = tmp_path / "config.yaml"
    path.write_bytes(data)
    with contextlib.suppress(ModelError):
        assert isinstance(load_config(path, {}).data.source, str)


@bounded
@given(field=st.sampled_from(("dial.depth", "data.source", "seed", "x")), text=st.sampled_from(ODD))
def test_an_override_of_any_text_is_refused_or_resolved(tmp_path, field, text):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    with contextlib.suppress(ModelError):
        found = load_config(path, parse_overrides([f"{field}={text}"]))
        assert isinstance(found.data.source, str)
