"""List the models that ecgpipe runs; with a name, say what that model takes, gives and may be used for."""

import argparse
import textwrap

from ecgpipe.core.describe_input import describe_input
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.model_facts import Facts
from ecgpipe.models import registry
from ecgpipe.models.registry import Family

WIDTH = 110  # of lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe models`."""
    parser.add_argument("name", nargs="?", help="a model, such as ecgfounder (default: list all)")


def run(args: argparse.Namespace) -> None:
    """Print the table, or what is known of one model."""
    lines = describe_family(registry.find_family(args.name)) if args.name else list_models()
    print("\n".join(lines))


def list_models() -> list[str]:
    """A table of the models, one a line."""
    rows = [("model", "input", "outputs", "embedding", "licence of the weights")]
    for name in registry.list_families():
        family = registry.find_family(name)
        facts, declared = _facts_of(family), family.declaration.INPUT
        leads = len(declared.leads)
        what = f"{leads} lead{'s' * (leads > 1)}, {declared.rate:g} Hz, {declared.window_s:g} s"
        default = facts.weights[0]
        rows.append((name, what, default.outputs, str(default.width), facts.weights_licence))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    return [*lines, "", "`ecgpipe models NAME` says more; the path of your own .py file is a model too: docs/models.md"]


def describe_family(family: Family) -> list[str]:
    """What is known of a model, in lines."""
    if family.path:
        return [str(family.path), *_indent(describe_input(family.declaration.INPUT))]
    facts = _facts_of(family)
    lines = [f"{family.name}: {facts.title}", *_indent([f"Trained on {facts.trained_on}."]), "", "Input"]
    lines += _indent(describe_input(family.declaration.INPUT))
    if family.option:
        first, *others = family.variants
        lines += ["", "Options", *_indent([f"{family.option}: {first} (default), {', '.join(others)}"])]
    lines += ["", "Weights"]
    for weights in facts.weights:
        gated = "; gated: accept its conditions on the hub, and set HF_TOKEN" if weights.gated else ""
        lines += _indent([f"{weights.address}: {weights.outputs}, embedding of {weights.width}{gated}"])
    checkpoint = "" if family.default_checkpoint else " checkpoint=PATH"
    attention = "with attention" if family.has_attention else "without attention"
    lines += _indent([f"The default has {facts.parameters / 1e6:.1f} million parameters, {attention}."])
    lines += ["", "Licences", *_indent([f"code: {facts.code_licence}", f"weights: {facts.weights_licence}"])]
    lines += ["", "Cite", *_indent([facts.citation])]
    lines += ["", "Not verified", *_indent([facts.unverified])] if facts.unverified else []
    command = f"snakemake --cores 8 --config input=/data/ecgs model={family.name}{checkpoint}"
    return [*lines, "", "Run", f"  {command}"]


def _indent(sentences: list[str]) -> list[str]:
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(sentence, WIDTH, initial_indent="  ", subsequent_indent="    ")
    ]


def _facts_of(family: Family) -> Facts:
    if family.facts is None:
        raise EcgpipeError(f"model: {family.name} has no facts")
    return family.facts
