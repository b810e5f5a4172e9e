"""What a machine lacks, and the remedy for it."""

from harness.doctor import Finding, examine
from harness.trainer import FakeTrainer, NativeTrainer


def test_a_remedy_is_printed_as_it_must_be_typed():
    lacking = Finding(name="x", good=False, detail="none", remedy="pip install '.[train]'")
    assert lacking.line() == "MISSING  x: none\n         -> pip install '.[train]'"
    assert "->" not in Finding(name="x", good=True, detail="there", remedy="no need").line()
    assert Finding(name="x", good=False, detail="", needed=False).line().startswith("missing")


def test_everything_that_is_missing_has_a_remedy(tmp_path):
    findings = examine(tmp_path / "runs", FakeTrainer())
    assert all(finding.remedy for finding in findings if not finding.good)
    names = [finding.name for finding in findings]
    for name in ("Python", "core packages", "extra train", "trainer", "GPUs", "store", "disk"):
        assert name in names
    assert not (tmp_path / "runs").exists()


def test_a_missing_trainer_and_a_store_in_the_way_are_findings(tmp_path):
    (tmp_path / "runs").write_text("a file")
    findings = {f.name: f for f in examine(tmp_path / "runs", NativeTrainer(tmp_path))}
    assert not findings["trainer"].good
    assert findings["trainer"].needed
    assert not findings["store"].good
    assert "--store" in findings["store"].remedy
