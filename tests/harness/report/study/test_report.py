"""The report in every format: the same numbers everywhere, nothing loaded from outside."""

import csv
import html
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from harness.errors import DiskError, ReportError, StoreError
from harness.report.chart import HELPS, HURTS, NOISE
from harness.report.export import document_json
from harness.report.html import POLICY, as_html
from harness.report.markdown import as_markdown
from harness.report.study import phrases
from harness.report.study.charts import panels, throughput
from harness.report.study.content import load
from harness.report.study.document import build
from harness.report.study.export import as_csv
from harness.report.study.files import write_files, write_picture
from harness.report.terminal import print_document
from harness.results.store import Store

NAME = "synthetic"


@pytest.fixture
def store(synthetic, tmp_path):
    return synthetic().save(tmp_path / "store")


def _terminal(store) -> str:
    console = Console(width=220, file=io.StringIO(), color_system=None)
    print_document(console, _document(store))
    return console.file.getvalue()


def _document(store):
    return build(load(store, NAME))


def _page(store) -> str:
    return as_html(_document(store))


def _rows(text: str) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["arm"], row["metric"]): row for row in csv.DictReader(io.StringIO(text))}


def test_the_answer_comes_first_and_begins_with_the_toy_scale_warning(store) -> None:
    warning = "Toy scale: this is no evidence about GPT-2 scale. "
    answer = _terminal(store).splitlines()[0]
    assert answer.startswith(warning)
    assert "2 of 4 arms differ from the base in validation bits per byte" in answer
    assert "the largest difference is muon removed, +0.0342 [+0.0319, +0.0366]." in answer
    assert as_markdown(_document(store)).startswith(f"### {warning}")
    assert f'<p class="answer neutral">{warning}' in _page(store)


def test_json_csv_and_terminal_carry_the_same_numbers(store) -> None:
    content = load(store, NAME)
    rows, shown = _rows(as_csv(content)), _terminal(store)
    document = json.loads(document_json(build(content)))["attribution"]
    for arm in document["arms"]:
        for metric in ("val_bpb", "tokens_per_s"):
            row, effect = rows[arm["name"], metric], arm["effects"][metric]
            for key in ("estimate", "low", "high", "p", "minimum_detectable"):
                assert float(row[key]) == effect[key]
            estimate, interval = re.fullmatch(r"(.*?) (\[.*\])", row["shown"]).groups()
            assert estimate in shown
            assert interval in shown
        total = rows[arm["name"], "time_total"]
        assert float(total["estimate"]) == arm["time_to_target"]["total"]["estimate"]
        assert total["shown"].split(" %")[0] in shown


def test_printed_parts_of_the_time_to_target_add_exactly(store) -> None:
    for arm in load(store, NAME).attribution.arms:
        numbers = phrases.parts(arm.time_to_target).replace("\N{MINUS SIGN}", "-")
        total, parts = numbers.split(" = ")
        first, sign, second = parts.split(" ")
        assert round(float(first) + float(sign + second), 4) == float(total)


def test_an_effect_beyond_the_horizons_is_reported_as_a_limit(synthetic, tmp_path) -> None:
    store = synthetic(true={"no_muon": (0.2, 0.0), "no_windows": (-0.2, 0.0)}, speed_sd=0.0).save(
        tmp_path / "store"
    )
    shown = _terminal(store)
    assert "> +41 %" in shown
    assert "< \N{MINUS SIGN}29 %" in shown
    assert shown.count("outside the measured range") == 2
    assert "outside the measured range" in _page(store)


