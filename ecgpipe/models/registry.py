"""Find the model families, and tell which of them a checkpoint belongs to. Nothing here loads PyTorch.

A family is a folder beside this file: `family.py` declares its input and recognises its files, `facts.py` has licences,
addresses and citation, `network.py` computes, `labels.csv` names the outputs. Nothing else lists the families: adding
one touches its folder alone. A user's own model is one file that has the same names, given by its path.

What `family.py` says:

    INPUT, VARIANTS     the input, and by the value of the option OPTION its variants, the default first
    OPTION              the name of that option in `model_options`; missing where there is one input alone
    HAS_ATTENTION       whether the network gives attention; HAS_TOKENS_BY_LEAD: its tokens are listed lead by lead
    TAKES_ANY_LENGTH    whether windows can have another length than INPUT says
    FILES               of a release: the file of the weights (or a pattern), then those that lie beside it
    LABELS              by number of outputs, the label CSV in the folder; name_labels: the same by the address too
    count_outputs       how many outputs a checkpoint's tensors have
    Architecture        the sizes of the network, in model.json
    recognise           whether a checkpoint's tensors are of this family; REFINES: the family whose layout it shares
"""

import fnmatch
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ecgpipe import models
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.model_facts import Facts
from ecgpipe.core.model_input import DEFAULT_INPUT, ModelInput
from ecgpipe.core.provenance import hash_file

DEFAULT = "ecg-fm"

# How the name of a user's own model begins in model.json and settings; its file's name follows.
OWN = "own:"


