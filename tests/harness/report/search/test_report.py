"""The files of a search: its report, and patches with the confirmed configuration."""

import html
import json
import subprocess

import pytest

from harness import errors
from harness.report.search.wording import short_names
from harness.runner.replies import Request
from tests.fixtures.faulty_harness import FaultyTrainer

CHOICES = "{bowl.x: {choices: [0.0, 0.6]}, bowl.y: {choices: [0.0, 0.3]}}"
CERTAIN = {  # four points; the best is better by thirty SDs
    "space": CHOICES,
    "sampler": "BruteForceSampler",
    "budget": "{trials: 4}",
    "confirm": "{best: 1, seeds: [101, 102, 103], next: {dial.depth: 3}}",
}


def test_a_winner_is_confirmed_at_two_scales_and_its_patch_gives_its_configuration(
    harness, search_file, store, tmp_path
):
    path = search_file(**CERTAIN)
    done = harness("search", path)
    assert done.returncode == errors.PASS, done.stdout + done.stderr
    found = json.loads((store.report_dir("search", "quick") / "report.json").read_bytes())
    (one,) = found["candidates"]
    assert one["candidate"]["overrides"] == {"bowl.x": 0.6, "bowl.y": 0.3}
    assert one["confirmation"]["confirmed"]
    studies = found["studies"]
    assert one["next"]["study"] == studies["next"]
    assert studies["next"].startswith("quick-next-4-")
    assert one["next"]["confirmed"]
    assert store.study(studies["next"]).arm("base").config["dial"]["depth"] == 3

    page = (store.report_dir("search", "quick") / "report.html").read_text()
    for title in ("held-out seeds", "History", "Importances", "Parallel coordinates", "Slices"):
        assert f">{title}</" in page
    assert f"Confirmed on held-out seeds: trial {one['candidate']['number']}" in page
    assert "default-src 'none'" in html.unescape(page)  # it makes no requests

    (patch,) = store.report_dir("search", "quick").glob("*.patch")
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "apply", patch], cwd=tmp_path, check=True)
    text = (tmp_path / "base.yaml").read_text()
    assert "# a comment that has to stay" in text
    assert "# val_bpb on seeds 101, 102, 103: -" in text
    (description,) = FaultyTrainer().describe(
        [Request(name="", base=str(tmp_path / "base.yaml"), set={})]
    )
    arm = store.study(studies["confirm"]).arm(f"trial_{one['candidate']['number']}")
    assert description.config == arm.config


def test_the_result_and_the_plan_are_printed_as_json(harness, search_file, store):
    path = search_file(budget="{trials: 1}", confirm="null")
    plan = json.loads(harness("search", path, "--dry-run", "--json").stdout)
    assert plan["blocked"] == []
    assert plan["parameters"] == ["bowl.x", "bowl.y"]
    printed = json.loads(harness("search", path, "--no-html", "--json").stdout)
    assert printed["exit_code"] == errors.PASS
    assert printed["answer"].startswith("quick: Confirmation is disabled")
    written = (store.report_dir("search", "quick") / "report.json").read_bytes()
    assert printed["result"] == json.loads(written)


def test_an_optuna_dashboard_reads_the_same_storage(harness, search_file, store):
    import optuna_dashboard
    from bottle import json_dumps

    from harness.search import storage

    harness("search", search_file(budget="{trials: 1}", confirm="null"), "--no-html")
    with storage.open_storage(storage.storage_url(store, "quick", None)) as opened:
        app = optuna_dashboard.wsgi(opened)
        statuses = []
        body = app(
            {
                "REQUEST_METHOD": "GET",
                "PATH_INFO": "/api/studies",
                "SERVER_NAME": "here",
                "SERVER_PORT": "80",
                "wsgi.url_scheme": "http",
                "wsgi.input": None,
                "wsgi.errors": None,
            },
            lambda status, headers, *_: statuses.append(status),
        )
        text = b"".join(body).decode()
    assert json_dumps("quick") in text
    assert statuses == ["200 OK"]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["a.lr", "b.decay"], ["lr", "decay"]),
        (["o.muon.lr", "o.head.lr", "x"], ["muon.lr", "head.lr", "x"]),
        (["lr", "a.lr"], ["lr", "a.lr"]),
    ],
)
def test_paths_are_shortened_to_their_shortest_unique_ending(names, shown):
    assert list(short_names(names).values()) == shown
