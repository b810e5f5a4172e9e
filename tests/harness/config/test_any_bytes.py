"""YAML files and options of any content: what follows the schema, or an error with a hint."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.config.cluster_file import ClusterFile, load_cluster
from harness.config.full_file import FullFile, load_full
from harness.config.search_file import SearchFile, load_search
from harness.config.study_file import StudyFile, load_study
from harness.config.yaml_schema import parse_seeds, parse_sets
from harness.errors import HarnessError
from tests.fixtures.damaged import ODD, damaged

ABLATIONS = Path(__file__).parents[3] / "ablations"
STUDY = (ABLATIONS / "studies/fake.yaml").read_text()
SEARCH = (ABLATIONS / "searches/fake.yaml").read_text()
FULL = (ABLATIONS / "full/fake.yaml").read_text()
CLUSTER = (ABLATIONS / "clusters/slurm.yaml").read_text()
BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}]\n"
    for before, name in zip("abcdefghijklmnopqrst", "bcdefghijklmnopqrstu", strict=True)
)
KINDS = (
    (load_study, StudyFile, STUDY),
    (load_search, SearchFile, SEARCH),
    (load_full, FullFile, FULL),
    (load_cluster, ClusterFile, CLUSTER),
)
bounded = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize(
    ("load", "kind", "text"), KINDS, ids=["study", "search", "full", "cluster"]
)
@bounded
@given(data=st.data())
def test_a_file_of_any_bytes_is_refused_or_follows_its_schema(tmp_path, load, kind, text, data):
    path = tmp_path / "a.yaml"
    path.write_bytes(data.draw(damaged(text, text + BOMB)))
    with contextlib.suppress(HarnessError):
        found = load(path)
        assert isinstance(found[0] if isinstance(found, tuple) else found, kind)


@settings(bounded, max_examples=100)
@given(text=st.one_of(st.sampled_from(ODD), st.text(max_size=8)), field=st.sampled_from("ab"))
def test_an_option_of_any_text_is_refused_or_parsed(text, field):
    with contextlib.suppress(HarnessError):
        assert parse_sets([f"{field}={text}"]).keys() == {field}
    with contextlib.suppress(HarnessError):
        assert all(seed >= 0 for seed in parse_seeds(text, "--seeds"))
