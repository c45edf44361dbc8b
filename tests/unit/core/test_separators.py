"""The separator of CSV files: one rule for tables of recordings, of true labels, of labels, and for recordings."""

from pathlib import Path

import pytest

from ecgpipe.core.separators import separator_of
from ecgpipe.inputs import input_tables
from ecgpipe.models import labels
from ecgpipe.readers import detect


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("path,label\na,1\n", ","),
        ("path;label\na;1\n", ";"),
        ("path\tlabel\na\t1\n", "\t"),
        ("path\na\n", ","),
        ("", ","),
        # Other separators within names, within quotes, and within the cells of further rows.
        ("path,comment;free\na.mat,none\n", ","),
        ("path,comment;free\n", ","),
        ("name;aggregation\nBlock, 1st degree;mean\n", ";"),
        ('path,"a;b;c;d"\nx,1\n', ","),
        ("path,note\na,x;y;z\n", ","),
        ("path;note\na;x,y,z\n", ";"),
        ("time, s;I, mV;II, mV\n0,1;0,2;0,3\n", ";"),
        # Numbers alone, with decimal commas.
        ("0,1;0,2;0,3\n0,4;0,5;0,6\n", ";"),
        ("0,1\t0,2\n1e-3\t0,3\n", "\t"),
        ("1,2,3\n4,5,6\n", ","),
        # The second row is cut off.
        ("path,comment;free\na;b;c", ","),
    ],
)
def test_the_separator_cuts_all_rows_into_equally_many_cells(text: str, separator: str) -> None:
    assert separator_of(text) == separator


def test_a_table_is_cut_in_the_same_way_by_all_who_read_it(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("path,comment;free\na.mat,none\n")
    assert input_tables.read_table(path).column_names == ["path", "comment;free"]
    assert detect.csv_columns(path.read_bytes()) == ["path", "comment;free"]


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_labels_may_be_separated_as_tables_are(separator: str, encoding: str, tmp_path: Path) -> None:
    text = "name,aggregation,threshold\nA,max,0.25\nÉlectrode,mean,\n".replace(",", separator).replace("0.25", "0,25")
    (tmp_path / "labels.csv").write_text(text, encoding=encoding)
    assert labels.read(tmp_path / "labels.csv") == (
        labels.Label("A", "max", 0.25),
        labels.Label("Électrode", "mean", None),
    )
