"""Find the model families, and tell which of them a checkpoint belongs to.

A family is a folder beside this file that has a `family.py` (its input), a `facts.py` (`FACTS`: licences, address,
citation) and a `network.py` (`recognise`). Nothing else lists the families: adding one touches its folder alone.
PyTorch is loaded by the two functions that look at tensors, not by this module.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecgpipe import models
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.model_facts import Facts


def list_families() -> tuple[str, ...]:
    """The names of all families, as the setting `model` has them, sorted: ecg-fm, ecg-jepa, ..."""
    folders = [module.name for module in pkgutil.iter_modules(models.__path__) if module.ispkg]
    with_input = {file.parent.name for place in models.__path__ for file in Path(place).glob("*/family.py")}
    return tuple(sorted(_name_of(folder) for folder in folders if folder in with_input))


def read_facts(name: str) -> Facts:
    """The facts about a family.

    Args:
        name: As `list_families` has it.

    Returns:
        Its `FACTS`.

    Raises:
        EcgpipeError: There is no such family.
    """
    facts: Facts = _import_part(name, "facts").FACTS
    return facts


def recognise_file(tensors: Mapping[str, Any], where: str = "the checkpoint") -> str:
    """Tell the family of a checkpoint by its tensors.

    Where the files of one family have the layout of another's, and it recognises some of them (`REFINES` in its
    `network.py`), it is taken for those.

    Args:
        tensors: By the names in the file.
        where: The file, for the message.

    Returns:
        The family's name.

    Raises:
        EcgpipeError: No family, or more than one, recognises it.
    """
    networks = {name: _import_part(name, "network") for name in list_families()}
    recognised = [name for name, network in networks.items() if network.recognise(tensors)]
    refined = {_name_of(getattr(networks[name], "REFINES", "")) for name in recognised}
    names = [name for name in recognised if name not in refined]
    if len(names) == 1:
        return names[0]
    known = ", ".join(networks)
    if names:
        raise EcgpipeError(f"model: {where} may be of {' or '.join(names)}; say which one it is by `model`")
    raise EcgpipeError(
        f"checkpoint: {where} is not a checkpoint of a model that ecgpipe knows ({known}): no family's tensors have "
        "these names; give another file, or your own family's path as `model`"
    )


def refuse_other_family(tensors: Mapping[str, Any], name: str, where: str = "the checkpoint") -> None:
    """Raise an error where a checkpoint is clearly another family's than the one that the user named.

    Args:
        tensors: By the names in the file.
        name: The family that the user named.
        where: The file, for the message.

    Raises:
        EcgpipeError: The named family does not recognise the tensors, and another one does. A file of a family with the
            same layout (`REFINES`) is not refused, because its tensors do not tell.
    """
    own = _import_part(name, "network")
    refines = _name_of(getattr(own, "REFINES", ""))
    if own.recognise(tensors):
        return
    others = [other for other in list_families() if _import_part(other, "network").recognise(tensors)]
    others = [other for other in others if other not in (name, refines)]
    if others:
        title = read_facts(others[0]).title
        raise EcgpipeError(f"checkpoint: {where} is a checkpoint of {title}, not of {name}; use model={others[0]}")


def _import_part(name: str, part: str) -> Any:  # noqa: ANN401, a module of a family
    """A module of a family's folder."""
    if name not in list_families():
        raise EcgpipeError(f"model: {name!r} is unknown; give one of {', '.join(list_families())}")
    return importlib.import_module(f"{models.__name__}.{name.replace('-', '_')}.{part}")


def _name_of(folder: str) -> str:
    return folder.replace("_", "-")
