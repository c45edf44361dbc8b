"""The command line: ecgpipe COMMAND [OPTION ...], or python -m ecgpipe COMMAND [OPTION ...]."""

import argparse
import difflib
import errno
import importlib
import logging
import os
import re
import sys
from pathlib import Path

from ecgpipe import __version__
from ecgpipe.core import logs
from ecgpipe.core.errors import EcgpipeError

# By group and command: its module, which has add_arguments(parser) and run(args), and what it does. The module is
# imported only when asked for: PyTorch takes seconds.
GROUPS = {
    "run": {
        "run": ("workflow.run", "run everything over a folder of recordings, up to the report"),
    },
    "look": {
        "inspect": ("api.inspect", "show what a file or folder holds, and how it would be processed"),
        "predict": ("api.predict", "run the model over a few files and print the predictions"),
        "show": ("report.show", "show one recording of a run as a page, PNG, PDF or SVG"),
    },
    "evaluate": {
        "thresholds": ("evaluation.thresholds", "choose decision thresholds on labelled recordings"),
        "calibrate": ("evaluation.calibrate", "fit a probability calibration on labelled recordings"),
        "probe": ("evaluation.probe", "train a linear classifier on the embeddings of a run, and evaluate it"),
        "untrained": ("models.random_init", "write a checkpoint with random weights, as a baseline for probe"),
    },
    "analyse": {
        "neighbors": ("analysis.neighbors", "find the recordings that are most similar by embedding"),
        "compare": ("report.compare_page", "compare two runs: labels, embeddings, and what changed most"),
    },
    "check": {
        "doctor": ("workflow.doctor", "check whether a run can work here: PyTorch, GPU, checkpoint, disk, packages"),
        "verify": ("selftest.verify", "compare the numbers of this installation with those of fairseq-signals"),
        "demo": ("selftest.demo", "write the recordings and the checkpoint of the demo"),
        "config": ("workflow.settings_docs", "write config/config.yaml, its schema and docs/config.md"),
    },
    "stages, which `run` calls": {
        "checkpoint": ("models.checkpoint", "fetch a checkpoint and convert it to safetensors and JSON"),
        "manifest": ("workflow.scan", "find the recordings under the inputs and cut them into shards"),
        "preprocess": ("preprocessing.preprocess", "read one shard of recordings and write segments for the model"),
        "precision": ("inference.precision", "choose the precision of inference, and measure what it changes"),
        "infer": ("inference.infer", "run the model over one part, and write logits, embeddings and attention"),
        "aggregate": ("inference.aggregate", "write one prediction per recording of a part"),
        "umap": ("analysis.umap", "compute a two-dimensional map of the embeddings"),
        "examples": ("analysis.examples", "choose the recordings that the report shows with their signals"),
        "attribute": ("analysis.attribute", "attribute labels to leads and times, by integrated gradients"),
        "evaluate": ("evaluation.evaluate", "evaluate predictions against true labels: metrics, subgroups, curves"),
        "summary": ("report.summary", "count the recordings by status and reason, and write run.json"),
        "figures": ("report.figures", "write the report's main figures as PNG and SVG"),
        "report": ("report.report", "write report.html"),
        "verdict": ("report.verdict", "end with an error when too many recordings could not be read"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}

# By module: the extra of ecgpipe that installs it.
EXTRAS = {
    **dict.fromkeys(
        ("snakemake", "umap", "pynndescent", "numba", "sklearn", "plotly", "captum", "matplotlib", "jinja2"), "workflow"
    ),
    **{"neurokit2": "demo", "pydicom": "dicom", "edfio": "edf", "h5py": "hdf5", "ecgdatakit": "vendor"},
}


# What the disk says when it cannot be written to: full, over quota, read-only, not ours.
SURROUNDINGS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 2 a mistake that the user can fix, 130 interrupted."""
    called = "ecgpipe" if Path(sys.argv[0]).name == "ecgpipe" else "python -m ecgpipe"
    parser = argparse.ArgumentParser(
        prog=called,
        description="ECG foundation models over whole datasets.",
        epilog="\n\n".join(
            "\n".join([f"{group}:", *(f"  {name:<12}{what}" for name, (_, what) in commands.items())])
            for group, commands in GROUPS.items()
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ecgpipe {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of those below; COMMAND --help says more")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="the command's own options")
    given = parser.parse_args(argv)
    if given.command not in COMMANDS:
        close = difflib.get_close_matches(given.command, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"{called} --help lists them"
        parser.error(f"there is no command {given.command!r}; {hint}")
    try:
        return _run_command(called, given.command, given.options)
    except KeyboardInterrupt:  # while the command is loaded
        return 130
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        message = f"error: {given.command} needs the package {error.name}, which is not installed; install it with: "
        print(f"{message}pip install 'ecgpipe[{extra}]'", file=sys.stderr)
        return 2


def _run_command(called: str, name: str, words: list[str]) -> int:
    module = importlib.import_module(f"ecgpipe.{COMMANDS[name][0]}")
    parser = argparse.ArgumentParser(
        prog=f"{called} {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    # As a shell does, which leaves --option=~/x, and what stands in quotes, as it is.
    parser.register("type", Path, lambda text: Path(os.path.expanduser(text)))  # noqa: PTH111, takes ~nobody as it is
    parser.add_argument("--log", type=Path, help="also write the messages to this file")
    end = words.index("--") if "--" in words and getattr(module, "PASSES_ON", False) else len(words)
    args = parser.parse_args(words[:end], argparse.Namespace(passed_on=words[end + 1 :]))
    logs.start(name, args.log)
    try:
        status: int | None = module.run(args)
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
    return status or 0


def _fix_for(error: OSError) -> str:
    """What to do about what the disk says, be it of an input or of what is written."""
    # PyArrow names the file in its message alone.
    named = re.search(r"'(/?[^']+)'", str(error))
    path = error.filename or (named[1] if named else None)
    if error.errno == errno.EACCES and path and not os.access(path, os.R_OK) and os.path.lexists(path):
        return "it is there, but this user may not read it: see its permissions (`ls -l`), or leave it out"
    return "make room, or choose another outdir"
