"""The twelve leads and the names that files use for them."""

import re
from collections.abc import Sequence

# The twelve leads in the order that ECG-FM was trained on, which is also fairseq-signals' order of rows.
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


# Prefixes and suffixes around a lead's name: "ECG I", "Lead aVR", "MDC_ECG_LEAD_V1", "Lead I (Einthoven)", "II-Rhythm",
# "V1 [mV]". In "ECG -aVR" the minus belongs to the lead, which is not one of the twelve.
_BETWEEN = r"(?: - |-|[ _:]*)"

_BEFORE = re.compile(
    rf"^(?:mdc[ _]ecg[ _](?:lead|ld)[ _]|(?:ecg|ekg)(?:[ _-]*lead)?{_BETWEEN}|(?:lead|ableitung|abl\.?){_BETWEEN})"
)
_AFTER = re.compile(
    r"(?:[ _-]*[(\[](?:einthoven|goldberger|wilson|[mun\u00b5\u03bc]?v)[)\]]"
    r"|[ _-]+(?:rhythm|rhythmus|raw|[mu\u00b5\u03bc]v))+$"
)
_SPELLINGS = {lead.lower(): lead for lead in LEADS}

# CODE-15%, and other files from Brazil.
_SPELLINGS |= {"di": "I", "dii": "II", "diii": "III", "d1": "I", "d2": "II", "d3": "III"}

# IEC 60601's names of the chest leads. Accepted only beside limb leads: "C1" is also a usual name of unnamed columns.
_CHEST = {f"c{n}": f"V{n}" for n in range(1, 7)}


def spell_leads(names: Sequence[str]) -> list[str]:
    """Return the names of leads in the spelling of `LEADS`, where they are one of the twelve.

    An exact name takes precedence over one with a prefix or suffix: of "II" and "II-Rhythm" the first is lead II.
    Other names are not changed: "-aVR" is inverted, "MLII" and "V3R" are at other places on the chest.

    Args:
        names: The names in the file.

    Returns:
        As many names, in the same order. A name may occur twice; the caller decides what that means.
    """
    lower = [name.strip().lower() for name in names]
    inner = [_AFTER.sub("", _BEFORE.sub("", name)).strip() for name in lower]
    known = _SPELLINGS | _CHEST if {"i", "ii", "di", "dii"} & {*lower, *inner} else _SPELLINGS
    plain = {known[name] for name in lower if name in known}
    result = []
    for name, key, rest in zip(names, lower, inner, strict=True):
        lead = known.get(key) or known.get(rest)
        result.append(name if lead is None or (key not in known and lead in plain) else lead)
    return result
