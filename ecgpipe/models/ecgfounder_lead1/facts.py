"""ECGFounder with lead I alone: what a user wants to know before choosing it."""

from dataclasses import replace

from ecgpipe.models.ecgfounder.facts import FACTS as TWELVE_LEADS

FACTS = replace(TWELVE_LEADS, title="ECGFounder (lead I)", weights=TWELVE_LEADS.weights[1:])
