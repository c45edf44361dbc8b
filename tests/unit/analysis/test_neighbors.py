"""Neighbours by embedding: those of a search through all pairs, wherever files and batches are cut."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.neighbors import NearestNeighbors

from ecgpipe.analysis import cosine_similarity, neighbor_search
from ecgpipe.cli import main
from ecgpipe.core import logs, parquet, provenance, recording_embeddings, schemas

HOSTILE = "<script>alert(1)</script>\x1b[31m"


def write(folder: Path, segments: dict[str, np.ndarray], parts: int = 1, **facts: object) -> list[Path]:
    """Embeddings files with the segments of each recording, and what their metadata says."""
    paths = []
    ids = list(segments)
    for part, some in enumerate(np.array_split(np.arange(len(ids)), parts)):
        rows = [(ids[i], number, vector) for i in some for number, vector in enumerate(segments[ids[i]])]
        names, numbers, vectors = zip(*rows, strict=True)
        width = len(vectors[0])
        flat = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(vectors), pa.float32()), width)
        columns = [pa.array(names), pa.array(numbers, pa.int32()), flat]
        paths.append(folder / f"part-{part:05d}.parquet")
        schema = provenance.add_origin(schemas.embeddings_schema(width), "infer", {}, **facts)
        parquet.write(paths[-1], pa.table(columns, schema=schema))
    return paths


@pytest.fixture
def segments() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {f"r{i}": random.standard_normal((1 + i % 4, 6)).astype(np.float32) for i in range(40)}


@pytest.mark.parametrize("rows", [3, 7, 10_000])
def test_the_embedding_of_a_recording_is_the_mean_of_its_segments_wherever_a_batch_ends(
    segments: dict[str, np.ndarray], rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", rows)
    found = [
        (record_id, vector)
        for ids, vectors in recording_embeddings.read_means(write(tmp_path, segments, parts=3))
        for record_id, vector in zip(ids.to_pylist(), vectors, strict=True)
    ]
    assert [record_id for record_id, _ in found] == list(segments)
    for record_id, vector in found:
        np.testing.assert_allclose(vector, segments[record_id].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("rows", [3, 10_000])
def test_the_nearest_are_those_of_all_pairs_and_never_the_recording_itself(
    segments: dict[str, np.ndarray], rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", rows)
    vectors = np.stack([rows.mean(axis=0) for rows in segments.values()])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    wanted = ["r7", "r0", "r39"]
    ids = list(segments)
    for record_id, found in zip(
        wanted, neighbor_search.find_nearest(write(tmp_path, segments, 2), wanted, 5), strict=True
    ):
        row = cosines[ids.index(record_id)]
        best = np.argsort(-row)[:5]
        assert [neighbor.record_id for neighbor in found] == [ids[i] for i in best]
        np.testing.assert_allclose([neighbor.similarity for neighbor in found], row[best], rtol=1e-5)


def test_a_small_run_has_fewer_and_an_unknown_recording_none(tmp_path: Path) -> None:
    paths = write(tmp_path, {"a": np.eye(3)[:1], "b": np.eye(3)[1:2], "c": np.eye(3)[:2]})
    first, nobody = neighbor_search.find_nearest(paths, ["a", "nobody"], 5)
    assert [neighbor.record_id for neighbor in first] == ["c", "b"]
    assert first[0].similarity == pytest.approx(np.sqrt(0.5))
    assert nobody == []
    assert neighbor_search.find_nearest(paths, ["nobody"], 5) == [[]]


def test_embeddings_of_zeros_have_no_direction_and_are_similar_to_nothing(tmp_path: Path) -> None:
    paths = write(tmp_path, {"a": np.zeros((1, 3)), "b": np.ones((1, 3))})
    [[found]] = neighbor_search.find_nearest(paths, ["a"], 5)
    assert found == ("b", 0.0)


def write_run(
    folder: Path,
    segments: dict[str, np.ndarray],
    sha: str | None = "a" * 64,
    preprocess: Mapping[str, object] | None = None,
    patients: Mapping[str, object] | None = None,
) -> Path:
    """A run as far as the command reads it, with a recording that was skipped."""
    facts = {"checkpoint": f"{sha[0]}.pt", "checkpoint_sha256": sha} if sha else {}
    write(folder / "embeddings", segments, 2, **facts, preprocess=preprocess or {"short": "skip"})
    rows = [{"record_id": record_id, "status": "ok"} for record_id in reversed(segments)]
    rows.append({"record_id": "short/1", "status": "skipped", "reason": "too short (3 s)"})
    table = pa.Table.from_pylist(rows, schema=schemas.RECORDS)
    if patients is not None:
        table = table.append_column("patient", pa.array([patients.get(row["record_id"]) for row in rows]))
    parquet.write(folder / "records/shard-00000.parquet", table)
    return folder


def means(segments: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([rows.mean(axis=0) for rows in segments.values()])


def found(path: Path) -> dict[str, list[tuple[int, str, float]]]:
    """By record id: rank, neighbour and similarity."""
    by_id: dict[str, list[tuple[int, str, float]]] = {}
    for row in pq.read_table(path).to_pylist():
        by_id.setdefault(row["record_id"], []).append((row["rank"], row["neighbor_id"], row["similarity"]))
    return by_id


def by_sklearn(queries: np.ndarray, others: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and rows of the nearest by an independent search, in double precision."""
    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(others.astype(np.float64))
    distances, rows = search.kneighbors(queries.astype(np.float64))
    return 1 - distances, rows


