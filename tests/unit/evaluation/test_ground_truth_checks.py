"""What is wrong with the true labels is said before anything is computed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecgpipe.cli import main
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import ground_truth_checks
from ecgpipe.readers import LEADS
from ecgpipe.workflow import validate

AF = "Atrial fibrillation"


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Settings of a run over two recordings that has true labels."""
    (tmp_path / "x.pt").touch()
    (tmp_path / "input").mkdir()
    for name in ("a", "b"):
        signal = np.random.default_rng(0).standard_normal((12, 2500))
        np.savez(tmp_path / f"input/{name}.npz", signal=signal, sample_rate=500, leads=LEADS)
    (tmp_path / "labels.csv").write_text(f"name,aggregation\n{AF},mean\nPaced,max\n")
    (tmp_path / "truth.csv").write_text("record_id,af,fold,who,age\na,1,0,x,50\nb,0,1,y,60\n")
    settings: dict[str, Any] = {"input": str(tmp_path / "input"), "checkpoint": str(tmp_path / "x.pt")}
    settings |= {"labels": str(tmp_path / "labels.csv"), "outdir": str(tmp_path / "out")}
    return settings | {"evaluation": {"truth": str(tmp_path / "truth.csv"), "mapping": {"af": AF}}}


def checked(given: dict[str, Any], **evaluation: object) -> None:
    ground_truth_checks.check_before_run(
        validate.load(given | {"evaluation": given["evaluation"] | evaluation}, Path())
    )


def test_what_can_be_evaluated_passes(given: dict[str, Any]) -> None:
    checked(given)
    checked(given, patient="who", split="fold", split_value="1", subgroups=["who", "age:55"])
    checked(given, patient="a column of the inputs, perhaps", subgroups=["another"])
    checked(given | {"labels": "index"}, mapping={"af": "output_00"})


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"mapping": {"AF": AF}}, r"evaluation\.mapping: 'AF' is no column of .*truth\.csv; did you mean 'af'\?"),
        ({"mapping": {}}, r"evaluation\.truth: no column of .* in the settings by evaluation: \{mapping: \{1dAVb"),
        ({"mapping": {"who": AF}}, r"evaluation\.truth: 'a' has 'x' in the column 'who' .* a true label is 1, 0"),
        ({"split": "fold", "split_value": "9"}, r"evaluation\.split: no recording has '9'; there are 0, 1"),
        ({"subgroups": ["who:1,2"]}, r"evaluation\.subgroups: 'who' has edges, but not only numbers"),
        ({"subgroups": ["age:2,1"]}, r"evaluation\.subgroups: the edges of 'age:2,1' do not rise"),
    ],
)
def test_what_the_table_cannot_give_is_refused_by_the_name_of_the_setting(
    given: dict[str, Any], evaluation: dict[str, Any], message: str
) -> None:
    with pytest.raises(EcgpipeError, match=message):
        checked(given, **evaluation)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,af\na,1\n", r"evaluation\.truth: .*truth\.csv has no column record_id, but id, af"),
        ("record_id,af\na,1\na,0\n", "'a' occurs twice"),
        ("record_id,af,af\na,1,0\n", "two columns 'af'"),
    ],
)
def test_an_invalid_table_is_refused(given: dict[str, Any], content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(content)
    with pytest.raises(EcgpipeError, match=message):
        checked(given)


def scan(folder: Path, *evaluation: str, labels: Path | None = None) -> int:
    asked = [f"evaluation.{pair}" for pair in evaluation] + ([f"labels={labels}"] if labels else [])
    given = ["--set", *asked] if asked else []
    return main(["manifest", "--input", str(folder / "input"), "--outdir", str(folder / "manifest"), *given])


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "c,1,0,x\nd,0,1,y\n",
            [],
            "evaluation.truth: no recording has both a prediction and a true label: the run's are",
        ),
        (
            "a,1,0,x\nd,0,1,y\n",
            ["split=fold", "split_value='1'"],
            "evaluation.split: no recording has '1'; there are 0",
        ),
        ("a,1,0,x\nb,0,1,y\n", ["patient=whose"], "'whose' is no column of"),
        (
            "a,,0,x\nb,0,1,y\n",
            ["split=fold", "split_value='0'"],
            "evaluation.split: no recording with fold = 0 has a known true",
        ),
    ],
)
def test_the_scan_holds_the_truth_against_the_recordings_and_writes_nothing_if_it_does_not_fit(
    tmp_path: Path, content: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "truth.csv"
    given, labels = [f"truth={table}", f"mapping={{af: {AF}}}"], tmp_path / "labels.csv"
    table.write_text("record_id,af,fold,who\na,1,0,x\nb,0,1,y\n")
    asked = ["patient=who", "split=fold", "split_value='1'", "subgroups=[who]"]
    assert scan(tmp_path, *given, *asked, labels=labels) == 0
    for path in (tmp_path / "manifest").iterdir():
        path.unlink()
    table.write_text("record_id,af,fold,who\n" + content)
    assert scan(tmp_path, *given, *options, labels=labels) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "manifest").iterdir())


@pytest.mark.usefixtures("given")
def test_a_table_beside_the_recordings_that_looks_like_true_labels_is_hinted_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "input/labels.csv"
    table.write_text("record_id;AF\na;1\n")
    (tmp_path / "input/other.csv").write_text("name,AF\na,1\n")
    assert scan(tmp_path) == 0
    said = capsys.readouterr().err
    assert f"{table} is ignored: it is not a recording, but has a column record_id" in said
    assert f"did you mean --config evaluation='{{truth: {table}}}'?" in said
    assert "other.csv is ignored" not in said
    assert scan(tmp_path, f"truth={table}", f"mapping={{AF: {AF}}}") == 0
    assert "did you mean" not in capsys.readouterr().err
