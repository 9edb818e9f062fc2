"""A recipe: a function from a layout to a model, an objective and a plan, with checked arguments."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import re
from dataclasses import dataclass, field
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from chreode.errors import InputError
from chreode.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chreode.layout import Layout
    from chreode.model import LatentModel
    from chreode.objective import Objective
    from chreode.plan import Plan

__all__ = [
    "BY_DATA",
    "REQUIRED",
    "Build",
    "Definition",
    "Recipe",
    "defined",
    "named",
    "parse",
    "recipe",
    "registry",
]

BY_DATA = "chosen by the data"
"""What is said of an argument that is None by default."""

REQUIRED = inspect.Parameter.empty
"""What stands in `Definition.defaults` for an argument without one."""

# What other libraries call the arguments of recipes, and arguments that are not of recipes.
_CALLED = {
    **dict.fromkeys(("n_latent", "latent_dim"), "dim"),
    **dict.fromkeys(("n_hidden", "hidden_dims"), "hidden"),
    **dict.fromkeys(("n_components", "n_clusters"), "components"),
    "gene_likelihood": "likelihood",
    "lr": "code_lr",
}
_ELSEWHERE = {
    **dict.fromkeys(("batch_key", "batch"), "chreode.read(..., batch=), or --batch,"),
    **dict.fromkeys(("labels_key", "label"), "chreode.read(..., label=), or --label,"),
    **dict.fromkeys(("max_epochs", "n_epochs", "epochs"), "chreode.fit(..., epochs=), or --epochs,"),
}
_SUCH_AS = {"background": "ctrl"}  # what is given, for example, where there is no default


@dataclass(frozen=True)
class Build:
    """What a recipe makes for one layout."""

    model: LatentModel
    objective: Objective
    plan: Plan


@dataclass(frozen=True)
class Definition:
    """A registered recipe.

    Parameters
    ----------
    name
        The function's name.
    build
        ``build(layout, **arguments) -> Build``.
    code
        The latent that users mean by "the embedding".
    cite
        Keys of the references in `chreode.references`.
    joint
        Whether it models every modality of the cells; else the first alone.
    """

    name: str
    build: Callable[..., Build]
    code: str
    cite: tuple[str, ...]
    joint: bool = False

    @property
    def summary(self) -> str:
        """First sentence of the docstring."""
        return (inspect.getdoc(self.build) or "").split("\n\n")[0].replace("\n", " ")

    @property
    def defaults(self) -> dict[str, Any]:
        """The arguments and their default values, `REQUIRED` where there is none."""
        parameters = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @property
    def meanings(self) -> dict[str, str]:
        """What each argument is, from the docstring; "As of another recipe" is that recipe's."""
        found = _parameters(inspect.getdoc(self.build) or "")
        for name, text in found.items():
            other = re.fullmatch(r"As of (\w+)\.", text)
            if other and other[1] in registry and other[1] != self.name:
                found[name] = registry[other[1]].meanings.get(name, text)
        return found

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Complete and validate arguments.

        Raises
        ------
        InputError
            For an unknown name, a wrong type or a value out of range.
        """
        from pydantic import ConfigDict, TypeAdapter, ValidationError

        # The layout is given by fit, not by the user, so a recipe may import its type for checkers only.
        hints = get_type_hints(self.build, localns={"Layout": object}, include_extras=True)
        checked = dict(self.defaults)
        for name, value in arguments.items():
            if name not in checked:
                msg = (
                    f"Expected an argument of {self.name} ({', '.join(checked)}); found {name!r}. "
                    f"{_remedy(name, checked)}"
                )
                raise InputError(msg)
            try:
                adapter = TypeAdapter(hints[name], config=ConfigDict(strict=True))
                checked[name] = adapter.validate_python(_as_tuple(value, hints[name]))
            except ValidationError as error:
                own = (error.errors()[0].get("ctx") or {}).get("error")
                if isinstance(own, InputError):
                    raise own from None  # who reads the argument says best what is wrong with it
                reasons = "; ".join(dict.fromkeys(e["msg"] for e in error.errors()))
                msg = f"Expected a valid {name!r} for {self.name}; found {value!r}: {reasons}. "
                raise InputError(msg + self._default(name)) from None
        return checked

    def ready(self, arguments: Mapping[str, Any]) -> Recipe:
        """The recipe with these arguments.

        Raises
        ------
        InputError
            As `check` does, and when an argument without a default is missing.
        """
        checked = self.check(arguments)
        for name, value in checked.items():
            if value is REQUIRED:
                msg = f"Expected {name!r} for {self.name}, which has no default; found none. "
                raise InputError(msg + self._default(name))
        return Recipe(self.name, checked, self)

    def _default(self, name: str) -> str:
        """A sentence on what an argument is by default, or how it is given where it has to be."""
        default = self.defaults[name]
        if default is not REQUIRED:
            return f"The default is {BY_DATA if default is None else repr(default)}."
        such = _SUCH_AS.get(name)
        value, as_typed = ("VALUE", "VALUE") if such is None else (repr(such), such)
        return f"Give {name}={value}, say, or on the command line --set {name}={as_typed}."


def _as_tuple(value: Any, hint: Any) -> Any:
    """A list as a tuple, and one text as a tuple of it, where a tuple of texts is meant."""
    if isinstance(value, list):
        return tuple(value)
    allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    one = isinstance(value, str) and tuple[str, ...] in allowed and str not in allowed
    return (value,) if one else value


def _remedy(name: str, known: Mapping[str, Any]) -> str:
    """What an unknown argument is called here, or where it belongs."""
    if name in _ELSEWHERE:
        return f"Give {_ELSEWHERE[name]} instead."
    called = _CALLED.get(name)
    if called in known:
        return f"It is called {called!r} here."
    close = difflib.get_close_matches(name, known, 1)
    return f"Did you mean {close[0]!r}?" if close else "Give one of these, or leave it out."


def _parameters(doc: str) -> dict[str, str]:
    """The section "Parameters" of a docstring, as plain text by name."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", doc, re.MULTILINE | re.DOTALL)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else []:
        if line[:1].strip():
            names = [name.strip() for name in line.split(",")]
            continue
        words = re.sub(r":\w+:(?=`)|`|\\(?=\w)", "", line).split()  # of \omega the name
        for name in names:
            found[name] = " ".join([found.get(name, ""), *words]).strip()
    return found