@pytest.mark.parametrize("block", [7, 4096])
def test_all_recordings_have_the_neighbours_that_scikit_learn_finds(
    block: int, segments: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbor_search, "QUERIES", block)
    monkeypatch.setattr(cosine_similarity, "OTHERS", block)
    monkeypatch.setattr(cosine_similarity, "TARGETS", 3)
    folder = write_run(tmp_path, segments)
    assert main(["neighbors", str(folder), "--count", "5"]) == 0
    table = found(folder / "neighbors.parquet")
    similarity, rows = by_sklearn(means(segments), means(segments), 6)
    ids = list(segments)
    assert list(table) == ids
    for number, record_id in enumerate(ids):
        assert rows[number, 0] == number  # itself, which the command leaves out
        assert [(rank, name) for rank, name, _ in table[record_id]] == [
            (rank, ids[row]) for rank, row in enumerate(rows[number, 1:], start=1)
        ]
        np.testing.assert_allclose([value for *_, value in table[record_id]], similarity[number, 1:], rtol=1e-6)
    account = provenance.read_origin(pq.read_schema(folder / "neighbors.parquet"))
    assert account["neighbors"] == {"method": "exact", "count": 5, "patient": None, "against": None}
    assert account["checkpoint_sha256"] == "a" * 64


def test_embeddings_that_hardly_differ_are_ranked_in_double_precision(tmp_path: Path) -> None:
    """All cosines are 1 to within 1e-8, which single precision does not tell apart."""
    random = np.random.default_rng(3)
    segments = {f"r{i}": (1 + 1e-4 * random.standard_normal((1, 768))).astype(np.float32) for i in range(50)}
    folder = write_run(tmp_path, segments)
    assert main(["neighbors", str(folder), "--count", "3"]) == 0
    _, rows = by_sklearn(means(segments), means(segments), 4)
    table = found(folder / "neighbors.parquet")
    assert [[name for _, name, _ in table[f"r{i}"]] for i in range(50)] == [[f"r{j}" for j in row[1:]] for row in rows]


