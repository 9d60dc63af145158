"""Configs: frozen pydantic models from YAML and `--set a.b=c`; an unknown key is an error that names the nearest one."""

import difflib
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
        overrides: `a.b=value` strings; the value is parsed as YAML.

    Raises:
        ValueError: the file or a key or a value is wrong; one line with the remedy.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(read_bytes(path))
        except FileNotFoundError:
            raise ValueError(f"no config file at {path!r}; expected a YAML file, for example jobs/configs/") from None
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(loaded, Mapping):
            raise ValueError(f"{path} holds a {type(loaded).__name__}; expected a mapping of config keys")
        values = dict(loaded)
    for override in overrides:
        _apply(values, override)
    _refuse_unknown(kind, values, "")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        seen = "" if first["type"] == "missing" else f", seen {first['input']!r}"
        raise ValueError(f"config key {key or '(root)'!r}: {first['msg']}{seen}") from None


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"--set {override!r} has no '='; expected key=value, for example train.epochs=3")
    *parents, last = key.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ValueError(f"--set {override!r}: {parent!r} is {child!r}, not a section")
        values = child
    values[last] = yaml.safe_load(text)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    options = get_args(annotation) or (annotation,)
    return [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]


def _refuse_unknown(kind: type[BaseModel], values: Mapping[str, Any], prefix: str) -> None:
    for key, value in values.items():
        field = kind.model_fields.get(key)
        if field is None:
            near = difflib.get_close_matches(key, kind.model_fields, n=1, cutoff=0.4)
            hint = f"did you mean {prefix + near[0]!r}?" if near else f"known: {', '.join(sorted(kind.model_fields))}"
            raise ValueError(f"unknown config key {prefix + key!r}; {hint}")
        sections = _sections(field.annotation)
        if isinstance(value, Mapping) and len(sections) == 1:
            _refuse_unknown(sections[0], value, f"{prefix}{key}.")
