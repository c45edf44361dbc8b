"""Nothing in a dataset, a checkpoint or a setting is executed or trusted, and no token is repeated: on whole runs."""

import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import scipy.io
from hub_server import Hub
from report_page import Page
from run_workflow import Ran, snakemake, table, write_recordings

pytestmark = pytest.mark.slow  # four minutes in all

# What a shell, Python, printf and a pattern would do something with. Paths with braces are refused.
NASTY = "a b'\"$(touch pwned)`touch pwned`;touch pwned&&touch pwned|<#!*[x]?~%s%(x)s=,心\\ -rf "
FORGED = "x\n[preprocess] error: forged"
LONG = "long" * 60
NAMES = [
    "$(touch pwned)",
    "`touch pwned`; touch pwned",
    "-rf",
    "{wildcards.shard}{input}",
    "'; DROP TABLE logits; --",
    "<img src=x onerror=alert(1)>",
    "=cmd|'-C calc'!A0",
    "\x1b[2J\x1b[31mred",
    "x..",
    "\u2028\u202e",
    FORGED,
    LONG,
]
IDS = [
    "../../../../pwned",
    "/etc/passwd",
    "nul\0byte",
    "</script><!--<script>",
    "a\nb\r\n",
    "5'; DROP",
    "x" * 5000,
    " ",
]
LABELS = ["../<script>alert(1)</script>", "{wildcards}\"'", "=cmd|'-C calc'!A0"]
COLUMNS = ["<script>", "{input}", "../x\n", "'; DROP TABLE records; --"]


