"""End the run with an error when too many recordings could not be read, after all of them have been accounted for."""

import argparse
from pathlib import Path

from ecgpipe.core import options, settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import RunInfo, read_info
from ecgpipe.core.typed import write_setting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe verdict`."""
    options.add(parser, "run", required=True)
    settings.add_arguments(parser, settings.Verdict)
    options.add(parser, "output", required=True, help="file to write if the run is good")


def run(args: argparse.Namespace) -> None:
    """Write the output, or say why not."""
    write_verdict(args.run, settings.parse_arguments("verdict", settings.Verdict, args), args.output)


def write_verdict(run_json: Path, verdict_settings: settings.Verdict, output: Path) -> None:
    """Judge a run, and write a file if it is good.

    Args:
        run_json: Of the run.
        verdict_settings: Which share of the recordings may fail.
        output: The file.

    Raises:
        EcgpipeError: More recordings failed.
    """
    info = read_info(run_json)
    judge(info, verdict_settings.max_failed_fraction, run_json)
    mark = settings.format_mark({"verdict": settings.hash_section("verdict", verdict_settings)})
    with whole(output) as temporary:
        sentence = f"{info.counts.failed} of {info.counts.recordings} recordings failed"
        temporary.write_text(f"{sentence}\n{mark}\n", encoding="utf-8")


def judge(info: RunInfo, most: float, run_json: Path) -> None:
    """Compare the share of failed recordings with what is allowed.

    Args:
        info: What run.json says.
        most: Share of the recordings that may fail.
        run_json: The file, whose folder holds the results.

    Raises:
        EcgpipeError: More failed.
    """
    failed, total = info.counts.failed, info.counts.recordings
    if failed and failed / total > most:
        reasons = [reason for reason in info.reasons if reason.status == "failed"]
        why = "; ".join(f"{reason.count:,} {reason.reason}" for reason in reasons[:5])
        outdir = run_json.parent
        raise EcgpipeError(
            f"max_failed_fraction: {failed:,} of {total:,} recordings could not be read ({failed / total:.1%}), more "
            f"than {most:.1%}: {why}. The results are complete for the others: {outdir / 'report.html'}, and "
            f"{outdir / 'records'} says why for each. Fix the files, leave them out, or allow as many: "
            f"{write_setting('max_failed_fraction', f'{_round_up(failed, total):g}')}"
        )


def _round_up(failed: int, total: int) -> float:
    """The least share in whole hundredths that allows `failed` of `total` to fail."""
    return next(hundredths / 100 for hundredths in range(101) if failed / total <= hundredths / 100)
