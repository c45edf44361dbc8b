"""End the run with an error when too many recordings could not be read, after all of them have been accounted for."""

import argparse
import json
from pathlib import Path
from typing import Any

from ecgpipe.core import settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe verdict`."""
    parser.add_argument("--run", type=Path, required=True, help="run.json")
    settings.add_arguments(parser, settings.Verdict)
    parser.add_argument("--output", type=Path, required=True, help="file to write when the run is good")


def run(args: argparse.Namespace) -> None:
    """Write the output, or say why not."""
    content = json.loads(args.run.read_text(encoding="utf-8"))
    given = settings.of_arguments("verdict", settings.Verdict, args)
    judge(content, given.max_failed_fraction, args.run)
    mark = settings.mark({"verdict": settings.sha256("verdict", given)})
    counts = content["counts"]
    with whole(args.output) as temporary:
        told = f"{counts['failed']} of {counts['recordings']} recordings failed"
        temporary.write_text(f"{told}\n{mark}\n", encoding="utf-8")


def judge(content: dict[str, Any], most: float, where: Path) -> None:
    """Hold the share of failed recordings against what is allowed.

    Args:
        content: Of run.json.
        most: Share of the recordings that may fail.
        where: run.json, whose folder holds the results.

    Raises:
        EcgpipeError: More failed.
    """
    failed, total = content["counts"]["failed"], content["counts"]["recordings"]
    if failed and failed / total > most:
        reasons = [item for item in content["reasons"] if item["status"] == "failed"]
        why = "; ".join(f"{item['count']:,} {item['reason']}" for item in reasons[:5])
        raise EcgpipeError(
            f"max_failed_fraction: {failed:,} of {total:,} recordings could not be read ({failed / total:.1%}), more "
            f"than {most:.1%}: {why}. The results are complete for the others: {where.parent / 'report.html'}, and "
            f"{where.parent / 'records'} says why for each. Fix the files, leave them out, or allow as many: "
            f"--config max_failed_fraction={_enough(failed, total):g}"
        )


def _enough(failed: int, total: int) -> float:
    """The least share in whole hundredths that allows so many of all to fail."""
    return next(hundredths / 100 for hundredths in range(101) if failed / total <= hundredths / 100)
