"""The GPU part of docs/performance.md, from the JSON files that `benchmarks.gpu` wrote.

`python -m benchmarks.plots` puts it between two marks in the page, with its plots beside it. Where nothing was
measured, it says so.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN = "<!-- The GPU part: written by `python -m benchmarks.plots` from benchmarks/results/gpu-*.json. -->"
END = "<!-- End of the GPU part. -->"

NOT_MEASURED = (
    "**Not measured.** No machine with a GPU has run `make gpu` yet. It takes eight minutes there, offline; "
    "`make gpu-bundle` makes a folder to carry to one."
)

# What is aimed at, and how it is told from a result.
TARGETS = (
    ("logits in float32 against fairseq-signals'", "at most 1e-4"),
    ("model alone, of torch.matmul in half precision", "at least 0.60"),
    ("infer stage, of the model alone", "at least 0.90"),
    ("model alone, of the notebook's loop", "at least 10"),
)

Result = Mapping[str, Any]


def headline(name: str, result: Result) -> str:
    """What a step found, in a few words for a terminal."""
    match name:
        case "facts":
            machine = result["machine"]
            return f"{result.get('card', machine['cpu'])}, PyTorch {machine['torch']}, Python {machine['python']}"
        case "matmul":
            rates = {key: max(value.values()) for key, value in result.items() if key != "nvidia_smi"}
            return ", ".join(f"{key} {rate / 1000:,.1f} TFLOP/s" for key, rate in rates.items())
        case "parity":
            worst = max(value["logits"] for value in result.values())
            failed = [key for key, value in result.items() if not value["ok"]]
            return f"logits {worst:.1e} at most" + (f"; NOT EQUAL: {', '.join(failed)}" if failed else "")
        case "drift":
            return ", ".join(f"{key} {value['largest']}" for key, value in result.items()) or "nothing to compare"
        case "model" | "variants" | "compile":
            rates = {key: value["segments_per_s"] for key, value in result.items() if "segments_per_s" in value}
            best = max(rates, key=lambda key: rates[key], default=None)
            return f"{rates[best]:,.0f} segments/s ({best})" if best else "nothing measured"
        case "profile":
            return f"{result['kernels'][0]['share']:.0%} in {result['kernels'][0]['name'][:60]}"
        case "stage":
            return f"{result['first_to_last']['segments_per_s']:,.0f} segments/s, {share(result)} of the model alone"
        case "startup":
            return ", ".join(f"{key.replace('_', ' ')} {seconds:.1f} s" for key, seconds in result.items())
        case "host":
            return f"{result['host_ms_per_batch']} ms of {result['ms_per_batch']} ms a batch"
        case "loop":
            return f"{result['segments_per_s']:,.1f} segments/s"
        case "tests":
            return str(result["pytest"])
        case "two_jobs":
            return f"{result['waited']} waited; same bytes: {yes(result['same_bytes'])}"
        case "memory":
            return f"{len(result['said'])} times halved, difference {result['largest_difference']:.1e}"
        case "deterministic":
            return ", ".join(f"{key}: {yes(value)}" for key, value in result.items())
        case "attribution":
            return f"{result['seconds']} s for {result['segments']} segments at {result['steps']} steps"
        case "verify":
            return ", ".join(f"{key}: logits {difference_of(rows, 'logits')}" for key, rows in result.items())
        case "workflow":
            return f"{result['recordings']} recordings in {result['seconds']} s, {result['largest_difference']:.1e}"
    return ""


def difference_of(rows: Sequence[str], name: str) -> str:
    """A difference from the table that `verify` prints."""
    return next((row.split()[2] for row in rows if row.startswith(f"{name} ")), "unknown")


def share(result: Result) -> str:
    """The stage's share of the model alone."""
    found = result.get("share_of_model")
    return "an unknown share" if found is None else f"{found:.2f}"


def yes(value: bool) -> str:
    """A truth value as a word."""
    return "yes" if value else "NO"


