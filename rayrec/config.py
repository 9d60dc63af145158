"""Configs: frozen pydantic models from YAML and `--set a.b=c`; an unknown key is an error naming the nearest one."""

import difflib
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rayrec.storage import read_bytes

Config = TypeVar("Config", bound=BaseModel)


def load_config(kind: type[Config], path: str | None, overrides: Iterable[str] = ()) -> Config:
    """Reads a YAML file, applies overrides, validates.

    Args:
        kind: the pydantic model to build.
        path: URI of a YAML mapping, or None for defaults alone.
        overrides: `a.b=value` strings; the value is parsed as YAML, in a list of the file a number in the path counts
            and a name finds what has it.

    Raises:
        ValueError: the file or a key or a value is wrong; one line with the remedy.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = _parse(path, read_bytes(path))
        except FileNotFoundError:
            raise ValueError(f"no config file at {path!r}; expected a YAML file, for example jobs/configs/") from None
        if not isinstance(loaded, Mapping):
            raise ValueError(f"{path} holds a {type(loaded).__name__}; expected a mapping of config keys")
        values = dict(loaded)
    for override in overrides:
        _apply(values, override)
    return load_values(kind, values)


def load_values(kind: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    """Validates what a config file would hold.

    Args:
        kind: the pydantic model to build.
        values: by key.
        prefix: of the keys in messages, such as `train.`.

    Raises:
        ValueError: a key or a value is wrong; one line with the remedy.
    """
    _refuse_unknown(kind, values, prefix)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = prefix + ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":
            raise ValueError(f"config{f' section {key!r}' if key else ''}: {first['ctx']['error']}") from None
        seen = "" if first["type"] == "missing" else f", seen {first['input']!r}"
        raise ValueError(f"config key {key!r}: {first['msg']}{seen}") from None


def _parse(name: str, text: str | bytes) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())}") from None


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"--set {override!r} has no '='; expected key=value, for example train.zero_stage=1")
    shown = f"--set {override!r}"
    put(values, key, _parse(shown, text), shown)


def put(values: dict[str, Any], key: str, value: Any, shown: str) -> None:
    """Sets one key among the values of a config file.

    Args:
        values: changed in place.
        key: its path, with dots; in a list a place counts from 0, and a `name` finds what has it.
        value: to set.
        shown: what messages call it.

    Raises:
        ValueError: the path leads through what is no section.
    """
    *parents, last = key.split(".")
    section: Any = values
    for parent in parents:
        section = _child(section, parent, shown)
    if isinstance(section, list):
        section[_place(section, last, shown)] = value
    else:
        section[last] = value


def _child(section: Any, part: str, shown: str) -> Any:
    if isinstance(section, list):
        return section[_place(section, part, shown)]
    child = section.setdefault(part, {})
    if not isinstance(child, dict | list):
        raise ValueError(f"{shown}: {part!r} is {child!r}, not a section")
    return child


def _place(section: list[Any], part: str, shown: str) -> int:
    names = [one.get("name") for one in section if isinstance(one, Mapping)]
    if part in names:
        return names.index(part)
    if not part.isdigit() or int(part) >= len(section):
        raise ValueError(f"{shown}: {part!r} is no place in a list of {len(section)}; count from 0, or give a name")
    return int(part)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for option in get_args(annotation) for section in _sections(option)]


def _refuse_unknown(kind: type[BaseModel], values: Mapping[str, Any], prefix: str) -> None:
    for key, value in values.items():
        field = kind.model_fields.get(key)
        if field is None:
            near = difflib.get_close_matches(str(key), kind.model_fields, n=1, cutoff=0.4)
            hint = f"did you mean {prefix + near[0]!r}?" if near else f"known: {', '.join(sorted(kind.model_fields))}"
            raise ValueError(f"unknown config key {f'{prefix}{key}'!r}; {hint}")
        several = isinstance(value, list)
        for index, part in enumerate(value if several else [value]):
            sections = _sections(field.annotation)
            if isinstance(field.discriminator, str) and isinstance(part, Mapping):
                wanted = part.get(field.discriminator)
                sections = [
                    section
                    for section in sections
                    if wanted in get_args(section.model_fields[field.discriminator].annotation)
                ]
            if isinstance(part, Mapping) and len(sections) == 1:
                _refuse_unknown(sections[0], part, f"{prefix}{key}.{index}." if several else f"{prefix}{key}.")


def is_refusal(error: ValueError) -> bool:
    """Whether our own code raised it: a user's mistake. One from inside a library is a failure to be shown whole."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).split(".")[0] == "rayrec"
