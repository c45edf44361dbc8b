"""Write what is generated: config/config.yaml, its JSON schema and docs/config.md, and the parts of pages on models."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ecgpipe.core.atomic import whole
from ecgpipe.core.logs import logger
from ecgpipe.core.user_settings import Config
from ecgpipe.workflow import model_docs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe config`."""
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder (default: this one)")


def run(args: argparse.Namespace) -> None:
    """Write the generated files."""
    for name, content in generated().items():
        with whole(args.root / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
        logger.info("wrote %s", args.root / name)


def generated() -> dict[str, str]:
    """The content of each generated file, by its path below the project's folder."""
    schema = json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
    settings = {"config/config.yaml": _yaml(), "config/config.schema.json": schema, "docs/config.md": _markdown()}
    return settings | model_docs.generated_pages()


def _keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo, type[BaseModel] | None]]:
    """Every key with its field, and for a section the section's model, in the order of definition."""
    for name, field in model.model_fields.items():
        section = field.annotation if isinstance(field.annotation, type) else None
        section = section if section is not None and issubclass(section, BaseModel) else None
        yield prefix + name, field, section
        if section is not None:
            yield from _keys(section, f"{prefix}{name}.")


def _default(field: FieldInfo) -> str:
    """A field's default as YAML."""
    value = None if field.is_required() else field.default
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def _yaml() -> str:
    lines = [
        "# Every setting with its default. Override on the command line, e.g.",
        "#     snakemake --cores 8 --config input=/data/ptbxl outdir=/scratch/out umap='{neighbors: 30}'",
        "# or copy what you change to a file of your own and add --configfile mine.yaml.",
        "# Written by `make docs` from ecgpipe/core/user_settings.py, where the settings are defined.",
    ]
    for key, field, section in _keys():
        indent, name = "  " * key.count("."), key.rpartition(".")[2]
        if section is not None:
            lines += ["", f"# {field.description}", f"{indent}{name}:"]
        else:
            lines.append(f"{indent}{name}: {_default(field)}  # {field.description}")
    return "\n".join(lines) + "\n"


def _markdown() -> str:
    lines = [
        "# Settings",
        "",
        "| | `ecgpipe run` | `snakemake` |",
        "| --- | --- | --- |",
        "| on the command line | `--set umap.neighbors=30` | `--config umap='{neighbors: 30}'` |",
        "| in a YAML file of your own | `--config mine.yaml` | `--configfile mine.yaml` |",
        "",
        "A file has sections (`umap: {neighbors: 30}`) or dots (`umap.neighbors: 30`). Unknown keys are refused.",
        "",
        "Written by `make docs` from `ecgpipe/core/user_settings.py`.",
        "",
        "| key | default | meaning |",
        "| --- | --- | --- |",
    ]
    for key, field, section in _keys():
        if section is None:
            default = "(required)" if field.is_required() else f"`{_default(field)}`"
            lines.append(f"| `{key}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"
