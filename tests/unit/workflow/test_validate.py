"""The settings: the generated files are those of the definition, and a mistake names key, value and mend."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import labelled
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe.cli import main
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import hash_file
from ecgpipe.core.user_settings import Config
from ecgpipe.workflow import settings_docs, validate

ROOT = Path(__file__).parents[3]


def load(given: Mapping[str, Any]) -> Config:
    return validate.load(given, ROOT)


def mistake(**given: object) -> str:
    with pytest.raises(EcgpipeError) as caught:
        load({"input": "."} | given)
    return str(caught.value)


# The generated files


@pytest.mark.parametrize("name", settings_docs.generated())
def test_what_is_generated_is_what_is_there(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == settings_docs.generated()[name], "make docs writes it anew"


def test_the_command_writes_the_same_files(tmp_path: Path) -> None:
    assert main(["config", "--root", str(tmp_path)]) == 0
    written = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    assert {name: path.read_text(encoding="utf-8") for name, path in written.items()} == settings_docs.generated()


def test_config_yaml_holds_the_defaults_and_they_load() -> None:
    written = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    assert written.pop("input") is None
    loaded = load({**written, "input": "."})
    assert loaded.model_copy(update={"labels": written["labels"], "model": None}) == Config(input=".")
    assert loaded.inputs == ["."]


def test_every_key_is_documented_once() -> None:
    table = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    schema = json.loads((ROOT / "config" / "config.schema.json").read_text(encoding="utf-8"))
    models = {key: field["$ref"].rpartition("/")[2] for key, field in schema["properties"].items() if "$ref" in field}
    sections = {key: schema["$defs"][model]["properties"] for key, model in models.items()}
    keys = [key for key in schema["properties"] if key not in sections]
    keys += [f"{section}.{key}" for section, fields in sections.items() for key in fields]
    assert [table.count(f"| `{key}` |") for key in keys] == [1] * len(keys)


def test_the_demos_settings_are_known() -> None:
    demo = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text(encoding="utf-8"))
    assert Config.model_validate(demo).input


# What the user gives


def test_the_labels_are_looked_for_here_first_and_then_beside_the_snakefile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({"input": "."}).labels == str(ROOT / "config" / "labels" / "mimic_iv_ecg.csv")
    (tmp_path / "mine.csv").write_text("name,aggregation\nA,max\n")
    assert load({"input": ".", "labels": "mine.csv"}).labels == "mine.csv"


def test_the_checkpoint_stage_writes_the_labels_that_are_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load({"input": ".", "labels": "index", "outdir": "out/"})
    assert (settings.labels, settings.labels_by_index) == ("out/checkpoint/labels.csv", True)
    (tmp_path / "index").write_text("name,aggregation\nA,max\n")
    assert not load({"input": ".", "labels": "./index"}).labels_by_index
    assert not load({"input": "."}).labels_by_index


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("ecgs", "more"):
        (tmp_path / name).mkdir()
    (tmp_path / "labels.csv").write_text("name,aggregation\nA,mean\n")
    for name in ("x.pt", "truth.csv", "python"):
        (tmp_path / name).touch()
    given = {
        "input": ["~/ecgs", "~/more/*.mat"], "outdir": "~/out", "checkpoint": "~/x.pt", "labels": "~/labels.csv",
        "evaluation": {"truth": "~/truth.csv"}, "inference": {"backend": "fairseq", "fairseq_python": "~/python"},
        "attribution": {"recordings": 0},
    }  # fmt: skip
    loaded = load(given)
    assert loaded.inputs == [f"{tmp_path}/ecgs", f"{tmp_path}/more/*.mat"]
    assert (loaded.outdir, loaded.checkpoint) == (f"{tmp_path}/out", f"{tmp_path}/x.pt")
    assert (loaded.labels, loaded.evaluation.truth) == (f"{tmp_path}/labels.csv", f"{tmp_path}/truth.csv")
    assert loaded.inference.fairseq_python == f"{tmp_path}/python"
    assert "no.json" in mistake(calibration="~/no.json")
    for key in ("calibration", "heads"):
        path = f"{tmp_path}/no.json"
        assert path in mistake(**{key: ["~/no.json"] if key == "heads" else "~/no.json"})
    assert load({"input": "."}).checkpoint.startswith("hf://")


def test_numbers_from_the_command_line_may_come_as_text() -> None:
    loaded = load({"input": ".", "outdir": 2024, "umap": {"neighbors": "30", "min_dist": "0"}})
    assert (loaded.outdir, loaded.umap.neighbors, loaded.umap.min_dist) == ("2024", 30, 0)


def test_inputs_may_be_several_and_patterns(tmp_path: Path) -> None:
    given = [str(tmp_path), str(tmp_path / "*.mat"), str(tmp_path / "a[bc]?" / "**")]
    assert load({"input": given}).inputs == given


@pytest.mark.parametrize("nothing", [None, "", []])
def test_without_an_input_it_shows_how_to_give_one(nothing: object) -> None:
    assert mistake(input=nothing) == (
        "input: missing; name the recordings, e.g. snakemake --cores 8 --config input=/data/ecgs"
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"outdr": "x"}, "outdr: no such setting; did you mean 'outdir'?"),
        (
            {"zzz": 1},
            "zzz: no such setting; known keys are input, outdir, checkpoint, model, model_options, models, sha256, ",
        ),
        ({"umap": {"neighbours": 5}}, "umap.neighbours: no such setting; did you mean 'neighbors'?"),
        ({"report": {"zzz": 5}}, "report.zzz: no such setting; known keys are title, recordings, map_points, columns"),
        ({"umap": 5}, "umap: 5 is not valid: input should be a valid dictionary"),
        ({"umap": {"min_dist": 1}}, "umap.min_dist: 1 is not valid: input should be less than 1"),
        ({"umap": {"neighbors": 1}}, "umap.neighbors: 1 is not valid: input should be greater than 1"),
        ({"umap": {"random_state": 2**32}}, "umap.random_state: 4294967296 is not valid: input should be less than"),
        (
            {"umap": {"random_state": -1}},
            "umap.random_state: -1 is not valid: input should be greater than or equal to 0",
        ),
        (
            {"umap": {"fit_segments": 4}},
            "umap.fit_segments: 4 is not valid: input should be greater than or equal to 5",
        ),
        ({"manifest": {"shard_size": 0}}, "manifest.shard_size: 0 is not valid: input should be greater than 0"),
        (
            {"manifest": {"shard_size": "many"}},
            "manifest.shard_size: 'many' is not valid: input should be a valid integer",
        ),
        ({"manifest": {"shard_size": 1.5}}, "manifest.shard_size: 1.5 is not valid: input should be a valid integer"),
        (
            {"inference": {"attention": "perhaps"}},
            "inference.attention: 'perhaps' is not valid: input should be a valid bo",
        ),
        ({"inference": {"max_drift": 0}}, "inference.max_drift: 0 is not valid: input should be greater than 0"),
        (
            {"inference": {"precision": "half"}},
            "inference.precision: 'half' is not valid: input should be 'auto', 'float32'",
        ),
        ({"inference": {"batch_size": 0}}, "inference.batch_size: 0 is not valid: input should be greater than 0"),
        (
            {"preprocess": {"assume_leads": "I II"}},
            "preprocess.assume_leads: 'I II' is not valid: input should be a valid l",
        ),
        (
            {"preprocess": {"assume_sample_rate": 0}},
            "preprocess.assume_sample_rate: 0 is not valid: input should be greater",
        ),
        ({"outdir": ""}, "outdir: '' is not valid: string should have at least 1 character"),
        ({"sha256": "abc"}, "sha256: 'abc' is not valid: string should match pattern"),
        ({"input": {"path": "x"}}, "input: {'path': 'x'} is not valid: input should be a valid string"),
        ({"input": [None]}, "input.0: None is not valid: input should be a valid string"),
        ({"input": "nowhere"}, "input: 'nowhere' does not exist; check the path"),
        ({"input": [".", "nowhere"]}, "input: 'nowhere' does not exist; check the path"),
        ({"input": [""]}, "input: '' does not exist; check the path"),
        ({"input": "x" * 5000}, "' does not exist; check the path"),
        ({"checkpoint": "no.pt"}, "checkpoint: 'no.pt' is not a file; give a local .pt file or hf://OWNER/REPO/FILE"),
        ({"checkpoint": "."}, "checkpoint: '.' is not a file"),
        ({"checkpoint": "x" * 5000}, "' is not a file"),
        ({"labels": "no.csv"}, "labels: cannot read no.csv"),
        ({"labels": "x" * 5000}, "labels: cannot read "),
        ({"labels": "a\0b"}, "labels: cannot read "),
        ({"calibration": "no.json"}, "calibration: 'no.json' is not a file; give the JSON file that"),
        ({"calibration": "config/config.schema.json"}, "calibration: cannot read config/config.schema.json: "),
        ({"evaluation": {"truth": "no.csv"}}, "evaluation.truth: 'no.csv' is not a file; check the path"),
        ({"evaluation": {"truth": "a\0b"}}, "evaluation.truth: 'a\\x00b' is not a file"),
        (
            {"evaluation": {"mapping": {"AF": "Atrial fibrilation"}}},
            "evaluation.mapping: 'Atrial fibrilation' is not a label of the label file; did you mean 'Atrial",
        ),
        ({"evaluation": {"patient": "id"}}, "evaluation: neither truth nor mapping is given"),
        (
            {"evaluation": {"mapping": {"AF": "Atrial fibrillation"}, "split": "fold"}},
            "evaluation: split names a column, split_value its value",
        ),
        ({"evaluation": {"resamples": -1}}, "evaluation.resamples: -1 is not valid"),
        ({3: "x"}, "3: 3 is not valid: keys should be strings"),
    ],
)
def test_a_mistake_names_the_key_the_value_and_the_fix(given: dict[Any, object], says: str) -> None:
    with pytest.raises(EcgpipeError) as caught:
        load({"input": "."} | given)
    assert says in str(caught.value)


def test_a_calibration_and_thresholds_that_do_not_belong_together_are_refused_before_any_job(tmp_path: Path) -> None:
    """The pairs of a label file, with thresholds chosen on calibrated predictions or on others, and a calibration."""
    labelled.write(tmp_path)
    on = [str(tmp_path), "--split", "fold", "--on", "8"]
    json_file, plain, calibrated = (str(tmp_path / name) for name in ("c.json", "plain.csv", "calibrated.csv"))
    assert main(["calibrate", *on, "--method", "platt", "--output", json_file]) == 0
    assert main(["thresholds", *on, "--method", "f1", "--output", plain]) == 0
    labelled.write(tmp_path, calibration={"sha256": hash_file(Path(json_file))})
    assert main(["thresholds", *on, "--method", "f1", "--output", calibrated]) == 0
    by_hand = str(tmp_path / "labels.csv")
    for labels, calibration in ((plain, None), (calibrated, json_file), (by_hand, json_file), (by_hand, None)):
        assert load({"input": ".", "labels": labels, "calibration": calibration}).calibration == calibration
    assert "was chosen on predictions with another calibration (none, here " in mistake(
        labels=plain, calibration=json_file
    )
    assert ", here none); choose thresholds for these predictions by" in mistake(labels=calibrated)
    assert "unknown labels (Flutter, rare); the labels are Poor data quality, " in mistake(calibration=json_file)


def test_every_mistake_is_reported_at_once_on_a_line_of_its_own() -> None:
    said = mistake(outdr="x", umap={"neighbors": 0}, manifest={"shard_size": -1}).splitlines()
    assert [line.partition(":")[0] for line in said] == ["manifest.shard_size", "umap.neighbors", "outdr"]


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.just("."), st.binary()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
KEYS = st.sampled_from([*Config.model_fields]) | st.text(max_size=8) | st.integers()
INNER = [key.rpartition(".")[2] for key, _, _ in settings_docs._keys()]
SECTION = st.dictionaries(st.sampled_from(INNER) | st.text(max_size=5), VALUES, max_size=3)


@given(st.dictionaries(KEYS, VALUES | SECTION, max_size=5), st.booleans())
@settings(deadline=None, max_examples=300)
def test_whatever_is_given_loads_or_is_a_mistake_that_is_reported(given: dict[Any, Any], with_input: bool) -> None:
    try:
        loaded = load({**given, "input": "."} if with_input else given)
    except EcgpipeError:
        pass
    else:
        assert loaded.inputs
