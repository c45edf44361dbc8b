"""The command line: ecgpipe COMMAND [OPTION ...], or python -m ecgpipe COMMAND [OPTION ...]."""
# PYTHON_ARGCOMPLETE_OK, by which the shell knows that ecgpipe completes its own words

import argparse
import contextlib
import difflib
import errno
import importlib
import importlib.util
import logging
import os
import re
import sys
from pathlib import Path
from types import ModuleType

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
        "models": ("models.list_models", "list the models that can be run, or say what one of them takes and gives"),
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
        "study": ("report.study", "put runs of several models over the same recordings side by side"),
    },
    "check": {
        "doctor": ("workflow.doctor", "check whether a run can work here: PyTorch, GPU, checkpoint, disk, packages"),
        "verify": ("selftest.verify", "compare the numbers of this installation with those of fairseq-signals"),
        "demo": ("selftest.demo", "write the recordings and the checkpoint of the demo"),
        "config": ("workflow.settings_docs", "write config/config.yaml, its schema and docs/config.md"),
    },
    "stages, which `run` calls": {
        "checkpoint": ("models.checkpoint", "fetch a checkpoint and convert it to safetensors and JSON"),
        "manifest": ("workflow.manifest_command", "find the recordings under the inputs and cut them into shards"),
        "preprocess": ("preprocessing.preprocess", "read one shard of recordings and write segments for the model"),
        "precision": ("inference.precision", "choose the precision of inference, and measure what it changes"),
        "infer": ("inference.infer", "run the model over one part, and write logits, embeddings and attention"),
        "aggregate": ("inference.aggregate", "write one prediction per recording of a part"),
        "umap": ("analysis.umap", "compute a two-dimensional map of the embeddings, or join the places of all parts"),
        "umap_fit": ("analysis.umap_fit", "fit the map of a large run on a sample of its segments"),
        "umap_place": ("analysis.umap_place", "place the segments of one part on the fitted map"),
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
    **dict.fromkeys(["snakemake", "umap", "pynndescent", "numba", "sklearn", "plotly", "captum"], "workflow"),
    **dict.fromkeys(["matplotlib", "jinja2", "markupsafe"], "workflow"),
    **{"pydicom": "dicom", "edfio": "edf", "h5py": "hdf5", "ecgdatakit": "vendor"},
}


# By command: a module that it starts in another process, which could not say what is missing.
STARTED = {"run": "snakemake"}

# Before a word that stands after --, and is no option: a character that no word of a command line can have.
QUOTED = "\0"

# What the disk says when it cannot be written to: full, over quota, read-only, not ours.
SURROUNDINGS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 2 a mistake that the user can fix, 130 interrupted."""
    if "_ARGCOMPLETE" in os.environ:
        _complete()
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
    _add_version(parser)
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


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action="version", version=f"ecgpipe {__version__}")


def _run_command(called: str, name: str, words: list[str]) -> int:
    module = importlib.import_module(f"ecgpipe.{COMMANDS[name][0]}")
    parser = argparse.ArgumentParser(
        prog=f"{called} {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_arguments(parser, module)
    end = words.index("--") if "--" in words and getattr(module, "PASSES_ON", False) else len(words)
    _refuse_unknown_options(parser, words[:end])
    # Intermixed: an option may stand between two arguments, such as RUN and RECORD_ID.
    args = parser.parse_intermixed_args(_quote(words[:end]), argparse.Namespace(passed_on=words[end + 1 :]))
    started = STARTED.get(name)
    if started and importlib.util.find_spec(started) is None:
        raise ModuleNotFoundError(f"No module named {started!r}", name=started)
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


def _add_arguments(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    module.add_arguments(parser)
    # As a shell does, which leaves --option=~/x, and what stands in quotes, as it is.
    parser.register("type", Path, lambda text: Path(os.path.expanduser(text.lstrip(QUOTED))))  # noqa: PTH111, takes ~nobody as it is
    parser.register("type", None, lambda text: text.lstrip(QUOTED))
    parser.add_argument("--log", type=Path, help="also write the messages to this file")


def _quote(words: list[str]) -> list[str]:
    """Mark the words after --, since argparse forgets that they are no options when it parses intermixed."""
    end = words.index("--") + 1 if "--" in words else len(words)
    return words[:end] + [QUOTED + word for word in words[end:]]


def _refuse_unknown_options(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """End with a suggestion where argparse would only say that it does not know an option."""
    known = [name for action in parser._actions for name in action.option_strings]
    suggested = [
        name for action in parser._actions if action.help != argparse.SUPPRESS for name in action.option_strings
    ]
    for word in words[: words.index("--") if "--" in words else None]:
        name = word.partition("=")[0]
        # argparse takes a word with a space for a value, and the beginning of an option's name for the option.
        if not name.startswith("--") or " " in word or any(option.startswith(name) for option in known):
            continue
        close = difflib.get_close_matches(name, suggested, n=1)
        hint = f"did you mean {close[0]}?" if close else f"{parser.prog} --help lists the options"
        parser.error(f"unrecognized arguments: {name}; {hint}")


def _complete() -> None:
    """Answer the shell that asks how the words of a command line could go on, and end the process.

    Of all commands, only the module of the one that stands on the line is imported.
    """
    import argcomplete  # here, because nothing else needs it

    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    _, _, _, words, _ = argcomplete.lexers.split_line(line, point)
    parser = argparse.ArgumentParser()
    _add_version(parser)
    commands = parser.add_subparsers()
    for name, (path, what) in COMMANDS.items():
        command = commands.add_parser(name, help=what)
        if name in words[1:2]:
            with contextlib.suppress(ModuleNotFoundError):  # what cannot run has nothing to complete
                _add_arguments(command, importlib.import_module(f"ecgpipe.{path}"))
    argcomplete.autocomplete(parser)


def _fix_for(error: OSError) -> str:
    """What to do about what the disk says, be it of an input or of what is written."""
    # PyArrow names the file in its message alone.
    named = re.search(r"'(/?[^']+)'", str(error))
    path = error.filename or (named[1] if named else None)
    if error.errno == errno.EACCES and path and not os.access(path, os.R_OK) and os.path.lexists(path):
        return "it is there, but this user may not read it: see its permissions (`ls -l`), or leave it out"
    return "free disk space, or give another outdir"
