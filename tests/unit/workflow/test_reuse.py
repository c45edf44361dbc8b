"""Which results belong to a run's settings: those stay, whatever the files' times say, and others are made again."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgpipe.core import parquet, provenance, schemas, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Section
from ecgpipe.workflow import reuse, run_lock

SHARDS = 2


def stages(**given: Section) -> dict[str, Section]:
    """Those of a run without evaluation and attribution, with other settings of some stages."""
    made = {name: model() for name, model in settings.STAGES.items() if name not in ("attribute", "evaluate")}
    return made | given


def facts(made: dict[str, Section], *names: str) -> dict[str, Any]:
    return {settings.KEY: {name: settings.hash_section(name, made[name]) for name in names}}


def write_shard(path: Path, name: str) -> None:
    """A shard of the manifest; the name stands for its recordings."""
    schema = provenance.add_origin(schemas.MANIFEST, "manifest", recordings=name)
    parquet.write(path, schema.empty_table())


def write(out: Path, made: dict[str, Section], *, of: tuple[str, ...] = ()) -> None:
    """Write the results of some stages, all of them if none is named, as a run with these settings does."""
    told = ["checkpoint", "preprocess", "infer", "aggregate", "umap"]
    shards = []
    for number in range(SHARDS):
        path = out / f"manifest/shard-{number:05d}.parquet"
        write_shard(path, str(number))
        shards.append(provenance.hash_file(path))

    def write_parquet(name: str, stage: str, inputs: str, *before: str) -> None:
        if not of or stage in of:
            schema = provenance.add_origin(
                pa.schema([("x", pa.int64())]),
                stage,
                inputs_sha256=inputs,
                precision="float32",
                **facts(made, *before, stage),
            )
            parquet.write(out / name, schema.empty_table())

    for number, shard in enumerate(shards):
        write_parquet(f"records/shard-{number:05d}.parquet", "preprocess", shard)
    together = provenance.combine_sha256s(shards)
    for number, (name, stage) in enumerate((("logits", "infer"), ("predictions", "aggregate"))):
        write_parquet(f"{name}/part-00000.parquet", stage, together, *told[: 2 + number])
    write_parquet("umap/umap.parquet", "umap", together, *told[:3])
    (out / "precision").mkdir(exist_ok=True)
    (out / "precision/choice.txt").write_text("float32\n")
    (out / "precision/chosen.json").write_text(json.dumps(facts(made, "precision")))
    (out / "manifest/found.txt").write_text("\n")
    (out / "manifest/manifest.json").write_text(json.dumps(facts(made, "manifest")))
    (out / "checkpoint").mkdir(exist_ok=True)
    (out / "checkpoint/model.json").write_text(json.dumps(facts(made, "checkpoint")))
    mark = settings.format_mark(facts(made, "umap", "report")[settings.KEY])
    (out / "report.html").write_text(f'<html><meta content="{mark}"></html>')


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder of results by the settings' defaults."""
    folder = tmp_path / "out"
    folder.mkdir()
    reuse.prepare(folder, stages(), attention=True)
    write(folder, stages())
    return folder


def times(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name not in ("settings", "manifest")
    }


def stale(folder: Path) -> set[str]:
    return {name for name, time in times(folder).items() if time == reuse.STALE_NS}


UMAP = {"umap": settings.Umap(neighbors=4)}
PREPROCESS = {"preprocess": settings.Preprocess(segment_s=2.5)}


def test_results_of_the_same_settings_stay_as_they_are(out: Path) -> None:
    before = times(out)
    assert reuse.prepare(out, stages(), attention=True) == []
    assert times(out) == before


def test_results_of_other_settings_are_older_than_anything_with_what_was_made_of_them(out: Path) -> None:
    assert reuse.prepare(out, stages(**UMAP), attention=True) == ["umap", "report"]
    assert stale(out) == {"umap/umap.parquet", "report.html"}
    reuse.prepare(out, stages(**PREPROCESS), attention=True)
    records = {f"records/shard-{number:05d}.parquet" for number in range(SHARDS)}
    parts = {"logits/part-00000.parquet", "predictions/part-00000.parquet", "umap/umap.parquet"}
    assert stale(out) == {*records, *parts, "report.html"}


