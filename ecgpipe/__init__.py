"""ECG-FM over whole datasets.

A stage of the workflow is the module of its name, with `add_arguments` and `run`: `python -m ecgpipe STAGE`. In the
order in which they run: checkpoint, manifest, preprocess, precision, infer, aggregate, umap, summary, report, verdict;
besides them demo, inspect, verify and config. What they are made of:

    checkpoint   hub (download), fairseq_signals (its files and names), model (the network)
    manifest     folders (every file of a folder), listed (tables), layouts (known datasets), growth (what was known
                 before)
    preprocess   readers (one module per format), prepare (leads, resampling, windows), quality, survive (crashes)
    precision    engine (as infer)
    infer        shards (reading segments), engine (the stream over a device), devices (a GPU of its own), model
    report       figures, nameless (without ids and paths), templates
    verify       recipe (recordings and a checkpoint), against (a run's numbers), upstream (fairseq-signals, also for
                 infer), reference (its numbers, and the script that asks it)
    demo         simulator
    Python       api (the class ECGFM), arrays (what it is given), predict (the same from a terminal)
    all          config (settings), labels, tables (columns of the results), provenance (which code and inputs),
                 atomic (whole files), log, errors

Snakemake's own process calls config, outdir (one run at a time) and cluster (jobs that a killed run left in a queue).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgpipe.api import ECGFM as ECGFM

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401, what a module's __getattr__ gives is of any type
    """ECGFM brings PyTorch, which takes a second: imported when asked for, not by the Snakefile's `import ecgpipe`."""
    if name == "ECGFM":
        from ecgpipe.api import ECGFM

        return ECGFM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
