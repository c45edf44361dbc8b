"""Fetching: the real client of the Hugging Face hub against a hub on loopback."""

import hashlib
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import checkpoints
import pytest
import torch
from hub_server import Hub, hub_of_client
from huggingface_hub import constants

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.description import Description, describe
from ecgpipe.models.hub import fetch, parse_uri
from ecgpipe.models.registry import find_family

REPO, FILE = "wanglab/ecg-fm", "weights/tiny.pt"
URI = f"hf://{REPO}/{FILE}"
TOKEN = "hf_ThisIsTheSecret"  # noqa: S105, of the hub in this file


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback which the client in this process uses, with nobody logged in and an empty cache."""
    with hub_of_client(tmp_path, monkeypatch) as server:
        yield server


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("hf://a/b/c.pt", ("a/b", "main", "c.pt")),
        ("hf://a/b/c/d e.pt", ("a/b", "main", "c/d e.pt")),
        ("hf://a/b@v1.0/c.pt", ("a/b", "v1.0", "c.pt")),
        ("hf://a/b@refs%2Fpr%2F1/c.pt", ("a/b", "refs/pr/1", "c.pt")),
        ("hf://a/b@refs/pr/12/c.pt", ("a/b", "refs/pr/12", "c.pt")),
        ("hf://models/a/b@main/c.pt", ("a/b", "main", "c.pt")),
        ("hf://a/b/c@2.pt", ("a/b", "main", "c@2.pt")),
    ],
)
def test_a_uri_names_repository_revision_and_file(uri: str, expected: tuple[str, str, str]) -> None:
    assert parse_uri(uri) == expected


@pytest.mark.parametrize(
    "uri",
    [
        *("hf://", "hf://a", "hf://a/b", "hf://a/b/", "hf://a/b@/c.pt", "hf://a/b@main", "hf://a/--/c.pt"),
        *("hf://datasets/a/b/c.pt", "hf://a/b//c.pt"),
    ],
)
def test_another_uri_is_refused_with_an_example(uri: str) -> None:
    with pytest.raises(EcgpipeError, match=re.escape(f"{uri} is not of the form hf://OWNER/REPO@REVISION/FILE; hf://")):
        parse_uri(uri)


def test_the_command_fetches_with_the_token_and_later_runs_offline(tmp_path: Path, labels_csv: Path) -> None:
    content = checkpoints.saved(checkpoints.classifier())
    command = [sys.executable, "-m", "ecgpipe", "checkpoint", "--source", URI, "--labels", str(labels_csv)]
    command += ["--weights", "out/model.safetensors", "--description", "out/model.json", "--log", "out/log.txt"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "NO_PROXY": "*"}

    def run_command(**more: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment | more, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    with Hub() as hub:
        hub.token = TOKEN
        commit = hub.publish(REPO, FILE, content)
        said = run_command(HF_ENDPOINT=hub.endpoint)
        assert {request.token for request in hub.requests if "/resolve/" in request.path} == {TOKEN}
        assert [request.token for request in hub.downloads] == [None]  # the content host is not the hub

    description = describe(tmp_path / "out" / "model.json")
    assert (description.uri, description.revision) == (URI, commit)
    assert description.sha256 == hashlib.sha256(content).hexdigest()

    results = [(tmp_path / "out" / name).read_bytes() for name in ("model.safetensors", "model.json")]
    said += run_command(HF_HUB_OFFLINE="1")
    assert [(tmp_path / "out" / name).read_bytes() for name in ("model.safetensors", "model.json")] == results

    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN not in said
    assert TOKEN.encode() not in written


def test_a_pinned_revision_is_what_it_was(hub: Hub, run: Callable[..., Description]) -> None:
    first = hub.publish(REPO, FILE, checkpoints.saved(checkpoints.classifier()))
    last = hub.publish(REPO, FILE, checkpoints.saved(checkpoints.pretrained()))
    assert run(f"hf://{REPO}@{first}/{FILE}").architecture.labels == 3
    description = run(URI)
    assert (description.revision, description.architecture.labels) == (last, 0)
    assert len(hub.downloads) == 2


def test_a_branch_may_have_slashes(hub: Hub, run: Callable[..., Description]) -> None:
    commit = hub.publish(REPO, FILE, checkpoints.saved(checkpoints.classifier()), branch="refs/pr/1")
    assert run(f"hf://{REPO}@refs%2Fpr%2F1/{FILE}").revision == commit


def test_a_fetched_file_is_not_fetched_again(hub: Hub, run: Callable[..., Description]) -> None:
    hub.publish(REPO, FILE, checkpoints.saved(checkpoints.classifier()))
    assert run(URI) == run(URI)
    assert len(hub.downloads) == 1


@pytest.mark.parametrize("links", [True, False])
def test_content_other_than_the_hub_states_is_refused_and_not_kept(
    links: bool, tmp_path: Path, hub: Hub, run: Callable[..., Description], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", not links)
    content = checkpoints.saved(checkpoints.classifier())
    sha256 = hashlib.sha256(content).hexdigest()
    hub.publish(REPO, FILE, content)
    hub.contents[sha256] = content[:-1] + b"!"
    with pytest.raises(EcgpipeError, match=f"arrived twice as something else: its sha256 is .* instead of {sha256}"):
        run(URI)
    assert len(hub.downloads) == 2
    assert not (tmp_path / "out").exists()
    hub.contents[sha256] = content
    assert run(URI).sha256 == sha256


def test_a_file_that_went_bad_in_the_cache_is_fetched_again(
    tmp_path: Path, hub: Hub, run: Callable[..., Description]
) -> None:
    hub.publish(REPO, FILE, checkpoints.saved(checkpoints.classifier()))
    good = run(URI)
    for blob in tmp_path.glob("cache/*/blobs/*"):
        blob.write_bytes(b"half of it")
    assert run(URI) == good
    assert len(hub.downloads) == 2


def test_the_users_sha256_must_be_the_files(hub: Hub, run: Callable[..., Description]) -> None:
    content = checkpoints.saved(checkpoints.classifier())
    sha256 = hashlib.sha256(content).hexdigest()
    hub.publish(REPO, FILE, content)
    with pytest.raises(EcgpipeError, match=f"has the sha256 {sha256}, not {'0' * 64} as the setting"):
        run(URI, sha256="0" * 64)
    with pytest.raises(EcgpipeError, match="'abc' is not a sha256; give its 64 hexadecimal digits"):
        run(URI, sha256="abc")
    assert run(URI, sha256=sha256).sha256 == sha256
    assert len(hub.downloads) == 1  # a whole file stays in the cache


def test_a_download_that_breaks_off_is_resumed(tmp_path: Path, hub: Hub, run: Callable[..., Description]) -> None:
    # The client keeps what arrived in pieces of 10 MiB; the optimizer's state makes the file so large.
    content = checkpoints.saved({**checkpoints.classifier(), "last_optimizer_state": torch.zeros(3 * 1024**2)})
    piece = constants.DOWNLOAD_CHUNK_SIZE
    hub.publish(REPO, FILE, content)
    hub.cuts = iter([piece + 1000])
    assert run(URI).sha256 == hashlib.sha256(content).hexdigest()
    assert [request.byte_range for request in hub.downloads] == [None, f"bytes={piece}-"]
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 100_000  # the optimizer's state is left behind


def test_a_download_that_is_reset_starts_again(hub: Hub, run: Callable[..., Description]) -> None:
    content = checkpoints.saved(checkpoints.classifier())
    hub.publish(REPO, FILE, content)
    hub.cuts, hub.resets = iter([1000]), True
    assert run(URI).sha256 == hashlib.sha256(content).hexdigest()
    assert [request.byte_range for request in hub.downloads] == [None, None]  # not what the client itself resumes


def test_a_hub_that_always_breaks_off_is_abandoned(tmp_path: Path, hub: Hub, run: Callable[..., Description]) -> None:
    hub.publish(REPO, FILE, checkpoints.saved(checkpoints.classifier()))
    hub.cuts = itertools.repeat(1000)
    with pytest.raises(
        EcgpipeError, match=rf"cannot fetch {FILE} of {REPO} from 127\.0\.0\.1: peer closed .* run again"
    ):
        run(URI)
    assert len(hub.downloads) <= 18
    assert not list(tmp_path.glob("cache/*/blobs/*"))
    assert not (tmp_path / "out").exists()


def test_a_hub_out_of_reach_is_reported(hub: Hub, run: Callable[..., Description]) -> None:
    hub.__exit__(None, None, None)
    with pytest.raises(EcgpipeError, match=r"from 127\.0\.0\.1: .*[Cc]onnection refused; check the connection"):
        run(URI)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        (f"hf://{REPO}/other.pt", f"the hub has no file other.pt in {REPO} at revision main; look at"),
        (f"hf://{REPO}@v9/{FILE}", f"the hub has no revision v9 of {REPO}; give a branch, a tag"),
        (f"hf://wanglab/nothing/{FILE}", "the hub refused access to wanglab/nothing (404): set HF_TOKEN"),
        (f"hf://{REPO}/../x.pt", f"cannot fetch ../x.pt of {REPO} from"),
    ],
)
def test_what_the_hub_lacks_is_named(uri: str, says: str, hub: Hub, run: Callable[..., Description]) -> None:
    hub.publish(REPO, FILE, checkpoints.saved(checkpoints.classifier()))
    with pytest.raises(EcgpipeError, match=re.escape(says)):
        run(uri)
    assert len(hub.requests) <= 1  # asking again would not help


@pytest.mark.parametrize(
    ("token", "gated", "says"),
    [
        (None, False, f"the hub refused access to {REPO} (401): set HF_TOKEN to a token that may read it"),
        ("hf_wrong", False, f"the hub refused access to {REPO} (401): set HF_TOKEN to a token that may read it"),
        (None, True, f"the hub refused access to {REPO} (401): it is gated; ask for access on its page"),
        (TOKEN, True, f"the hub refused access to {REPO} (403): it is gated; ask for access on its page"),
    ],
)
def test_a_refusal_advises_to_set_the_token(
    token: str | None,
    gated: bool,
    says: str,
    hub: Hub,
    run: Callable[..., Description],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.token, hub.gated = TOKEN, gated
    hub.publish(REPO, FILE, checkpoints.saved(checkpoints.classifier()))
    with pytest.raises(EcgpipeError, match=re.escape(says)) as raised:
        run(URI)
    assert len(hub.requests) == 1
    assert "hf_" not in str(raised.value)


def test_a_token_that_cannot_be_sent_is_not_repeated(
    hub: Hub,
    run: Callable[..., Description],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN + "\v.")
    with pytest.raises(EcgpipeError, match="cannot fetch") as raised:
        run(URI)
    assert TOKEN not in str(raised.value) + caplog.text


def test_offline_the_cache_is_enough(
    hub: Hub, run: Callable[..., Description], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = checkpoints.saved(checkpoints.classifier())
    hub.publish(REPO, FILE, content)
    online = run(URI)
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run(URI, sha256=hashlib.sha256(content).hexdigest()) == online
    assert len(hub.requests) == asked


def test_offline_a_file_that_went_bad_is_not_used(
    tmp_path: Path, hub: Hub, run: Callable[..., Description], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(REPO, FILE, checkpoints.saved(checkpoints.classifier()))
    good = run(URI)
    for blob in tmp_path.glob("cache/*/blobs/*"):
        blob.write_bytes(b"half of it")
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(EcgpipeError, match="HF_HUB_OFFLINE is set"):
            run(URI)
    assert run(URI) == good


def test_a_store_shared_by_repositories_is_understood(
    tmp_path: Path, hub: Hub, run: Callable[..., Description]
) -> None:
    # What the client's other transport, xet, leaves in the cache: the content under a hash of xet's own.
    hub.publish(REPO, FILE, checkpoints.saved(checkpoints.classifier()))
    good = run(URI)
    blob = next(tmp_path.glob("cache/*/blobs/*"))
    shared = blob.rename(tmp_path / "cache" / ("0" * 64))
    blob.symlink_to(Path("..", "..", shared.name))
    assert run(URI) == good
    assert len(hub.downloads) == 1
    shared.write_bytes(b"half of it")
    assert run(URI) == good
    assert not shared.exists()


def test_offline_without_a_cache_is_reported_at_once(
    hub: Hub, run: Callable[..., Description], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EcgpipeError, match=rf"HF_HUB_OFFLINE is set, and {FILE} of {REPO} at revision main is not in"):
        run(URI)
    assert not hub.requests


def test_an_address_without_a_file_takes_the_familys_and_what_lies_beside_it(hub: Hub) -> None:
    repo = "Edoardo-BS/hubert-ecg-base"
    hub.publish(repo, "config.json", b"{}")
    commit = hub.publish(repo, "model.safetensors", b"weights")
    source = fetch(f"hf://{repo}", family=find_family("hubert-ecg"))
    assert (source.path.name, source.revision) == ("model.safetensors", commit)
    assert source.path.with_name("config.json").read_bytes() == b"{}"


def test_a_familys_free_file_name_is_looked_up_in_the_list_of_the_repository(hub: Hub) -> None:
    repo, family = "heartwise/WCR_77_classes", find_family("deepecg-ssl")
    for file in ("README.md", "base_ssl.pt", "any_name.pt"):
        hub.publish(repo, file, file.encode())
    assert fetch(f"hf://{repo}", family=family).path.name == "any_name.pt"
    hub.publish(repo, "another.pt", b"another")
    with pytest.raises(EcgpipeError, match=rf"2 files \*.pt in hf://{repo}; give the path of the one meant"):
        fetch(f"hf://{repo}", family=family)
    assert fetch(f"hf://{repo}/another.pt", family=family).path.read_bytes() == b"another"


def test_a_gated_repository_of_a_family_is_refused_with_what_helps(hub: Hub) -> None:
    repo = "heartwise/WCR_77_classes"
    hub.publish(repo, "x.pt", b"x")
    hub.gated = True
    with pytest.raises(EcgpipeError, match=rf"refused access to {repo} .403.: it is gated; ask for access on its page"):
        fetch(f"hf://{repo}/x.pt", family=find_family("deepecg-ssl"))