@dataclass(frozen=True)
class Family:
    """A model family, or a user's own model."""

    name: str  # as the setting `model` has it; of an own model `OWN` and the name of its file
    declaration: ModuleType  # its family.py, or the user's file
    path: Path | None = None  # of the user's file

    @cached_property
    def facts(self) -> Facts | None:
        """Licences, addresses, citation; None for an own model."""
        return None if self.path else read_facts(self.name)

    @property
    def title(self) -> str:
        """What people call it."""
        return self.facts.title if self.facts else self.name.removeprefix(OWN)

    @property
    def sha256(self) -> str | None:
        """Of the user's file."""
        return hash_file(self.path) if self.path else None

    @property
    def variants(self) -> Mapping[str, ModelInput]:
        """The inputs that can be chosen, the default first."""
        found: Mapping[str, ModelInput] = getattr(self.declaration, "VARIANTS", {"default": self.declaration.INPUT})
        return found

    @property
    def option(self) -> str | None:
        """The name of the option that chooses among them; None where there is nothing to choose."""
        return getattr(self.declaration, "OPTION", None)

    @property
    def has_attention(self) -> bool:
        """Whether the network gives attention."""
        return bool(getattr(self.declaration, "HAS_ATTENTION", False))

    @property
    def has_tokens_by_lead(self) -> bool:
        """Whether the attention's tokens run along the leads laid end to end, rather than along time."""
        return bool(getattr(self.declaration, "HAS_TOKENS_BY_LEAD", False)) or self.declaration.INPUT.is_joined

    @property
    def takes_any_length(self) -> bool:
        """Whether windows can have another length than the declaration says."""
        return bool(getattr(self.declaration, "TAKES_ANY_LENGTH", False))

    @property
    def files(self) -> tuple[str, ...]:
        """The files of a release: that of the weights, or a pattern of its name, then those that lie beside it."""
        found: tuple[str, ...] = getattr(self.declaration, "FILES", ("*.pt",))
        return found

    @property
    def other_files(self) -> tuple[str, ...]:
        """Files that match the pattern and are not the weights."""
        return tuple(getattr(self.declaration, "OTHER_FILES", ()))

    @property
    def refines(self) -> str:
        """The family whose layout of files it shares; "" if none."""
        return _name_of(getattr(self.declaration, "REFINES", ""))

    @property
    def default_checkpoint(self) -> str | None:
        """The address of its default weights; None where they are not on the hub."""
        address = self.facts.weights[0].address if self.facts else ""
        return address if address.startswith("hf://") else None

    def require_checkpoint(self, setting: str) -> str:
        """The address of its default weights, where the user gave none.

        Args:
            setting: The name of the setting, as the user types it.

        Raises:
            EcgpipeError: They are not on the hub.
        """
        if self.default_checkpoint:
            return self.default_checkpoint
        where = f" ({self.facts.weights[0].address})" if self.facts else ""
        raise EcgpipeError(f"{setting}: missing; download the weights of {self.name} and give their path{where}")

    def choose_input(self, options: Mapping[str, str]) -> ModelInput:
        """The input that the user's options choose.

        Args:
            options: The setting `model_options`.

        Returns:
            The declaration.

        Raises:
            EcgpipeError: An option or its value is unknown.
        """
        return self.variants[self.choose_variant(options)]

    def choose_variant(self, options: Mapping[str, str]) -> str:
        """The name of the input that the user's options choose; arguments and errors as of `choose_input`."""
        unknown = [key for key in options if key != self.option]
        if unknown:
            has = f"its option is {self.option}" if self.option else "it has no options"
            raise EcgpipeError(f"model_options: {unknown[0]!r} is not an option of {self.name}; {has}")
        default = next(iter(self.variants))
        value = str(options.get(self.option or "", default))
        if value not in self.variants:
            known = ", ".join(self.variants)
            raise EcgpipeError(f"model_options.{self.option}: {value!r} is unknown to {self.name}; give one of {known}")
        return value

    def choose_window_s(self, declared: ModelInput, segment_s: float, short: str, spell: Callable[[str], str]) -> float:
        """The length of the windows, by the settings of the preprocessing.

        Args:
            declared: Of `choose_input`.
            segment_s: The setting; its default stands for the model's own length.
            short: The setting.
            spell: Writes the name of a setting as the user types it.

        Returns:
            Seconds.

        Raises:
            EcgpipeError: The model's windows have another length, or it has no padding.
        """
        is_own_length = segment_s in (DEFAULT_INPUT.window_s, declared.window_s)
        if not self.takes_any_length and not is_own_length:
            raise EcgpipeError(
                f"{spell('segment_s')}: {segment_s:g} is not possible with {self.name}, whose windows have "
                f"{declared.window_s:g} s; leave it out"
            )
        if short == "pad" and declared.padding is None:
            raise EcgpipeError(
                f"{spell('short')}: pad is not possible with {self.name}, whose authors have no padding; give skip"
            )
        return segment_s if self.takes_any_length else declared.window_s

    def full_options(self, options: Mapping[str, str]) -> dict[str, str]:
        """The options with defaults for those that are not given; errors as of `choose_input`."""
        value = self.choose_variant(options)
        return {self.option: value} if self.option else {}

    def find_labels(self, outputs: int | None, address: str = "") -> Path | None:
        """The label CSV for so many outputs; None if it has none.

        Args:
            outputs: Of the network; None where they are not known yet, so that the first CSV is taken.
            address: Of the checkpoint, which may say what a single output is.
        """
        labels: Mapping[int, str] = getattr(self.declaration, "LABELS", {})
        if self.path or not isinstance(labels, Mapping):
            return None
        name = next(iter(labels.values()), None) if outputs is None else labels.get(outputs)
        if hasattr(self.declaration, "name_labels"):
            name = self.declaration.name_labels(outputs, address) or name
        folder = getattr(self.declaration, "FOLDER", None)
        here = Path(str(self.declaration.__file__)).parent
        return (here.with_name(folder) if folder else here) / name if name else None

    def read_architecture(self, sizes: Mapping[str, Any]) -> Any:  # noqa: ANN401, each family has its own
        """The sizes of a network from their JSON values, whose lists were tuples."""
        values: dict[str, Any] = {name: _as_tuples(value) for name, value in sizes.items()}
        if self.path:
            from ecgpipe.models.description import OwnArchitecture

            return OwnArchitecture(**values)
        return self.declaration.Architecture(**values)

    def has_weights(self, folder: Path) -> bool:
        """Whether a folder has exactly one file of weights."""
        try:
            return self.find_weights(folder).is_file()
        except EcgpipeError:
            return False

    def find_weights(self, folder: Path) -> Path:
        """The file of the weights in a folder.

        Raises:
            EcgpipeError: There is none, or more than one.
        """
        return folder / self.choose_file([path.name for path in folder.iterdir() if path.is_file()], str(folder))

    def choose_file(self, names: Sequence[str], where: str) -> str:
        """The file of the weights among a release's files; errors as of `find_weights`."""
        found = [name for name in sorted(names) if fnmatch.fnmatch(name, self.files[0])]
        found = [name for name in found if name not in self.other_files]
        if len(found) != 1:
            what = f"{len(found)} files" if found else "no file"
            raise EcgpipeError(
                f"checkpoint: there is {what} {self.files[0]} in {where}; give the path of the one meant"
            )
        return found[0]


def _as_tuples(value: object) -> object:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def is_own(model: str) -> bool:
    """Whether the setting `model` is the path of a user's file rather than a family's name."""
    return model.endswith(".py") or "/" in model


def find_family(model: str) -> Family:
    """A family by its name, or a user's own model by the path of its file, whose code is run.

    Args:
        model: As the user typed it: never a value that came with data.

    Returns:
        The family.

    Raises:
        EcgpipeError: There is no such family or file, or the file fails or declares no input.
    """
    if is_own(model):
        path = Path(model).resolve()
        return Family(f"{OWN}{path.name}", _run_file(path), path)
    return Family(model, import_part(model, "family"))


