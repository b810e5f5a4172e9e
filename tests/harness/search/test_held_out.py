"""The confirmation of complete searches: stopped, changed, with a candidate that fails."""

import json

import pytest

from harness import errors

CERTAIN = {  # two points; one is better by thirty SDs
    "space": "{bowl.x: {choices: [0.0, 0.6]}}",
    "sampler": "BruteForceSampler",
    "budget": "{trials: 2}",
}
LATE = ("--max-minutes", "0.0001")


@pytest.fixture
def search(harness, search_file, store):
    """Runs the certain search; returns the process, report.json and the names of patches."""

    def run(confirm, *options, **parts):
        path = search_file(**{**CERTAIN, **parts}, confirm=confirm)
        done = harness("search", path, "--no-html", *options)
        folder = store.report_dir("search", "quick")
        found = json.loads((folder / "report.json").read_bytes())
        return done, found, [path.name for path in folder.glob("*.patch")]

    return run


@pytest.mark.slow
def test_a_stopped_confirmation_keeps_the_previous_one_and_a_complete_one_replaces_its_patch(
    search,
):
    done, first, patches = search("{best: 1, seeds: [101, 102]}")
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert patches
    done, found, kept = search("{best: 1, seeds: [103, 104, 105]}", *LATE)
    assert done.returncode != errors.PASS
    assert found["candidates"] == first["candidates"]
    assert "Confirmed on held-out seeds: trial" in done.stdout
    assert kept == patches

    done, found, kept = search("{best: 1, seeds: [101, 102], next: {dial.depth: 3}}", *LATE)
    assert done.returncode != errors.PASS
    assert "Confirmed on held-out seeds, next scale not run yet: trial" in done.stdout
    assert found["candidates"][0]["next_missing"] == "next scale not run yet"
    assert kept == []


@pytest.mark.slow
def test_another_rule_makes_another_study_and_the_patch_names_its_seeds(search, store):
    search("{best: 1, seeds: [101, 102]}")
    for confirm in ("{best: 1, seeds: [101, 102], alpha: 0.2}", "{best: 1, seeds: [103, 104]}"):
        done, found, (patch,) = search(confirm)
        assert done.returncode == errors.PASS, done.stdout + done.stderr
        seeds = store.study(found["studies"]["confirm"]).seeds
        text = (store.report_dir("search", "quick") / patch).read_text()
        assert f"on seeds {', '.join(map(str, seeds))}:" in text
    assert seeds == [103, 104]
    assert len(store.study_names()) == 3


@pytest.mark.slow
def test_a_candidate_that_fails_does_not_prevent_others_from_being_confirmed(search):
    space = "{bowl.x: {choices: [0.0, 0.6]}, fail.crash_at_step: {choices: [null, 3]}}"
    done, found, patches = search(
        "{best: 2, seeds: [101, 102, 103]}",
        space=space,
        set="{fail.at_seeds: [102]}",
        budget="{trials: 4}",
    )
    assert done.returncode == errors.COULD_NOT_RUN
    assert "have no outcome" in done.stdout
    reasons = {
        one["candidate"]["overrides"]["fail.crash_at_step"]: one["confirmation"]["reason"]
        for one in found["candidates"]
    }
    assert reasons == {None: "", 3: "2 of 3 runs completed"}
    assert len(patches) == 1


def test_a_base_that_cannot_be_patched_is_still_reported(search, search_file):
    folded = "plant: {loss: 0.0,\n  skill: 0.0}\n"
    done, found, patches = search("{best: 1, seeds: [101, 102]}", added=folded)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert found["candidates"][0]["confirmation"]["confirmed"]
    assert "No patch of trial_" in done.stdout
    assert patches == []


def test_a_search_whose_trials_all_exceed_a_bound_reports_it(search):
    done, _, _ = search("{best: 1, seeds: [101, 102]}", constraints="{val_loss: {at_most: 0.01}}")
    assert "No trial keeps every bound: 2 completed trials exceed one." in done.stdout


def test_a_confirmation_in_another_store_is_reported_as_such(search, store):
    _, found, _ = search("{best: 1, seeds: [101, 102]}")
    store.study_path(found["studies"]["confirm"]).unlink()
    done, _, _ = search("{best: 1, seeds: [101, 102]}", "--report")
    assert "The confirmation is in another store (quick-confirm-2-" in done.stdout
