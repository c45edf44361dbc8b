"""Show any one recording of a finished run as the report would: a page, or a PNG, PDF or SVG.

If the run has `report.paths: false`, the page and the pictures call recordings by their numbers, as its report does.
"""

import argparse
import json
import logging
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe.analysis import neighbor_search
from ecgpipe.analysis.examples import NEIGHBORS
from ecgpipe.core import options, parquet, schemas
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.results import path_of
from ecgpipe.core.run import Run
from ecgpipe.models import labels
from ecgpipe.models.description import Description, describe, refuse_foreign
from ecgpipe.preprocessing import reread
from ecgpipe.preprocessing.reread import find_sources
from ecgpipe.preprocessing.segments import UnusableError
from ecgpipe.readers import UnreadableError
from ecgpipe.report import deidentify, ecg_paper, recording_view
from ecgpipe.report.column_titles import AMPLITUDE, TITLES, format_number
from ecgpipe.report.map_data import ACCOUNT, QUALITY
from ecgpipe.report.page_data import pack
from ecgpipe.report.report import make_environment

logger = logging.getLogger(__name__)

FORMATS = (".html", ".png", ".pdf", ".svg")


class Picture(NamedTuple):
    """How a picture is drawn."""

    layout: str  # of ecg_paper.LAYOUTS
    colour: str | None  # attention, none or a label; None for the first label that is attributed, or else attention
    from_s: float  # where it begins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe show`."""
    options.add_run(parser)
    parser.add_argument("record_id", metavar="RECORD_ID", help="as in records/")
    options.add(parser, "output", help="a .html, .png, .pdf or .svg (default: RECORD_ID.html, here)")
    options.add(
        parser,
        "label",
        default=[],
        help="attribute the recording to these labels; the page opens with the first one, a picture is coloured by it",
    )
    parser.add_argument(
        "--layout", choices=ecg_paper.LAYOUTS, default="standard", help="of a picture (default %(default)s)"
    )
    parser.add_argument(
        "--colour",
        help="of a picture: attention, none, or a label (default: the first --label, or else the attention)",
    )
    parser.add_argument("--from-s", type=float, default=0.0, help="where a picture begins (default %(default)s)")
    options.add(parser, "device", default="auto", help="for --label (default %(default)s)")
    options.add(parser, "threads", help="CPU threads, for --label (default %(default)s)")
    options.add(parser, "model", help="the .py file of your own model, if the run is of one, for --label")


def run(args: argparse.Namespace) -> None:
    """Show a recording."""
    if args.output and args.output.suffix not in FORMATS:
        suffix = args.output.suffix or "nothing"
        raise EcgpipeError(f"--output: {args.output} ends in {suffix!r}; give {', '.join(FORMATS)}")
    outdir, [record_id] = options.choose_run("show", args.run, args.outdir, [args.record_id])
    finished = Run(outdir)
    recording = find_recording(finished, record_id)
    output = args.output or Path(f"{recording.file_stem}.html")
    view = view_recording(finished, recording, args.label, args.device, args.threads, args.model)
    if output.suffix == ".html":
        write_page(finished, recording, view, args.label[0] if args.label else None, output)
    else:
        colour = args.colour or (args.label[0] if args.label else None)
        draw_picture(recording, view, Picture(args.layout, colour, args.from_s), output)
    logger.info("%s", output)


class Recording(NamedTuple):
    """A recording of a finished run."""

    record: dict[str, Any]  # its row of the records
    name: str  # what it is called in the page
    sources: reread.Sources  # of the run
    description: Description  # of the run's checkpoint

    @property
    def record_id(self) -> str:
        """Its id."""
        return str(self.record["record_id"])

    @property
    def file_stem(self) -> str:
        """A file name of its name, without a suffix."""
        return re.sub(r"[^\w.-]+", "_", self.name).strip("._") or "recording"


def find_recording(finished: Run, record_id: str) -> Recording:
    """Find a recording of a finished run.

    Args:
        finished: The run.
        record_id: The recording's id.

    Returns:
        What the run says of it. If `report.paths` is false, its name is its number.

    Raises:
        EcgpipeError: The run has no such recording, or it lacks files.
    """
    paths = finished.config.report.paths
    description = describe(finished.model_json)
    sources = find_sources(
        finished, description.architecture.token_samples, description.model_input, description.has_tokens_by_lead
    )
    record = reread.read_rows(sources.records, [record_id]).get(record_id)
    if record is None:
        outdir = finished.outdir
        raise EcgpipeError(f"RECORD_ID: {record_id!r} is no recording of {outdir}; {outdir / 'records'} has their ids")
    name = record_id if paths else deidentify.number_recordings(sources.records, pa.array([record_id]))[0]
    return Recording(record, name, sources, description)


