"""Which labels of which families mean the same: the file that ecgpipe ships, and what a user's own may say."""

import csv
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgpipe import models
from ecgpipe.core import installation
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import crosswalk
from ecgpipe.evaluation.crosswalk import Mapped, Relation, find_shared, read_crosswalk, select_rows
from ecgpipe.models import labels, registry

FOLDER = installation.root() / "config" / "labels"
PATH = FOLDER / "crosswalk.csv"
MODELS = Path(models.__file__).parent
HEADER = "statement,family,outputs,label,relation"


@pytest.fixture(scope="module")
def shipped() -> tuple[Mapped, ...]:
    return read_crosswalk(PATH)


@pytest.fixture(scope="module")
def known() -> dict[tuple[str, int], list[str]]:
    """The labels of each classifier."""
    ecgfounder = "ecgfounder ecgfounder-lead1"
    files = {
        ("ecg-fm", 17): FOLDER / "mimic_iv_ecg.csv",
        ("ecg-fm", 26): FOLDER / "physionet_2021.csv",
        ("deepecg-ssl", 77): MODELS / "deepecg_ssl" / "labels.csv",
        (ecgfounder, 150): MODELS / "ecgfounder" / "labels.csv",
        ("hubert-ecg", 164): MODELS / "hubert_ecg" / "labels.csv",
    }
    return {classifier: [label.name for label in labels.read(path)] for classifier, path in files.items()}


def written(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "crosswalk.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def mistake(path: Path) -> str:
    with pytest.raises(EcgpipeError) as caught:
        read_crosswalk(path)
    return str(caught.value)


def row(statement: str, label: str, relation: Relation = "same", family: str = "x", outputs: int = 3) -> Mapped:
    return Mapped(statement, family, outputs, label, relation)


# The shipped file


def test_every_label_is_one_of_its_familys(
    shipped: tuple[Mapped, ...], known: dict[tuple[str, int], list[str]]
) -> None:
    assert {mapped.classifier for mapped in shipped} == known.keys()
    crosswalk.refuse_unknown_labels(shipped, known, PATH)


def test_every_family_with_a_list_of_labels_is_there_under_its_name(shipped: tuple[Mapped, ...]) -> None:
    outputs = {
        (family, weights.labels)
        for family in registry.list_families()
        for weights in registry.read_facts(family).weights
        if weights.labels > 1
    }
    mapped_outputs = {(family, mapped.outputs) for mapped in shipped for family in mapped.family.split()}
    assert outputs <= mapped_outputs <= outputs | {("ecgfounder-lead1", 150)}


def test_every_list_has_as_many_labels_as_its_classifier_has_outputs(
    known: dict[tuple[str, int], list[str]],
) -> None:
    assert all(len(names) == outputs for (_, outputs), names in known.items())


def test_every_statement_is_of_two_lists_and_has_one_code(shipped: tuple[Mapped, ...]) -> None:
    for statement in {mapped.statement for mapped in shipped}:
        rows = [mapped for mapped in shipped if mapped.statement == statement]
        assert len({mapped.classifier for mapped in rows}) > 1, statement
        assert len({(mapped.snomed_ct, mapped.scp) for mapped in rows}) == 1, statement
    codes = {mapped.snomed_ct: mapped.statement for mapped in shipped if mapped.snomed_ct}
    assert all(code.isdigit() for code in codes)
    assert len(codes) == len({mapped.statement for mapped in shipped if mapped.snomed_ct})
    assert all(mapped.source for mapped in shipped)
    assert {mapped.relation for mapped in shipped} == set(get_args(Relation))


def test_codes_are_those_of_the_challenge_where_it_has_the_label(shipped: tuple[Mapped, ...]) -> None:
    with (FOLDER / "physionet_2021.csv").open(newline="", encoding="utf-8") as file:
        codes = {line["name"]: line["snomed_ct"].split("|") for line in csv.DictReader(file)}
    for mapped in shipped:
        if mapped.outputs == 26 and mapped.relation == "same":
            assert mapped.snomed_ct in codes[mapped.label], mapped


@pytest.mark.parametrize(
    ("outputs", "label", "statement"),
    [
        # ECG-FM's labeler counts reentry, and with it atrial fibrillation: 12 % of MIMIC-IV-ECG have it.
        (17, "Accessory pathway conduction", "Wolff-Parkinson-White pattern"),
        (17, "Tachycardia", "Tachycardia"),
        (17, "Right bundle branch block", "Right bundle branch block"),
        (164, "NORM", "Normal ECG"),
        (26, "Sinus rhythm", "Sinus rhythm"),
    ],
)
def test_the_same_name_with_another_meaning_is_not_the_same(
    outputs: int, label: str, statement: str, shipped: tuple[Mapped, ...]
) -> None:
    relations = [m.relation for m in shipped if (m.outputs, m.label, m.statement) == (outputs, label, statement)]
    assert relations in (["narrower"], ["broader"])


def test_labels_that_families_share(shipped: tuple[Mapped, ...], known: dict[tuple[str, int], list[str]]) -> None:
    runs = {
        "mimic": ("ecg-fm", known["ecg-fm", 17]),
        "physionet": ("ecg-fm", known["ecg-fm", 26]),
        "deepecg-ssl": ("deepecg-ssl", known["deepecg-ssl", 77]),
        "ecgfounder": ("ecgfounder-lead1", known["ecgfounder ecgfounder-lead1", 150]),
        "hubert-ecg": ("hubert-ecg", [*known["hubert-ecg", 164], "my head"]),
        "ecg-jepa": ("ecg-jepa", []),
    }
    shared = find_shared(shipped, runs)
    assert shared["Atrial fibrillation"] == {
        "mimic": "Atrial fibrillation",
        "physionet": "Atrial fibrillation",
        "deepecg-ssl": "Afib",
        "ecgfounder": "ATRIAL FIBRILLATION",
        "hubert-ecg": "AF",
    }
    assert shared["Sinus rhythm"] == {"mimic": "Sinus rhythm", "deepecg-ssl": "Sinusal"}  # "Sinus rhythm" of two lists
    assert len(shared) > 50
    assert set(find_shared(shipped, runs, least=5)) == {
        "Atrial fibrillation",
        "Atrial flutter",
        "Premature ventricular complex",
        "1st degree AV block",
    }


# A user's own


def test_further_columns_and_other_separators_do_not_matter(tmp_path: Path) -> None:
    path = written(tmp_path, "same;Afib;x;3;A, really;mine", header="relation;statement;family;outputs;label;whose")
    assert read_crosswalk(path) == (row("Afib", "A, really"),)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["Afib,x,3,A,equal"], "row 1: relation is 'equal'; give one of same, narrower, broader"),
        (["Afib,x,3,A,same", "Afib,x,,A,same"], "row 2: outputs is empty; fill it in, or remove the row"),
        (
            ["Afib,x,3,A,same", "Afib,x,3,A,broader"],
            "'A' of the classifier of x with 3 outputs is mapped to 'Afib' in row 1 too; remove",
        ),
        (["Afib,x,3,A,same", "Flutter,x,3,A,same"], "the same as both 'Afib' and 'Flutter'; give one of"),
        (["Afib,x,many,A,same"], "row 1: outputs is 'many'; give the classifier's number of labels, e.g. 17"),
        ([], "has no rows; config/labels/crosswalk.csv shows the form"),
    ],
)
def test_a_mistake_is_named_with_its_row_and_what_to_do(rows: list[str], says: str, tmp_path: Path) -> None:
    assert says in mistake(written(tmp_path, *rows))