def test_in_another_run_the_same_record_id_is_a_neighbour_and_is_marked(
    segments: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = dict(reversed(segments.items()))  # the same recordings in another order
    other["x"] = np.ones((1, 6), np.float32)
    first, second = write_run(tmp_path / "a", segments), write_run(tmp_path / "b", other)
    output = tmp_path / "found.parquet"
    options = ["--outdir", str(first), "--against", str(second), "--count", "3", "--output", str(output)]
    assert main(["neighbors", *options, "r9", "r3"]) == 0
    table = found(output)
    similarity, rows = by_sklearn(means(segments), means(other), 3)
    assert list(table) == ["r9", "r3"]
    for record_id in table:
        number = list(segments).index(record_id)
        assert [name for _, name, _ in table[record_id]] == [list(other)[row] for row in rows[number]]
        np.testing.assert_allclose([value for *_, value in table[record_id]], similarity[number], rtol=1e-6)
        assert table[record_id][0][1] == record_id
    said = capsys.readouterr().out
    assert "   1  1.0000  r9  (the same record_id)\n" in said
    assert said.count("(the same record_id)") == 2


def test_recordings_of_the_same_patient_are_left_out_and_those_without_a_patient_are_not(
    segments: dict[str, np.ndarray], tmp_path: Path
) -> None:
    patients = {record_id: None if i % 5 == 0 else i % 4 for i, record_id in enumerate(segments)}
    folder = write_run(tmp_path, segments, patients=patients)
    assert main(["neighbors", str(folder), "--count", "4", "--patient", "patient"]) == 0
    table = found(folder / "neighbors.parquet")
    _, rows = by_sklearn(means(segments), means(segments), 40)
    ids = list(segments)
    for record_id, row in zip(ids, rows, strict=True):
        others = [ids[i] for i in row if ids[i] != record_id]
        mine = patients[record_id]
        assert [name for _, name, _ in table[record_id]] == [
            name for name in others if mine is None or patients[name] != mine
        ][:4]


def test_a_patient_is_the_same_whether_the_table_has_numbers_or_texts(tmp_path: Path) -> None:
    segments = {f"r{i}": np.random.default_rng(i).random((1, 4)) for i in range(4)}
    first = write_run(tmp_path / "a", segments, patients={"r0": 7, "r1": None, "r2": 8, "r3": 9})
    second = write_run(tmp_path / "b", segments, patients={"r0": "7", "r1": "7", "r2": "8", "r3": "x"})
    output = tmp_path / "found.parquet"
    options = ["--outdir", str(first), "--against", str(second), "--patient", "patient", "--output", str(output)]
    assert main(["neighbors", *options, "r0"]) == 0
    assert {name for _, name, _ in found(output)["r0"]} == {"r2", "r3"}


def test_a_run_smaller_than_the_count_has_as_many_as_there_are(tmp_path: Path) -> None:
    folder = write_run(tmp_path, {f"r{i}": np.random.default_rng(i).random((1, 4)) for i in range(3)})
    assert main(["neighbors", str(folder), "--method", "approximate"]) == 0
    assert provenance.read_origin(pq.read_schema(folder / "neighbors.parquet"))["neighbors"]["method"] == "exact"
    assert [len(some) for some in found(folder / "neighbors.parquet").values()] == [2, 2, 2]


def test_a_run_of_one_recording_has_no_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path, {"r0": np.ones((1, 4)), "r1": np.full((1, 4), np.nan)})
    assert main(["neighbors", str(folder), "r0", "--count", "1"]) == 0
    assert capsys.readouterr().out == "r0\n   1  0.0000  r1\n"  # what is not finite is like nothing
    folder = write_run(tmp_path / "one", {"r0": np.ones((1, 4)), "r1": np.ones((1, 4))}, patients={"r0": 1, "r1": 1})
    assert main(["neighbors", str(folder), "r0", "--patient", "patient"]) == 0
    assert capsys.readouterr().out == "r0\n   none\n"


