"""A Hugging Face hub on loopback: the part of its protocol that huggingface_hub 2.4 uses to download one file.

As on the real hub, a file's address answers with its commit, its sha256 and a redirect to another host (localhost
instead of 127.0.0.1), which serves the content by byte range and must never be sent the token.
"""

import hashlib
import itertools
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import unquote

import pytest
from huggingface_hub import constants


class Request(NamedTuple):
    """What the server was asked."""

    method: str
    path: str
    token: str | None  # of the Authorization header
    byte_range: str | None  # the Range header


class Hub:
    """The server. It runs while the `with` block does.

    Attributes:
        requests: Everything that was asked, in order.
        contents: What the content host serves for each sha256. A test of corruption puts something else there.
        token: Where it is set, the hub answers only those who send it.
        gated: Whether even the token is not enough.
        cuts: For each download, after how many bytes the connection dies; None lets it finish.
        resets: Whether it then dies by a reset, as behind a broken router, rather than closed in good order.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.contents: dict[str, bytes] = {}
        self.token: str | None = None
        self.gated = False
        self.cuts: Iterator[int | None] = itertools.repeat(None)
        self.resets = False
        self._commits: dict[tuple[str, str], dict[str, str]] = {}  # (repository, revision): the sha256 of each file
        self._heads: dict[tuple[str, str], str] = {}  # (repository, branch): the last commit
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._port = self._server.server_address[1]

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def downloads(self) -> list[Request]:
        """The requests for content."""
        return [request for request in self.requests if request.path.startswith("/content/")]

    def publish(self, repo: str, file: str, content: bytes, branch: str = "main") -> str:
        """Commit a file to a repository and return the commit's hash."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.contents[sha256] = content
        parent = self._heads.get((repo, branch), "")
        files = {**self._commits.get((repo, parent), {}), file: sha256}
        commit = hashlib.sha1(f"{parent} {sorted(files.items())}".encode(), usedforsecurity=False).hexdigest()
        self._heads[repo, branch] = commit
        self._commits[repo, commit] = files
        return commit

    def list_files(self, repo: str, revision: str) -> list[dict[str, object]]:
        """The answer to a request for a repository's files."""
        files = self._commits[repo, self._heads.get((repo, revision), revision)]
        return [
            {"type": "file", "path": file, "oid": sha256[:40], "size": len(self.contents[sha256])}
            for file, sha256 in files.items()
        ]

    def resolve(self, repo: str, revision: str, file: str, token: str | None) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer to a request for a file."""
        if self.token and token is None:
            code = "GatedRepo" if self.gated else "RepoNotFound"
            return 401, {"X-Error-Code": code, "X-Error-Message": "Invalid username or password."}
        if self.token and token != self.token:
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}
        if self.gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {repo} is restricted"}
        if repo not in {name for name, _ in self._commits}:
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        commit = self._heads.get((repo, revision), revision)
        if (repo, commit) not in self._commits:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}
        sha256 = self._commits[repo, commit].get(file)
        if sha256 is None:
            missing = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return 404, {**missing, "X-Repo-Commit": commit}
        return 302, {
            "Location": f"http://localhost:{self._port}/content/{sha256}",
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(len(self.contents[sha256])),
        }


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        authorization, byte_range = self.headers.get("Authorization"), self.headers.get("Range")
        token = authorization.removeprefix("Bearer ") if authorization else None
        self.hub.requests.append(Request(self.command, self.path, token, byte_range))
        if self.path.startswith("/content/"):
            self._send_content(self.hub.contents[self.path.removeprefix("/content/")], byte_range)
            return
        if address := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/?]+).*", self.path):
            content = json.dumps(self.hub.list_files(*map(unquote, address.groups()))).encode()
            self._send_head(200, {"Content-Type": "application/json", "Content-Length": str(len(content))})
            self.wfile.write(content)
            return
        status, headers = 404, dict[str, str]()
        if address := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            repo, revision, file = map(unquote, address.groups())
            status, headers = self.hub.resolve(repo, revision, file, token)
        self._send_head(status, {**headers, "Content-Length": "0"})

    def _send_content(self, content: bytes, byte_range: str | None) -> None:
        start = int(byte_range.removeprefix("bytes=").removesuffix("-")) if byte_range else 0
        headers = {"Content-Length": str(len(content) - start), "Accept-Ranges": "bytes"}
        if byte_range:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send_head(206 if byte_range else 200, headers)
        cut = next(self.hub.cuts, None)
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])
        self.close_connection = cut is not None  # fewer bytes than announced: the client sees the connection die
        if cut is not None and self.hub.resets:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def _send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, the name that http.server gives it
        pass  # a test's output is for what fails


@contextmanager
def hub_of_client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub which the client in this process uses, with nobody logged in and an empty cache in `folder`."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the client's attempts and ours
    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        address = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        yield server
