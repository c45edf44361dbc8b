"""What a run takes, told before it has begun."""

import json
from pathlib import Path

import pytest

from ecgpipe.core import logs
from ecgpipe.core.user_settings import Config
from ecgpipe.models import registry
from ecgpipe.workflow import estimate

ROOT = Path(__file__).parents[3]


def estimated(recordings: int, outdir: Path, has_gpu: bool = False, **settings: object) -> estimate.Estimate:
    config = Config.model_validate({"input": "x", "outdir": str(outdir), **settings})
    return estimate.estimate_run(config, recordings, 2, has_gpu)


def test_twice_as_many_recordings_take_twice_the_results_and_nearly_twice_the_time(tmp_path: Path) -> None:
    one, two = estimated(100_000, tmp_path), estimated(200_000, tmp_path)
    assert two.segments == 2 * one.segments == 400_000
    assert two.result_bytes == 2 * one.result_bytes
    assert 1.9 < two.seconds / one.seconds < 2


def test_segments_on_the_disk_tell_how_large_the_others_are(tmp_path: Path) -> None:
    """Shards of whole numbers take half; the last shard of a run, which is smaller, does not count."""
    (tmp_path / "segments").mkdir()
    for number, recordings in enumerate((1000, 17)):
        (tmp_path / "segments" / f"shard-{number:05d}.arrow").write_bytes(b"")
        with (tmp_path / "segments" / f"shard-{number:05d}.arrow").open("r+b") as file:
            file.truncate(recordings * 121_000)
    assert estimated(1_000_000, tmp_path).scratch_bytes == 60_000 * 121_000
    (tmp_path / "segments" / "shard-00000.arrow").unlink()
    assert estimated(1_000_000, tmp_path).scratch_bytes == 60_000 * 240_000


def test_no_more_segments_wait_on_the_disk_than_those_of_three_parts_unless_they_are_kept(tmp_path: Path) -> None:
    million = estimated(1_000_000, tmp_path).scratch_bytes
    assert million == estimated(100_000, tmp_path).scratch_bytes == 60_000 * 10 * 12 * 500 * 4
    assert (
        estimated(1_000_000, tmp_path, preprocess={"keep_segments": True}).scratch_bytes
        == 1_000_000 * 10 * 12 * 500 * 4
    )


def test_a_gpu_is_distinguished_from_a_cpu_and_a_cpu_may_be_asked_for(tmp_path: Path) -> None:
    gpu, cpu = estimated(100_000, tmp_path, has_gpu=True), estimated(100_000, tmp_path)
    assert gpu.seconds < cpu.seconds / 50
    assert (gpu.device, cpu.device) == ("an NVIDIA H200", "2 CPU cores")
    assert estimated(100_000, tmp_path, has_gpu=True, inference={"device": "cpu"}) == cpu


def test_the_rate_of_parts_that_are_there_replaces_that_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "timing").mkdir()
    for part, rate in enumerate((50, 100, 10_000)):
        timing = {"segments": rate, "seconds": 1.0, "device": "CPU (some)"}
        (tmp_path / "timing" / f"part-{part:05d}.json").write_text(json.dumps(timing))
    (tmp_path / "timing" / "part-00003.json").write_text("not JSON")
    found = estimated(100_000, tmp_path, attribution={"recordings": 0})
    assert found.device == "CPU (some)"
    assert 2000 < found.seconds < 2400  # 200,000 segments at 100 a second


def test_another_family_has_its_own_rate_and_segments(tmp_path: Path) -> None:
    measured = json.loads((ROOT / "benchmarks/results/model-speed.json").read_text())["relative_to_ecg_fm"]
    assert {name: round(measured[name]["windows"], 1) for name in estimate.RELATIVE_RATE} == estimate.RELATIVE_RATE
    config = Config.model_validate({"input": "x", "outdir": str(tmp_path), "preprocess": {"segment_s": 10}})
    founder = estimate.estimate_run(config.model_copy(update={"model": "ecgfounder"}), 100_000, 2, False)
    assert founder.segments == 100_000
    of_ecg_fm = estimated(100_000, tmp_path, attribution={"recordings": 0})
    assert founder.seconds < of_ecg_fm.seconds / 8
    jepa = registry.find_family("ecg-jepa").choose_input({})
    waiting = estimate.estimate_run(config, 1_000_000, 2, False, jepa).scratch_bytes
    assert waiting == 60_000 * 10 * 8 * 250 * 4


def test_how_fast_a_model_of_ones_own_is_is_known_after_its_first_part(tmp_path: Path) -> None:
    before = estimated(1_000, tmp_path, model="my/network.py")
    assert before.untimed_segments == before.segments == 2_000
    assert before.seconds < 60
    words = "on 2 CPU cores and what your own model takes for 2,000 segments, known after its first part, up to"
    assert words in estimate.describe(before)
    with_ecg_fm = estimate.add_estimates([before, estimated(1_000, tmp_path)])
    assert with_ecg_fm.untimed_segments == 2_000
    (tmp_path / "timing").mkdir()
    timing = {"segments": 200, "seconds": 2.0, "device": "CPU (some)"}
    (tmp_path / "timing" / "part-00000.json").write_text(json.dumps(timing))
    after = estimated(1_000, tmp_path, model="my/network.py")
    assert after.untimed_segments == 0
    assert after.seconds > before.seconds + 20
    assert "your own model" not in estimate.describe(after)


def test_a_study_takes_what_its_models_take_one_after_the_other(tmp_path: Path) -> None:
    one, two = estimated(1_000, tmp_path), estimated(1_000, tmp_path, preprocess={"segment_s": 10})
    both = estimate.add_estimates([one, two])
    assert both.seconds == one.seconds + two.seconds
    assert both.result_bytes == one.result_bytes + two.result_bytes
    assert both.memory_gb == one.memory_gb == two.memory_gb


@pytest.mark.parametrize(
    ("seconds", "words"), [(1, "5 s"), (62, "60 s"), (100, "2 min"), (3000, "50 min"), (9000, "2.5 h")]
)
def test_a_time_is_reported_as_exactly_as_it_is_known(seconds: float, words: str) -> None:
    assert logs.describe_duration(seconds) == words


def test_the_estimate_is_one_line(tmp_path: Path) -> None:
    assert estimate.describe(estimated(2_400, tmp_path)) == (
        "Plan: about 9 min on 2 CPU cores, up to 576 MB of segments and 17 MB of results on the disk, 2 GB of memory, "
        "if a recording has 10 s"
    )
