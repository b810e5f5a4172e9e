"""What a search leaves: its report, and patches that give what was confirmed."""

import json
import subprocess

import pytest

from harness import errors
from harness.report.search.terminal import short_names
from harness.runner.trainer import FakeTrainer, Request

CHOICES = "{bowl.x: {choices: [0.0, 0.6]}, bowl.y: {choices: [0.0, 0.3]}}"
CERTAIN = {  # four points, of which the best is better by thirty SDs
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
    (claim,) = found["claims"]
    assert claim["pick"]["overrides"] == {"bowl.x": 0.6, "bowl.y": 0.3}
    assert claim["confirm"]["survives"]
    looks = found["looks"]
    assert claim["next"]["study"] == looks["next"]
    assert looks["next"].startswith("quick-next-4-")
    assert claim["next"]["survives"]
    assert store.study(looks["next"]).arm("base").config["dial"]["depth"] == 3

    page = (store.report_dir("search", "quick") / "report.html").read_text()
    for title in ("The second look", "History", "Importances", "Parallel coordinates", "Slices"):
        assert f"<h2>{title}</h2>" in page
    assert f"Confirmed: trial {claim['pick']['number']}" in page
    assert "default-src 'none'" in page  # it asks the network for nothing

    (patch,) = store.report_dir("search", "quick").glob("*.patch")
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "apply", patch], cwd=tmp_path, check=True)
    text = (tmp_path / "base.yaml").read_text()
    assert "# a comment that has to stay" in text
    assert "# val_bpb on the seeds 101, 102, 103: -" in text
    (said,) = FakeTrainer().describe([Request(name="", base=str(tmp_path / "base.yaml"), set={})])
    arm = store.study(looks["confirm"]).arm(f"trial_{claim['pick']['number']}")
    assert said.config == arm.config


def test_an_optuna_dashboard_reads_the_same_storage(harness, search_file, store):
    import optuna_dashboard
    from bottle import json_dumps

    from harness.search import storage

    harness("search", search_file(budget="{trials: 1}", confirm="{best: 0}"), "--no-html")
    with storage.open_storage(storage.url_of(store, "quick", None)) as opened:
        app = optuna_dashboard.wsgi(opened)
        told = []
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
            lambda status, headers, *_: told.append(status),
        )
        text = b"".join(body).decode()
    assert json_dumps("quick") in text
    assert told == ["200 OK"]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["a.lr", "b.decay"], ["lr", "decay"]),
        (["o.muon.lr", "o.head.lr", "x"], ["muon.lr", "head.lr", "x"]),
        (["lr", "a.lr"], ["lr", "a.lr"]),
    ],
)
def test_a_path_is_shortened_as_far_as_it_stays_the_only_one(names, shown):
    assert list(short_names(names).values()) == shown