@pytest.mark.parametrize(("rows", "placed", "is_stale"), [(5, {}, False), (6, {}, True), (6, {"placed": 1}, False)])
def test_a_map_is_kept_unless_an_older_version_placed_segments_on_it(
    out: Path, rows: int, placed: dict[str, int], is_stale: bool
) -> None:
    path = out / "umap/umap.parquet"
    origin = provenance.read_origin(pq.read_schema(path))
    schema = pa.schema([("x", pa.int64())], {"ecgpipe": json.dumps({**origin, "umap": {"fit_segments": 5, **placed}})})
    pq.write_table(pa.table({"x": range(rows)}, schema=schema), path)
    assert reuse.prepare(out, stages(), attention=True) == (["umap"] if is_stale else [])
    assert stale(out) == ({"umap/umap.parquet"} if is_stale else set())


def test_in_a_copy_what_a_killed_run_had_placed_is_placed_again(out: Path) -> None:
    logits = provenance.read_origin(pq.read_schema(out / "logits/part-00000.parquet"))
    told = {key: logits[key] for key in ("inputs_sha256", "precision")}
    made = facts(stages(), "checkpoint", "preprocess", "infer", "umap")
    schema = provenance.add_origin(pa.schema([("x", pa.int64())]), "umap", **told, **made)
    parquet.write(out / "places/part-00000.parquet", schema.empty_table())
    assert reuse.prepare(out, stages(), attention=True) == []
    os.utime(out / "settings" / reuse.WRITTEN, ns=(0, 0))
    assert reuse.prepare(out, stages(), attention=True) == ["umap"]
    assert stale(out) == {"places/part-00000.parquet"}


def test_after_a_run_that_was_stopped_what_belongs_to_the_settings_before_is_kept(out: Path) -> None:
    reuse.prepare(out, stages(**PREPROCESS), attention=True)
    write(out, stages(**PREPROCESS), of=("preprocess",))
    os.utime(out / "records/shard-00001.parquet", ns=(reuse.STALE_NS, reuse.STALE_NS))  # was not reached
    write(out, stages(), of=("infer",))
    reuse.prepare(out, stages(), attention=True)
    assert {name for name in stale(out) if name.startswith("records/")} == {
        f"records/shard-{number:05d}.parquet" for number in range(SHARDS)
    }
    logits = (out / "logits/part-00000.parquet").stat().st_mtime_ns
    assert (out / "settings/preprocess.json").stat().st_mtime_ns <= logits


def test_settings_that_were_written_again_are_no_newer_than_the_results_that_belong_to_them(out: Path) -> None:
    shutil.rmtree(out / "settings")
    before = times(out)
    assert reuse.prepare(out, stages(), attention=True) == []
    assert times(out) == before
    oldest = min(time for name, time in before.items() if name.startswith("records/"))
    assert (out / "settings/preprocess.json").stat().st_mtime_ns <= oldest


def test_a_copy_with_the_times_of_its_copying_is_put_right(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy, copy_function=shutil.copyfile)
    for path in copy.rglob("shard-*.parquet"):
        os.utime(path, ns=(2 * 10**18, 2 * 10**18))
    os.utime(copy / "settings" / "written.json", ns=(2 * 10**18, 2 * 10**18))
    assert reuse.is_copy(copy)
    assert not reuse.is_copy(out)
    assert reuse.prepare(copy, stages(), attention=True) == []
    assert len(set(times(copy).values()) - {(copy / "precision/choice.txt").stat().st_mtime_ns}) == 1
    newest = max(path.stat().st_mtime_ns for path in (copy / "manifest").iterdir())
    assert min(time for name, time in times(copy).items() if "choice" not in name) >= newest
    assert not reuse.is_copy(copy)


def test_in_a_copy_results_of_other_recordings_are_made_again(out: Path, tmp_path: Path) -> None:
    shard = out / "manifest/shard-00001.parquet"
    write_shard(shard, "others")
    os.utime(out / "settings" / "written.json", ns=(2 * 10**18, 2 * 10**18))
    reuse.prepare(out, stages(), attention=True)
    parts = {"logits/part-00000.parquet", "predictions/part-00000.parquet", "umap/umap.parquet"}
    assert stale(out) == {"records/shard-00001.parquet", *parts}


def test_a_file_that_is_broken_or_a_users_own_is_not_made_again_but_refused(out: Path) -> None:
    (out / "logits/part-00000.parquet").write_bytes(b"torn, or not of ecgpipe")
    before = times(out)["logits/part-00000.parquet"]
    reuse.prepare(out, stages(), attention=True)
    assert times(out)["logits/part-00000.parquet"] == before
    with pytest.raises(EcgpipeError, match=r"logits/part-00000.parquet, which this run would overwrite"):
        run_lock.refuse_foreign(out, SHARDS, 1)


