"""Adapters of trainers, and the errors for a missing or wrong trainer."""

import os

import pytest

from harness.errors import StudyFileError, TrainerError
from harness.runner.replies import Request
from harness.runner.trainer import FakeTrainer, NativeTrainer, default_checkout, with_value

FAKE = FakeTrainer()
DESCRIBE = """
import json, sys, pathlib
if "--catalogue" in sys.argv:
    print(json.dumps({"tricks": {}, "settable_fields": {}}))
else:
    print(json.dumps([{"name": r["name"], "package": str(pathlib.Path(__file__).parent)}
                      for r in json.load(sys.stdin)]))
"""


def package(folder, **files: str):
    """A package called `model` with these files."""
    (folder / "model").mkdir(parents=True)
    for name, text in {"__init__": "", **files}.items():
        (folder / "model" / f"{name}.py").write_text(text)
    return folder


def ask(trainer):
    return trainer.describe([Request(name="a", base=None, set={})])


def test_one_process_describes_everything_in_order():
    requests = [Request(name=str(n), base=None, set={"dial.depth": n}) for n in range(1, 51)]
    replies = FAKE.describe(requests)
    assert [reply.name for reply in replies] == [str(n) for n in range(1, 51)]
    assert replies[4].config["dial"]["depth"] == 5


def test_describe_returns_faults_and_describe_or_fail_raises_them():
    bad = Request(name="bad", base=None, set={"dial.depht": 3})
    assert FAKE.describe([bad])[0].errors[0].path == "dial.depht"
    with pytest.raises(StudyFileError, match="Did you mean 'depth'"):
        FAKE.describe_or_fail([bad])


def test_the_error_for_a_checkout_without_a_trainer_names_it(tmp_path):
    with pytest.raises(TrainerError) as caught:
        ask(NativeTrainer(tmp_path))
    assert str(tmp_path / "model") in caught.value.expected


def test_the_error_for_another_package_of_that_name_has_both_paths(tmp_path, monkeypatch):
    other = package(tmp_path / "other")
    (tmp_path / "checkout").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(other))
    with pytest.raises(TrainerError) as caught:
        ask(NativeTrainer(tmp_path / "checkout"))
    assert str(tmp_path / "checkout" / "model") in caught.value.expected
    assert str(other / "model") in caught.value.got
    assert "PYTHONPATH" in caught.value.hint


def test_the_error_for_another_trainer_of_that_name_has_both_paths(tmp_path, monkeypatch):
    own = package(tmp_path / "own", describe=DESCRIBE)
    other = package(tmp_path / "other", describe=DESCRIBE)
    assert ask(NativeTrainer(own))[0].package == str(own / "model")
    monkeypatch.setenv("PYTHONPATH", str(other))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    with pytest.raises(TrainerError) as caught:
        ask(NativeTrainer(own))
    assert str(own / "model") in caught.value.expected
    assert str(other / "model") in caught.value.got


@pytest.mark.parametrize(
    "code", ["print('hello')", "raise SystemExit(3)", "print('[]')", "print('[{\"name\": 3}]')"]
)
def test_a_reply_that_breaks_the_contract_is_an_error(tmp_path, code):
    with pytest.raises(TrainerError):
        ask(NativeTrainer(package(tmp_path, describe=code)))


def test_data_that_cannot_be_prepared_is_an_error(tmp_path):
    trainer = NativeTrainer(package(tmp_path, data="raise SystemExit(2)"))
    with pytest.raises(TrainerError, match="exit code 2"):
        trainer.prepare({})


def test_prepare_returns_the_data_id(tmp_path):
    code = 'print(\'noise\'); print(\'{"data_id": "abc", "path": "x"}\')'
    assert NativeTrainer(package(tmp_path, data=code)).prepare({"a": 1}) == "abc"


def test_with_value_sets_a_dotted_path_in_a_copy():
    config = {"a": {"b": 1}, "seed": 0}
    assert with_value(config, "a.b", 2) == {"a": {"b": 2}, "seed": 0}
    assert with_value(config, "c.d", 3)["c"] == {"d": 3}
    assert config == {"a": {"b": 1}, "seed": 0}


def test_the_default_checkout_is_the_working_directory_or_this_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert os.path.samefile(
        default_checkout() / "harness", os.path.dirname(__import__("harness").__file__)
    )
    package(tmp_path, describe=DESCRIBE)
    (tmp_path / "harness").mkdir()
    assert default_checkout() == tmp_path


def test_torchrun_starts_several_ranks_and_one_rank_starts_directly(tmp_path):
    trainer = NativeTrainer(tmp_path)
    alone = trainer.train_command(tmp_path / "c", tmp_path)
    four = trainer.train_command(tmp_path / "c", tmp_path, 4)
    assert alone[1:3] == ["-m", "model.train"]
    assert four[1:3] == ["-m", "torch.distributed.run"]
    assert four[four.index("--nproc-per-node") + 1] == "4"
    assert four[four.index("model.train") - 1 :] == alone[1:]


def test_another_launcher_starts_the_ranks_of_every_verb(tmp_path):
    trainer = NativeTrainer(tmp_path)
    trainer.launcher = lambda python, arguments, ranks: ["srun", arguments[0], str(ranks)]
    for name, verb in (("train", "train"), ("pace", "pace"), ("probe", "doctor")):
        command = getattr(trainer, f"{name}_command")
        assert command(tmp_path / "c", tmp_path, 2) == ["srun", f"model.{verb}", "2"]