def test_a_file_that_is_missing_or_lacks_a_column_is_refused(tmp_path: Path) -> None:
    assert "cannot read" in mistake(tmp_path / "none.csv")
    path = written(tmp_path, "Afib,x", header="statement,family")
    assert "has no column outputs, label, relation; its first row must name statement, family," in mistake(path)


def test_an_unknown_label_is_refused_with_one_that_is_near() -> None:
    rows = [row("Afib", "A"), row("Afib", "ATRIAL FIBRILATION", outputs=2), row("Afib", "?", outputs=1)]
    known = {("x", 3): ["A"], ("x", 2): ["ATRIAL FIBRILLATION"]}
    with pytest.raises(EcgpipeError, match=r"row 2: the classifier of x with 2 .* did you mean 'ATRIAL FIBRILLATION'"):
        crosswalk.refuse_unknown_labels(rows, known, PATH)
    with pytest.raises(EcgpipeError, match=r"has no label '\?'; give one of its labels, or remove the row"):
        crosswalk.refuse_unknown_labels(rows, {("x", 1): ["A"]}, PATH)


def test_two_labels_of_one_run_with_one_meaning_are_refused() -> None:
    rows = [row("Afib", "A"), row("Afib", "B")]
    with pytest.raises(EcgpipeError, match="'A' and 'B' of x both mean 'Afib'; give one of them as narrower"):
        find_shared(rows, {"run": ("x", ["A", "B"])})
    assert find_shared(rows, {"run": ("x", ["B"])}, least=1) == {"Afib": {"run": "B"}}


NAMES = st.sampled_from("ABCDE")
ROWS = st.builds(
    Mapped,
    st.sampled_from(["s", "t"]),
    st.sampled_from(["x", "y", "x y"]),
    st.integers(1, 3),
    NAMES,
    st.sampled_from(get_args(Relation)),
)


@given(st.lists(ROWS), st.sampled_from("xyz"), st.sets(NAMES))
def test_the_rows_of_a_run_are_of_its_family_of_one_file_and_of_its_labels(
    rows: list[Mapped], family: str, names: set[str]
) -> None:
    selected = select_rows(rows, family, names)
    assert [mapped for mapped in rows if mapped in selected] == selected
    assert all(family in mapped.family.split() and mapped.label in names for mapped in selected)
    assert len({mapped.outputs for mapped in selected}) <= 1


TEXT = st.text(st.characters(exclude_categories=["C"]), min_size=1).map(str.strip).filter(bool)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, unique=True))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    rows = [row(statement, label, "narrower") for statement, label in pairs]
    path = tmp_path_factory.getbasetemp() / "written.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(HEADER.split(","))
        table.writerows(mapped[:5] for mapped in rows)
    assert list(read_crosswalk(path)) == rows
