"""The forecast of a full job from records: its intervals, and when it is refused."""

import msgspec
import pytest

from harness.comparison.noise_model import SHIPPED, NoiseModel, NoiseRow, read_rows
from harness.full.forecast import Forecast, ForecastNoise, forecast, replicate_noise
from harness.full.proxies import ForecastError, Proxy, Scale, proxy_of, scale_of


def scale(depth):
    parameters = 12 * depth * (64 * depth) ** 2
    flops = 6.0 * parameters * 8 * parameters
    return Scale(size=f"d{depth}", parameters=parameters, tokens=8 * parameters, flops=flops)


def proxy(depth, seed=1, **changes):
    bpb = 0.3 + 0.55 * (scale(depth).flops / scale(12).flops) ** -0.09 + 0.0004 * seed
    found = Proxy(name=f"d{depth}-{seed}", scale=scale(depth), seed=seed, val_bpb=bpb, recipe={})
    return msgspec.structs.replace(found, **changes)


DEPTHS = (8, 10, 12, 14)
PROXIES = [proxy(depth, seed) for depth in DEPTHS for seed in (1, 2)]
TARGET = scale(24)


def with_core(proxies):
    return [
        msgspec.structs.replace(
            one, core=0.1 + 0.9 * (0.95 - one.val_bpb) + 0.002 * one.seed, core_soft=0.2
        )
        for one in proxies
    ]


def test_a_forecast_covers_the_true_law_and_names_its_sources():
    found = forecast(PROXIES, TARGET)
    assert found.val_bpb.contains(proxy(24).val_bpb)
    assert found.val_bpb.low < found.val_bpb.estimate < found.val_bpb.high
    [fitted] = found.fits
    assert (fitted.sizes, fitted.runs) == (["d8", "d10", "d12", "d14"], [2, 2, 2, 2])
    assert fitted.replicate_source == "the proxies' own replicates"
    assert fitted.curve[-1][1] == found.val_bpb
    assert "25.4 times the FLOPs" in found.notes[0]


def test_the_largest_of_four_sizes_is_also_forecast_from_the_others():
    [fitted] = forecast(PROXIES, TARGET).fits
    expected, was = fitted.held_out
    assert expected.contains(was)
    [fitted] = forecast([p for p in PROXIES if p.scale.size != "d14"], TARGET).fits
    assert fitted.held_out is None


def test_core_is_forecast_over_val_bpb_with_the_probability_to_exceed_the_target():
    found = forecast(with_core(PROXIES), TARGET, core_target=0.256525)
    assert found.core.contains(0.1 + 0.9 * (0.95 - proxy(24).val_bpb))
    assert 0 < found.p_core < 1
    assert forecast(with_core(PROXIES), TARGET, core_target=0.0).p_core > 0.99
    assert found.core_soft.low < 0.2 < found.core_soft.high


def test_without_core_at_three_sizes_a_note_names_the_missing_forecast():
    some = [*with_core(PROXIES[:4]), *PROXIES[4:]]
    found = forecast(some, TARGET, core_target=0.25)
    assert (found.core, found.p_core) == (None, None)
    assert "no forecast of CORE" in found.notes[-1]


def test_one_run_per_size_is_enough_and_uses_the_noise_model():
    alone = [one for one in PROXIES if one.seed == 1]
    noise = {"val_bpb": ForecastNoise(sd=0.0002, df=19.0, source="the noise model")}
    assert forecast(alone, TARGET).fits[0].replicate_sd is None
    assert "the noise model" in forecast(alone, TARGET, noise=noise).fits[0].replicate_source


@pytest.mark.parametrize(
    ("proxies", "got"),
    [
        ([], "0: none"),
        (PROXIES[:4], "2: d8, d10"),
        (
            [*PROXIES, proxy(16, recipe={"code_id": "b"}), proxy(9, recipe={"code_id": "a"})],
            "a and b",
        ),
        ([*PROXIES, proxy(16, scale=msgspec.structs.replace(scale(16), tokens=10**9))], "4.97"),
        ([*PROXIES, proxy(9, core=0.1, core_settings="x"), proxy(9, core=0.1)], "None and x"),
    ],
)
def test_an_impossible_forecast_is_refused_with_the_field(proxies, got):
    with pytest.raises(ForecastError) as caught:
        forecast(proxies, TARGET)
    assert caught.value.got.startswith(got)
    assert caught.value.hint


