"""Make pandas tables of what the network computes, and gather what it computes from."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgpipe.api.sources import Entry
from ecgpipe.core import schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference.engine import Results
from ecgpipe.models.calibration import Calibration
from ecgpipe.models.labels import Label
from ecgpipe.models.output import AnyNetwork

if TYPE_CHECKING:
    import pandas as pd

KEY = ["recording", "segment", "start_s"]


class Key(NamedTuple):
    """The segments of a recording."""

    name: int | str
    starts_s: np.ndarray  # (segments,) float32


class Attributions(NamedTuple):
    """Attributions of labels, and by what to judge them; `ECGFM.attribute` describes the two tables."""

    samples: "pd.DataFrame"
    checks: "pd.DataFrame"


def count_segments(entry: Entry) -> int:
    """How many segments a recording has."""
    return 0 if entry.prepared is None else len(entry.prepared.segments)


def make_key(entry: Entry) -> Key:
    """What a table needs to know of a recording, without its signal."""
    assert entry.prepared is not None  # noqa: S101, a recording that can be used
    return Key(entry.name, entry.prepared.starts_s)


def stack_segments(entries: Sequence[Entry]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Put the segments of some recordings one after another.

    Args:
        entries: Recordings that can be used.

    Returns:
        (segments, leads, samples) float32; (segments,) samples of each that are signal; (segments,) names for messages.
    """
    prepared = [entry.prepared for entry in entries if entry.prepared is not None]
    counts = [len(each.segments) for each in prepared]
    segments = np.concatenate([each.segments for each in prepared])
    samples = np.repeat(np.array([each.samples for each in prepared], np.int32), counts)
    names = [
        f"segment {number} of recording {e.name}" for e, n in zip(entries, counts, strict=True) for number in range(n)
    ]
    return segments, samples, names


def join_results(results: Sequence[Results], labels: int, width: int, tokens: int | None) -> Results:
    """Join the results of several calls of the network; of none, empty arrays of these widths."""
    if not results:
        attention = None if tokens is None else np.empty((0, tokens), np.float32)
        return Results(np.empty((0, labels), np.float32), np.empty((0, width), np.float32), attention)
    attentions = [each.attention for each in results if each.attention is not None]
    return Results(
        np.concatenate([each.logits for each in results]),
        np.concatenate([each.embedding for each in results]),
        np.concatenate(attentions) if attentions else None,
    )


def make_index(keys: Sequence[Key]) -> "pd.MultiIndex":
    """The index of a table with a row per segment: recording, segment, start in seconds."""
    import pandas as pd  # here, because pandas takes half a second

    counts = [len(key.starts_s) for key in keys]
    names = np.array([key.name for key in keys], object if any(isinstance(key.name, str) for key in keys) else int)
    numbers = [np.arange(count) for count in counts]
    starts_s = [key.starts_s for key in keys]
    return pd.MultiIndex.from_arrays(
        [
            np.repeat(names, counts),
            np.concatenate(numbers) if numbers else np.empty(0, int),
            np.concatenate(starts_s) if starts_s else np.empty(0, np.float32),
        ],
        names=KEY,
    )


def make_frame(values: np.ndarray, index: "pd.MultiIndex", columns: list[str] | None = None) -> "pd.DataFrame":
    """A table of (segments, columns)."""
    import pandas as pd

    return pd.DataFrame(values, index, columns)


def list_skipped(entries: Sequence[Entry]) -> "pd.DataFrame":
    """The recordings that were left out, and why."""
    import pandas as pd

    index = pd.Index([entry.name for entry in entries], name="recording")
    columns = {name: [getattr(entry, name) for entry in entries] for name in ("path", "status", "reason")}
    return pd.DataFrame(columns, index)


def aggregate_logits(logits: "pd.DataFrame", model_labels: Sequence[Label], fit: Calibration | None) -> "pd.DataFrame":
    """Make one prediction per recording, as the stage aggregate does.

    Args:
        logits: A row per segment.
        model_labels: Its columns, with their aggregation.
        fit: The calibration to apply; None for none.

    Returns:
        A row per recording, probabilities in float64.
    """
    import pandas as pd

    from ecgpipe.inference import aggregate

    recording, segment, start_s = (logits.index.get_level_values(level) for level in range(3))
    table = build_logits_table(recording.astype(str), segment, start_s, logits.to_numpy(), model_labels)
    frame: pd.DataFrame = aggregate.predict(table, model_labels, fit).drop(["record_id", "n_segments"]).to_pandas()
    return frame.set_axis(pd.Index(recording.unique(), name="recording"))


def build_logits_table(
    record_ids: npt.ArrayLike,
    segments: npt.ArrayLike,
    starts_s: npt.ArrayLike,
    logits: np.ndarray,
    model_labels: Sequence[Label],
) -> pa.Table:
    """Build the table of logits that `aggregate.predict` takes.

    Args:
        record_ids: (segments,) of the recording that each is of, those of one after another.
        segments: (segments,) its number.
        starts_s: (segments,) where it starts.
        logits: (segments, labels) float32.
        model_labels: The labels.

    Returns:
        A table of `schemas.logits_schema`.
    """
    columns = [np.asarray(record_ids, object), np.asarray(segments, np.int32), np.asarray(starts_s, np.float32)]
    return pa.table([*columns, *logits.T], schema=schemas.logits_schema([label.name for label in model_labels]))


def attribute_entries(
    network: AnyNetwork,
    entries: Iterable[Entry],
    targets: Mapping[str, int],
    leads: Sequence[str],
    steps: int | None,
    batch_size: int | None,
) -> Attributions:
    """Attribute labels of recordings.

    Args:
        network: Loaded for gradients.
        entries: Recordings that can be used.
        targets: By label, its number among the outputs.
        leads: That the network takes.
        steps: Of the integral; None: as many as the completeness error takes.
        batch_size: Steps of segments at a time; None: as the stage does.

    Returns:
        The attributions.

    Raises:
        EcgpipeError: Captum is not installed, or numbers are not finite.
    """
    import pandas as pd

    try:
        from ecgpipe.analysis import attribute  # which loads Captum
    except ModuleNotFoundError as error:
        if error.name != "captum":
            raise
        raise EcgpipeError(
            "attribute needs the package captum, which is not installed; install it with: pip install captum"
        ) from error

    device = next(network.parameters()).device
    size = batch_size or attribute.BATCH_SIZES.get(device.type, attribute.BATCH_SIZES["cpu"])
    samples: list[pd.DataFrame] = []
    checks: list[pd.DataFrame] = []
    for entry in entries:
        index = make_index([make_key(entry)])
        for label, target in targets.items():
            assert entry.prepared is not None  # noqa: S101
            seed = attribute.choose_seed(str(entry.name))
            explained = attribute.explain(network, entry.prepared, target, steps, size, seed)
            if not all(np.isfinite(values).all() for values in explained):
                raise EcgpipeError(f"{entry.where}its attribution to {label!r} has numbers that are not finite")
            keys = [(*key, label) for key in index]
            rows = pd.MultiIndex.from_tuples(
                [(*key, lead) for key in keys for lead in leads], names=[*KEY, "label", "lead"]
            )
            values = explained.attribution.reshape(len(rows), -1)
            samples.append(pd.DataFrame(values, rows))
            checks.append(pd.DataFrame(explained.numbers, pd.MultiIndex.from_tuples(keys, names=[*KEY, "label"])))
    if not samples:
        return Attributions(pd.DataFrame(), pd.DataFrame(columns=schemas.JUDGED))
    return Attributions(pd.concat(samples), pd.concat(checks))
