"""Checks of a machine, and hints for what is missing."""

from harness.cli.doctor import DoctorCheck, _gpus, examine
from harness.runner.trainer import FakeTrainer, NativeTrainer


def test_a_hint_is_printed_as_it_must_be_typed():
    lacking = DoctorCheck(
        name="x", good=False, detail="none", hint="pip install 'speedrun-harness[train]'"
    )
    assert lacking.line() == "MISSING  x: none\n         -> pip install 'speedrun-harness[train]'"
    assert "->" not in DoctorCheck(name="x", good=True, detail="there", hint="no need").line()
    assert DoctorCheck(name="x", good=False, detail="", needed=False).line().startswith("missing")


def test_everything_that_is_missing_has_a_hint(tmp_path):
    findings = examine(tmp_path / "runs", FakeTrainer())
    assert all(finding.hint for finding in findings if not finding.good)
    names = [finding.name for finding in findings]
    for name in ("Python", "core packages", "extra train", "trainer", "GPUs", "store", "disk"):
        assert name in names
    assert not (tmp_path / "runs").exists()


def test_a_missing_trainer_and_an_unwritable_store_fail_their_checks(tmp_path):
    (tmp_path / "runs").write_text("a file")
    findings = {f.name: f for f in examine(tmp_path / "runs", NativeTrainer(tmp_path))}
    assert not findings["trainer"].good
    assert findings["trainer"].needed
    assert not findings["store"].good
    assert "--store" in findings["store"].hint


def test_a_gpu_in_use_fails_its_check_with_the_trainers_hint():
    gpu = {"name": "H100", "memory_bytes": 80 * 2**30}
    assert _gpus([{**gpu, "faults": []}]).good
    finding = _gpus([gpu, {**gpu, "faults": [{"got": "process 7", "hint": "End it."}]}])
    assert not finding.good
    assert finding.detail == "H100 (80 GiB), H100 (80 GiB); process 7"
    assert finding.hint == "End it."
