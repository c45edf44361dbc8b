"""Which true labels each model of a study is evaluated on, by the statements that its labels mean."""

import csv
from collections.abc import Mapping
from pathlib import Path

from ecgpipe.core.user_settings import Config, Evaluation
from ecgpipe.evaluation import crosswalk
from ecgpipe.models import labels, registry


def choose_evaluations(shared: Config, by_model: Mapping[str, Config]) -> dict[str, Evaluation]:
    """Choose the settings of the evaluation of each model's run.

    A name in the mapping, or of a column of the table of true labels, may be a label of the model, or a statement of
    the crosswalk or another model's label that mean the same as one of the model's. What the model has no label for is
    left out, and a model without any of them is not evaluated.

    Args:
        shared: The settings of the study.
        by_model: The settings of each model's run, by its name.

    Returns:
        By the model's name.

    Raises:
        EcgpipeError: The crosswalk cannot be read.
    """
    asked = shared.evaluation
    if not asked.asked:
        return dict.fromkeys(by_model, asked)
    runs = {name: (registry.find_family(str(one.model)).name, _read_names(one)) for name, one in by_model.items()}
    rows = crosswalk.read_crosswalk(labels.locate(shared.study.crosswalk))
    same = crosswalk.find_shared(rows, runs, least=1)  # by statement, by model
    statements = {label: statement for statement, of_model in same.items() for label in of_model.values()}
    statements |= {statement: statement for statement in same}
    columns = _read_columns(Path(asked.truth)) if asked.truth else []

    def find_label(name: str, model: str) -> str | None:
        return name if name in runs[model][1] else same.get(statements.get(name, ""), {}).get(model)

    chosen = {}
    for model in by_model:
        found = {column: find_label(name, model) for column, name in asked.mapping.items()}
        taken = {label for label in found.values() if label}
        for column in columns:
            label = find_label(column, model)
            if column not in found and label not in (None, *taken):
                found[column] = label
        mapping = {column: label for column, label in found.items() if label is not None}
        # A column that has the label's own name needs no mapping, as in a run by itself.
        given = {column: label for column, label in mapping.items() if column in asked.mapping or column != label}
        chosen[model] = asked.model_copy(update={"mapping": given}) if mapping else Evaluation()
    return chosen


def _read_names(settings: Config) -> list[str]:
    """The labels of a model; none where only the checkpoint says them."""
    if settings.labels_by_index:
        return []
    return [label.name for label in labels.read(Path(settings.labels))]


def _read_columns(path: Path) -> list[str]:
    """The names of the columns of a table, without reading its rows; none of a file that is not one."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            import pyarrow.parquet as pq  # here, because it takes half a second, of every job that reads the Snakefile

            return list(pq.read_schema(path).names)
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
        delimiter = max(",;\t", key=line.count)
        return next(csv.reader([line], delimiter=delimiter), [])
    except (OSError, ValueError, csv.Error):
        return []
