"""What the wheel holds besides the packages: the workflow, which lies at the root of the clone."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# By its name in the clone; `ecgpipe/core/installation.py` finds it in both places.
WORKFLOW = ("Snakefile", "config", "profiles", "workflow")


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # of any configuration
    """Puts the workflow into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the workflow, but not to an editable installation: its copy there would grow old beside the clone's."""
        if version != "editable":
            build_data["force_include"].update({name: f"ecgpipe/share/{name}" for name in WORKFLOW})
