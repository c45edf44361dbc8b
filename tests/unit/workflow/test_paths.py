"""Where files lie, as rules name them."""

import pytest

from ecgpipe.core import results
from ecgpipe.workflow.paths import MODEL, Paths

OUT = Paths("/data/out/")


def test_files_of_shards_and_parts_have_a_wildcard_and_others_none() -> None:
    assert OUT.file("logits") == "/data/out/logits/part-{part}.parquet"
    assert OUT.file("segments") == "/data/out/segments/shard-{shard}.arrow"
    assert OUT.file("run") == "/data/out/run.json"
    assert OUT.files("records", range(99_999, 100_001)) == [
        "/data/out/records/shard-99999.parquet",
        "/data/out/records/shard-100000.parquet",
    ]


def test_logs_and_benchmarks_have_the_wildcard_of_the_output() -> None:
    assert OUT.log("preprocess") == "/data/out/logs/preprocess/shard-{shard}.log"
    assert OUT.benchmark("aggregate") == "/data/out/benchmarks/aggregate/part-{part}.tsv"
    assert OUT.log("manifest") == "/data/out/logs/manifest.log"  # one job, which writes all shards
    assert OUT.log("sample") == "/data/out/logs/sample.log"


def test_folders() -> None:
    assert OUT.folder("shard") == "/data/out/manifest"
    assert OUT.folder("logits") == "/data/out/logits"
    assert OUT.settings("umap") == "/data/out/settings/umap.json"


def test_what_is_no_file_of_a_run_is_refused() -> None:
    with pytest.raises(KeyError):
        OUT.file("logit")


@pytest.mark.parametrize("name", results.FILES)
def test_what_the_rules_write_is_known_to_be_of_ecgpipe(name: str) -> None:
    [path] = Paths("").files(name, [7])
    folder, _, file = path.removeprefix("/").rpartition("/")
    assert results.is_name_of_ours(folder, file)


def test_in_a_study_each_model_has_a_folder_beside_what_all_share() -> None:
    pattern, one = Paths("/data/out/", MODEL), Paths("/data/out/", "ecg-fm")
    assert pattern.file("logits") == "/data/out/{model}/logits/part-{part}.parquet"
    assert pattern.file("shard") == "/data/out/manifest/shard-{shard}.parquet"
    assert one.files("records", [3]) == ["/data/out/ecg-fm/records/shard-00003.parquet"]
    assert one.files("shard", [3]) == ["/data/out/manifest/shard-00003.parquet"]
    assert one.folder("shard") == "/data/out/manifest"
    assert one.settings("infer") == "/data/out/ecg-fm/settings/infer.json"
    assert pattern.log("infer") == "/data/out/{model}/logs/infer/part-{part}.log"
    assert pattern.log("preprocess") == "/data/out/logs/preprocess/shard-{shard}.log"  # of several models
    assert one.asked() == pattern.asked() == "/data/out/manifest/.asked"
