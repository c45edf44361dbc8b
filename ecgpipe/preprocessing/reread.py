"""Read recordings of a finished run from their files again, to show or to explain a few of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ecgpipe.core import parquet
from ecgpipe.core.config import Preprocess
from ecgpipe.preprocessing import preprocess, quality
from ecgpipe.preprocessing.segments import Prepared, Twelve, Windows, choose_leads, prepare
from ecgpipe.readers import Assumed, Recording, UnreadableError


def rows(paths: Sequence[Path], record_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Find the rows of some recordings.

    Args:
        paths: Files of the run with a column `record_id`, such as `manifest/shard-*.parquet`.
        record_ids: The recordings.

    Returns:
        One row for each record id; ids that are in no file are left out.
    """
    return {row["record_id"]: row for table in parquet.rows_of(paths, record_ids) for row in table.to_pylist()}


def leads(
    row: Mapping[str, Any], record: Mapping[str, Any], windows: Windows, assumed: Assumed
) -> tuple[Recording, Twelve]:
    """Read a recording, and find its twelve leads.

    Args:
        row: Its row of the manifest.
        record: Its row of records/.
        windows: How the run cut recordings.
        assumed: What the run assumed of files that do not state it.

    Returns:
        The recording, and its leads in the model's order, neither resampled nor standardised.

    Raises:
        UnreadableError: It cannot be read any more, or its signal is not the run's.
        UnusableError: It lacks leads now.
    """
    recording = preprocess.read_recording(dict(row), assumed)
    twelve = choose_leads(recording, windows)
    single = quality.in_single_precision(twelve.signal)
    _check(quality.fingerprint(single, twelve.unrecorded), record)
    return recording, twelve


def segments(row: Mapping[str, Any], record: Mapping[str, Any], windows: Windows, assumed: Assumed) -> Prepared:
    """Read a recording, and prepare its segments for the model; arguments and errors as of `leads`."""
    facts: dict[str, Any] = {}
    prepared = prepare(preprocess.read_recording(dict(row), assumed), windows, facts)
    _check(facts["signal_hash"], record)
    return prepared


def _check(fingerprint: str, record: Mapping[str, Any]) -> None:
    if fingerprint != record["signal_hash"]:
        raise UnreadableError("the file has changed since the run")


class Sources(NamedTuple):
    """Where a run's recordings come from."""

    manifest: Sequence[Path]  # all manifest/shard-*.parquet
    records: Sequence[Path]  # all records/shard-*.parquet
    attention: Sequence[Path]  # all attention/part-*.parquet; none where it was switched off
    attribution: Path | None  # attribution/attribution.parquet, where there is one
    token_samples: tuple[int, int]  # step and span of the model's tokens
    windows: Windows  # how the run cut recordings
    assumed: Assumed  # what it assumed of files that do not say it themselves


def sources_of(outdir: Path, settings: dict[str, Any], token_samples: tuple[int, int]) -> Sources:
    """Where a finished run's recordings come from.

    Args:
        outdir: Of the run.
        settings: `config` of its run.json.
        token_samples: (step, span) of the model's tokens.

    Returns:
        All its files, with the attribution where there is one.

    Raises:
        EcgpipeError: Files are missing.
    """
    given = Preprocess.model_validate(settings["preprocess"])
    attribution = outdir / "attribution/attribution.parquet"
    windows, assumed = preprocess.reading_from_settings(given)
    # What an earlier run left there is not this one's.
    attention = (outdir / "attention").is_dir() and settings.get("inference", {}).get("attention", True)
    attributed = settings.get("attribution", {}).get("recordings", 1) > 0
    return Sources(
        manifest=parquet.of_run(outdir, "manifest"),
        records=parquet.of_run(outdir, "records"),
        attention=parquet.of_run(outdir, "attention") if attention else [],
        attribution=attribution if attributed and attribution.exists() else None,
        token_samples=token_samples,
        windows=windows,
        assumed=assumed,
    )