@lru_cache(maxsize=8)
def _run_file(path: Path) -> ModuleType:
    """Run a user's file, once."""
    if not path.is_file():
        raise EcgpipeError(f"model: there is no file {path}; give its path, or one of {', '.join(list_families())}")
    name = f"ecgpipe_own_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise EcgpipeError(f"model: {path} is not a Python file; give a .py file, see docs/models.md")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except EcgpipeError as error:
        raise EcgpipeError(f"model: {path}: {error}") from error
    except Exception as error:  # a user's code can raise any exception
        raise EcgpipeError(f"model: {path} fails with {type(error).__name__}: {error}; correct it") from error
    if not isinstance(getattr(module, "INPUT", None), ModelInput) or not hasattr(module, "Network"):
        raise EcgpipeError(f"model: {path} needs INPUT, a ModelInput, and the class Network; see docs/models.md")
    return module


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
    facts: Facts = import_part(name, "facts").FACTS
    return facts


def find_by_address(address: str) -> str | None:
    """The family that has a repository on the hub among its own; None if none has.

    Args:
        address: hf://OWNER/REPO[@REVISION][/FILE]; upper and lower case do not matter.
    """
    repository, file = _repository_of(address), _file_of(address)
    weights = [(name, each.address) for name in list_families() for each in read_facts(name).weights]
    alike = [(name, other) for name, other in weights if _repository_of(other) == repository]
    defaults = [(name, other) for name, other in alike if other == read_facts(name).weights[0].address]
    # Two families can share a repository, and one can list the other's file: that one's own comes first.
    named = [name for name, other in [*defaults, *alike] if file and _file_of(other) == file]
    return next((name for name in [*named, *(name for name, _ in alike)]), None)


def _repository_of(address: str) -> str:
    return "/".join(address.lower().partition("://")[2].split("/")[:2]).partition("@")[0]


def _file_of(address: str) -> str:
    return "/".join(address.partition("://")[2].split("/")[2:])


def tell_family(
    tensors: Mapping[str, Any], where: str = "the checkpoint", content: Mapping[str, Any] | None = None
) -> str | None:
    """Tell the family of a checkpoint by its tensors.

    Where the files of one family have the layout of another's, and it recognises some of them (`REFINES` in its
    `family.py`), it is taken for those.

    Args:
        tensors: By the names in the file; of each at least its shape.
        where: The file, for the message.
        content: What else is in the file.

    Returns:
        The family's name; None if no family recognises it.

    Raises:
        EcgpipeError: More than one family recognises it.
    """
    recognised = _list_recognising(tensors, content)
    refined = {family.refines for family in recognised}
    names = [family.name for family in recognised if family.name not in refined]
    if len(names) > 1:
        raise EcgpipeError(f"model: {where} may be of {' or '.join(names)}; say which one it is by `model`")
    return names[0] if names else None


def recognise_file(
    tensors: Mapping[str, Any], where: str = "the checkpoint", content: Mapping[str, Any] | None = None
) -> str:
    """As `tell_family`, and an error too if no family recognises the checkpoint."""
    name = tell_family(tensors, where, content)
    if name is None:
        known = ", ".join(list_families())
        raise EcgpipeError(
            f"checkpoint: {where} is not a checkpoint of a model that ecgpipe knows ({known}): no family's tensors "
            "have these names; give another file, or your own family's path as `model`"
        )
    return name


def _list_recognising(tensors: Mapping[str, Any], content: Mapping[str, Any] | None) -> list[Family]:
    families = map(find_family, list_families())
    return [family for family in families if family.declaration.recognise(tensors, content)]


def refuse_other_family(
    tensors: Mapping[str, Any],
    name: str,
    where: str = "the checkpoint",
    content: Mapping[str, Any] | None = None,
) -> None:
    """Raise an error where a checkpoint is clearly another family's than the one that the user named.

    Args:
        tensors: By the names in the file; of each at least its shape.
        name: The family that the user named.
        where: The file, for the message.
        content: What else is in the file.

    Raises:
        EcgpipeError: The named family does not recognise the tensors, and another one does. A file of a family with the
            same layout (`REFINES`) is not refused, because its tensors do not tell.
    """
    recognised = {family.name: family for family in _list_recognising(tensors, content)}
    if name in recognised:
        return
    recognised.pop(find_family(name).refines, None)
    if recognised:
        other = next(iter(recognised.values()))
        raise EcgpipeError(
            f"checkpoint: {where} is a checkpoint of {other.title}, not of {name}; use model={other.name}"
        )


def import_part(name: str, part: str) -> Any:  # noqa: ANN401, a module of a family
    """A module of a family's folder."""
    if name not in list_families():
        raise EcgpipeError(
            f"model: {name!r} is unknown; give one of {', '.join(list_families())}, or the path of your own .py file"
        )
    return importlib.import_module(f"{models.__name__}.{name.replace('-', '_')}.{part}")


def _name_of(folder: str) -> str:
    return folder.replace("_", "-")