class Malicious:
    """Pickles to a call of the shell that leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


def write_hostile(folder: Path) -> None:
    """Inputs, labels, a checkpoint and settings in which all that a user or a dataset can name is hostile."""
    inputs = folder / f"{NASTY}in"
    write_recordings(inputs, len(NAMES))
    for number, name in enumerate(NAMES):
        (inputs / f"recording{number:03d}.mat").rename(inputs / f"{name}.mat")
    (inputs / "notes.\x1b[31m").write_text("an ending for the terminal")

    evil = np.array([Malicious(folder / "pwned")], object)
    np.save(inputs / "evil1.npy", evil, allow_pickle=True)
    np.savez(inputs / "evil2.npz", signal=evil, sample_rate=500)
    (inputs / "evil3.npy").write_bytes(pickle.dumps(evil[0]))
    scipy.io.savemat(inputs / "evil4.mat", {"feats": np.frombuffer(pickle.dumps(evil[0]), np.uint8)})

    write_recordings(folder / "listed", len(IDS))
    paths = [f"listed/{path.name}" for path in sorted((folder / "listed").iterdir())]
    columns = {name: [f"{name}{number}" for number in range(len(IDS))] for name in COLUMNS}
    pq.write_table(pa.table({"path": paths, "record_id": IDS, **columns}), folder / "table.parquet")

    rows = pd.DataFrame({"name": LABELS, "aggregation": "mean"})
    rows.to_csv(folder / f"{NASTY}labels.csv", index=False)
    (folder / f"{NASTY}.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    settings = {
        "input": [inputs.name, "table.parquet"],
        "outdir": f"{NASTY}out",
        "labels": f"{NASTY}labels.csv",
        "checkpoint": f"{NASTY}.pt",
        "max_failed_fraction": 1,
        "manifest": {"shard_size": 8},
        "preprocess": {"assume_leads": ["{input}$(touch pwned)", "'\""], "assume_sample_rate": 500},
        "attribution": {"recordings": 2, "steps": 4},
        "report": {"title": "--{input}$(touch pwned)</title><script>alert(1)</script>", "recordings": 40},
    }
    (folder / "settings.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Ran]:
    """The folder of such a run, its results, and what it said."""
    folder = tmp_path_factory.mktemp("hostile")
    write_hostile(folder)
    ran = snakemake(folder, "--printshellcmds", "--configfile", "settings.json", max_failed_fraction=1)
    return folder, folder / f"{NASTY}out", ran


def test_a_run_in_which_every_name_is_hostile_ends_well_and_executes_nothing(hostile: tuple[Path, Path, Ran]) -> None:
    folder, out, ran = hostile
    assert ran.status == 0, ran.output
    assert not [path for path in folder.rglob("*") if path.name == "pwned"]
    assert not (folder.parent / "pwned").exists()
    assert (out / "report.html").stat().st_size > 0


def test_all_that_it_wrote_is_in_its_folder_under_names_of_its_own(hostile: tuple[Path, Path, Ran]) -> None:
    folder, out, _ = hostile
    given = {f"{NASTY}in", f"{NASTY}labels.csv", f"{NASTY}.pt", "listed", "table.parquet", "settings.json"}
    assert {path.name for path in folder.iterdir()} == {*given, out.name, ".snakemake"}
    names = [path.relative_to(out).as_posix() for path in out.rglob("*")]
    assert [name for name in names if not re.fullmatch(r"[a-z0-9._/-]+", name)] == []


def test_ids_labels_and_columns_come_back_as_they_were(hostile: tuple[Path, Path, Ran]) -> None:
    _, out, _ = hostile
    expected = {*NAMES, *IDS}
    records = table(out / "records")
    used = records[records["status"] == "ok"]
    assert set(used["record_id"]) == expected
    assert len(used) == len(expected)
    assert set(records["record_id"]) - expected == {"evil1", "evil2", "evil3", "evil4"}
    assert list(records.columns[-len(COLUMNS) :]) == COLUMNS
    listed = records.set_index("record_id").loc[IDS[0]]
    assert [listed[name] for name in COLUMNS] == [f"{name}0" for name in COLUMNS]
    for kind in ("logits", "embeddings", "attention", "predictions", "umap"):
        assert set(table(out / kind)["record_id"]) == expected, kind
    predictions = ds.dataset([str(path) for path in sorted((out / "predictions").iterdir())]).to_table()
    assert predictions.column_names == ["record_id", "n_segments", *LABELS]
    assert set(predictions["record_id"].to_pylist()) == expected


def test_pickles_in_recordings_are_failed_rows(hostile: tuple[Path, Path, Ran]) -> None:
    _, out, _ = hostile
    records = table(out / "records")
    failed = records[records["status"] == "failed"]
    assert sorted(Path(path).name for path in failed["path"]) == ["evil1.npy", "evil2.npz", "evil3.npy", "evil4.mat"]
    says = (
        "not a readable NumPy file",
        "the array is not (leads, samples) of numbers",
        "the array's shape does not fit",
    )
    assert [reason for reason in failed["reason"] if not reason.startswith(says)] == []


def test_no_name_forges_a_line_of_a_log_or_steers_the_terminal(hostile: tuple[Path, Path, Ran]) -> None:
    _, out, ran = hostile
    said = [ran.output, *(path.read_text() for path in out.rglob("*.log"))]
    for text in said:
        assert "\x1b" not in text
        assert not re.search(r"^\[preprocess\] error: forged", text, re.MULTILINE)
    assert "no known format, without file extension" in ran.output


def test_the_report_shows_every_name_as_text(hostile: tuple[Path, Path, Ran]) -> None:
    _, out, _ = hostile
    page = Page(out / "report.html")
    assert "<img src=x" not in page.source
    assert "<script>alert" not in page.source
    assert page.scripts == 5 + 6  # data and ours
    assert "&lt;img src=x onerror=alert(1)&gt;" in page.source
    assert {*NAMES, *IDS} <= {view["name"] for view in page.get("views")} <= set(page.get("rows")["names"])


def mistakes(ran: Ran) -> set[str]:
    """What the jobs said was wrong; the run says it again at its end."""
    return {line for line in ran.output.splitlines() if "] error: " in line}


# Checkpoints


@pytest.mark.parametrize("kind", ["beside", "in cfg", "instead of a tensor", "bare"])
def test_a_checkpoint_that_would_call_the_shell_is_refused(kind: str, tmp_path: Path) -> None:
    evil, content = Malicious(tmp_path / "pwned"), checkpoints.classifier(stride=4)
    if kind == "beside":
        content["extra_state"] = [evil]
    elif kind == "in cfg":
        content["cfg"]["model"]["conv_feature_layers"] = evil
    elif kind == "instead of a tensor":
        content["model"][next(iter(content["model"]))] = evil
    write_recordings(tmp_path / "input", 1)
    (tmp_path / "x.pt").write_bytes(pickle.dumps(evil) if kind == "bare" else checkpoints.saved(content))
    (tmp_path / "labels.csv").write_text("name,aggregation\nA,max\nB,max\nC,max\n")
    ran = snakemake(
        tmp_path, "out/checkpoint/model.json", checkpoint="x.pt", input="input", labels="labels.csv", outdir="out"
    )
    assert ran.status != 0
    says = "x.pt asks for posix.system, which is code and not data: refused; ask its author for a file that has only"
    (said,) = mistakes(ran)
    assert says in said or (kind == "bare" and "x.pt is not a checkpoint of PyTorch" in said), said
    assert "Traceback" not in ran.output
    assert not (tmp_path / "pwned").exists()
    assert not [*tmp_path.glob("out/checkpoint/*")]


# Settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"outdir": "{input}"},
            "outdir: '{input}' has a brace or a control character, which Snakemake misreads",
        ),
        ({"input": "--outdir=x"}, "input: '--outdir=x' begins with a dash, as options do; give the absolute path"),
        ({"inference": {"device": "cpu; touch pwned"}}, "inference.device: 'cpu; touch pwned' is not valid"),
    ],
)
def test_a_setting_that_would_be_taken_for_something_else_is_refused_before_any_job(
    settings: dict[str, object], says: str, tmp_path: Path
) -> None:
    for name in ("--outdir=x", "input"):
        (tmp_path / name).mkdir()
    (tmp_path / "labels.csv").write_text("name,aggregation\nA,max\n")
    (tmp_path / "x.pt").touch()
    given = {"input": "input", "outdir": "out", "labels": "labels.csv", "checkpoint": "x.pt", **settings}
    (tmp_path / "settings.json").write_text(json.dumps(given))
    before = sorted(tmp_path.iterdir())
    ran = snakemake(tmp_path, "--configfile", "settings.json")
    assert ran.status != 0
    assert ran.output.count(says) == 1, ran.output
    assert "Traceback" not in ran.output
    assert not ran.jobs
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != ".snakemake"] == before


@pytest.mark.parametrize(
    "uri",
    ["hf://a/b@../../x/c.pt", "hf://a/../../c.pt", "hf://a/b/../../c.pt", "hf://a/b@$(touch pwned)/c?x=1#y.pt"],
)
def test_an_address_that_leads_elsewhere_is_asked_of_the_hub_or_refused(uri: str, tmp_path: Path, hub: Hub) -> None:
    write_recordings(tmp_path / "input", 1)
    ran = snakemake(tmp_path, "out/checkpoint/model.json", input="input", checkpoint=uri, outdir="out")
    assert ran.status != 0
    assert len(mistakes(ran)) == 1, ran.output
    assert "Traceback" not in ran.output
    assert not [path for path in tmp_path.rglob("*") if path.name in ("pwned", "c.pt")]


# Tokens

SECRETS = {
    "environment": "hf_TheSecretInTheEnvironment",
    "file": "hf_TheSecretInAFile",
    "address": "TheSecretInTheAddress",
}
REPO, FILE = "wanglab/ecg-fm", "tiny.pt"


class Broken(Hub):
    """A hub that has a fault of its own whenever it is asked."""

    def resolve(self, repo: str, revision: str, file: str, token: str | None) -> tuple[int, dict[str, str]]:
        return 500, {}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback, which the commands use."""
    with Hub() as server:
        use(server.endpoint, tmp_path, monkeypatch)
        yield server