def view_recording(
    finished: Run,
    recording: Recording,
    label_names: Sequence[str],
    device: str,
    threads: int,
    model: str | None = None,
) -> dict[str, Any]:
    """Read a recording again, and attribute it to labels.

    Args:
        finished: The run.
        recording: One of its recordings.
        label_names: The labels; none for the attributions that the run has.
        device: For the attributions.
        threads: CPU threads for the attributions.
        model: The path of the user's own model, if the run is of one, for the attributions.

    Returns:
        `view` and `note`, as of `recording_view.read_views`.

    Raises:
        EcgpipeError: A label is unknown, or the run's backend gives no gradients.
    """
    if label_names:
        refuse_foreign(recording.description)
    record, paths, record_id = recording.record, finished.config.report.paths, recording.record_id
    view = recording_view.read_views([record_id], recording.sources, paths)[record_id]
    if record["status"] != "ok":
        reason = record["reason"] if paths else deidentify.generalise(record["reason"])
        view["note"] = f"This recording was {record['status']}: {reason}. {view['note'] or ''}"
    if label_names and view["view"]:
        attributions = attribute_labels(finished, recording, label_names, device, threads, model)
        sources = recording.sources._replace(attribution=None)
        return recording_view.read_views([record_id], sources, paths, {record_id: attributions})[record_id]
    return view


