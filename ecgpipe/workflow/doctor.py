"""Check whether a run can work here: Python, PyTorch and GPU, checkpoint, models, disk, formats' packages, SLURM.

Each line says ok, warning (it works, but slowly or not for all files) or problem (it does not work), with the fix. The
exit status is 1 if there is a problem.
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ecgpipe import __version__
from ecgpipe.core import options
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config
from ecgpipe.inputs.scan import scan_inputs
from ecgpipe.models import hub, registry
from ecgpipe.readers import FORMATS, missing_package
from ecgpipe.workflow import estimate, shard_sizes

# Free memory of a GPU that inference at its usual batch size takes.
GPU_BYTES = 4 * 2**30

# Open files that Snakemake and Arrow need for a run of many parts.
OPEN_FILES = 1024

# What the workflow needs besides the readers and the model, as (module, package).
WORKFLOW = (("snakemake", "snakemake"), ("umap", "umap-learn"), ("plotly", "plotly"), ("captum", "captum"))


class Finding(NamedTuple):
    """What one check found."""

    level: Literal["ok", "warning", "problem"]
    what: str
    fix: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe doctor`."""
    parser.add_argument("input", nargs="*", metavar="INPUT", help="recordings that are to be run")
    options.add(parser, "outdir", help="where results are to go (default %(default)s)")
    options.add(parser, "checkpoint")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Check, print, and return 1 if something does not work."""
    findings = list(check(args.input, args.outdir, args.checkpoint))
    if args.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            print(f"{finding.level:<9}{finding.what}")
            if finding.fix:
                print(f"{'':<9}fix: {finding.fix}")
    return int(any(finding.level == "problem" for finding in findings))


def check(inputs: Sequence[str], outdir: Path, checkpoint: str) -> Iterator[Finding]:
    """Check everything, in the order in which a run needs it.

    Args:
        inputs: Paths of recordings; none to check only the machine.
        outdir: Where results are to go.
        checkpoint: A local path, or hf://OWNER/REPO/FILE.

    Yields:
        What was found.
    """
    yield check_python()
    yield from check_packages()
    yield from check_torch()
    yield check_checkpoint(checkpoint)
    yield from check_models()
    recordings = None
    if inputs:
        findings, recordings = check_inputs(inputs)
        yield from findings
    yield check_disk(outdir, recordings)
    yield check_open_files()
    yield check_slurm()


def check_python() -> Finding:
    """Which ecgpipe and which Python this is; pip installs ecgpipe into no Python that is too old."""
    return Finding("ok", f"ecgpipe {__version__} on Python {platform.python_version()} ({sys.executable})")


def check_packages() -> Iterator[Finding]:
    """Whether the packages of the workflow are installed."""
    missing = [package for module, package in WORKFLOW if importlib.util.find_spec(module) is None]
    if missing:
        yield Finding("problem", f"not installed: {', '.join(missing)}", "pip install 'ecgpipe[workflow]'")
    else:
        yield Finding("ok", "the packages of the workflow are installed")


def check_torch() -> Iterator[Finding]:
    """Whether PyTorch works, and uses the GPU that is there."""
    try:
        import torch  # here, because it takes seconds

        from ecgpipe.inference import devices
    except ImportError as error:
        yield Finding("problem", f"PyTorch cannot be imported: {error}", "pip install torch")
        return
    gpus = devices.list_gpus()
    has_card = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if not gpus:
        built = f"PyTorch {torch.__version__}"
        if not has_card:
            yield Finding("ok", f"{built} on the CPU ({devices.describe(torch.device('cpu'))}); there is no NVIDIA GPU")
        elif torch.version.cuda is None:
            yield Finding(
                "warning",
                f"{built} is built without CUDA, and there is an NVIDIA GPU: it would not be used",
                "install a build with CUDA, see https://pytorch.org/get-started/locally",
            )
        else:
            yield Finding(
                "warning",
                f"{built} for CUDA {torch.version.cuda} sees no GPU, and there is an NVIDIA GPU",
                "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES; the driver may be too old for this CUDA",
            )
    architectures = torch.cuda.get_arch_list() if gpus else []
    for gpu in gpus:
        if not devices.has_kernels(gpu.capability, architectures):
            yield Finding(
                "warning",
                f"{gpu}: PyTorch {torch.__version__} is not built for its compute capability "
                f"{'.'.join(map(str, gpu.capability))}",
                "install a build that has it, see https://pytorch.org/get-started/locally",
            )
        elif gpu.free_bytes is not None and gpu.free_bytes < GPU_BYTES:
            yield Finding(
                "warning",
                f"{gpu}: {gpu.free_bytes / 2**30:.1f} GiB of its memory are free",
                "end what else runs on it (`nvidia-smi`), or --set inference.batch_size=32",
            )
        else:
            yield Finding("ok", f"PyTorch {torch.__version__} on {gpu}, {gpu.total_bytes / 2**30:.0f} GiB")


def check_checkpoint(checkpoint: str) -> Finding:
    """Whether the checkpoint is here, or can be fetched."""
    if not checkpoint.startswith("hf://"):
        if Path(checkpoint).is_file() and os.access(checkpoint, os.R_OK):
            return Finding("ok", f"checkpoint {checkpoint}: {Path(checkpoint).stat().st_size / 1e6:,.0f} MB")
        return Finding("problem", f"checkpoint: {checkpoint} is not a file that can be read", "check the path")
    try:
        where = hub.parse_uri(checkpoint)
        if hub.is_cached(where):
            return Finding("ok", f"checkpoint {checkpoint} is in the cache")
        size = hub.look_up(where)
    except EcgpipeError as error:
        what, _, fix = str(error).partition("; ")
        return Finding("problem", what, fix or None)
    size_text = "size not stated" if size is None else f"{size / 1e6:,.0f} MB"
    return Finding("ok", f"checkpoint {checkpoint} can be fetched from the hub ({size_text})")


def check_models() -> Iterator[Finding]:
    """Which families' checkpoints are in the cache, what those that are not need, and their licence."""
    for name in registry.list_families():
        family, facts = registry.find_family(name), registry.read_facts(name)
        on_hub = [weights for weights in facts.weights if weights.address.startswith("hf://")]
        cached = [weights.address for weights in on_hub if hub.has_cached(weights.address, family)]
        if cached:
            said = f"in the cache: {', '.join(cached)}"
        elif not on_hub:
            said = f"to be downloaded by you ({facts.weights[0].address}), and given as checkpoint"
        elif on_hub[0].gated:
            token = "a token is set" if hub.has_token() else "set HF_TOKEN to a token of that account"
            said = f"not in the cache, and gated: ask for access on the page of {on_hub[0].address}; {token}"
        else:
            said = f"not in the cache; a run fetches {on_hub[0].address}"
        yield Finding("ok", f"model {name}: {said}; licence of the weights: {facts.weights_licence}")


