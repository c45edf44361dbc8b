"""Read recordings of a finished run from their files again, to show or explain them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ecgpipe.core import parquet
from ecgpipe.core.model_input import ModelInput
from ecgpipe.core.run import Run
from ecgpipe.preprocessing import preprocess, quality
from ecgpipe.preprocessing.segments import Prepared, Twelve, Windows, choose_leads, prepare
from ecgpipe.readers import Assumed, Recording, UnreadableError


def read_rows(paths: Sequence[Path], record_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the rows of some recordings, one for each.

    Args:
        paths: Files of the run with a column `record_id`, such as `manifest/shard-*.parquet`.
        record_ids: The recordings.

    Returns:
        The rows by record id. Recordings that are in no file are left out.
    """
    return {row["record_id"]: row for table in parquet.rows_of(paths, record_ids) for row in table.to_pylist()}


def choose_same_leads(recording: Recording, record: Mapping[str, Any], windows: Windows) -> Twelve:
    """Find the twelve leads of a recording that was read again.

    Args:
        recording: As it was read.
        record: Its row of the records.
        windows: How the run cut recordings.

    Returns:
        The leads by name, neither resampled nor standardised.

    Raises:
        UnreadableError: The signal is not the run's.
        UnusableError: It lacks leads now.
    """
    twelve = choose_leads(recording, windows)
    single = quality.in_single_precision(twelve.signal)
    _check_signal(quality.fingerprint(single, twelve.unrecorded), record)
    return twelve


def read_segments(row: Mapping[str, Any], record: Mapping[str, Any], windows: Windows, assumed: Assumed) -> Prepared:
    """Read a recording's segments as the model takes them.

    Args:
        row: Its row of the manifest.
        record: Its row of the records.
        windows: How the run cut recordings.
        assumed: What the run assumed of files that do not state it.

    Returns:
        The segments.

    Raises:
        UnreadableError: It cannot be read any more, or its signal is not the run's.
        UnusableError: It lacks leads now.
    """
    facts: dict[str, Any] = {}
    prepared = prepare(preprocess.read_recording(dict(row), assumed), windows, facts)
    _check_signal(facts["signal_hash"], record)
    return prepared


def _check_signal(fingerprint: str, record: Mapping[str, Any]) -> None:
    if fingerprint != record["signal_hash"]:
        raise UnreadableError("the file has changed since the run")


class Sources(NamedTuple):
    """Where a run's recordings come from."""

    manifest: Sequence[Path]  # all manifest/shard-*.parquet
    records: Sequence[Path]  # all records/shard-*.parquet
    attention: Sequence[Path]  # all attention/part-*.parquet; none if attention was switched off
    attribution: Path | None  # attribution/attribution.parquet, if there is one
    token_samples: tuple[int, int]  # step and span of the model's tokens
    windows: Windows  # how the run cut recordings
    assumed: Assumed  # what it assumed where files do not say it
    has_tokens_by_lead: bool = False  # whether the tokens run along the leads laid end to end


def find_sources(
    run: Run, token_samples: tuple[int, int], model_input: ModelInput, has_tokens_by_lead: bool
) -> Sources:
    """Find where a finished run's recordings come from.

    Args:
        run: The run.
        token_samples: (step, span) of the model's tokens.
        model_input: What the model takes.
        has_tokens_by_lead: Whether the tokens run along the leads laid end to end.

    Returns:
        All its files, with the attribution if there is one.

    Raises:
        EcgpipeError: Files are missing.
    """
    windows, assumed = preprocess.reading_from_settings(run.config.preprocess, model_input)
    # An attention/ that an earlier run left does not belong to this one.
    has_attention = run.config.inference.attention and (run.outdir / "attention").is_dir()
    return Sources(
        manifest=run.files("manifest"),
        records=run.files("records"),
        attention=run.files("attention") if has_attention else [],
        attribution=run.attribution_parquet,
        token_samples=token_samples,
        windows=windows,
        assumed=assumed,
        has_tokens_by_lead=has_tokens_by_lead,
    )
