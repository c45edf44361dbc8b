"""The label sets: what a CSV may say, and which row is to be mended where it may not."""

import json
from pathlib import Path

import pandas as pd
import pytest
import small_run
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe import models
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import Run
from ecgpipe.models import labels
from ecgpipe.models.deepecg_ssl.network import name_single_output
from ecgpipe.models.labels import Label

SHIPPED = Path(__file__).parents[3] / "config" / "labels"
MAX_OF_MIMIC = {
    "Poor data quality",
    "Premature ventricular contraction",
    "Ventricular tachycardia",
    "Supraventricular tachycardia with aberrancy",
    "Electronic pacemaker",
}


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_rows_keep_their_order_and_the_threshold_may_be_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, 'name,aggregation,threshold\n"Block, 1st degree",mean,0.25\nÉlectrode,max,\n')
    assert labels.read(path) == (Label("Block, 1st degree", "mean", 0.25), Label("Électrode", "max", None))
    assert labels.read(written(tmp_path, "name,aggregation\nA,max\n")) == (Label("A", "max", None),)


def test_further_columns_their_order_blanks_and_excels_mark_do_not_matter(tmp_path: Path) -> None:
    path = written(tmp_path, "note,aggregation,name\nx, max , A \n", encoding="utf-8-sig")
    assert labels.read(path) == (Label("A", "max", None),)
    path = written(tmp_path, "name,aggregation\r\nA,max\r\n", encoding="utf-8-sig")
    assert labels.read(path) == (Label("A", "max", None),)


def test_the_17_of_mimic_are_aggregated_as_ecg_fm_does(reference: Path) -> None:
    read = labels.read(SHIPPED / "mimic_iv_ecg.csv")
    definition = (reference / "mimic_iv_ecg_label_def.csv").read_text().splitlines()
    position = definition[0].split(",").index("name")
    assert [label.name for label in read] == [line.split(",")[position] for line in definition[1:]]
    assert {label.name for label in read if label.aggregation == "max"} == MAX_OF_MIMIC
    assert len(read) == 17
    share = definition[0].split(",").index("pos_percent_all")
    shares = [float(line.split(",")[share]) for line in definition[1:]]
    assert [label.reference_share for label in read] == pytest.approx(shares, abs=5e-6)
    weight = definition[0].split(",").index("pos_weight_train")
    weights = {line.split(",")[position]: float(line.split(",")[weight]) for line in definition[1:]}
    assert {label.name: label.pos_weight for label in read} == pytest.approx(weights, rel=5e-5)


# The order of weights.csv of https://github.com/physionetchallenges/evaluation-2021, in its abbreviations and codes.
# ECG-FM's data/physionet2021/labels/label_def.csv, which its tutorial puts over the logits, has the same.
PHYSIONET = """AF 164889003, AFL 164890007, BBB 6374002, Brady 426627000, CLBBB|LBBB 733534002|164909002,
    CRBBB|RBBB 713427006|59118001, IAVB 270492004, IRBBB 713426002, LAD 39732003, LAnFB 445118002, LPR 164947007,
    LQRSV 251146004, LQT 111975006, NSIVCB 698252002, NSR 426783006, PAC|SVPB 284470004|63593006, PR 10370003,
    PRWP 365413008, PVC|VPB 427172004|17338001, QAb 164917005, RAD 47665007, SA 427393009, SB 426177001,
    STach 427084000, TAb 164934002, TInv 59931005"""


def test_the_26_of_physionet_2021_stand_in_the_order_of_its_weights() -> None:
    path = SHIPPED / "physionet_2021.csv"
    rows = pd.read_csv(path, dtype=str)
    assert [tuple(pair.split()) for pair in PHYSIONET.split(",")] == list(
        zip(rows["abbreviation"], rows["snomed_ct"], strict=True)
    )
    read = {label.name: label for label in labels.read(path)}
    assert list(read) == list(rows["name"])
    # What the 17 of MIMIC-IV-ECG have too is called and aggregated alike.
    mimic = {label.name: label.aggregation for label in labels.read(SHIPPED / "mimic_iv_ecg.csv")}
    common = read.keys() & mimic.keys()
    assert {"Atrial fibrillation", "Sinus rhythm", "Right bundle branch block", "Bradycardia"} <= common
    assert {name: read[name].aggregation for name in common} == {name: mimic[name] for name in common}
    assert [name for name, label in read.items() if label.aggregation == "max"] == [
        *("Premature atrial contraction", "Pacing rhythm", "Premature ventricular contraction")
    ]
    # Sinus bradycardia is the second most frequent there, bradycardia without more the rarest.
    by_share = sorted(read, key=lambda name: read[name].reference_share or 0)
    assert (by_share[0], by_share[-2:]) == ("Bradycardia", ["Sinus bradycardia", "Sinus rhythm"])


