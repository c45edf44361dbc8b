"""The twelve leads, and how files call them."""

import re
from collections.abc import Sequence

# The twelve leads in the order that ECG-FM was trained on, which is also fairseq-signals' order of rows.
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


# What stands around a lead's own name: "ECG I", "Lead aVR", "MDC_ECG_LEAD_V1", "Lead I (Einthoven)", "II-Rhythm",
# "V1 [mV]". Of "ECG -aVR" the minus is the lead's own, and that is no lead of the twelve.
_BETWEEN = r"(?: - |-|[ _:]*)"

_BEFORE = re.compile(
    rf"^(?:mdc[ _]ecg[ _](?:lead|ld)[ _]|(?:ecg|ekg)(?:[ _-]*lead)?{_BETWEEN}|(?:lead|ableitung|abl\.?){_BETWEEN})"
)
_AFTER = re.compile(
    r"(?:[ _-]*[(\[](?:einthoven|goldberger|wilson|[mun\u00b5\u03bc]?v)[)\]]"
    r"|[ _-]+(?:rhythm|rhythmus|raw|[mu\u00b5\u03bc]v))+$"
)
_SPELLINGS = {lead.lower(): lead for lead in LEADS}

# CODE-15% and Brazil at large.
_SPELLINGS |= {"di": "I", "dii": "II", "diii": "III", "d1": "I", "d2": "II", "d3": "III"}

# IEC 60601's names of the chest leads. Beside limb leads only: "C1" is also what nameless columns are called.
_CHEST = {f"c{n}": f"V{n}" for n in range(1, 7)}


def spelled(names: Sequence[str]) -> list[str]:
    """A file's names of leads, in the spelling of `LEADS` where they are one of these.

    A name as it stands goes before one that something stands around: of "II" and "II-Rhythm" the first is lead II.
    What is no lead of the twelve stays as it is: "-aVR" is upside down, "MLII" and "V3R" lie elsewhere on the chest.

    Args:
        names: As the file has them.

    Returns:
        As many names. One may be there twice, which is for the caller to judge.
    """
    lower = [name.strip().lower() for name in names]
    inner = [_AFTER.sub("", _BEFORE.sub("", name)).strip() for name in lower]
    known = _SPELLINGS | _CHEST if {"i", "ii", "di", "dii"} & {*lower, *inner} else _SPELLINGS
    plain = {known[name] for name in lower if name in known}
    result = []
    for name, key, rest in zip(names, lower, inner, strict=True):
        found = known.get(key) or known.get(rest)
        result.append(name if found is None or (key not in known and found in plain) else found)
    return result
