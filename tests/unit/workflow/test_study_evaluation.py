"""Which true labels each model of a study is evaluated on."""

from pathlib import Path

import pytest

from ecgpipe.core.user_settings import Config, Evaluation, StudySettings
from ecgpipe.workflow.study_evaluation import choose_evaluations

ROWS = (
    "statement,family,outputs,label,relation",
    "Atrial fibrillation,ecg-fm,2,AFib,same",
    "Atrial fibrillation,ecgfounder,2,ATRIAL FIBRILLATION,same",
    "Tachycardia,ecgfounder,2,SINUS TACHYCARDIA,narrower",
)
LABELS = {"ecg-fm": ("AFib", "Poor data quality"), "ecgfounder": ("ATRIAL FIBRILLATION", "SINUS TACHYCARDIA")}


def choose(folder: Path, **asked: object) -> dict[str, Evaluation]:
    """The evaluation of each of the two models."""
    (folder / "crosswalk.csv").write_text("\n".join(ROWS) + "\n")
    by_model = {}
    for name, names in LABELS.items():
        (folder / f"{name}.csv").write_text(
            "\n".join(["name,aggregation", *(f"{label},mean" for label in names)]) + "\n"
        )
        by_model[name] = Config(input="", model=name, labels=str(folder / f"{name}.csv"), outdir=str(folder / name))
    shared = Config(
        input="",
        evaluation=Evaluation.model_validate(asked),
        study=StudySettings(crosswalk=str(folder / "crosswalk.csv")),
    )
    return choose_evaluations(shared, by_model)


@pytest.mark.parametrize("named", ["Atrial fibrillation", "AFib", "ATRIAL FIBRILLATION"])
def test_each_model_gets_its_own_label_for_what_any_of_them_calls_it(tmp_path: Path, named: str) -> None:
    chosen = choose(tmp_path, mapping={"af": named}, patient="patient")
    assert {name: one.mapping for name, one in chosen.items()} == {
        "ecg-fm": {"af": "AFib"},
        "ecgfounder": {"af": "ATRIAL FIBRILLATION"},
    }
    assert {one.patient for one in chosen.values()} == {"patient"}


def test_a_model_without_any_of_the_true_labels_is_not_evaluated(tmp_path: Path) -> None:
    chosen = choose(tmp_path, mapping={"bad": "Poor data quality"}, patient="patient")
    assert chosen["ecg-fm"].mapping == {"bad": "Poor data quality"}
    assert not chosen["ecgfounder"].asked


def test_a_label_that_means_something_narrower_is_not_the_same(tmp_path: Path) -> None:
    assert not any(one.asked for one in choose(tmp_path, mapping={"tachycardia": "Tachycardia"}).values())


@pytest.mark.parametrize("separator", [",", ";"])
def test_columns_of_the_table_are_named_by_statements_or_labels(tmp_path: Path, separator: str) -> None:
    columns = ["record_id", "Atrial fibrillation", "SINUS TACHYCARDIA"]
    (tmp_path / "truth.csv").write_text(separator.join(columns) + "\n")
    chosen = choose(tmp_path, truth=str(tmp_path / "truth.csv"))
    assert chosen["ecg-fm"].mapping == {"Atrial fibrillation": "AFib"}
    assert chosen["ecgfounder"].mapping == {"Atrial fibrillation": "ATRIAL FIBRILLATION"}  # the other has its own name


def test_without_true_labels_nothing_is_chosen(tmp_path: Path) -> None:
    assert not any(one.asked for one in choose(tmp_path).values())