def use(endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_HOME", str(folder / "home"))


def fetch(folder: Path, *targets: str) -> Ran:
    write_recordings(folder / "run" / "input", 2)
    (folder / "run" / "labels.csv").write_text("name,aggregation\nA,max\nB,max\nC,max\n")
    given = {"input": "input", "labels": "labels.csv", "outdir": "out", "checkpoint": f"hf://{REPO}/{FILE}"}
    given |= {"attribution": "{recordings: 1, steps: 4}"}
    return snakemake(folder / "run", "--printshellcmds", *targets, **given)


def leaks(folder: Path, ran: Ran) -> list[str]:
    """Where a secret stands: what was said, and every file of the run, its results and Snakemake's own."""
    found = ["output" for secret in SECRETS.values() if secret in ran.output]
    for path in (folder / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += [str(path) for secret in SECRETS.values() if secret.encode() in content]
    return found


@pytest.mark.parametrize("where", ["environment", "file", "address"])
def test_a_run_that_needs_a_token_repeats_it_nowhere(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    hub.publish(REPO, FILE, checkpoints.saved(checkpoints.classifier(stride=4)))
    if where == "environment":
        hub.token = SECRETS[where]
        monkeypatch.setenv("HF_TOKEN", SECRETS[where])
    elif where == "file":
        hub.token = SECRETS[where]
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "token").write_text(SECRETS[where])
    else:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint.replace("://", f"://user:{SECRETS[where]}@"))
    ran = fetch(tmp_path)
    assert ran.status == 0, ran.output
    assert any(request.token for request in hub.requests)  # it was sent
    assert (tmp_path / "run" / "out" / "report.html").exists()
    assert leaks(tmp_path, ran) == [], ran.output


@pytest.mark.parametrize("fault", ["wrong token", "no access", "500", "nobody there", "a token that cannot be sent"])
def test_a_run_that_fails_at_the_hub_repeats_no_token(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Broken() if fault == "500" else Hub() as hub:
        hub.publish(REPO, FILE, checkpoints.saved(checkpoints.classifier(stride=4)))
        use(hub.endpoint.replace("://", f"://user:{SECRETS['address']}@"), tmp_path, monkeypatch)
        token = SECRETS["environment"] + ("\v." if fault == "a token that cannot be sent" else "")
        monkeypatch.setenv("HF_TOKEN", token)
        hub.token, hub.gated = "another", fault == "no access"
        if fault == "no access":
            hub.token = token
        if fault == "nobody there":
            hub.__exit__(None, None, None)
        ran = fetch(tmp_path, "out/checkpoint/model.json")
    assert ran.status != 0
    assert len(mistakes(ran)) == 1, ran.output
    assert "Traceback" not in ran.output
    assert leaks(tmp_path, ran) == [], ran.output
