"""Settings: what a TOML file may say, checked before any work."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from inspect_ai.errors import BadSettings, MissingData

SHOWN = 120  # characters of a wrong value
Loc = tuple[str | int, ...]


class Settings(BaseModel):
    """Frozen values; an unknown key is refused, so a typing error never passes silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """The checked content of a TOML file.

        Raises:
            MissingData: no such file, or it may not be read.
            BadSettings: not TOML, an unknown or missing key, or a value out of range.
        """
        return cls.checked(toml(path), str(path))

    @classmethod
    def checked(cls, fields: object, where: str) -> Self:
        """Fields checked against this class; `where` names their source in the message.

        Raises:
            BadSettings: an unknown or missing key, or a value out of range.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            lines = "\n".join(f"  {_advice(cls, fault)}" for fault in error.errors())
            raise BadSettings(f"{where} has {error.error_count()} mistake(s):\n{lines}") from None

    def require_read(self, kind: str, only: Mapping[str, Sequence[str]]) -> None:
        """Refuses a setting that this kind does not read: it would be asked for in vain.

        Args:
            only: names of settings, and the kinds that alone read them.

        Raises:
            ValueError: one was set; a validator of the class calls this.
        """
        for name, kinds in only.items():
            if kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"'{name}' is of no effect with kind = '{kind}'; drop it, or use kind = "
                    f"{' or '.join(kinds)}"
                )


def toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file, unchecked.

    Raises:
        MissingData: no such file, or it may not be read.
        BadSettings: not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise MissingData(f"No file {path}. Pass the path of an existing TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path} is not a TOML file: {error}. Correct that line.") from None
    except OSError as error:
        raise MissingData(f"{path}: {error.strerror}. Pass the path of a TOML file.") from None


def _advice(cls: type[BaseModel], fault: ErrorDetails) -> str:
    """One pydantic fault as: key, what was given, what is needed."""
    parts, beside = _walk(cls, fault["loc"])
    key = ".".join(parts) or "(the whole file)"
    if fault["type"] == "extra_forbidden":
        return f"'{key}': unknown key. Known keys beside it: {', '.join(beside)}"
    if fault["type"] == "missing":
        return f"'{key}': missing. Add it."
    if fault["type"] == "union_tag_not_found":
        tags = sorted(tag for model in _models_at(cls, fault["loc"]) for tag in _tags(model))
        which = fault["ctx"]["discriminator"].strip("'")
        return f"'{key}.{which}': missing. Add it: one of {', '.join(tags)}."
    given = repr(fault["input"])
    return (
        f"'{key}': {fault['msg']}, got {given if len(given) <= SHOWN else given[:SHOWN] + ' ...'}"
    )


def _walk(cls: type[BaseModel], loc: Loc) -> tuple[list[str], list[str]]:
    """A fault's place as keys of the TOML file, and the keys allowed beside the last one.

    pydantic names the member of a union in the place as if it were a key; it is left out.
    """
    keys, models = list[str](), [cls]
    for depth, part in enumerate(loc):
        if depth and (chosen := [m for m in models if part in (m.__name__, *_tags(m))]):
            models = chosen
            continue
        keys.append(str(part))
        if depth < len(loc) - 1:
            models = _inner(models, part)
    return keys, sorted({name for model in models for name in model.model_fields})


def _models_at(cls: type[BaseModel], loc: Loc) -> list[type[BaseModel]]:
    models = [cls]
    for part in loc:
        models = _inner(models, part)
    return models


def _inner(models: list[type[BaseModel]], part: str | int) -> list[type[BaseModel]]:
    """The settings that may stand under a key; for a place in a list, those of the list."""
    if isinstance(part, int):
        return models
    fields = [model.model_fields[part] for model in models if part in model.model_fields]
    return [found for field in fields for found in _settings_in(field.annotation)]


def _settings_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _settings_in(part)]


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    """What `kind` or `rule` may be in this member of a union."""
    field = model.model_fields.get("rule") or model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()
