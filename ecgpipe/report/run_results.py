"""The results that the report and the figures show: their options, and what is read of them."""

import argparse
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from ecgpipe.core import options, parquet, settings
from ecgpipe.core.run import RunInfo, read_info
from ecgpipe.models import labels
from ecgpipe.models.description import describe
from ecgpipe.models.labels import Label
from ecgpipe.preprocessing import preprocess
from ecgpipe.preprocessing.reread import Sources
from ecgpipe.report import deidentify, label_statistics
from ecgpipe.report.label_statistics import Summary


class ResultFiles(NamedTuple):
    """Where the results of a run at work lie. The fields are the options of `add_arguments`."""

    run: Path  # run.json
    description: Path  # checkpoint/model.json
    labels: Path | None  # the label CSV; None for that of the settings
    manifest: Path  # the folder
    records: Path  # the folder
    shards: int | None
    predictions: Path  # the folder
    attention: Path | None  # the folder, if there is attention
    parts: int | None
    umap: Path  # umap/umap.parquet
    examples: Path  # examples.parquet
    attribution: Path | None  # attribution/attribution.parquet, if there is one


class Results(NamedTuple):
    """What is read of a run's results."""

    info: RunInfo  # de-identified if the page is to name no recordings
    labels: list[Label]  # in the model's order
    predictions: list[Path]  # all predictions/part-*.parquet, in order
    summaries: list[Summary]  # of the labels
    sources: Sources  # of the recordings

    @property
    def references(self) -> dict[str, float]:
        """By label the share of positive recordings to compare with, if the label CSV has one."""
        return {label.name: label.reference_share for label in self.labels if label.reference_share is not None}

    @property
    def n_predictions(self) -> int:
        """The number of recordings with a prediction."""
        return sum(pq.read_metadata(path).num_rows for path in self.predictions)

    @property
    def widest(self) -> str | None:
        """The label whose probability varies most; None for a model without a head."""
        return max(self.summaries, key=lambda summary: summary.spread).name if self.summaries else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a stage that shows a run's results."""
    options.add(parser, "run", "description", required=True)
    options.add(parser, "labels", help="the label CSV, which may give decision thresholds")
    options.add(parser, "manifest", "records", required=True)
    options.add(parser, "shards")
    options.add(parser, "predictions", required=True)
    options.add(parser, "attention", help="the folder attention/, if attention is written")
    options.add(parser, "parts")
    options.add(parser, "umap", required=True)
    parser.add_argument("--examples", type=Path, required=True, help="examples.parquet: the recordings to show")
    parser.add_argument("--attribution", type=Path, help="attribution/attribution.parquet, if there is one")


def read_results(files: ResultFiles, shown: settings.Shown) -> Results:
    """Read what a page and figures show of a run.

    Args:
        files: Where its results lie.
        shown: What is to be shown of them.

    Returns:
        What was read. The recordings themselves are not read yet.

    Raises:
        EcgpipeError: A file is missing, or not valid.
    """
    info = read_info(files.run)
    predictions = parquet.numbered(files.predictions, "part", files.parts)
    label_csv = files.labels or settings.require_path("labels", shown.labels)
    run_labels = labels.read_for(label_csv, pq.read_schema(predictions[0]).names, predictions[0])
    windows, assumed = preprocess.reading_from_settings(shown.reading)
    description = describe(files.description)
    return Results(
        info=info if shown.paths else deidentify.deidentify_run(info),
        labels=run_labels,
        predictions=predictions,
        summaries=label_statistics.summarise(predictions, labels.thresholds_by_name(run_labels)),
        sources=Sources(
            manifest=parquet.numbered(files.manifest, "shard", files.shards),
            records=parquet.numbered(files.records, "shard", files.shards),
            attention=parquet.numbered(files.attention, "part", files.parts) if files.attention else [],
            attribution=files.attribution,
            token_samples=description.architecture.token_samples,
            windows=windows,
            assumed=assumed,
            has_tokens_by_lead=description.has_tokens_by_lead,
        ),
    )