def test_a_broken_result_and_one_that_lacks_what_lies_beside_it_are_made_again(out: Path) -> None:
    (out / "umap/umap.parquet").write_bytes(b"torn")
    (out / "manifest/found.txt").unlink()
    reuse.prepare(out, stages(), attention=True)
    assert stale(out) == {"umap/umap.parquet"}
    assert (out / "manifest/manifest.json").stat().st_mtime_ns == reuse.STALE_NS


def test_a_lost_choice_of_precision_is_that_of_the_results(out: Path) -> None:
    (out / "precision/choice.txt").unlink()
    reuse.prepare(out, stages(), attention=True)
    assert (out / "precision/choice.txt").read_text() == "float32\n"
    assert times(out)["precision/choice.txt"] <= times(out)["logits/part-00000.parquet"]


def test_attention_of_an_earlier_run_is_not_looked_at_where_it_is_switched_off(out: Path) -> None:
    (out / "attention").mkdir()
    shutil.copy(out / "logits/part-00000.parquet", out / "attention")
    other = stages(umap=settings.Umap(neighbors=4), infer=settings.Infer(deterministic=True))
    write(out, other, of=("infer", "aggregate", "umap"))
    (out / "report.html").unlink()
    reuse.prepare(out, other, attention=False)
    assert not stale(out)
    reuse.prepare(out, other, attention=True)
    assert stale(out) == {"attention/part-00000.parquet"}


def test_a_report_whose_evaluation_is_gone_is_removed_and_another_is_not(out: Path) -> None:
    assert not reuse.remove_outdated_report(out)
    page, account = out / "report.html", out / "evaluation/account.json"
    page.write_text(settings.format_mark({"evaluate": "a" * 64}))
    account.parent.mkdir()
    account.write_text(json.dumps({settings.KEY: {"evaluate": "a" * 64}}))
    assert not reuse.remove_outdated_report(out)
    account.write_text(json.dumps({settings.KEY: {"evaluate": "b" * 64}}))
    assert reuse.remove_outdated_report(out)
    assert not page.exists()


@pytest.mark.parametrize("name", ["checkpoint/model.json", "manifest/manifest.json"])
def test_results_that_name_no_settings_are_refused(out: Path, name: str) -> None:
    reuse.refuse_unmarked(out)
    (out / name).write_text(json.dumps({"ecgpipe": "0.1.0"}))
    with pytest.raises(
        EcgpipeError, match=rf"outdir: {name} in .* does not say which settings made it, as with ecgpipe 0.1"
    ):
        reuse.refuse_unmarked(out)


# A run of an older version that grows


def test_shards_of_an_older_version_get_the_columns_of_new_ones_and_polars_and_duckdb_read_all(tmp_path: Path) -> None:
    made, folder = stages(), tmp_path / "records"
    write(tmp_path, made, of=("manifest",))
    sha256s = [provenance.hash_file(tmp_path / f"manifest/shard-{number:05d}.parquet") for number in range(SHARDS)]
    own = pa.field("clinic", pa.string())  # of a user's table

    def write_records(number: int, columns: pa.Schema) -> Path:
        told = facts(made, "preprocess")
        schema = provenance.add_origin(columns.append(own), "preprocess", inputs_sha256=sha256s[number], **told)
        row = dict.fromkeys(schema.names) | {"record_id": f"r{number}", "n_segments": 2, "clinic": "north"}
        path = folder / f"shard-{number:05d}.parquet"
        parquet.write(path, pa.Table.from_pylist([row], schema=schema))
        os.utime(path, ns=(10**18, 10**18))
        return path

    older = pa.schema([field for field in schemas.RECORDS if not field.name.startswith("device_")])
    old, new = write_records(0, older), write_records(1, schemas.RECORDS)
    before, bytes_of_new = pq.read_schema(old).metadata, new.read_bytes()
    with pytest.raises(polars.exceptions.PolarsError):
        polars.read_parquet(folder / "*.parquet")

    reuse.prepare(tmp_path, made, attention=True)
    assert old.stat().st_mtime_ns == new.stat().st_mtime_ns == 10**18  # neither counts as made again
    assert pq.read_schema(old).equals(pq.read_schema(new))
    assert pq.read_schema(old).metadata == before
    assert reuse.read_made_by(old) == reuse.read_made_by(new)
    assert new.read_bytes() == bytes_of_new
    found = polars.read_parquet(folder / "*.parquet").sort("record_id")
    assert found.select("record_id", "n_segments", "clinic", "device_qt_ms").rows() == [
        ("r0", 2, "north", None),
        ("r1", 2, "north", None),
    ]
    counted = (
        duckdb.read_parquet(f"{folder}/*.parquet").aggregate("count(*), count(device_qt_ms), min(clinic)").fetchall()
    )
    assert counted == [(2, 0, "north")]