def test_hostile_ids_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path, {HOSTILE: np.ones((1, 4)), "-b": np.ones((1, 4))})
    assert main(["neighbors", str(folder), "--", "-b", HOSTILE]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert said.splitlines() == [
        "-b",
        "   1  1.0000  " + HOSTILE[:-5] + "\\x1b[31m",
        HOSTILE[:-5] + "\\x1b[31m",
        "   1  1.0000  -b",
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["r41"], "RECORD_ID: 'r41' is no recording of"),
        (["R11"], "there is 'r11'"),
        (["short/1"], "RECORD_ID: 'short/1' has no embedding, it was skipped: too short (3 s)"),
        (["--count", "0"], "--count: 0 is not possible"),
        (["--patient", "subject"], "--patient: 'subject' is no column of"),
        (["--against", "nowhere"], "there is no folder nowhere; give the folder of a finished run's results"),
    ],
)
def test_mistakes_are_said(
    options: list[str], says: str, segments: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path, segments)
    assert main(["neighbors", str(folder), *options]) == 2
    assert says in capsys.readouterr().err
    assert not (folder / "neighbors.parquet").exists()


def test_embeddings_of_different_checkpoints_or_widths_are_not_compared(
    segments: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a", segments)
    other = write_run(tmp_path / "b", segments, sha="b" * 64)
    assert main(["neighbors", str(first), "--against", str(other)]) == 2
    said = capsys.readouterr().err
    assert "is of another checkpoint than" in said
    assert "a.pt (sha256 aaaaaaaaaaaa) and b.pt (sha256 bbbbbbbbbbbb)" in said
    wider = write_run(tmp_path / "c", {"x": np.ones((1, 7)), "y": np.ones((1, 7))})
    assert main(["neighbors", str(first), "--against", str(wider)]) == 2
    assert "have 7 numbers, those of" in capsys.readouterr().err


def test_another_preprocessing_is_warned_of_and_so_is_an_unknown_checkpoint(
    segments: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a", segments)
    other = write_run(tmp_path / "b", segments, preprocess={"short": "pad"})
    assert main(["neighbors", str(first), "--against", str(other), "r1"]) == 0
    assert "the two runs were preprocessed differently" in (said := capsys.readouterr().err)
    assert "short skip and pad" in said
    unknown = write_run(tmp_path / "c", segments, sha=None)
    assert main(["neighbors", str(first), "--against", str(unknown), "r1"]) == 0
    assert f"{unknown} does not say which checkpoint made it" in capsys.readouterr().err


def test_recall_is_the_share_of_the_nearest_that_were_found_and_equals_count() -> None:
    truly = cosine_similarity.Nearest(
        np.array([[1, 2], [3, 4], [5, -1], [-1, -1]]), np.array([[0.9, 0.8], [0.7, 0.6], [0.5, -np.inf], [-np.inf] * 2])
    )
    found = cosine_similarity.Nearest(
        np.array([[1, 7], [8, -1], [5, -1], [-1, -1]]),
        np.array([[0.9, 0.8], [0.6, -np.inf], [0.5, -np.inf], [-np.inf] * 2]),
    )
    assert cosine_similarity.measure_recall(found, truly) == pytest.approx((1 + 0.5 + 1) / 3)


@pytest.mark.slow
def test_an_approximate_search_states_how_much_of_the_exact_one_it_finds(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """And Numba keeps what it can of what it has compiled for that, without a word."""
    from pynndescent import pynndescent_  # here, because it takes seconds

    monkeypatch.setattr(neighbor_search, "SAMPLE", 400)
    random = np.random.default_rng(1)
    latent = random.standard_normal((2000, 12)) @ random.standard_normal((12, 32))
    segments = {f"r{i}": (1 + np.tanh(row))[None].astype(np.float32) for i, row in enumerate(latent)}
    patients = {record_id: i // 3 for i, record_id in enumerate(segments)}
    folder = write_run(tmp_path / "a", segments, patients=patients)
    other = write_run(tmp_path / "b", dict(reversed(segments.items())), patients=patients)
    exact, output = tmp_path / "exact.parquet", tmp_path / "approximate.parquet"
    for options in ([], ["--patient", "patient"], ["--against", str(other)]):
        both = ["neighbors", str(folder), *options]
        assert main([*both, "--method", "exact", "--output", str(exact)]) == 0
        capsys.readouterr()
        assert main([*both, "--method", "approximate", "--output", str(output)]) == 0
        truly, nearly = found(exact), found(output)
        shares = [len({n for _, n, _ in nearly[i]} & {n for _, n, _ in truly[i]}) / 10 for i in truly]
        account = provenance.read_origin(pq.read_schema(output))["neighbors"]
        assert (account["method"], account["recall_queries"]) == ("approximate", 400)
        assert account["recall"] == pytest.approx(np.mean(shares), abs=0.02)
        assert account["recall"] > 0.95
        assert f"recall@10 is {account['recall']:.4f}, against exact search for 400" in capsys.readouterr().err
        for record_id, some in nearly.items():
            assert [rank for rank, *_ in some] == list(range(1, 11))
            values = {name: value for _, name, value in truly[record_id]}
            for _, name, value in some:
                assert name != record_id or "--against" in options
                assert value == pytest.approx(values.get(name, value), abs=1e-6)
                assert patients[name] != patients[record_id] or "--patient" not in options
    monkeypatch.setattr(neighbor_search, "LOW_RECALL", 1.1)
    assert main([*both, "--method", "approximate", "--output", str(output)]) == 0
    assert "of the nearest are missing; --method exact finds all" in capsys.readouterr().err
    for name in neighbor_search.KEPT:
        function = getattr(pynndescent_, name)
        assert function.signatures
        for signature in function.signatures:  # as the next process looks for it
            assert function._cache.load_overload(signature, function.targetctx) is not None, name
            assert "type(CPUDispatcher" not in str(signature), name
    assert not [warning for warning in recwarn if "Numba" in warning.category.__name__]


def test_the_embeddings_are_read_once_but_for_the_row_groups_of_the_chosen_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(8)
    numbers = np.repeat(np.arange(150), 1 + np.arange(150) % 3)  # of 300 segments
    vectors = random.standard_normal((len(numbers), 6)).astype(np.float32)
    schema = schemas.embeddings_schema(6)
    with parquet.parquet_writer(tmp_path / "part-00000.parquet", schema) as writer:
        for start in range(0, len(numbers), 10):
            rows = slice(start, start + 10)
            segment = [int(i - np.searchsorted(numbers, numbers[i])) for i in range(len(numbers))[rows]]
            flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors[rows].ravel()), 6)
            columns = [pa.array([f"r{n}" for n in numbers[rows]]), pa.array(segment, pa.int32()), flat]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    read, iter_batches = [], pq.ParquetFile.iter_batches
    said: list[tuple[int, int | None]] = []
    monkeypatch.setattr(logs.Progress, "say", lambda progress: said.append((progress.done, progress.total)))
    monkeypatch.setattr(neighbor_search, "Progress", partial(logs.Progress, every_s=0))

    def count(file: pq.ParquetFile, *args: Any, **given: Any) -> Iterator[pa.RecordBatch]:  # noqa: ANN401
        for batch in iter_batches(file, *args, **given):
            read.extend([len(batch)] if "embedding" in batch.schema.names else [])
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", count)
    chosen = ["r149", "r3", "r4"]  # r4 has segments in two row groups
    found = neighbor_search.find_nearest([tmp_path / "part-00000.parquet"], chosen, 5)
    assert sum(read) <= len(numbers) + 4 * 10
    assert said[-1] == (150, 150)  # of a million recordings it is half a minute
    means = np.stack([vectors[numbers == n].mean(axis=0, dtype=np.float64) for n in range(150)])
    similarity = 1 - NearestNeighbors(metric="cosine").fit(means).kneighbors(means[[149, 3, 4]], 6)[0][:, 1:]
    np.testing.assert_allclose([[near.similarity for near in of_one] for of_one in found], similarity, atol=1e-9)
