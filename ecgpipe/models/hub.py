"""Fetch a checkpoint from the Hugging Face hub, or take a local file, and verify it.

The hub's own settings apply: HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import hashlib
import logging
import re
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    parse_hf_uri,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HTTPError,  # of httpx or httpx2, whichever this version of the client uses
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import logger
from ecgpipe.models.registry import DEFAULT, Family

# The client has a handler of its own, which would say everything a second time, and addresses with passwords. It
# adds it when it is imported, which may be after `logs.start`.
logging.getLogger("huggingface_hub").handlers.clear()

# The client itself resumes a download when the server closes the connection, five times without progress. These are the
# pauses before a download that the client gave up is started again.
PAUSES_S = (2.0, 5.0)

# How long `look_up` waits for an answer.
LOOK_UP_S = 10.0


class HubFile(NamedTuple):
    """A file on the Hugging Face hub."""

    repo: str  # OWNER/NAME
    revision: str  # a branch, a tag or a commit hash
    file: str


class Source(NamedTuple):
    """A checkpoint on this machine, and where it came from."""

    path: Path
    uri: str  # as the user gave it
    revision: str | None  # the commit hash; None for a local path
    sha256: str


def parse_uri(uri: str, default_file: str | None = None) -> HubFile:
    """Parse an hf:// URI.

    Args:
        uri: hf://OWNER/REPO@REVISION/FILE. Without @REVISION it is main. A slash in the revision is written %2F, except
            in refs/pr/N and refs/convert/NAME.
        default_file: The file where the URI names none; without it such a URI is refused.

    Returns:
        Repository, revision and file.

    Raises:
        EcgpipeError: It is not of that form.

    Example:
        >>> parse_uri("hf://wanglab/ecg-fm@refs%2Fpr%2F1/weights/base.pt")
        HubFile(repo='wanglab/ecg-fm', revision='refs/pr/1', file='weights/base.pt')
    """
    try:
        parsed = parse_hf_uri(uri)
        if parsed.type != "model" or not (parsed.path_in_repo or default_file):
            raise ValueError("not a file of a model repository")
    except ValueError as error:  # the client's HfUriError is one
        raise EcgpipeError(
            f"checkpoint: {uri} is not of the form hf://OWNER/REPO@REVISION/FILE; "
            "hf://wanglab/ecg-fm/mimic_iv_ecg_finetuned.pt is an example"
        ) from error
    return HubFile(parsed.id, parsed.revision or constants.DEFAULT_REVISION, parsed.path_in_repo or default_file or "")


def fetch(source: str, expected: str | None = None, family: Family | None = None) -> Source:
    """Fetch a checkpoint onto this machine and verify it.

    Args:
        source: An hf:// URI, or the path of a file or folder.
        expected: The sha256 that it must have, where the user knows it.
        family: Which says the file that is meant where the source names none, and files that belong beside it.

    Returns:
        The file, whole: its content is what the hub states, and what the user expects.

    Raises:
        EcgpipeError: It is not available, or it is not the file that was expected.
    """
    if expected is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise EcgpipeError(f"checkpoint: {expected!r} is not a sha256; give its 64 hexadecimal digits")
    expected = expected and expected.lower()
    if source.startswith(constants.HF_PROTOCOL):
        fetched = _fetch_from_hub(source, expected, family)
    else:
        path = Path(source)
        if path.is_dir() and family and not (family.name == DEFAULT and not family.has_weights(path)):
            path = family.find_weights(path)
        if not path.is_file():
            raise EcgpipeError(
                f"checkpoint: there is no file {source}; give the path of a .pt file, or hf://OWNER/REPO@REVISION/FILE"
            )
        fetched = Source(path, source, None, _sha256(path))
    if expected and fetched.sha256 != expected:
        raise EcgpipeError(
            f"checkpoint: {source} has the sha256 {fetched.sha256}, not {expected} as the setting `sha256` says; "
            "name the file that is meant (an hf:// URI takes @REVISION), or correct the sha256"
        )
    return fetched


def is_cached(where: HubFile) -> bool:
    """Whether a file of the hub is in the cache of this machine."""
    return isinstance(try_to_load_from_cache(where.repo, where.file, revision=where.revision), str)


def has_cached(address: str, family: Family) -> bool:
    """Whether a family's checkpoint on the hub is in the cache of this machine.

    Args:
        address: Where its facts say that it is.
        family: Which says the file that is meant where the address names none.
    """
    where = parse_uri(address, family.files[0])
    if "*" not in where.file:
        return is_cached(where)
    try:
        folder = snapshot_download(where.repo, revision=where.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return family.has_weights(Path(folder))


def has_token() -> bool:
    """Whether this machine has a token for the hub: in HF_TOKEN, or as `hf auth login` stores it."""
    return get_token() is not None


def look_up(where: HubFile) -> int | None:
    """Ask the hub for a file without fetching it.

    Returns:
        Its size in bytes; None where the hub does not state it.

    Raises:
        EcgpipeError: The hub cannot be reached, refuses access, or has no such file.
    """
    try:
        url = hf_hub_url(where.repo, where.file, revision=where.revision)
        return get_hf_file_metadata(url, timeout=LOOK_UP_S).size
    except (HTTPError, OSError, ValueError) as error:
        raise EcgpipeError(f"checkpoint: {_explain(error, where)}") from error


def _fetch_from_hub(uri: str, expected: str | None, family: Family | None) -> Source:
    where = _find_file(uri, family)
    for _ in range(2):
        logger.info("fetching %s from %s", uri, urlsplit(constants.ENDPOINT).hostname)
        path = _download(where)
        # The cache: snapshots/COMMIT/FILE
        revision = path.parents[where.file.count("/")].name
        stated = _stated_sha256(path, where._replace(revision=revision)) or expected
        actual = _sha256(path)
        if stated in (None, actual):
            for name in family.files[1:] if family and where.file == family.files[0] else ():
                _download(where._replace(revision=revision, file=name))
            return Source(path, uri, revision, actual)
        logger.warning("%s has the sha256 %s instead of %s: removing it", path, actual, stated)
        try:
            _remove_from_cache(path)
        except OSError as error:
            raise EcgpipeError(
                f"checkpoint: {path} is corrupt and cannot be removed ({error.strerror}); remove it, or set "
                "HF_HOME to a folder of your own"
            ) from error
    raise EcgpipeError(
        f"checkpoint: {uri} arrived twice as something else: its sha256 is {actual} instead of {stated}; "
        "try again later, or look for a proxy that alters downloads"
    )


def _find_file(uri: str, family: Family | None) -> HubFile:
    """The file that a URI means; where it names none, the family's, by a pattern among those of the repository."""
    if family is None:
        return parse_uri(uri)
    where = parse_uri(uri, family.files[0])
    if "*" not in where.file:
        return where
    try:
        names = HfApi().list_repo_files(where.repo, revision=where.revision)
    except (HTTPError, OSError, ValueError) as error:
        raise EcgpipeError(f"checkpoint: {_explain(error, where)}") from error
    return where._replace(file=family.choose_file(names, uri))


