"""Pages without names: whatever is planted in settings, files, tables and messages, they show none of it.

`PLANTED` is a word of its own for each place, so that a failure says which one leaks.
"""

import ast
import csv
import json
import shutil
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
from planted import leaked

import ecgpipe
from ecgpipe.cli import main
from ecgpipe.core import parquet, schemas, user_settings
from ecgpipe.report import deidentify
from ecgpipe.workflow import settings_docs

LABELS = small_run.LABELS


def takes_text(annotation: object) -> bool:
    """Whether a setting can be any text; a word of a few cannot."""
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return annotation is str or any(map(takes_text, typing.get_args(annotation)))


def text_settings() -> list[str]:
    """The settings that take any text, by their dotted names; a pattern leaves no room for a name."""
    return [
        key
        for key, field, section in settings_docs._keys()
        if not section
        and takes_text(field.annotation)
        and not any(getattr(found, "pattern", None) for found in field.metadata)
    ]


def is_shown(key: str) -> bool:
    shown: Any = deidentify.SETTINGS
    for name in key.split("."):
        shown = shown.get(name, {}) if isinstance(shown, Mapping) else {}
    return shown is True


def word(key: str) -> str:
    """What is planted in a setting."""
    return "PLANTED" + key.replace(".", "").replace("_", "")


def planted(annotation: object, text: str) -> object:
    """A value for a setting, of its type, with a text in it."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    options = typing.get_args(annotation) if is_union else [annotation]
    if str in options:
        return text
    for option in options:
        if typing.get_origin(option) is dict:
            return {text: {"labels": text} if typing.get_args(option)[1] is user_settings.OfModel else text}
    return [text]


# The settings


@pytest.mark.parametrize("key", text_settings())
def test_a_setting_that_takes_text_is_hidden(key: str) -> None:
    assert not is_shown(key)


def test_every_setting_that_is_shown_is_a_setting() -> None:
    def leaves(shown: Mapping[str, Any], before: str = "") -> Iterator[str]:
        for key, value in shown.items():
            yield from [before + key] if value is True else leaves(value, f"{before}{key}.")

    assert set(leaves(deidentify.SETTINGS)) <= {key for key, _, section in settings_docs._keys() if not section}


def test_a_new_setting_is_hidden_until_somebody_lists_it() -> None:
    class New(user_settings.Umap):
        partner: str = "Jane Doe"

    given = {"umap": New().model_dump(), "clinic": "Jane Doe"}
    shown = deidentify.keep_only(given, deidentify.SETTINGS)
    assert shown == {"umap": user_settings.Umap().model_dump()}


@pytest.mark.parametrize("content", ["text", ["text"], [["text"]], 1, {"a": "text"}])
def test_what_has_another_form_than_the_list_says_is_hidden(content: object) -> None:
    assert "text" not in json.dumps(deidentify.keep_only({"key": content}, {"key": {"b": True}}))


# The readers


def outside_brackets(error: ast.Call) -> list[str]:
    """What a message puts in before its first bracket, as source; of one that is no literal all of it."""
    message = error.args[0] if error.args else None
    if isinstance(message, ast.Constant):
        return []
    if not isinstance(message, ast.JoinedStr):
        return [ast.unparse(error)]
    before, found = "", []
    for piece in message.values:
        if isinstance(piece, ast.Constant):
            before += str(piece.value)
        elif " (" not in before and isinstance(piece, ast.FormattedValue):
            found.append(ast.unparse(piece.value))
    return found


# By file, what is put into a reason outside of brackets, and is of ecgpipe's own words, a format's name or a setting.
OWN_WORDS = {
    # Of arrays and files that a caller gives in Python: what is said of them reaches no page.
    "api/arrays.py": {
        *("' and '.join(map(repr, those))", "', '.join(map(repr, unknown[:20]))", "twice", "' '.join(LEADS)"),
        *("error", "array.dtype", "len(leads)", "array.shape"),
    },
    "api/recording.py": {"UnreadableError(crashed[0])", "UnreadableError(problem)"},
    # Of the model's declaration.
    "preprocessing/filters.py": {"_name(step)", "edge", "name"},
    "preprocessing/segments.py": {"what"},
    "preprocessing/transform.py": {"fix", "known", "model_input.unit", "model_input.window_s", "new", "what"},
    "preprocessing/preprocess.py": {
        "UnreadableError(problem)",
        "UnreadableError(row['problem'])",
    },  # made in listed and folders
    "readers/__init__.py": {"UnreadableError(missing(format_name, needs, extra))"},
    "readers/cardiosoft.py": {"_NAME", "tag"},
    "readers/columns.py": {"stated"},  # a sampling rate
    "readers/dicom.py": {"UnreadableError(deflated)", "_OTHER_KIND"},
    "readers/files.py": {"name"},  # a format
    "readers/mat.py": {"UnreadableError(missing('a file of MATLAB 7.3', 'h5py', 'hdf5'))"},
    "readers/ecgdatakit.py": {"name", "reason"},  # a format, and a value of _REFUSED
    "readers/edf.py": {"what"},
    "readers/numpy.py": {"name"},  # signal, leads, ...
    "readers/wfdb.py": {"what"},
}


def test_what_a_reader_quotes_of_a_file_stands_in_brackets_which_pages_without_names_leave_out() -> None:
    """Put what a file says behind the reason, in brackets; or list here what is no file's."""
    package = Path(ecgpipe.__file__).parent
    found: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        errors = [call for call in calls if ast.unparse(call.func) in ("UnreadableError", "UnusableError")]
        quoted = {text for error in errors for text in outside_brackets(error)}
        if quoted:
            found[path.relative_to(package).as_posix()] = quoted
    assert found == OWN_WORDS


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("a file is not there (x.hea)", "a file is not there"),
        ("not a WFDB record (Kowalski.hea: bad line) at line 7 of Kowalski.hea", "not a WFDB record"),
        ("no known format, .kowalski", "no known format"),
        ("no known format, .a\nb", "no known format"),
        ("no signal, every lead is constant", "no signal, every lead is constant"),
    ],
)
def test_a_general_reason_has_no_particulars(reason: str, expected: str) -> None:
    assert deidentify.generalise(reason) == expected