@pytest.mark.parametrize(("outputs", "first", "last"), [(1, "00", "00"), (26, "00", "25"), (101, "000", "100")])
def test_names_by_number_keep_the_models_order_when_sorted(outputs: int, first: str, last: str) -> None:
    named = [label.name for label in labels.number_outputs(outputs)]
    assert len(named) == len(set(named)) == outputs
    assert named == sorted(named)
    assert (named[0], named[-1]) == (f"output_{first}", f"output_{last}")
    assert labels.are_numbered(named)
    assert not labels.are_numbered([*named, "Sinus rhythm"])
    assert f"output_{first} to output_{last}" in labels.explain_numbers(outputs)


def test_no_names_are_no_numbers() -> None:
    assert not labels.are_numbered([])


MODELS = Path(models.__file__).parent


@pytest.mark.parametrize("path", labels.list_shipped(), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_shipped_set_is_valid(path: Path) -> None:
    assert labels.read(path)


def test_the_shipped_sets_are_those_of_every_family() -> None:
    names = {f"{path.parent.name}/{path.name}" for path in labels.list_shipped()}
    assert names == {
        "labels/mimic_iv_ecg.csv",
        "labels/physionet_2021.csv",
        "deepecg_ssl/labels.csv",
        "deepecg_ssl/afib_5y.csv",
        "deepecg_ssl/lvef_equal_under_40.csv",
        "deepecg_ssl/lvef_under_50.csv",
        "ecgfounder/labels.csv",
        "hubert_ecg/labels.csv",
    }


@pytest.mark.parametrize(
    ("family", "list_of"), [("ecgfounder", "labels.txt"), ("hubert_ecg", "labels_cardiolearning.txt")]
)
def test_labels_of_other_families_stand_in_the_order_of_their_outputs(
    family: str, list_of: str, reference: Path
) -> None:
    expected = (reference / "models" / family / list_of).read_text(encoding="utf-8").splitlines()
    read = labels.read(MODELS / family / "labels.csv")
    assert [label.name for label in read] == [name for name in expected if name]
    assert {label.threshold for label in read} == {None}
    # Beats, pacing and short runs, which one window may show alone.
    beats = {label.name for label in read if label.aggregation == "max"}
    assert 15 < len(beats) < 30
    assert beats & {"PREMATURE VENTRICULAR COMPLEXES", "VPC|VPB"}
    assert not beats & {"ATRIAL FIBRILLATION", "AF", "LEFT BUNDLE BRANCH BLOCK", "CLBBB|LBBB"}


def test_every_abbreviation_of_hubert_ecg_has_a_meaning() -> None:
    rows = pd.read_csv(MODELS / "hubert_ecg" / "labels.csv", dtype=str, keep_default_na=False)
    assert all(rows["meaning"])
    assert dict(zip(rows["name"], rows["meaning"], strict=True))["CRBBB|RBBB"].startswith("complete right bundle")


@pytest.mark.parametrize("part", ["lvef_equal_under_40", "lvef_under_50", "afib_5y"])
def test_a_single_output_of_deepecg_ssl_is_called_as_its_address_says(part: str) -> None:
    [label] = labels.read(MODELS / "deepecg_ssl" / f"{part}.csv")
    assert label == Label(str(name_single_output(f"hf://heartwise/WCR_{part}")), "mean", None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has the columns (none) but needs aggregation, name too"),
        ("label;aggregation\n", "has the columns label, aggregation but needs name too"),
        ("name\nA\n", "has the columns name but needs aggregation too; config/labels/mimic_iv_ecg.csv shows the form"),
        ("name,aggregation\n", "has no rows; it needs one for each output of the model, in the model's order"),
        ("name,aggregation\nA,mean\n,mean\n", "row 2: '' cannot be a label's name; give another"),
        ("name,aggregation\nrecord_id,mean\n", "row 1: 'record_id' cannot be a label's name"),
        ("name,aggregation\nA,median\n", "row 1: aggregation is 'median'; give mean or max"),
        ("name,aggregation\nA\n", "row 1: aggregation is ''; give mean or max"),
        ("name,aggregation\nA,mean\nB,max\nA,max\n", "row 3: 'A' stands there twice; each output needs a name"),
        ("name,aggregation,threshold\nA,max,high\n", "row 1: threshold is 'high'; give a probability from 0 to 1"),
        ("name,aggregation,threshold\nA,max,1.5\n", "row 1: threshold is '1.5'; give a probability from 0 to 1"),
        ("name,aggregation,threshold\nA,max,-0.1\n", "row 1: threshold is '-0.1'; give"),
        ("name,aggregation,threshold\nA,max,nan\n", "row 1: threshold is 'nan'; give"),
        ("name,aggregation,pos_weight\nA,max,0\n", "row 1: pos_weight is '0'; give a weight above 0"),
        ("name,aggregation,pos_weight\nA,max,inf\n", "row 1: pos_weight is 'inf'; give"),
        ("name,aggregation,pos_weight\nA,max,many\n", "row 1: pos_weight is 'many'; give"),
        ("name,aggregation,threshold_from\nA,max,me\n", "row 1: threshold_from is 'me', not what `ecgpipe thresholds`"),
        ("name,aggregation,threshold_from\nA,max,{}\n", "row 1: threshold_from is '{}', not what"),
    ],
)
def test_a_mistake_names_the_file_the_row_the_value_and_the_fix(text: str, says: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(EcgpipeError) as caught:
        labels.read(path)
    assert str(caught.value).startswith(f"labels: {path}")
    assert says in str(caught.value)


def test_a_runs_own_labels_are_found_from_any_folder_and_where_its_results_moved_to(tmp_path: Path) -> None:
    """If outputs are named by number, their CSV is among the results; run.json has the path as it was at the run."""
    small_run.write(tmp_path / "out", ["a"])
    path = tmp_path / "out/run.json"
    info = json.loads(path.read_text())
    info["config"] |= {"outdir": "elsewhere/out", "labels": "elsewhere/out/checkpoint/labels.csv"}
    path.write_text(json.dumps(info))
    assert labels.locate_of_run(Run(tmp_path / "out")) == tmp_path / "out/checkpoint/labels.csv"
    info["config"]["labels"] = "config/labels/mimic_iv_ecg.csv"
    path.write_text(json.dumps(info))
    assert labels.locate_of_run(Run(tmp_path / "out")).is_file()


@pytest.mark.parametrize("name", ["none.csv", "", "a\0b", "x" * 5000])
def test_a_path_that_is_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(EcgpipeError, match=r"^labels: cannot read "):
        labels.read(tmp_path / name)


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(EcgpipeError, match="cannot read"):
        labels.read(written(tmp_path, "name,aggregation\nÉlectrode,max\n", encoding="latin-1"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


FIELD = st.one_of(st.sampled_from(["A", "B", "mean", "max", "0.5", "2", "nan", '"', ""]), st.text(max_size=5))


@given(
    head=st.sampled_from(["", "name,aggregation\n", "name,aggregation,threshold\n"]),
    rows=st.lists(st.lists(FIELD, max_size=4).map(",".join), max_size=5).map("\n".join),
)
@settings(deadline=None)
def test_any_text_is_a_set_of_labels_or_a_mistake(head: str, rows: str, folder: Path) -> None:
    (folder / "x.csv").write_bytes((head + rows).encode(errors="surrogatepass"))
    try:
        read = labels.read(folder / "x.csv")
    except EcgpipeError:
        return
    assert len({label.name for label in read}) == len(read) > 0
    assert all(label.aggregation in ("mean", "max") for label in read)
    assert all(label.threshold is None or 0 <= label.threshold <= 1 for label in read)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(str.strip).filter(bool)


@given(names=st.lists(NAMES.filter(lambda name: name not in labels.RESERVED), min_size=1, unique=True))
@settings(deadline=None)
def test_any_name_survives_a_csv(names: list[str], folder: Path) -> None:
    quoted = ["name,aggregation"] + ['"' + name.replace('"', '""') + '",mean' for name in names]
    with (folder / "x.csv").open("w", newline="", encoding="utf-8") as file:
        file.write("\n".join(quoted))
    assert [label.name for label in labels.read(folder / "x.csv")] == names