def write_page(finished: Run, recording: Recording, view: Mapping[str, Any], label: str | None, output: Path) -> None:
    """Write a recording's page.

    Args:
        finished: The run.
        recording: One of its recordings.
        view: Of `view_recording`.
        label: The label whose attribution the page opens with; None for the attention.
        output: The HTML file.
    """
    facts = describe_recording(finished, recording)
    page = (
        make_environment()
        .get_template("show.html.j2")
        .render(
            name=recording.name,
            random=recording.description.random_weights,
            demo=recording.description.demo_model,
            **describe_run(finished),
            data=pack(
                {
                    **{"name": recording.name, "why": [], **facts, **view, "label": label},
                    "attributable": recording_view.name_attributable(finished.info, finished.config.report.paths),
                }
            ),
        )
    )
    with whole(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def describe_run(finished: Run) -> dict[str, Any]:
    """What the page says of the run: its `checkpoint`, `version`, `finished` and `settings`, as JSON."""
    info = finished.info if finished.config.report.paths else deidentify.deidentify_run(finished.info)
    revision = f", revision {info.checkpoint.revision}" if info.checkpoint.revision else ""
    return {
        "checkpoint": f"{info.checkpoint.uri}{revision}, sha256 {info.checkpoint.sha256[:12]}",
        "version": info.ecgpipe,
        "finished": f"{datetime.fromisoformat(info.finished):%d %B %Y, %H:%M %Z}".lstrip("0"),
        "settings": json.dumps(info.config, indent=2, ensure_ascii=False),
    }


def draw_picture(recording: Recording, view: Mapping[str, Any], picture: Picture, output: Path) -> None:
    """Draw a recording.

    Args:
        recording: The recording.
        view: Of `view_recording`.
        picture: How it is drawn.
        output: The PNG, PDF or SVG file.

    Raises:
        EcgpipeError: It cannot be drawn so.
    """
    if not view["view"]:
        raise EcgpipeError(f"RECORD_ID: {recording.record_id!r} cannot be drawn: {view['note']}")
    drawn = view["view"]
    attention = ["attention"] if drawn["attention"] is not None else []
    colours = ["none", *attention, *(attribution["label"] for attribution in drawn["attributions"])]
    colour = picture.colour or [*attention, "none"][0]
    if colour not in colours:
        raise EcgpipeError(f"--colour: {colour!r} is not there; give one of {', '.join(colours)}, or --label")
    if not 0 <= picture.from_s < drawn["seconds"]:
        raise EcgpipeError(f"--from-s: {picture.from_s:g} s is not within the {drawn['seconds']:g} s drawn")
    with mpl.rc_context(ecg_paper.STYLE):
        figure = ecg_paper.draw(drawn, recording.name, picture.layout, colour, picture.from_s)
        if recording.description.random_weights and colour != "none":
            ecg_paper.warn_of_random_weights(figure)
        if recording.description.demo_model and colour != "none":
            ecg_paper.name_demo_model(figure)
        ecg_paper.save(figure, output)


def attribute_labels(
    finished: Run,
    recording: Recording,
    label_names: Sequence[str],
    device: str,
    threads: int,
    model: str | None = None,
) -> list[dict[str, Any]]:
    """Attribute a recording to labels; arguments as of `view_recording`.

    Returns:
        The attributions, as `recording_view.read_attributions` gives them.
    """
    from ecgpipe.analysis import attribute, attribution_pace
    from ecgpipe.inference import devices, engine
    from ecgpipe.models import networks  # here, because PyTorch and Captum take five seconds

    description, sources, record_id = recording.description, recording.sources, recording.record_id
    unknown = [label for label in label_names if label not in description.labels]
    if unknown:
        raise EcgpipeError(
            f"--label: {unknown[0]!r} is no label; the model has {', '.join(description.labels) or 'none'}"
        )
    rows = reread.read_rows(sources.manifest, [record_id])
    try:
        prepared = attribute.keep_drawn(
            reread.read_segments(rows[record_id], recording.record, sources.windows, sources.assumed)
        )
    except (UnreadableError, UnusableError) as error:
        raise EcgpipeError(f"RECORD_ID: {record_id!r} cannot be read again: {error}") from error
    engine.configure(threads, deterministic=False)
    weights, asked = finished.weights, finished.config.attribution
    attributions = []
    with devices.claim(device, engine.least_bytes(weights)) as claimed:
        network = networks.load_network(description, weights, claimed, packed=False, model=model)
        for label in label_names:
            target = description.labels.index(label)
            pace = attribution_pace.Pace(1, len(prepared.segments), asked.steps)
            pace.begin()
            size = attribute.BATCH_SIZES[claimed.type]
            explained = attribute.explain(
                network, prepared, target, asked.steps, size, count=pace.add, tolerance=asked.tolerance
            )
            judged = recording_view.describe_attribution(explained.attribution, explained.numbers, description.leads)
            attributions.append({"label": label, "attribution": explained.attribution, "judged": judged})
    return attributions


def describe_recording(finished: Run, recording: Recording) -> dict[str, Any]:
    """Collect what the page says beside a recording's leads.

    Args:
        finished: The run.
        recording: One of its recordings.

    Returns:
        `probabilities`, `facts` and `neighbors`, for the page's viewer.
    """
    record, record_id, config = recording.record, recording.record_id, finished.config
    predictions = finished.files("predictions")
    row = reread.read_rows(predictions, [record_id]).get(record_id, {})
    label_csv = labels.locate_of_run(finished)
    has_thresholds = recording.description.labels and label_csv.exists()
    thresholds = labels.thresholds_by_name(labels.read(label_csv)) if has_thresholds else {}
    truth = read_true_labels(finished, record_id)
    probabilities = [
        {
            **{"name": name, "probability": row[name], "truth": truth.get(name, "")},
            "threshold": thresholds.get(name, labels.DEFAULT_THRESHOLD),
        }
        for name in labels.label_columns(pq.read_schema(predictions[0]).names)
        if row
    ]
    [nearest] = neighbor_search.find_nearest(finished.files("embeddings"), [record_id], NEIGHBORS)
    columns = [name for name in record if name not in schemas.RECORDS.names]
    if not config.report.paths:
        columns = [name for name in columns if name in (config.report.columns or [])]
        record = {**record, "reason": record["reason"] and deidentify.generalise(record["reason"]), "path": None}
        ids = pa.array([neighbor.record_id for neighbor in nearest], pa.string())
        names = deidentify.number_recordings(recording.sources.records, ids)
        nearest = [neighbor._replace(record_id=name) for name, neighbor in zip(names, nearest, strict=True)]
    told = [*ACCOUNT, "path", *(name for name in QUALITY if not name.startswith(AMPLITUDE)), *schemas.DEVICE, *columns]
    facts = [(TITLES.get(name, name), format_fact(record.get(name), name in QUALITY), name) for name in told]
    amplitudes = [(name.removeprefix(AMPLITUDE), record[name]) for name in QUALITY if name.startswith(AMPLITUDE)]
    known = [f"{lead} {format_number(value)}" for lead, value in amplitudes if value is not None]
    facts.append(("amplitude (mV)", ", ".join(known), AMPLITUDE))
    return {
        "probabilities": sorted(probabilities, key=lambda label: -label["probability"]),
        "facts": [fact for fact in facts if fact[1]],
        "neighbors": [{"name": name, "row": None, "similarity": similarity} for name, similarity in nearest],
    }


def read_true_labels(finished: Run, record_id: str) -> dict[str, str]:
    """Read the true labels of a recording, yes or no; those that are known, if the run was evaluated."""
    path = finished.outdir / path_of("true_labels")
    asked = finished.config.evaluation.asked and path.is_file()
    rows = [row for table in parquet.rows_of([path] if asked else [], [record_id]) for row in table.to_pylist()]
    return {name: "yes" if value else "no" for row in rows for name, value in row.items() if isinstance(value, bool)}


def format_fact(value: object, is_measured: bool = False) -> str:
    """Write a value of the records as a text, empty if there is none; what was measured with three digits."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, float):
        if not np.isfinite(value):
            return ""
        return format_number(value) if is_measured else f"{value:.6g}"
    return "" if value is None else str(value)