def check_inputs(inputs: Sequence[str]) -> tuple[list[Finding], int]:
    """Whether the recordings can be read.

    Args:
        inputs: Their paths.

    Returns:
        What was found, and how many recordings there are.
    """
    try:
        scanned = scan_inputs(list(inputs), "records500")
    except EcgpipeError as error:
        what, _, fix = str(error).partition("; ")
        return [Finding("problem", what, fix or None)], 0
    total = len(scanned.recordings)
    if not total:
        return [Finding("problem", f"input: no recording in {', '.join(inputs)}", "ecgpipe inspect INPUT says why")], 0
    # A file that cannot be read has no format, but says why.
    format_of = {missing_package(name): name for name in FORMATS}
    found = zip(*(scanned.recordings[name].to_pylist() for name in ("format", "problem")), strict=True)
    findings = []
    for (name, problem), count in Counter(found).most_common():
        lacking = format_of.get(problem) if problem else None
        if lacking:
            what = f"input: {count:,} {lacking}: the package {FORMATS[lacking].needs} is not installed"
            findings.append(Finding("problem", what, f"pip install 'ecgpipe[{FORMATS[lacking].extra}]'"))
        elif problem:
            what = f"input: {count:,} {'file' if count == 1 else 'files'}: {problem}"
            findings.append(Finding("warning", what, "ecgpipe inspect FILE says more of a file"))
        else:
            findings.append(Finding("ok", f"input: {count:,} {name}"))
    return findings, total


def check_disk(outdir: Path, recordings: int | None) -> Finding:
    """Whether there is room for the segments and results.

    Args:
        outdir: Where results are to go; it need not be there yet.
        recordings: How many there are; None where that is not known.
    """
    place = next(folder for folder in (outdir.absolute(), *outdir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        return Finding("problem", f"outdir: no permission to write to {place}", "give another --outdir")
    if recordings is None:
        return Finding("ok", f"outdir: {free / 1e9:,.0f} GB free in {place}")
    settings = shard_sizes.fill_in(Config(input="", outdir=str(outdir)), outdir, [outdir], is_on_cluster=False)
    needs = estimate.estimate_run(settings, recordings, None, has_gpu=False)
    scratch, results = needs.scratch_bytes, needs.result_bytes
    what = (
        f"outdir: {free / 1e9:,.1f} GB free in {place}; {recordings:,} recordings of ten seconds take "
        f"{results / 1e9:,.2f} GB, and up to {scratch / 1e9:,.1f} GB until they are inferred"
    )
    if free < results:
        return Finding("problem", what, "free disk space, or give another --outdir")
    if free < results + scratch:
        return Finding("warning", what, "free disk space, or give another --outdir")
    return Finding("ok", what)


def check_open_files() -> Finding:
    """Whether a process may open enough files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < OPEN_FILES:
        return Finding("warning", f"a process may open {limit} files", f"ulimit -n {OPEN_FILES}")
    return Finding("ok", f"a process may open {limit:,} files")


def check_slurm() -> Finding:
    """Whether jobs can be submitted to SLURM, where there is one."""
    tools = [name for name in ("sbatch", "squeue", "sinfo") if shutil.which(name)]
    if not tools:
        return Finding("ok", "no SLURM here")
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return Finding(
            "warning", "SLURM is here, but Snakemake's plugin for it is not installed", "pip install 'ecgpipe[slurm]'"
        )
    if len(tools) < 3:
        return Finding("warning", f"of SLURM's commands only {', '.join(tools)} are in PATH", "load SLURM's module")
    return Finding("ok", "SLURM: jobs can be submitted with --profile slurm, see docs/cluster.md")
