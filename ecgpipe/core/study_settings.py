"""The settings of a study, `ecgpipe study`."""

from typing import Annotated

from pydantic import Field

from ecgpipe.core.user_settings import APART, Section


class StudySettings(Section):
    """How several runs are put side by side. No run keeps these settings: the command takes them as options."""

    title: str = Field("Models side by side", description="title of the page")
    crosswalk: Annotated[str, APART] = Field(
        "config/labels/crosswalk.csv", description="CSV that says which labels mean the same statement"
    )
    patient: str | None = Field(
        None,
        description="column of the patient id: intervals resample patients, and the probe splits them (as the runs' "
        "settings, without)",
    )
    split: str | None = Field(None, description="column that names the split of a recording, to evaluate one of them")
    split_value: str | None = Field(None, description="the split to evaluate, e.g. test")
    resamples: int = Field(1000, ge=0, description="of the bootstrap, for intervals; 0: none")
    seed: int = Field(42, ge=0, description="of the intervals, the probe's split and all samples")
    recordings: int = Field(40, ge=0, description="recordings that the page shows with their leads, at most")
    attributions: int = Field(
        0,
        ge=0,
        description="of these, in how many each model attributes the statement on which they disagree: needs "
        "the runs' weights, and minutes without a GPU",
    )
    map_recordings: int = Field(3000, ge=0, description="recordings on each map, at most")
