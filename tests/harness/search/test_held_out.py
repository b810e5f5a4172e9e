"""The second look of whole searches: stopped, changed, with a candidate that breaks."""

import json

import pytest

from harness import errors

CERTAIN = {  # two points, of which one is better by thirty SDs
    "space": "{bowl.x: {choices: [0.0, 0.6]}}",
    "sampler": "BruteForceSampler",
    "budget": "{trials: 2}",
}
LATE = ("--max-minutes", "0.0001")


@pytest.fixture
def search(harness, search_file, store):
    """Makes the certain search with a rule for its second look; gives end, claims and patches."""

    def make(confirm, *words, **parts):
        path = search_file(**{**CERTAIN, **parts}, confirm=confirm)
        done = harness("search", path, "--no-html", *words)
        folder = store.report_dir("search", "quick")
        found = json.loads((folder / "report.json").read_bytes())
        return done, found, [path.name for path in folder.glob("*.patch")]

    return make


def test_a_stopped_look_leaves_the_one_before_as_it_was_and_a_finished_one_takes_its_patch_away(
    search,
):
    done, first, patches = search("{best: 1, seeds: [101, 102]}")
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert patches
    done, found, kept = search("{best: 1, seeds: [103, 104, 105]}", *LATE)
    assert done.returncode != errors.PASS
    assert found["claims"] == first["claims"]
    assert "Confirmed: trial" in done.stdout
    assert kept == patches

    done, found, kept = search("{best: 1, seeds: [101, 102], next: {dial.depth: 3}}", *LATE)
    assert done.returncode != errors.PASS
    assert "Confirmed, next scale not made yet: trial" in done.stdout
    assert found["claims"][0]["lacks"] == "next scale not made yet"
    assert kept == []


def test_another_rule_makes_another_study_and_the_patch_tells_the_seeds_of_its_own(search, store):
    search("{best: 1, seeds: [101, 102]}")
    for confirm in ("{best: 1, seeds: [101, 102], alpha: 0.2}", "{best: 1, seeds: [103, 104]}"):
        done, found, (patch,) = search(confirm)
        assert done.returncode == errors.PASS, done.stdout + done.stderr
        seeds = store.study(found["looks"]["confirm"]).seeds
        text = (store.report_dir("search", "quick") / patch).read_text()
        assert f"on the seeds {', '.join(map(str, seeds))}:" in text
    assert seeds == [103, 104]
    assert len(store.study_names()) == 3


def test_one_candidate_that_fails_does_not_keep_the_others_from_being_confirmed(search):
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
        claim["pick"]["overrides"]["fail.crash_at_step"]: claim["confirm"]["reason"]
        for claim in found["claims"]
    }
    assert reasons == {None: "", 3: "2 of 3 runs completed"}
    assert len(patches) == 1


def test_a_base_that_cannot_be_patched_is_reported_all_the_same(search, search_file):
    folded = "plant: {loss: 0.0,\n  skill: 0.0}\n"
    done, found, patches = search("{best: 1, seeds: [101, 102]}", added=folded)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    assert found["claims"][0]["confirm"]["survives"]
    assert "No patch of trial_" in done.stdout
    assert patches == []


def test_the_trials_of_a_search_in_which_all_break_a_bound_are_said_to(search):
    done, _, _ = search("{best: 1, seeds: [101, 102]}", constraints="{val_loss: {at_most: 0.01}}")
    assert "No trial kept every bound: all 2 with a value are beyond one." in done.stdout


def test_a_second_look_that_another_store_has_is_said_to_lie_there(search, store):
    _, found, _ = search("{best: 1, seeds: [101, 102]}")
    store.study_path(found["looks"]["confirm"]).unlink()
    done, _, _ = search("{best: 1, seeds: [101, 102]}", "--report")
    assert "The second look lies in another store (quick-confirm-2-" in done.stdout