registry: dict[str, Definition] = {}


@dataclass(frozen=True)
class Recipe:
    """A recipe with its arguments, ready to be built for a layout.

    Parameters
    ----------
    name
        Its name in the registry.
    arguments
        All arguments, JSON values.
    definition
        What the name stands for.
    """

    name: str
    arguments: Mapping[str, Any]
    definition: Definition = field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process finds the definition by its name, once the module that registers it is imported.
        return _restore, (self.definition.build.__module__, self.name, dict(self.arguments))

    def build(self, layout: Layout) -> Build:
        """Make the model, objective and plan."""
        return self.definition.build(layout, **self.arguments)

    def to_json(self) -> dict[str, Any]:
        """Name and arguments."""
        return json.loads(json.dumps({"name": self.name, "arguments": dict(self.arguments)}))


def recipe(
    *, code: str, cite: tuple[str, ...] = (), joint: bool = False
) -> Callable[[Callable[..., Build]], Callable[..., Recipe]]:
    """Register a function from a layout to a `Build`; calling it with arguments alone gives a `Recipe`.

    Parameters
    ----------
    code
        The latent that users mean by "the embedding".
    cite
        Keys of the references to cite.
    joint
        Whether it models every modality of the cells; else the first alone.
    """

    def register(build: Callable[..., Build]) -> Callable[..., Recipe]:
        definition = Definition(build.__name__, build, code, cite, joint)
        registry[definition.name] = definition

        def make(**arguments: Any) -> Recipe:
            return definition.ready(arguments)

        make.__name__ = make.__qualname__ = definition.name
        make.__doc__ = build.__doc__
        make.__module__ = build.__module__
        signature = inspect.signature(build)
        keyword = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        make.__signature__ = signature.replace(parameters=keyword, return_annotation=Recipe)  # type: ignore[attr-defined]
        return make

    return register


def defined(name: str) -> Definition:
    """What a name stands for.

    Raises
    ------
    InputError
        When there is no such recipe, naming those that exist.
    """
    # chreode's own recipes register themselves when their room is opened; it stands above this file.
    importlib.import_module("chreode.recipes")
    if name not in registry:
        msg = f"Expected a recipe ({', '.join(sorted(registry))}); found {name!r}.{nearest(name, registry)}"
        raise InputError(msg)
    return registry[name]


def named(name: str, arguments: Mapping[str, Any] | None = None) -> Recipe:
    """The registered recipe of a name, with arguments.

    Raises
    ------
    InputError
        When there is none, naming those that exist, and as `Definition.ready` does.
    """
    return defined(name).ready(arguments or {})


def _restore(module: str, name: str, arguments: dict[str, Any]) -> Recipe:
    importlib.import_module(module)
    return named(name, arguments)


def parse(assignments: list[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs; the value is JSON where it parses as JSON, else text.

    Examples
    --------
    >>> parse(["components=9", "hidden=[100, 100]", "likelihood=nb"])
    {'components': 9, 'hidden': [100, 100], 'likelihood': 'nb'}
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            msg = f"Expected --set key=value; found {assignment!r}. Write for example --set components=9."
            raise InputError(msg)
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    return values