class _Loads(HTMLParser):
    """Collects every attribute by which a page loads or leads to something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"src", "href", "srcset", "action", "data", "poster", "background"}
        self.found += [f"{tag} {name}={value}" for name, value in attrs if name in names]
        if tag in {"link", "iframe", "object", "embed", "base", "img"}:
            self.found.append(tag)


def test_the_html_loads_nothing_from_outside(store) -> None:
    text = _page(store)
    parser = _Loads()
    parser.feed(text)
    assert parser.found == []
    assert f'content="{POLICY}"' in html.unescape(text)
    assert "default-src 'none'" in POLICY
    assert "<script" not in text
    described = re.sub(r"<metadata>.*?</metadata>| xmlns(:\w+)?=\"[^\"]*\"", "", text, flags=re.S)
    assert "://" not in described  # names in an SVG's metadata and namespaces are not loaded
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(text) < 1_500_000


def test_the_html_shows_every_part(store) -> None:
    text = _page(store)
    for heading in (
        "What changes when a trick is removed",
        "Against tokens",
        "Against training time",
        "Throughput by arm and block",
        "No-effect tricks",
        "Difference from the base at the same tokens",
        "All 21 runs",
        "Environments",
        "Configurations",
        "How the numbers are made",
    ):
        assert re.search(f">{heading}</(h|summary)", text)
    assert text.count("<svg") == 5
    assert "optimizer.matrices.kind" in text  # the difference of no_muon against the base
    assert "own rule: 310" in text


def test_html_escapes_what_people_wrote(synthetic, tmp_path) -> None:
    study = synthetic(horizons=(1.0,))
    study.edit_study(question="Does <script>alert(1)</script> & [bold]help[/bold]?")
    store = study.save(tmp_path / "store")
    text = _page(store)
    assert "<script>alert(1)" not in text
    assert "[bold]help[/bold]" in _terminal(store)


def test_failures_and_gaps_are_reported_in_every_form(synthetic, tmp_path) -> None:
    study = synthetic(seeds=(1, 2))
    study.edit(lambda r: r.launch.arm == "no_muon", status="diverged", reason="loss [nan] at 9")
    study.records = [r for r in study.records if not (r.launch.arm == "no_windows" and r.seed == 2)]
    store = study.save(tmp_path / "store")
    content = load(store, NAME)
    document = build(content)
    formats = [render(document) for render in (as_html, as_markdown, document_json)]
    for text in (_terminal(store), *formats):
        assert "2 diverged (loss [nan] at 9)" in text
        assert "one run: a second seed gives an interval" in text
    assert "2 diverged" in _rows(as_csv(content))["no_muon", "val_bpb"]["missing"]
    assert "11 of 14 runs completed" in _terminal(store)


def test_a_study_that_has_not_begun_can_be_reported(synthetic, tmp_path) -> None:
    study = synthetic()
    study.records = []
    store = study.save(tmp_path / "store")
    assert "0 of 21 runs completed" in _terminal(store)
    assert "No run left a curve" in _page(store)
    picture = write_picture(load(store, NAME), tmp_path / "bars.png")
    assert picture.stat().st_size > 0


def test_the_files_go_to_the_store(store) -> None:
    content = load(store, NAME)
    written = write_files(content, build(content))
    folder = store.report_dir("study", NAME)
    assert written == {kind: folder / f"report.{kind}" for kind in ("json", "csv", "html")}
    assert all(path.stat().st_size > 500 for path in written.values())


def test_the_files_go_to_other_paths_on_request(store, tmp_path) -> None:
    content = load(store, NAME)
    paths = {"json": tmp_path / "a.json", "csv": tmp_path / "a.csv"}
    written = write_files(content, build(content), **paths, skip_html=True)
    assert written == paths


def test_without_matplotlib_the_page_has_no_charts_and_a_picture_is_refused(
    store, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    text = _page(store)
    assert "matplotlib is not installed" in text
    assert "<svg" not in text
    with pytest.raises(ReportError, match="speedrun-harness"):
        write_picture(load(store, NAME), tmp_path / "bars.png")


def test_an_unknown_study_is_an_error_that_names_the_known_ones(store) -> None:
    with pytest.raises(StoreError, match="these studies: synthetic"):
        load(store, "smoke")


def test_the_picture_is_a_png(store, tmp_path) -> None:
    path = write_picture(load(store, NAME), tmp_path / "bars.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_bars_are_sorted_by_what_helps_and_coloured_by_meaning(store) -> None:
    time, bpb, speed = panels(load(store, NAME))
    assert [bar.label for bar in bpb.bars][:2] == ["muon", "value_embeddings"]
    assert (bpb.bars[0].colour, speed.bars[0].colour) == (HELPS, HURTS)
    assert bpb.bars[-1].colour == NOISE
    assert bpb.margin == 0.005
    assert time.bars[0].value == pytest.approx(
        100 * math.expm1(load(store, NAME).ranked[0].time_to_target.total.estimate)
    )


def test_the_throughput_of_many_blocks_shows_the_first_ones(synthetic, tmp_path) -> None:
    content = load(synthetic(seeds=tuple(range(1, 31))).save(tmp_path / "store"), NAME)
    (axes,) = throughput(content).axes
    labels = [line.get_label() for line in axes.get_lines()]
    assert labels == [f"block of seed {seed}" for seed in range(1, 25)]
    assert axes.get_title() == "the first 24 of 30 blocks"


def test_price_is_in_dollars_where_one_is_set_and_in_gpu_seconds_always(synthetic, tmp_path):
    study = synthetic(horizons=(1.0,))
    study.edit(lambda r: True, gpus=1, wall_s=240.0)
    without = study.save(tmp_path / "without")
    assert "3,600 GPU-seconds" in _terminal(without)
    assert "USD" not in _terminal(without)
    study.edit_study(limits=msgspec.structs.replace(study.study.limits, price=2.5))
    assert "USD 2.50 at 2.5 a GPU-hour" in _terminal(study.save(tmp_path / "with"))


def test_the_terminal_lists_single_runs_only_where_they_failed(synthetic, tmp_path) -> None:
    study = synthetic(seeds=tuple(range(1, 10)), horizons=(1.0,))
    first = study.records[0].plan_id
    study.edit(lambda r: r.plan_id == first, status="failed", reason="killed by signal 9")
    store = study.save(tmp_path / "store")
    shown = _terminal(store)
    listed = shown[shown.index("Runs that did not complete") : shown.index("\nArms")]
    assert listed.count("killed by signal 9") == 1
    assert " completed " not in listed


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_terminal_report_keeps_to_its_width(store, width: int) -> None:
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=True)
    print_document(console, _document(store))
    assert max(len(line) for line in console.file.getvalue().splitlines()) <= width


def test_report_imports_no_extra_before_it_needs_it() -> None:
    import subprocess
    import sys

    root = Path(__file__).parents[4]
    code = "import sys, harness.report.study, harness.report.study.export; " + (
        "print([m for m in ('jinja2', 'pandas', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("data", [b"", b"no parquet", b"PAR1" * 9])
def test_a_damaged_curve_costs_its_curve_and_is_named(store, data) -> None:
    curve = sorted((store.root / "curves").glob("*.parquet"))[0]
    curve.write_bytes(data)
    text = str(as_markdown(_document(store)))
    assert f"Damaged, and left out: {curve}" in _page(store)
    assert "muon" in text
    with pytest.raises(StoreError, match="the curve of a run"):
        store.curve(curve.name.partition(".")[0])


def test_a_store_that_cannot_be_written_is_read(store, harness, monkeypatch, tmp_path) -> None:
    def refuse(path, data):
        raise DiskError(str(path), "a writable location", "Read-only file system", "x.")

    monkeypatch.setattr("harness.files.write_bytes", refuse)
    done = harness("report", NAME, "--store", store.root)
    monkeypatch.undo()
    assert done.returncode == 0
    assert "muon" in done.stdout
    assert "No files were written" in done.stderr


def test_no_report_has_the_password_of_a_setting(synthetic, tmp_path) -> None:
    edited = synthetic()
    study = edited.save(tmp_path / "store").study(NAME)
    secret = {"data.source": "https://me:secret@host/x"}
    arms = [msgspec.structs.replace(arm, set=secret, config=secret) for arm in study.arms]
    store = Store(tmp_path / "store")
    store.save_study(msgspec.structs.replace(study, arms=arms))
    page, data = _page(store), document_json(_document(store))
    assert "https://me:***@host/x" in data
    for text in (page, data, as_markdown(_document(store)), _terminal(store)):
        assert "secret" not in text