def results_of(content: Mapping[str, Any], name: str) -> Result:
    """What a step found; nothing where it did not run."""
    found: Result = content["steps"].get(name, {}).get("result", {})
    return found


def insert(page: str, contents: Sequence[Mapping[str, Any]]) -> str:
    """A page with its GPU part written anew.

    Args:
        page: The page, with the two marks in it.
        contents: The JSON files of `benchmarks.gpu`, in the order to tell.

    Returns:
        The page; it is the same for the same figures.
    """
    part = "\n\n".join(section(content) for content in contents) if contents else NOT_MEASURED
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page lacks the marks {BEGIN} and {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{part}\n\n{END}", page)


def read(folder: Path) -> list[dict[str, Any]]:
    """The JSON files of `benchmarks.gpu` in a folder, those of a try at a tiny size left out."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("gpu-*.json"))]
    return [content for content in contents if content["device"] == "cuda" and not content["tiny"]]


def card_of(content: Mapping[str, Any]) -> str:
    """The card's name."""
    return str(results_of(content, "facts").get("card", "an unknown card"))


def section(content: Mapping[str, Any]) -> str:
    """What one machine's JSON says, as Markdown."""
    parts = [f"### {card_of(content)}", facts_text(content), targets_table(content), steps_table(content)]
    for write in (matmul_table, parity_table, drift_table, model_table, variants_table, stage_text, kernels_table):
        text = write(content)
        if text:
            parts.append(text)
    return "\n\n".join(parts)


def facts_text(content: Mapping[str, Any]) -> str:
    """The machine in a sentence, and the command."""
    facts = results_of(content, "facts")
    machine = facts.get("machine", {})
    smi = facts.get("nvidia_smi", {})
    told = [
        f"driver {smi['driver_version']}" if "driver_version" in smi else "",
        f"PyTorch {machine.get('torch', 'unknown')}",
        f"Python {machine.get('python', 'unknown')}",
        f"{machine.get('cores', 'unknown')} CPU cores ({machine.get('cpu', 'unknown')})",
    ]
    return (
        f"`python -m benchmarks.gpu {content['command']}`".replace(" `", "`")
        + f", {content['began'][:10]}, {content.get('seconds', 0):.0f} s: {', '.join(filter(None, told))}."
    )


def best_share(content: Mapping[str, Any]) -> float | None:
    """The largest share of torch.matmul that the model reaches in half precision, not compiled."""
    shares = [
        row["share_of_matmul"]
        for step in ("model", "variants")
        for key, row in results_of(content, step).items()
        if "share_of_matmul" in row and not key.startswith("float32")
    ]
    return max(shares, default=None)


def targets_table(content: Mapping[str, Any]) -> str:
    """What was aimed at, and what was found."""
    parity = results_of(content, "parity")
    loop, stage = results_of(content, "loop"), results_of(content, "stage")
    alone = stage.get("model_alone", {}).get("segments_per_s")
    found = (
        f"{max(row['logits'] for row in parity.values()):.1e}" if parity else None,
        number(best_share(content)),
        number(stage.get("share_of_model")),
        number(alone / loop["segments_per_s"] if alone and "segments_per_s" in loop else None),
    )
    rows = [[what, target, value or "not measured"] for (what, target), value in zip(TARGETS, found, strict=True)]
    return table(["", "target", "found"], rows)


def number(value: float | None) -> str | None:
    """A ratio to two digits."""
    return None if value is None else f"{value:.2f}"


def steps_table(content: Mapping[str, Any]) -> str:
    """How each step ended."""
    rows = []
    for name, step in content["steps"].items():
        told = headline(name, step["result"]) if step["status"] == "done" else last_line(step.get("why", ""))
        rows.append([name, step["status"], f"{step['seconds']:.1f}", told])
    return table(["step", "", "seconds", "found"], rows)


def matmul_table(content: Mapping[str, Any]) -> str:
    """The rates of torch.matmul."""
    found = {key: row for key, row in results_of(content, "matmul").items() if key != "nvidia_smi"}
    if not found:
        return ""
    shapes = list(next(iter(found.values())))
    rows = [[key, *(f"{row[shape] / 1000:,.1f}" for shape in shapes)] for key, row in found.items()]
    return table(["torch.matmul, TFLOP/s", *shapes], rows)


def parity_table(content: Mapping[str, Any]) -> str:
    """The largest differences from the reference numbers."""
    found = results_of(content, "parity")
    names = ("logits", "embedding", "attention")
    rows = [[key, *(f"{row[name]:.1e}" for name in names)] for key, row in found.items()]
    return table(["float32, largest difference", *names], rows) if rows else ""


def drift_table(content: Mapping[str, Any]) -> str:
    """What half precision changes."""
    rows = [
        [key, text(row["largest"]), text(row["embedding"]["largest"])]
        for key, row in results_of(content, "drift").items()
    ]
    return (
        table(["largest difference from float32", "of all outputs", "1 - cosine of embeddings"], rows) if rows else ""
    )


def model_table(content: Mapping[str, Any]) -> str:
    """The model alone by batch size."""
    rows = []
    for key, row in results_of(content, "model").items():
        if "segments_per_s" in row:
            precision, size, kind, _ = key.split(" ")
            rows.append(
                [precision, size, kind, f"{row['segments_per_s']:,.0f}", f"{row['share_of_matmul']:.2f}",
                 text(row["peak_mb"])]
            )  # fmt: skip
        elif "out_of_memory" in row:
            rows.append([*key.split(" "), "", "out of memory", "", ""])
    return table(["precision", "batch", "attention", "segments/s", "of matmul", "peak, MB"], rows) if rows else ""


def variants_table(content: Mapping[str, Any]) -> str:
    """The engine's variants."""
    rows = [
        [key, f"{row['segments_per_s']:,.0f}", f"{row['share_of_matmul']:.2f}", text(row.get("largest_difference"))]
        if "segments_per_s" in row
        else [key, last_line(row["error"]), "", ""]
        for step in ("variants", "compile")
        for key, row in results_of(content, step).items()
    ]
    return table(["variant", "segments/s", "of matmul", "difference from plain"], rows) if rows else ""


def stage_text(content: Mapping[str, Any]) -> str:
    """The stage, the host and the notebook's loop in sentences."""
    stage, start, host, loop = (results_of(content, name) for name in ("stage", "startup", "host", "loop"))
    told = []
    if "first_to_last" in stage:
        first = stage["first_to_last"]
        told.append(
            f"The infer stage over {first['segments']:,} segments: {first['segments_per_s']:,.0f} segments/s from the "
            f"first to the last, {share(stage)} of the model alone"
            + (f"; the whole command took {stage['whole_command']['seconds']} s." if "whole_command" in stage else ".")
        )
    if start:
        told.append(f"Before that: {headline('startup', start)}.")
    if "host_ms_per_batch" in host:
        idle = f"; the GPU has nothing to do in {host['idle_share']:.1%} of the time" if "idle_share" in host else ""
        told.append(
            f"The host works {host['host_ms_per_batch']} ms for a batch of {host['batch_size']}, which takes "
            f"{host['ms_per_batch']} ms{idle}."
        )
    if "segments_per_s" in loop:
        told.append(f"The notebook's loop: {loop['segments_per_s']:,.1f} segments/s.")
    return " ".join(told)


def kernels_table(content: Mapping[str, Any]) -> str:
    """Where the time goes."""
    found = results_of(content, "profile")
    rows = [[f"`{row['name'][:90]}`", f"{row['share']:.1%}", str(row["calls"])] for row in found.get("kernels", [])]
    if not rows:
        return ""
    return table([f"kernels of a batch of {found['batch_size']}, {found['precision']}", "time", "calls"], rows)


def text(value: object) -> str:
    """A value, or nothing."""
    return "" if value is None else str(value)


def last_line(told: str) -> str:
    """The last line of a traceback or a reason."""
    return (told.strip().splitlines() or [""])[-1]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; a bar in a cell is a letter like any other."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