# Everything at once

TITLE = "PLANTEDtitle of my own"

# The columns of the inputs' tables and of the truth, with a value in each.
COLUMNS = {name: f"PLANTED{name}column" for name in ("patient", "split", "group", "own")}
VALUES = {name: f"PLANTED{name}value" for name in COLUMNS}


def with_unknown_fields(content: object, shown: object, words: set[str]) -> object:
    """The same JSON with a field of its own in each object whose fields are listed."""
    if isinstance(content, list):
        return [with_unknown_fields(one, shown, words) for one in content]
    if not isinstance(content, dict) or not isinstance(shown, Mapping):
        return content
    if shown is deidentify.SETTINGS:  # `show` reads the sections by their models, which refuse others
        return content
    found = {key: with_unknown_fields(value, shown.get(key), words) for key, value in content.items()}
    if deidentify.ANY not in shown:
        new = f"PLANTEDfield{len(words)}"
        words.add(new)
        found[new] = {new: 1} if all(isinstance(value, Mapping) for value in shown.values()) else new
    return found


def write(folder: Path, mark: str = "") -> set[str]:
    """A run in which each name is a planted word; those words."""
    ids = [f"PLANTEDpatient{mark}{i}/PLANTEDid{mark}{i}" for i in range(6)]
    small_run.write(folder, ids, unusable=1, attributed=[(ids[1], LABELS[1])])
    words = {part for name in ids for part in name.split("/")} | {folder.name}

    records = pq.read_table(folder / "records/shard-00000.parquet").to_pylist()
    own = {COLUMNS["own"]: VALUES["own"] + mark, COLUMNS["patient"]: "p", COLUMNS["split"]: "s", COLUMNS["group"]: "g"}
    failed = dict.fromkeys(schemas.RECORDS.names) | {"status": "failed", "record_id": f"PLANTEDfailed{mark}"}
    reasons = [f"not a WFDB record (PLANTEDerror{mark})", f"no known format, .plantedextension{mark}"]
    records += [{**failed, "record_id": f"{failed['record_id']}{i}", "reason": why} for i, why in enumerate(reasons)]
    schema = schemas.RECORDS
    for name in own:
        schema = schema.append(pa.field(name, pa.string()))
    rows = [{**own, **row} for row in records]
    parquet.write(folder / "records/shard-00000.parquet", pa.Table.from_pylist(rows, schema=schema))
    (folder / "recordings/2.npz").unlink()  # so that there is a note
    words |= {str(failed["record_id"]), f"PLANTEDerror{mark}", f"PLANTEDextension{mark}", *COLUMNS.values()}
    words.add(VALUES["own"] + mark)

    with (folder / "truth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["record_id", *LABELS, *(COLUMNS[name] for name in ("patient", "split", "group"))])
        for i, name in enumerate(ids):
            true = [i % 2, (i + 1) % 2, i // 3]
            writer.writerow([name, *true, f"{VALUES['patient']}{i}", VALUES["split"], f"{VALUES['group']}{i % 2}"])
    asked = ["--patient", COLUMNS["patient"], "--split", COLUMNS["split"], "--split-value", VALUES["split"]]
    small_run.evaluate(folder, *asked, "--subgroups", COLUMNS["group"])
    words |= {VALUES[name] for name in ("patient", "split", "group")}

    choice = {"threshold": 0.7, "method": "PLANTEDmethod", "recordings": 5, "on": "PLANTEDsplitoffit", "fitted": "a"}
    lines = (folder / "labels.csv").read_text().replace("\n", ",\n").replace("_share,\n", "_share,threshold_from\n")
    told = json.dumps(choice | {"scores": {}}).replace('"', '""')
    labels = lines.replace('"Tachycardia",mean,0.7,,', f'"Tachycardia",mean,0.7,,"{told}"')
    (folder / "labels.csv").write_text(labels)
    (folder / "PLANTEDlabels.csv").write_text(labels)
    words |= {"PLANTEDmethod", "PLANTEDsplitoffit"}

    run = json.loads((folder / "run.json").read_text())
    settings = user_settings.Config(input="x").model_dump()
    annotations = {key: field.annotation for key, field, _ in settings_docs._keys()}
    for key in text_settings():
        *sections, name = key.split(".")
        inside = settings
        for section in sections:
            inside = inside[section]
        inside[name] = planted(annotations[key], word(key) + mark)
        words.add(word(key) + mark)
    settings["labels"] = str(folder / "PLANTEDlabels.csv")
    words = (words - {word("labels") + mark}) | {"PLANTEDlabels"}
    settings["report"]["paths"] = False
    fitted = {"on": "PLANTEDcalibrationsplit", "recordings": 9}
    run |= {
        "config": settings,
        "reasons": [{"status": "failed", "reason": why, "count": 1} for why in reasons],
        "other_files": {f"no known format, .plantedother{mark}": 2, f"a link ({mark}PLANTEDlink)": 1},
        "warnings": [f"1 recording is gone: PLANTEDwarning{mark}"],
        "layouts": [f"PLANTEDlayout{mark}"],
        "calibration": {"method": "platt", "sha256": "c" * 64, "fitted": fitted, "left": [LABELS[2]]},
        "checkpoint": run["checkpoint"] | {"uri": f"/PLANTEDweights{mark}/x.pt", "revision": "PLANTEDrevision"},
    }
    words |= {"PLANTEDother", "PLANTEDlink", "PLANTEDwarning", "PLANTEDlayout", "PLANTEDweights", "PLANTEDrevision"}
    words |= {"PLANTEDcalibrationsplit", run["inputs"]["sha256"]}
    unknown: set[str] = set()
    (folder / "run.json").write_text(json.dumps(with_unknown_fields(run, deidentify.RUN, unknown)))
    assert len(unknown) > 10
    account = folder / "evaluation/account.json"
    content = json.loads(account.read_text()) | {"fitted": ["The weights of PLANTEDhead were trained on PLANTEDfold."]}
    account.write_text(json.dumps(with_unknown_fields(content, deidentify.EVALUATION, unknown)))
    return words | unknown | {"PLANTEDhead", "PLANTEDfold"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "PLANTEDfolder"


@pytest.fixture(scope="module")
def words(folder: Path) -> set[str]:
    return write(folder)


def test_the_words_are_looked_for_in_the_right_way(folder: Path, words: set[str], tmp_path: Path) -> None:
    """The report with names shows what is planted, in the text and packed."""
    found = leaked(small_run.report(folder, "--title", TITLE).read_bytes(), words)
    settings = {word(key) for key in text_settings()} - {word("labels"), word("report.title")}
    assert found >= settings
    assert found >= {COLUMNS["own"], VALUES["own"], COLUMNS["group"], COLUMNS["patient"], VALUES["group"]}
    assert found >= {"PLANTEDpatient0", "PLANTEDid3", "PLANTEDerror", "PLANTEDextension", "PLANTEDweights"}
    assert found >= {"PLANTEDmethod", "PLANTEDsplitoffit", "PLANTEDcalibrationsplit", "PLANTEDhead"}


def test_the_report_names_nothing_but_its_title(folder: Path, words: set[str]) -> None:
    content = small_run.report(folder, "--no-paths", "--title", TITLE).read_bytes()
    assert leaked(content, words) == set()
    assert leaked(content, {"PLANTEDtitle"})  # it was written for this page
    text = content.decode()
    assert "Subgroups of 1 column are not shown" in text
    assert "6 recordings evaluated, those of the split; 0 others" in text
    assert "Intervals by patient: 6." in text
    assert "&#34;max_drift&#34;: 0.01" in text  # the settings that are no texts


def test_columns_that_the_settings_name_are_shown(folder: Path, words: set[str]) -> None:
    content = small_run.report(folder, "--no-paths", "--columns", COLUMNS["group"]).read_bytes()
    assert leaked(content, words) == {COLUMNS["group"], VALUES["group"]}
    assert f"AUROC by {COLUMNS['group']}" in content.decode()


def test_the_figures_name_nothing(folder: Path, words: set[str]) -> None:
    figures = small_run.report(folder, "--no-paths", stage="figures")
    assert {path.name for path in figures.iterdir() if leaked(path.read_bytes(), words)} == set()
    assert leaked((figures / "recording.svg").read_bytes(), {"recording"})  # what it is called instead
    assert leaked((figures / "account.svg").read_bytes(), {"record"})  # a reason without its particulars
    shutil.rmtree(figures)


@pytest.mark.parametrize("suffix", ["html", "png", "pdf", "svg"])
def test_show_names_nothing_of_such_a_run(suffix: str, folder: Path, words: set[str], tmp_path: Path) -> None:
    for number, record_id in enumerate(["PLANTEDpatient1/PLANTEDid1", "PLANTEDpatient2/PLANTEDid2"]):
        output = tmp_path / f"{number}.{suffix}"
        status = main(["show", str(folder), "--output", str(output), record_id])
        if number and suffix != "html":  # whose file is gone
            assert status == 2
            continue
        assert status == 0
        assert leaked(output.read_bytes(), words) == set()
    if suffix == "html":
        return
    run = json.loads((folder / "run.json").read_text())
    run["config"]["report"]["paths"] = True
    shutil.copytree(folder, tmp_path / "shown")
    (tmp_path / "shown/run.json").write_text(json.dumps(run))
    given = [str(tmp_path / "shown"), "--output", str(tmp_path / f"x.{suffix}")]
    assert main(["show", *given, "PLANTEDpatient1/PLANTEDid1"]) == 0
    if suffix != "png":  # which has the name in pixels alone
        assert leaked((tmp_path / f"x.{suffix}").read_bytes(), words) >= {"PLANTEDpatient1", "PLANTEDid1"}


def test_show_names_its_file_by_the_recordings_number(
    folder: Path, words: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show", str(folder), "PLANTEDpatient1/PLANTEDid1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["recording_2.html"]
    assert words


def test_the_comparison_names_nothing(folder: Path, words: set[str], tmp_path: Path) -> None:
    other = write(tmp_path / "PLANTEDother", "B")
    assert main(["compare", str(folder), str(tmp_path / "PLANTEDother"), "--output", str(tmp_path / "out")]) == 0
    found = words | other | {"PLANTEDother"}
    page = (tmp_path / "out/compare.html").read_bytes()
    assert leaked(page, found) == set()
    assert b"What differs" in page
    for name in (folder, tmp_path / "PLANTEDother"):
        run = json.loads((name / "run.json").read_text())
        run["config"]["report"]["paths"] = True
        shutil.copytree(name, tmp_path / f"shown{name.name}")
        (tmp_path / f"shown{name.name}/run.json").write_text(json.dumps(run))
    pair = [str(tmp_path / f"shown{name.name}") for name in (folder, tmp_path / "PLANTEDother")]
    assert main(["compare", *pair, "--output", str(tmp_path / "shown")]) == 0
    shown = leaked((tmp_path / "shown/compare.html").read_bytes(), found)
    settings = {word(key) for key in text_settings()} - {word("labels")}
    assert shown >= settings  # it is looked for in the right way
