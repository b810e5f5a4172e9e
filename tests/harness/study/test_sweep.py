"""The points of a sweep and the choice from them."""

from harness.config.study_file import RetuneFile
from harness.study.sweep import arm_name, choose, combinations

GRID = RetuneFile(values={"o.lr": [0.01, 0.03, 0.1], "o.beta": [0.9, 0.99]}, seeds=[7, 8])


def test_every_combination_is_a_point_once():
    points = combinations(GRID)
    assert len(points) == 6
    assert len({tuple(point.values()) for point in points}) == 6


def test_the_best_mean_wins_and_an_edge_is_flagged():
    results = [
        (point, [1 + abs(point["o.lr"] - 0.03) + point["o.beta"], 1.0])
        for point in combinations(GRID)
    ]
    chosen = choose(GRID, results)
    assert chosen["o.lr"].value == 0.03
    assert not chosen["o.lr"].at_edge
    assert chosen["o.beta"].value == 0.9
    assert chosen["o.beta"].at_edge
    assert set(chosen["o.lr"].tried) == {"0.01", "0.03", "0.1"}


def test_a_combination_that_did_not_finish_at_every_seed_is_not_chosen():
    results = [
        ({"o.lr": 0.01, "o.beta": 0.9}, [0.1, None]),
        ({"o.lr": 0.1, "o.beta": 0.9}, [2.0, 2.2]),
    ]
    assert choose(GRID, results)["o.lr"].value == 0.1


def test_without_a_finished_combination_nothing_is_chosen():
    assert choose(GRID, [({"o.lr": 0.01, "o.beta": 0.9}, [None, None])]) == {}


def test_values_without_an_order_have_no_edge():
    grid = RetuneFile(values={"kind": ["a", None, "b"]}, seeds=[1])
    assert not choose(grid, [({"kind": "a"}, [1.0])])["kind"].at_edge


def test_names_are_short_and_distinguish_arms():
    assert arm_name("no_muon", "muon", {"o.adamw.lr": 0.01}) == "retune:muon:lr=0.01"
    assert arm_name("with_muon", "muon", {"lr": 1}) == "retune:with_muon:lr=1"
