"""The declaration of a model's input: what it refuses, how it is written to JSON, and how it reads in words."""

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from ecgpipe.core.describe_input import describe_input
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.leads import LEADS
from ecgpipe.core.model_input import (
    DEFAULT_INPUT,
    STEPS,
    Butterworth,
    Center,
    Cut,
    Decimate,
    Fir,
    Fourier,
    JoinLeads,
    Linear,
    MedianBaseline,
    MinMax,
    ModelInput,
    Notch,
    Pad,
    ReplaceNan,
    Scale,
    Standardize,
    Step,
    TakeEvery,
    dump_input,
    load_input,
)
from ecgpipe.core.user_settings import Preprocess

FAMILIES = ("ecg_fm", "ecgfounder", "hubert_ecg", "deepecg_ssl", "ecg_jepa")
EVERY_STEP: tuple[Step, ...] = (
    ReplaceNan("mean"), Linear(1000, "grid"), TakeEvery(500), Center(), Scale(1000), Notch(50, 30),
    Butterworth(4, (None, 40), sections=True), Fir(0.3, (0.05, 47)), MedianBaseline(0.4), Cut(), Standardize("all"),
    MinMax(low=0), Fourier(250), Pad(masked=True), JoinLeads(), Decimate(5),
)  # fmt: skip


def declare(steps: Sequence[Step] = (Linear(500), Cut()), **changes: Any) -> ModelInput:  # noqa: ANN401, any field
    values = {"leads": LEADS, "rate": 500, "window_s": 10, "steps": tuple(steps)}
    return ModelInput(**{**values, **changes})


def declared() -> list[ModelInput]:
    """Every declaration of every family."""
    families = [import_module(f"ecgpipe.models.{name}.family") for name in FAMILIES]
    return [variant for family in families for variant in family.VARIANTS.values()]


def test_a_window_has_the_shape_that_the_network_takes() -> None:
    assert declare().shape == (12, 5000)
    assert declare(leads=("II", "V1")).shape == (2, 5000)
    joined = declare([Fourier(500), Cut(), JoinLeads(), Decimate(5)], rate=100, window_s=5)
    assert (joined.shape, joined.window_samples, joined.is_joined) == ((1, 6000), 500, True)


def test_leads_are_rows_of_the_twelve() -> None:
    assert declare(leads=("V6", "I")).lead_rows == (11, 0)


def test_steps_are_split_at_the_cut() -> None:
    before, after = declare([Linear(500), Center(), Cut(), Pad()]).split_steps
    assert (before, after) == ((Linear(500), Center()), (Pad(),))


@pytest.mark.parametrize("model_input", [*declared(), declare(EVERY_STEP, rate=50, short="pad", tail="overlap")])
def test_a_declaration_survives_json(model_input: ModelInput) -> None:
    assert load_input(json.loads(json.dumps(dump_input(model_input)))) == model_input


