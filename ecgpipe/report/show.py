"""Show any one recording of a finished run, as the report shows those that it holds: a page, or a PNG, PDF or SVG.

Of a run with `report.paths: false` the page and the pictures call recordings by their numbers, as its report does.
"""

import argparse
import json
import logging
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe.analysis import neighbors
from ecgpipe.analysis.examples import NEIGHBORS
from ecgpipe.core import parquet, schemas
from ecgpipe.core.atomic import whole
from ecgpipe.core.config import Attribution
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import labels
from ecgpipe.models.description import Description, describe, refuse_foreign
from ecgpipe.preprocessing import reread
from ecgpipe.preprocessing.reread import sources_of
from ecgpipe.preprocessing.segments import UnusableError
from ecgpipe.readers import UnreadableError
from ecgpipe.report import deidentify, ecg_paper, recording_view
from ecgpipe.report.map_data import ACCOUNT, QUALITY
from ecgpipe.report.payload import pack
from ecgpipe.report.report import environment

logger = logging.getLogger(__name__)

FORMATS = (".html", ".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe show`."""
    parser.add_argument("record_id", metavar="RECORD_ID", help="as in records/")
    parser.add_argument("--outdir", type=Path, default=Path("results"), help="of the run (default %(default)s)")
    parser.add_argument("--output", type=Path, help="a .html, .png, .pdf or .svg (default: RECORD_ID.html, here)")
    parser.add_argument(
        "--label",
        nargs="+",
        default=[],
        metavar="NAME",
        help="attribute the recording to these labels; the first one is its colour, on the page at first",
    )
    parser.add_argument(
        "--layout", choices=ecg_paper.LAYOUTS, default="standard", help="of a picture (default %(default)s)"
    )
    parser.add_argument(
        "--colour",
        help="of a picture: attention, none, or a label (default: the first --label, or else the attention)",
    )
    parser.add_argument("--from-s", type=float, default=0.0, help="where a picture begins (default %(default)s)")
    parser.add_argument("--device", default="auto", help="for --label (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, for --label (default %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Show a recording."""
    outdir, record_id = args.outdir, args.record_id
    if args.output and args.output.suffix not in FORMATS:
        ending = args.output.suffix or "nothing"
        raise EcgpipeError(f"--output: {args.output} ends in {ending!r}; give {', '.join(FORMATS)}")
    content = json.loads(_there(outdir / "run.json").read_text(encoding="utf-8"))
    settings, paths = content["config"], deidentify.shows_names(content)
    description = describe(outdir / "checkpoint/model.json")
    if args.label:
        refuse_foreign(description)
    sources = sources_of(outdir, settings, description.architecture.token_samples)
    account = reread.rows(sources.records, [record_id]).get(record_id)
    if account is None:
        raise EcgpipeError(f"RECORD_ID: {record_id!r} is no recording of {outdir}; {outdir / 'records'} has their ids")
    name = record_id if paths else deidentify.names(sources.records, pa.array([record_id]))[0]
    file = re.sub(r"[^\w.-]+", "_", name).strip("._") or "recording"
    output = args.output or Path(f"{file}.html")
    shown = recording_view.read([record_id], sources, paths)[record_id]
    if account["status"] != "ok":
        reason = account["reason"] if paths else deidentify.general(account["reason"])
        shown["note"] = f"This recording was {account['status']}: {reason}. {shown['note'] or ''}"
    if args.label and shown["view"]:
        made = attributions(args, settings, description, sources, account)
        shown = recording_view.read([record_id], sources._replace(attribution=None), paths, {record_id: made})[
            record_id
        ]
    if output.suffix == ".html":
        facts = described(outdir, settings, description, sources, account, paths)
        opens = args.label[0] if args.label else None
        page = (
            environment()
            .get_template("show.html.j2")
            .render(
                name=name,
                random=description.random_weights,
                data=pack({"name": name, "why": [], **facts, **shown, "label": opens}),
            )
        )
        with whole(output) as temporary:
            temporary.write_text(page, encoding="utf-8")
    elif not shown["view"]:
        raise EcgpipeError(f"RECORD_ID: {record_id!r} cannot be drawn: {shown['note']}")
    else:
        attention = ["attention"] if shown["view"]["attention"] is not None else []
        colours = ["none", *attention, *(given["label"] for given in shown["view"]["attributions"])]
        colour = args.colour or [*args.label, *attention, "none"][0]
        if colour not in colours:
            raise EcgpipeError(f"--colour: {colour!r} is not there; give one of {', '.join(colours)}, or --label")
        if not 0 <= args.from_s < shown["view"]["seconds"]:
            raise EcgpipeError(f"--from-s: {args.from_s:g} s is not within the {shown['view']['seconds']:g} s drawn")
        with mpl.rc_context(ecg_paper.STYLE):
            figure = ecg_paper.draw(shown["view"], name, args.layout, colour, args.from_s)
            if description.random_weights and colour != "none":
                ecg_paper.warn_of_random_weights(figure)
            ecg_paper.save(figure, output)
    logger.info("%s", output)


def attributions(
    args: argparse.Namespace,
    settings: dict[str, Any],
    description: Description,
    sources: reread.Sources,
    account: dict[str, Any],
) -> list[dict[str, Any]]:
    """Attribute the recording to the labels that are asked for, as `recording_view.attributed` gives it."""
    from ecgpipe.analysis import attribute
    from ecgpipe.inference import devices, engine
    from ecgpipe.models.ecg_fm import network as ecg_fm_network  # here, because PyTorch and Captum take five seconds

    unknown = [label for label in args.label if label not in description.labels]
    if unknown:
        raise EcgpipeError(
            f"--label: {unknown[0]!r} is no label; the model has {', '.join(description.labels) or 'none'}"
        )
    found = reread.rows(sources.manifest, [args.record_id])
    try:
        prepared = attribute.drawn(reread.segments(found[args.record_id], account, sources.windows, sources.assumed))
    except (UnreadableError, UnusableError) as error:
        raise EcgpipeError(f"RECORD_ID: {args.record_id!r} cannot be read again: {error}") from error
    steps = Attribution.model_validate(settings.get("attribution", {})).steps
    engine.configure(args.threads, deterministic=False)
    weights = args.outdir / "checkpoint/model.safetensors"
    made = []
    with devices.claim(args.device, engine.least_bytes(weights)) as device:
        network = ecg_fm_network.load(description.architecture, weights, device, packed=False)
        for label in args.label:
            target = description.labels.index(label)
            explained = attribute.explain(network, prepared, target, steps, attribute.BATCH_SIZES[device.type])
            judged = recording_view.judged(explained.attribution, explained.numbers)
            made.append({"label": label, "attribution": explained.attribution, "judged": judged})
    return made


def described(
    outdir: Path,
    settings: dict[str, Any],
    description: Description,
    sources: reread.Sources,
    account: dict[str, Any],
    paths: bool,
) -> dict[str, Any]:
    """What the page says beside a recording's leads: `probabilities`, `facts`, `neighbors`.

    Args:
        outdir: Of the run.
        settings: `config` of its run.json.
        description: Of its checkpoint.
        sources: Where its recordings come from.
        account: The recording's row of the records.
        paths: Whether recordings and files may be named.

    Returns:
        For the page's viewer.
    """
    record_id = account["record_id"]
    predictions = parquet.of_run(outdir, "predictions")
    row = reread.rows(predictions, [record_id]).get(record_id, {})
    path = Path(settings["labels"])
    thresholds = labels.thresholds_by_name(labels.read(path)) if description.labels and path.exists() else {}
    probabilities = [
        {"name": name, "probability": row[name], "threshold": thresholds.get(name, labels.DEFAULT_THRESHOLD)}
        for name in labels.label_columns(pq.read_schema(predictions[0]).names)
        if row
    ]
    [alike] = neighbors.nearest(parquet.of_run(outdir, "embeddings"), [record_id], NEIGHBORS)
    own = [name for name in account if name not in schemas.RECORDS.names]
    if not paths:
        wanted = (settings.get("report") or {}).get("columns") or []
        own = [name for name in own if name in wanted]
        account = {**account, "reason": account["reason"] and deidentify.general(account["reason"]), "path": None}
        called = deidentify.names(sources.records, pa.array([name for name, _ in alike], pa.string()))
        alike = [one._replace(record_id=name) for name, one in zip(called, alike, strict=True)]
    facts = [(name, fact(account[name])) for name in (*ACCOUNT, "path", *QUALITY, *own)]
    return {
        "probabilities": sorted(probabilities, key=lambda one: -one["probability"]),
        "facts": [pair for pair in facts if pair[1]],
        "neighbors": [{"name": name, "row": None, "similarity": similarity} for name, similarity in alike],
    }


def fact(value: object) -> str:
    """A value of the records as a text; an empty one for none."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}" if np.isfinite(value) else ""
    return "" if value is None else str(value)


def _there(path: Path) -> Path:
    if not path.is_file():
        raise EcgpipeError(f"--outdir: there is no {path}; give the folder of a finished run's results")
    return path