def _download(where: HubFile) -> Path:
    pauses = iter(PAUSES_S)
    while True:
        try:
            return Path(hf_hub_download(where.repo, where.file, revision=where.revision, library_name="ecgpipe"))
        except (HTTPError, OSError, RuntimeError, ValueError) as error:  # RuntimeError: xet's transport
            pause = next(pauses, None)
            if pause is None or not _is_temporary(error):
                raise EcgpipeError(f"checkpoint: {_explain(error, where)}") from error
            logger.warning("the download broke off (%s); trying again in %g s", _first_line(error), pause)
            time.sleep(pause)


def _is_temporary(error: Exception) -> bool:
    """Whether another attempt can succeed: not after a refusal, nor where the client has already waited in vain."""
    if isinstance(error, LocalEntryNotFoundError | ValueError):
        return False
    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    return not (isinstance(error, OSError) and error.errno)  # the disk is full, the cache is not ours, ...


def _status(error: Exception) -> int | None:
    # If the client finds nothing in the cache either, the hub's answer is the cause of its error.
    for source in (error, error.__cause__):
        response = getattr(source, "response", None)
        if response is not None:
            return int(response.status_code)
    return None


def _first_line(error: Exception) -> str:
    status = _status(error)
    if status is not None:
        return f"HTTP status {status}"
    cause = error.__cause__ or error
    lines = str(cause).strip().splitlines()
    # The transport quotes an illegal header in its message, and that header would be the one with the token.
    return lines[0] if lines and "Bearer" not in lines[0] else type(cause).__name__


def _explain(error: Exception, where: HubFile) -> str:
    """What went wrong at the hub and how to fix it, in one line without secrets."""
    repo, revision, file = where
    status = _status(error)
    if isinstance(error, RemoteEntryNotFoundError):
        return f"the hub has no file {file} in {repo} at revision {revision}; look at the repository's list of files"
    if isinstance(error, RevisionNotFoundError):
        return f"the hub has no revision {revision} of {repo}; give a branch, a tag or a whole commit hash after the @"
    if isinstance(error, GatedRepoError):
        return (
            f"the hub refused access to {repo} ({status}): it is gated; ask for access on its page, then set HF_TOKEN "
            "to a token of that account"
        )
    if status in (401, 403, 404):
        return (
            f"the hub refused access to {repo} ({status}): set HF_TOKEN to a token that may read it, and check the "
            "name: the hub answers the same where a repository does not exist"
        )
    if status is not None:
        return f"the hub answered {status} to the request for {file} of {repo}; try again later"
    if constants.HF_HUB_OFFLINE:
        return (
            f"HF_HUB_OFFLINE is set, and {file} of {repo} at revision {revision} is not in the cache "
            f"{constants.HF_HUB_CACHE}; unset it, or set HF_HOME to the cache that has the file"
        )
    return (
        f"cannot fetch {file} of {repo} from {urlsplit(constants.ENDPOINT).hostname}: {_first_line(error)}; check the "
        "connection and HF_ENDPOINT and run again, or give the path of a file that is already here"
    )


def _stated_sha256(path: Path, where: HubFile) -> str | None:
    """The sha256 that the hub states for a file; None where it states none, or the client has not kept it.

    The entity tag of a large file is its sha256, and the client names the cached content after the tag. Only the first
    link counts: its target may be a link again, into a store that repositories share, where files have other names.
    """
    if path.is_symlink():
        tag: str | None = path.readlink().name
    else:  # the cache is on a file system without links
        try:
            tag = get_hf_file_metadata(hf_hub_url(where.repo, where.file, revision=where.revision)).etag
        except (HTTPError, OSError):
            tag = None
    return tag if tag and re.fullmatch(r"[0-9a-f]{64}", tag) else None


def _remove_from_cache(path: Path) -> None:
    """Remove a damaged file with its content, which the client's own removal keeps where another revision has it."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EcgpipeError(f"checkpoint: cannot read {path}: {error.strerror}; check its permissions") from error