@pytest.mark.parametrize("values", [(0.9, 3.9, 4.8), (0.58, 0.58, 0.58), (5.0, 0.4, 0.4)])
def test_sizes_that_follow_no_law_have_a_wide_interval(values):
    proxies = [
        proxy(depth, seed, val_bpb=value + 0.001 * seed)
        for depth, value in zip((8, 10, 12), values, strict=True)
        for seed in (1, 2)
    ]
    found = forecast(proxies, TARGET).val_bpb
    assert 0 < found.low <= found.estimate <= found.high
    assert found.high - found.low > 0.01


def test_the_target_must_have_the_proxies_recipe():
    proxies = [msgspec.structs.replace(one, recipe={"tricks": "muon"}) for one in PROXIES]
    forecast(proxies, TARGET, recipe={"tricks": "muon", "code_id": "x"})
    with pytest.raises(ForecastError, match="tricks"):
        forecast(proxies, TARGET, recipe={"tricks": "muon, windows"})


def test_text_that_is_read_more_than_twice_has_no_forecast():
    once, twice = TARGET.tokens, TARGET.tokens // 2
    assert "is read" not in " ".join(forecast(PROXIES, TARGET, text_tokens=once).notes)
    assert "text is read 2.00 times" in " ".join(forecast(PROXIES, TARGET, text_tokens=twice).notes)
    with pytest.raises(ForecastError, match=r"text: expected .*; got .* read 2\.2 times"):
        forecast(PROXIES, TARGET, text_tokens=int(TARGET.tokens / 2.2))


def test_a_forecast_is_deterministic_and_round_trips_through_json():
    found = forecast(with_core(PROXIES), TARGET, core_target=0.25)
    assert found == forecast(list(reversed(with_core(PROXIES))), TARGET, core_target=0.25)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Forecast) == found


def test_a_record_becomes_a_proxy_with_its_recipe(full_record):
    found = proxy_of(full_record(val_bpb=1.5))
    assert found.val_bpb == 1.5
    assert found.scale.flops == found.scale.tokens * full_record().derived["flops_per_token"]
    assert set(found.recipe) >= {"trainer", "code_id", "data_id", "protocol", "tricks"}


@pytest.mark.parametrize("changes", [{"status": "failed"}, {"val_bpb": None}])
def test_an_incomplete_run_is_no_proxy(full_record, changes):
    with pytest.raises(ForecastError, match="completed run with a val_bpb"):
        proxy_of(full_record(**changes))


def test_a_trainer_without_its_size_is_refused_with_the_missing_value():
    with pytest.raises(ForecastError, match="no flops_per_token"):
        scale_of({"parameters_total": 10, "tokens": 10})


def test_replicate_noise_is_looked_up_at_the_targets_scale():
    row = NoiseRow(
        scale="native d24, 8.8B tokens",
        metric="core",
        gpu="any",
        source="seed",
        sd=0.006,
        df=9,
        runs=10,
        groups=1,
        origin="measured",
    )
    noise_model = NoiseModel([*read_rows(SHIPPED), row])
    found = replicate_noise(noise_model, row.scale, "any")
    assert set(found) == {"core"}
    assert (found["core"].sd, found["core"].df) == (0.006, 9)
    assert "measured noise model" in found["core"].source


def test_core_noise_is_pooled_over_recipes_if_this_one_has_no_replicates():
    noise_model = NoiseModel(read_rows(SHIPPED))
    rows = [row for row in noise_model.rows if row.metric == "core"]
    [found] = replicate_noise(noise_model, "something else", None).values()
    assert found.df == sum(row.df for row in rows)
    assert min(row.sd for row in rows) < found.sd < max(row.sd for row in rows)
    assert "other recipes" in found.source
    assert replicate_noise(NoiseModel([]), None, None) == {}
