"""Recordings of a finished run, read from their files once more: for what a few of them are shown or explained by."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgpipe import preprocess, quality, tables
from ecgpipe.prepare import Prepared, Twelve, Windows, choose_leads, prepare
from ecgpipe.readers import Assumed, Recording, UnreadableError


def rows(paths: Sequence[Path], record_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rows of some recordings, one for each.

    Args:
        paths: Files of the run with a column `record_id`, as `manifest/shard-*.parquet`.
        record_ids: Of which.

    Returns:
        By record id; those that are in no file are left out.
    """
    return {row["record_id"]: row for table in tables.rows_of(paths, record_ids) for row in table.to_pylist()}


def leads(
    found: Mapping[str, Any], account: Mapping[str, Any], windows: Windows, assumed: Assumed
) -> tuple[Recording, Twelve]:
    """A recording as it was read, and its twelve leads.

    Args:
        found: Its row of the manifest.
        account: Its row of the records.
        windows: How the run cut recordings.
        assumed: What the run assumed of files that do not say it themselves.

    Returns:
        The recording, and its leads in the model's order, neither resampled nor standardised.

    Raises:
        UnreadableError: It cannot be read any more, or is another signal than the run's.
        UnusableError: It lacks leads now.
    """
    recording = preprocess.read(dict(found), assumed)
    twelve = choose_leads(recording, windows)
    single = quality.in_single_precision(twelve.signal)
    _check(quality.fingerprint(single, twelve.made), account)
    return recording, twelve


def segments(found: Mapping[str, Any], account: Mapping[str, Any], windows: Windows, assumed: Assumed) -> Prepared:
    """A recording's segments as the model takes them; arguments and errors as of `leads`."""
    facts: dict[str, Any] = {}
    prepared = prepare(preprocess.read(dict(found), assumed), windows, facts)
    _check(facts["signal_hash"], account)
    return prepared


def _check(fingerprint: str, account: Mapping[str, Any]) -> None:
    if fingerprint != account["signal_hash"]:
        raise UnreadableError("the file has changed since the run")