def test_every_step_is_tested_here() -> None:
    assert {type(step).__name__ for step in EVERY_STEP} == STEPS.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leads": ()}, "leads is empty"),
        ({"leads": ("I", "MLII")}, "unknown leads (MLII)"),
        ({"leads": ("I", "I")}, "a lead occurs twice"),
        ({"rate": 0}, "ModelInput.rate is 0; give a positive number"),
        ({"window_s": "ten"}, "ModelInput.window_s is 'ten'; give a number"),
        ({"window_s": 10.0011}, "window_s * rate is not a whole number of samples (5000.55)"),
        ({"short": "stretch"}, "ModelInput.short is 'stretch'; give one of skip, pad"),
        ({"unit": "V"}, "ModelInput.unit is 'V'; give one of mV"),
        ({"short": "pad"}, "no step says where zeros are added"),
        ({"steps": (Linear(500),)}, "Cut occurs 0 times in steps; cut once"),
        ({"steps": (Linear(500), Cut(), Cut())}, "Cut occurs 2 times"),
        ({"steps": (Linear(500), Cut(), Pad(), Pad())}, "Pad occurs 2 times"),
        ({"steps": (Cut(),)}, "no step resamples; add e.g. Linear(500)"),
        ({"steps": (Linear(250), Cut())}, "the steps lead to 250 Hz, and rate is 500 Hz"),
        ({"steps": (Cut(), Decimate(2))}, "Decimate stands before a step that states a sampling rate"),
        ({"steps": (Cut(), JoinLeads(), Linear(500))}, "Linear stands after JoinLeads"),
        ({"steps": (Cut(), "Linear")}, "'Linear' is not a step; give one of ReplaceNan, Linear"),
        ({"steps": (Linear(500, ends="round"), Cut())}, "Linear.ends is 'round'; give one of aligned, grid"),  # type: ignore[arg-type]
        ({"steps": (Linear(-500), Cut())}, "Linear.rate is -500; give a positive number"),
        ({"steps": (Linear(500), Cut(), Decimate(1.5))}, "Decimate.factor is 1.5; give a whole number"),  # type: ignore[arg-type]
        ({"steps": (Linear(500), Cut(), Standardize(epsilon=-1))}, "Standardize.epsilon is -1"),
        ({"steps": (Linear(500), Fir(0.3, (40, 0.5)), Cut())}, "Fir.band is (40, 0.5); give (low, high) in Hz"),
        ({"steps": (Linear(500), Butterworth(4, (None, None)), Cut())}, "Butterworth.band is (None, None)"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EcgpipeError) as error:
        declare(**changes)
    assert message in str(error.value)
    assert str(error.value).startswith("model input: ")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {**dump_input(declare()), "steps": [{"step": "Stretch"}]},
        {**dump_input(declare()), "steps": [{"step": "Linear", "rate": 500, "order": 4}, {"step": "Cut"}]},
        {**dump_input(declare()), "colour": "red"},
        {**dump_input(declare()), "steps": 5},
    ],
)
def test_json_that_is_no_declaration_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(EcgpipeError, match="model input: "):
        load_input(values)


@pytest.mark.parametrize("model_input", [*declared(), declare(EVERY_STEP, rate=50, short="pad", tail="overlap")])
def test_a_declaration_reads_as_sentences(model_input: ModelInput) -> None:
    sentences = describe_input(model_input)
    assert len(sentences) >= 2 + len(model_input.steps)
    for sentence in sentences:
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert "None" not in sentence


def test_the_words_say_over_what_a_step_works_and_what_happens_to_short_recordings() -> None:
    plain = declare([Standardize("all"), Linear(500), Cut(), Standardize("lead"), Pad()])
    words = "\n".join(describe_input(plain))
    assert "For all leads of the recording together, the mean is subtracted" in words
    assert "For each lead of each window, the mean is subtracted" in words
    assert "A recording shorter than 10 s is skipped; it can be padded (preprocess.short: pad)." in words
    assert "shorter than" not in "\n".join(describe_input(replace(plain, short="pad")))
    assert "cannot be padded" in describe_input(declare())[-1]
    assert "must be in mV" in "\n".join(describe_input(declare(unit="mV")))


def test_declarations_need_neither_torch_nor_scipy() -> None:
    modules = ", ".join(f"ecgpipe.models.{name}.family" for name in FAMILIES)
    program = f"import sys, {modules}; assert not {{'torch', 'scipy', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_declaration_is_the_same_after_a_way_through_another_process() -> None:
    first = declare([Linear(500), Center(), Cut(), Standardize("lead")])
    assert hash(first)
    again = pickle.loads(pickle.dumps(first))  # noqa: S301, of this line
    assert "_hash" not in vars(again)
    assert hash(again) == hash(first)
    assert first.ends_standardized
    assert not declare([Linear(500), Cut(), Standardize("lead", epsilon=0)]).ends_standardized
    assert not declare([Standardize("lead"), Linear(500), Cut(), Pad()]).ends_standardized


def test_the_default_length_of_a_segment_is_that_of_the_default_model() -> None:
    assert Preprocess().segment_s == DEFAULT_INPUT.window_s
