"""The settings of the job that puts the runs of a study side by side: `outdir/settings/study.json`."""

from typing import Annotated

from pydantic import Field

from ecgpipe.core.user_settings import APART, StudySettings


class Study(StudySettings):
    """How a study puts its models side by side."""

    models: list[str] = Field([], description="names of the models, in order")
    truth: Annotated[str | None, APART] = Field(None, description="table of true labels; null: as the runs' settings")
    mapping: dict[str, str] = Field({}, description="of columns of true labels")
    truth_sha256: str | None = None
    crosswalk_sha256: str | None = None
