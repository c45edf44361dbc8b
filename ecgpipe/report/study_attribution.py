"""Attribute the statement on which models disagree to leads and times, by each of the models that has it."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.report import show
from ecgpipe.report.study_runs import StudyRun

logger = logging.getLogger(__name__)

# By record id, attributions as `recording_view.read_attributions` gives them.
Attributions = dict[str, list[dict[str, Any]]]


class Machine(NamedTuple):
    """What the attributions are computed on."""

    device: str
    threads: int


def attribute_disputed(
    run: StudyRun,
    disputed: Sequence[tuple[str, str]],
    shared: Mapping[str, Mapping[str, str]],
    machine: Machine,
) -> Attributions:
    """Attribute the disputed statement of some recordings, by one model.

    What the run itself has attributed is not computed again. A recording that cannot be read again is left out with a
    warning.

    Args:
        run: The model's run.
        disputed: Record id and statement of each.
        shared: By statement, by model its label.
        machine: What to compute on.

    Returns:
        The attributions.
    """
    stored = _list_stored(run.run.attribution_parquet)
    has = set(run.ids.to_pylist())
    found: Attributions = {}
    for record_id, statement in disputed:
        label = shared[statement].get(run.name)
        if label is None or record_id not in has or (record_id, label) in stored:
            continue
        try:
            recording = show.find_recording(run.run, record_id)
            found[record_id] = show.attribute_labels(run.run, recording, [label], machine.device, machine.threads)
        except EcgpipeError as error:
            logger.warning("%s: %s is not attributed: %s", run.name, record_id if run.paths else "a recording", error)
    return found


def _list_stored(path: Path | None) -> set[tuple[str, str]]:
    """Record id and label of each attribution that a run has."""
    if path is None:
        return set()
    table = pq.read_table(path, columns=["record_id", "label"])
    return set(zip(table["record_id"].to_pylist(), table["label"].to_pylist(), strict=True))
