"""Settings: dataclass fields with documentation and rules, and how they are checked."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from tljax.errors import ConfigError, unknown


def setting(
    default: Any,
    doc: str,
    *,
    choices: Iterable[str] | None = None,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    free: bool = False,
) -> Any:
    """Returns a dataclass field with documentation and the values it allows.

    Bounds hold for each number of a tuple. A `free` field may change when a run is
    resumed: it changes the weights by rounding, if at all.
    """
    rules = {"low": low, "above": above, "high": high, "below": below}
    choices = tuple(choices) if choices is not None else None
    metadata = {"doc": doc, "choices": choices, "free": free, **rules}
    return dataclasses.field(default=default, metadata=metadata)


def section(cls: type, doc: str) -> Any:
    """Returns a dataclass field that holds a section of settings."""
    return dataclasses.field(default_factory=cls, metadata={"doc": doc})


def fields(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, dataclass field) of every setting, sections unfolded."""
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type):
            yield from fields(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field


def check(settings: Any, name: str) -> Any:
    """Returns a copy whose values have the types that the fields declare.

    Integers given for floats become floats, lists become tuples. Raises ConfigError,
    one line that names the field, its value and what is allowed, for the first value
    of a wrong type, out of range or unknown.
    """
    values = {}
    for field in dataclasses.fields(settings):
        place = f"{name}.{field.name}"
        value = convert(place, getattr(settings, field.name), field.type)
        if not dataclasses.is_dataclass(value):
            check_value(place, value, field.metadata)
        values[field.name] = value
    return type(settings)(**values)


def convert(name: str, value: Any, kind: Any) -> Any:
    """Returns `value` as the type `kind`, or raises ConfigError."""
    kinds = alternatives(kind)
    if dataclasses.is_dataclass(value) and type(value) in kinds:
        return check(value, name)
    if value is None and type(None) in kinds:
        return None
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return convert_elements(name, value, typing.get_args(kind))
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    matches = any(
        isinstance(choice, type) and isinstance(value, choice) for choice in kinds
    )
    if not matches or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"{name} = {value!r} must be {describe_type(kind)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} = {value} must be a finite number")
    return value


def convert_elements(name: str, values: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns a tuple of the type tuple[kinds], which "..." makes one of any length."""
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(values)
    elif len(kinds) != len(values):
        raise ConfigError(f"{name} = {tuple(values)} must hold {len(kinds)} values")
    # Class names like 5 come from the command line as numbers.
    return tuple(
        str(value) if kind is str else convert(f"{name}[{place}]", value, kind)
        for place, (value, kind) in enumerate(zip(values, kinds, strict=True))
    )


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Returns the types that a union allows, or the one type that `kind` is."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def describe_type(kind: Any) -> str:
    """Returns a field's type as it is written in a config file."""
    names = []
    for choice in alternatives(kind):
        inside = typing.get_args(choice)
        if typing.get_origin(choice) is tuple:
            parts = ["..." if part is ... else describe_type(part) for part in inside]
            names.append(f"tuple[{', '.join(parts)}]")
        else:
            names.append("None" if choice is type(None) else choice.__name__)
    return " | ".join(names)


def check_value(name: str, value: Any, rules: dict[str, Any]) -> None:
    """Raises ConfigError where `value` breaks the rules of its field."""
    if value is None:
        return
    values = value if isinstance(value, tuple) else (value,)
    for each in values if rules["choices"] is not None else ():
        if each not in rules["choices"]:
            raise ConfigError(unknown(name, each, rules["choices"]))
    bounds = (
        ("low", "at least", lambda number, bound: number >= bound),
        ("above", "above", lambda number, bound: number > bound),
        ("high", "at most", lambda number, bound: number <= bound),
        ("below", "below", lambda number, bound: number < bound),
    )
    for rule, words, holds in bounds:
        bound = rules[rule]
        if bound is not None and not all(holds(number, bound) for number in values):
            raise ConfigError(f"{name} = {value} must be {words} {bound}")
