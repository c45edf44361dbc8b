"""The command line: python -m ecgpipe STAGE [OPTION ...]."""

import argparse
import errno
import importlib
import logging
import os
import re
from pathlib import Path

from ecgpipe import __version__
from ecgpipe.core import logs
from ecgpipe.core.errors import EcgpipeError

# By command: its module, which has add_arguments(parser) and run(args), and what it does. The module is imported only
# when asked for: PyTorch takes seconds.
STAGES = {
    "checkpoint": ("models.checkpoint", "fetch a checkpoint and convert it to safetensors and JSON"),
    "manifest": ("workflow.scan", "find the recordings under the inputs and cut them into shards"),
    "preprocess": ("preprocessing.preprocess", "read one shard of recordings and write segments for the model"),
    "precision": (
        "inference.precision",
        "choose the precision of inference, and measure how much it changes the results",
    ),
    "infer": ("inference.infer", "run the model over one part, and write logits, embeddings and attention"),
    "aggregate": ("inference.aggregate", "write one prediction per recording of a part"),
    "umap": ("analysis.umap", "compute a two-dimensional map of the embeddings"),
    "examples": ("analysis.examples", "choose the recordings that the report shows with their signals"),
    "attribute": ("analysis.attribute", "attribute labels to leads and times, by integrated gradients"),
    "evaluate": (
        "evaluation.evaluate",
        "evaluate predictions against true labels: metrics with intervals, subgroups, curves",
    ),
    "summary": ("report.summary", "count the recordings by status and reason, and write run.json"),
    "figures": ("report.figures", "write the report's main figures as PNG and SVG"),
    "report": ("report.report", "write report.html"),
    "verdict": ("report.verdict", "end with an error when too many recordings could not be read"),
    "inspect": ("api.inspect", "show what a file or folder holds, and how it would be processed"),
    "predict": ("api.predict", "run the model over a few files and print the predictions"),
    "show": ("report.show", "show one recording of a run as a page, PNG, PDF or SVG"),
    "neighbors": (
        "analysis.neighbors",
        "find the recordings that are most similar by embedding, in this run or another one",
    ),
    "compare": (
        "report.compare_page",
        "compare two runs: labels, embeddings, and the recordings that changed most",
    ),
    "thresholds": (
        "evaluation.thresholds",
        "choose decision thresholds on labelled recordings",
    ),
    "calibrate": ("evaluation.calibrate", "fit a probability calibration on labelled recordings"),
    "probe": ("evaluation.probe", "train a linear classifier on the embeddings of a run, and evaluate it"),
    "untrained": (
        "models.random_init",
        "write a checkpoint with random weights, as a baseline for probe",
    ),
    "verify": ("selftest.verify", "compare the numbers of this installation with those of fairseq-signals"),
    "demo": ("selftest.demo", "write the recordings and the checkpoint of the demo"),
    "config": ("workflow.settings_docs", "write config/config.yaml, its schema and docs/config.md"),
}


# What the disk says when it cannot be written to: full, over quota, read-only, not ours.
SURROUNDINGS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


def main(argv: list[str] | None = None) -> int:
    """Run one stage and return the exit status: 0 done, 2 a mistake that the user can fix, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgpipe",
        description="ECG-FM over whole datasets, one stage at a time. `snakemake` runs them all.",
        epilog="stages:\n" + "\n".join(f"  {name:<12}{what}" for name, (_, what) in STAGES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ecgpipe {__version__}")
    parser.add_argument(
        "stage", choices=STAGES, metavar="STAGE", help="one of the stages below; STAGE --help says more"
    )
    parser.add_argument("options", nargs=argparse.REMAINDER, help="the stage's own options")
    command = parser.parse_args(argv)

    module = importlib.import_module(f"ecgpipe.{STAGES[command.stage][0]}")
    options = argparse.ArgumentParser(
        prog=f"python -m ecgpipe {command.stage}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(options)
    # As a shell does, which leaves --option=~/x, and what stands in quotes, as it is.
    options.register("type", Path, lambda text: Path(os.path.expanduser(text)))  # noqa: PTH111, takes ~nobody as it is
    options.add_argument("--log", type=Path, help="also write the messages to this file")
    args = options.parse_args(command.options)
    logs.start(command.stage, args.log)
    try:
        module.run(args)
    except EcgpipeError as error:
        logging.getLogger("ecgpipe").error("error: %s", error)
        return 2
    except KeyboardInterrupt:
        logging.getLogger("ecgpipe").error("stopped")
        return 130  # what a shell says of a command that an interrupt ended
    except OSError as error:
        if error.errno not in SURROUNDINGS:
            raise
        logging.getLogger("ecgpipe").error("error: %s; %s", error, _fix_for(error))
        return 2

    return 0


def _fix_for(error: OSError) -> str:
    """What to do about what the disk says, be it of an input or of what is written."""
    # PyArrow names the file in its message alone.
    named = re.search(r"'(/?[^']+)'", str(error))
    path = error.filename or (named[1] if named else None)
    if error.errno == errno.EACCES and path and not os.access(path, os.R_OK) and os.path.lexists(path):
        return "it is there, but this user may not read it: see its permissions (`ls -l`), or leave it out"
    return "make room, or choose another outdir"
