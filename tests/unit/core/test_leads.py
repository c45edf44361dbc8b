"""The names of leads, in the spellings that files have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgpipe.readers import LEADS, spell_leads

MET = {
    "I": "I", "i": "I", " I ": "I", "DI": "I", "D1": "I", "ECG I": "I", "ECG_I": "I", "ECG-I": "I", "EKG I": "I",
    "Lead I": "I", "LEAD_I": "I", "lead:I": "I", "ECG Lead I": "I", "ECG_lead_I": "I", "Ableitung I": "I",
    "Lead I (Einthoven)": "I", "I (Einthoven)": "I", "MDC_ECG_LEAD_I": "I", "MDC ECG LEAD I": "I", "ECG - I": "I",
    "I (mV)": "I", "I [uV]": "I", "I_mV": "I", "I (\u00b5V)": "I", "I (\u03bcV)": "I", "I (V)": "I", "I raw": "I",
    "Abl. I": "I", "II-Rhythm": "II", "II Rhythm": "II", "II-Rhythmus": "II", "DIII": "III", "D3": "III",
    "AVR": "aVR", "avr": "aVR", "aVR": "aVR", "AVL ": "aVL", "Lead aVF (Goldberger)": "aVF", "MDC_ECG_LEAD_AVF": "aVF",
    "v1": "V1", "V6": "V6", "ECG V1": "V1", "MDC_ECG_LEAD_V1": "V1", "V1 (Wilson) [mV]": "V1", "EKG lead V5": "V5",
}  # fmt: skip

# Inverted, elsewhere on the chest, of other systems, or of none.
OTHERS = ["-aVR", "ECG -aVR", "Lead -I", "lead: -aVR", "aVR-", "MLII", "ML2", "V3R", "V7", "V10", "IV", "vx", "X", "C1"]
OTHERS += [
    "ECG",
    "ECG1",
    "lead",
    "",
    "RESP",
    "PLETH",
    "signal 0",
    "I-II",
    "V1-V2",
    "time",
    "a",
    "\u0131",
    "MDC_ECG_LEAD_CONFIG",
]


@pytest.mark.parametrize(("name", "lead"), MET.items())
def test_a_spelling_that_is_met_is_the_lead(name: str, lead: str) -> None:
    assert spell_leads([name]) == [lead]


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_lead_of_the_twelve_stays_as_it_is(name: str) -> None:
    assert spell_leads([name, "V2"]) == [name, "V2"]


def test_c1_to_c6_are_chest_leads_beside_limb_leads_only() -> None:
    chest = [f"C{n}" for n in range(1, 7)]
    assert spell_leads(chest) == chest
    assert spell_leads(["I", "II", *chest]) == ["I", "II", *LEADS[6:]]
    assert spell_leads(["Lead I", *chest]) == ["I", *LEADS[6:]]


def test_a_name_as_it_stands_goes_before_one_that_something_stands_around() -> None:
    assert spell_leads(["II-Rhythm", "II"]) == ["II-Rhythm", "II"]
    assert spell_leads(["II", "II raw", "III"]) == ["II", "II raw", "III"]
    assert spell_leads(["II-Rhythm", "V1"]) == ["II", "V1"]


def test_the_same_lead_twice_is_twice_for_the_reader_to_judge() -> None:
    assert spell_leads(["I", "i"]) == ["I", "I"]


@given(names=st.lists(st.text(max_size=12), max_size=8))
def test_any_names_give_as_many_and_only_leads_are_changed(names: list[str]) -> None:
    found = spell_leads(names)
    assert len(found) == len(names)
    assert all(new == old or new in LEADS for old, new in zip(names, found, strict=True))
    assert spell_leads(LEADS) == list(LEADS)
