"""Write what the docs say of each model family from its facts and from the declaration of its input.

`docs/models.md` has the table to choose from, `docs/models/NAME.md` a page for each family. The parts between `BEGIN`
and `END` are written by `make docs`; the rest of these pages is written by hand.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path

from ecgpipe.core import installation
from ecgpipe.core.describe_input import describe_input
from ecgpipe.core.model_facts import Facts, Weights
from ecgpipe.core.model_input import ModelInput
from ecgpipe.evaluation.crosswalk import SHIPPED, read_crosswalk
from ecgpipe.models import labels, registry

BEGIN = "<!-- Written by `make docs` from ecgpipe/models/*/facts.py and family.py. -->"
END = "<!-- End of what `make docs` writes. -->"

# What benchmarks/model_speed.py measured.
SPEED = "benchmarks/results/model-speed.json"

# Facts that have a source, in words.
FACT_NAMES = {
    "trained_on": "trained on",
    "weights": "weights",
    "parameters": "parameters",
    "code_licence": "licence of the code",
    "weights_licence": "licence of the weights",
    "citation": "cite as",
}


def generated_pages(root: Path | None = None) -> dict[str, str]:
    """The content of each page about models, with its generated part as it has to be.

    Args:
        root: The project's folder; None for this installation's.

    Returns:
        By the path below the folder. Pages that are not there, as in a wheel, are left out.
    """
    root = root or installation.root()
    written: dict[str, Callable[[], str]] = {"docs/models.md": lambda: tabulate_models(root)}
    written |= {f"docs/models/{name}.md": partial(describe_model, name) for name in registry.list_families()}
    pages = {name: root / name for name in written if (root / name).is_file()}
    return {
        name: _replace_part(path.read_text(encoding="utf-8"), written[name](), path) for name, path in pages.items()
    }


def tabulate_models(root: Path) -> str:
    """The tables of docs/models.md: the released weights of all families, the licences, and the labels in common."""
    speed = json.loads((root / SPEED).read_text(encoding="utf-8"))["relative_to_ecg_fm"]
    lines = [
        "| family | trained on | input | outputs | width | parameters | speed | licence of the code | of the weights |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_family_row(name, _describe_speed(name, speed)) for name in registry.list_families()]
    lines += [
        "",
        "The released weights, and the model to give for each (`--model MODEL --checkpoint WEIGHTS`):",
        "",
        "| model | weights | outputs | width | gated |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [_weights_row(name, weights) for name, weights in _list_weights()]
    lines += ["", "Commands, one for each model's default weights:", ""]
    lines += [f"    {_command(name, _default_weights(name))}" for name in registry.list_families()]
    lines += ["", *_tabulate_labels(root)]
    return "\n".join(lines)


def describe_model(name: str) -> str:
    """The generated part of a family's page: facts with their sources, and the input in words.

    Args:
        name: The family, as `registry.list_families` has it.

    Returns:
        Markdown.

    Raises:
        EcgpipeError: There is no such family.
    """
    facts = registry.read_facts(name)
    lines = [f"    {_command(name, facts.weights[0])}", "", "| weights | outputs | width |", "| --- | --- | --- |"]
    lines += [
        f"| `{weights.address}`{' (gated)' if weights.gated else ''} | {weights.outputs} | {weights.width:,} |"
        for weights in facts.weights
    ]
    lines += ["", *_list_facts(facts), "", "### Input", ""]
    lines += [f"- {sentence}" for sentence in describe_input(_variants(name)[0][1])]
    first = describe_input(_variants(name)[0][1])
    for variant, declared in _variants(name)[1:]:
        sentences = describe_input(declared)
        lines += [
            "",
            f"The variant `{variant}`:" if sentences != first else f"The variant `{variant}` is the same.",
            "",
        ]
        lines += [f"- {sentence}" for sentence in sentences]
    return "\n".join(lines)


def _list_facts(facts: Facts) -> Iterator[str]:
    """One line for each fact, with its source."""
    values: Mapping[str, object] = {
        "trained_on": facts.trained_on,
        "weights": f"{len(facts.weights)} files or folders, above",
        "parameters": f"{facts.parameters:,} (of the default weights)",
        "code_licence": facts.code_licence,
        "weights_licence": facts.weights_licence,
        "citation": facts.citation,
    }
    yield "| | | source |"
    yield "| --- | --- | --- |"
    for key, words in FACT_NAMES.items():
        source = facts.sources[key]
        yield f"| {words} | {values[key]} | {'' if source == 'none' else _link(source)} |"
    if facts.unverified:
        yield ""
        yield f"Not verified: {facts.unverified}"


def _link(text: str) -> str:
    """A source with its address as a link, or as it is."""
    return re.sub(r"https://\S+[^\s,;.]", lambda match: f"<{match[0]}>", text)


def _list_weights() -> Iterator[tuple[str, Weights]]:
    """Each released file with the model to give for it: where two families list one, the later of them."""
    by_address: dict[str, tuple[str, Weights]] = {}
    for name in registry.list_families():
        by_address |= {weights.address: (name, weights) for weights in registry.read_facts(name).weights}
    yield from by_address.values()


def _default_weights(name: str) -> Weights:
    return registry.read_facts(name).weights[0]


def _family_row(name: str, speed: str) -> str:
    facts = registry.read_facts(name)
    declared = _variants(name)[0][1]
    leads = f"{len(declared.leads)} leads" if len(declared.leads) > 1 else f"lead {declared.leads[0]}"
    window = f"{leads}, {declared.rate:g} Hz, {declared.window_s:g} s{', mV' if declared.unit else ''}"
    widths = dict.fromkeys(f"{weights.width:,}" for weights in facts.weights)
    cells = [
        f"[{facts.title}](models/{_page_of(name)}.md)",
        facts.trained_on,
        window,
        "; ".join(dict.fromkeys(weights.outputs for weights in facts.weights)),
        " or ".join(widths),
        f"{facts.parameters / 1e6:.1f} million",
        speed,
        facts.code_licence,
        _link(facts.weights_licence),
    ]
    return f"| {' | '.join(cells)} |"


def _weights_row(name: str, weights: Weights) -> str:
    gated = "yes" if weights.gated else "no"
    return f"| `{name}` | `{weights.address}` | {weights.outputs} | {weights.width:,} | {gated} |"


def _command(name: str, weights: Weights) -> str:
    checkpoint = weights.address if weights.address.startswith("hf://") else "/path/to/the/downloaded/file.pth"
    return f"ecgpipe run /data/ecgs --outdir /scratch/out --model {name} --checkpoint {checkpoint}"


def _describe_speed(name: str, speed: Mapping[str, Mapping[str, float]]) -> str:
    """Relative to ECG-FM, in windows and in seconds of ECG."""
    if name not in speed:
        return "not measured yet"
    return f"{speed[name]['windows']:.1f} ({speed[name]['seconds_of_ecg']:.1f})"


def _page_of(name: str) -> str:
    """The page of a family: ecgfounder-lead1 has that of ecgfounder."""
    others = [other for other in registry.list_families() if name.startswith(f"{other}-")]
    return others[0] if others else name


def _variants(name: str) -> list[tuple[str, ModelInput]]:
    """The inputs of a family that can be chosen, the default first."""
    family = import_module(f"ecgpipe.models.{name.replace('-', '_')}.family")
    return list(family.VARIANTS.items())


def _tabulate_labels(root: Path) -> Iterator[str]:
    """How many labels of each list the crosswalk maps."""
    mapped = read_crosswalk(labels.locate(SHIPPED, root))
    statements = list(dict.fromkeys(row.statement for row in mapped))
    yield f"`{SHIPPED}` has {len(mapped)} rows for {len(statements)} statements."
    yield ""
    yield "| labels of | outputs | mapped | mean the same as a statement |"
    yield "| --- | --- | --- | --- |"
    for family, outputs in sorted({row.classifier for row in mapped}):
        rows = [row for row in mapped if row.classifier == (family, outputs)]
        all_labels, same = {row.label for row in rows}, {row.label for row in rows if row.relation == "same"}
        yield f"| {family.replace(' ', ', ')} | {outputs} | {len(all_labels)} | {len(same)} |"


def _replace_part(page: str, part: str, path: Path) -> str:
    """A page with its generated part replaced.

    Raises:
        ValueError: The page does not have the two marks once each.
    """
    before, begin, rest = page.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not (begin and end):
        raise ValueError(f"{path} needs a line {BEGIN} and a line {END}, between which `make docs` writes")
    return f"{before}{begin}\n{part}\n\n{end}{after}"
