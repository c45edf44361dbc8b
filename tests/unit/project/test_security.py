"""Settings that would be taken for something else than what they are, in a shell or by Snakemake, are refused."""

import logging
import sys
from pathlib import Path, PurePath

import pytest

from ecgpipe.core import logs
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.readers import detect
from ecgpipe.report.deidentify import generalise
from ecgpipe.workflow import validate


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"outdir": "{input}"},
            "outdir: '{input}' has a brace or a control character, which Snakemake misreads",
        ),
        ({"outdir": "a\ntouch pwned"}, "outdir: 'a\\ntouch pwned' has a brace or a control character"),
        ({"outdir": "a\0b"}, "outdir: 'a\\x00b' has a brace or a control character"),
        ({"input": ["{wildcards.x}"]}, "input: '{wildcards.x}' has a brace"),
        ({"labels": "a{b}.csv"}, "labels: 'a{b}.csv' has a brace"),
        ({"checkpoint": "{{x}}.pt"}, "checkpoint: '{{x}}.pt' has a brace"),
        ({"outdir": "-rf"}, "outdir: '-rf' begins with a dash, as options do; give the absolute path"),
        ({"input": "--outdir=x"}, "input: '--outdir=x' begins with a dash"),
        ({"checkpoint": "-x.pt"}, "checkpoint: '-x.pt' begins with a dash"),
        ({"outdir": "s3://bucket/x"}, "outdir: 's3://bucket/x' is an address; give the absolute path of a folder"),
        ({"input": "s3://bucket/x"}, "input: 's3://bucket/x' is an address; copy or mount it, and give the folder"),
        ({"outdir": "x:y"}, "outdir: 'x:y' is an address; give the absolute path of a folder"),
        ({"inference": {"device": "cpu; touch pwned"}}, "inference.device: 'cpu; touch pwned' is not valid"),
        ({"inference": {"device": "{input}"}}, "inference.device: '{input}' is not valid"),
        ({"inference": {"device": "cpu\n"}}, "inference.device: 'cpu\\n' is not valid"),
        ({"preprocess": {"assume_unit": "$(touch pwned)"}}, "preprocess.assume_unit: '$(touch pwned)' is not valid"),
        ({"sha256": "0" * 63 + ";"}, "is not valid: string should match pattern"),
        ({"umap": {"min_dist": "0; touch pwned"}}, "umap.min_dist: '0; touch pwned' is not valid"),
    ],
)
def test_a_setting_that_would_be_mistaken_for_something_else_is_refused(
    settings: dict[str, object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("{wildcards.x}", "--outdir=x", "input"):
        (tmp_path / name).mkdir()
    for name in ("a{b}.csv", "labels.csv"):
        (tmp_path / name).write_text("name,aggregation\nA,max\n")
    for name in ("{{x}}.pt", "-x.pt", "x.pt"):
        (tmp_path / name).touch()
    given = {"input": "input", "outdir": "out", "labels": "labels.csv", "checkpoint": "x.pt", **settings}
    with pytest.raises(EcgpipeError) as caught:
        validate.load(given, tmp_path)
    assert str(caught.value).count(says) == 1


@pytest.mark.parametrize(
    "name", ["a b", "it's", "$(x)", "`x`", "a;b", "a&&b", "a*b", "50%", "%s", "a\\b", "心電図", "a~", "#"]
)
def test_a_path_with_other_signs_is_taken_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / f"{name}.csv").write_text("name,aggregation\nA,max\n")
    (tmp_path / f"{name}.pt").touch()
    given = {"input": name, "outdir": f"{name}/out", "labels": f"{name}.csv", "checkpoint": f"{name}.pt"}
    loaded = validate.load(given, tmp_path)
    assert {key: getattr(loaded, key) for key in given} == given


# What is said and shown


def test_a_name_cannot_forge_a_line_of_a_log_nor_steer_the_terminal(tmp_path: Path) -> None:
    record = logging.makeLogRecord({"msg": "%s and 心電図", "args": ("a\n[x] error: b\x1b[2J\r\u2028\u202e\0",)})
    said = logs.Visible("[stage] %(message)s").format(record)
    assert said == "[stage] a\\n[x] error: b\\x1b[2J\\r\\u2028\\u202e\\x00 and 心電図"


@pytest.mark.parametrize("address", ["http://user:secret@host/x", "https://secret@host/x", "http://secret:@host/x"])
def test_a_password_in_an_address_is_left_out(address: str) -> None:
    record = logging.makeLogRecord({"msg": "cannot reach %s, hf://a/b@v1/c", "args": (address,)})
    said = logs.Visible().format(record)
    assert "secret" not in said
    assert said.endswith("://host/x, hf://a/b@v1/c")


def test_a_traceback_keeps_its_lines_and_no_more() -> None:
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        record = logging.makeLogRecord({"msg": "x", "exc_info": sys.exc_info()})
    said = logs.Visible().format(record)
    assert said.startswith("x\nTraceback (most recent call last):\n")
    assert said.endswith("ValueError: \\x1b[2J")


def test_an_extension_that_does_not_print_is_none(tmp_path: Path) -> None:
    assert detect.what_else(PurePath("x.\x1b[31m"), b"x\0") == "no known format, without file extension"
    assert detect.what_else(PurePath("x.JPG"), b"x\0") == "no known format, .jpg"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("a file is not there (x.hea)", "a file is not there"), ("bad (a) at b (c)", "bad"), ("too short", "too short")],
)
def test_a_general_reason_has_nothing_from_its_first_bracket_on(reason: str, expected: str) -> None:
    assert generalise(reason) == expected
