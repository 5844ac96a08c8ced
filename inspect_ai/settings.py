"""Settings: what a TOML file may say, checked before any work."""

import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from inspect_ai.errors import BadSettings, MissingData


class Settings(BaseModel):
    """Frozen values; an unknown key is refused, so a typing error never passes silently."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """The checked content of a TOML file.

        Raises:
            MissingData: no such file.
            BadSettings: not TOML, an unknown or missing key, or a value out of range.
        """
        try:
            fields = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MissingData(f"No file {path}. Pass the path of an existing TOML file.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
            raise BadSettings(f"{path} is not a TOML file: {error}. Correct that line.") from None
        return cls.checked(fields, str(path))

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


def _advice(cls: type[BaseModel], fault: object) -> str:
    """One pydantic fault as: key, what was given, what is needed."""
    assert isinstance(fault, dict)
    key = ".".join(str(part) for part in fault["loc"]) or "(the whole file)"
    if fault["type"] == "extra_forbidden":
        return f"'{key}': unknown key. Known keys beside it: {', '.join(_siblings(cls, fault['loc']))}"
    if fault["type"] == "missing":
        return f"'{key}': missing. Add it."
    return f"'{key}': {fault['msg']}, got {fault['input']!r}"


def _siblings(cls: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Keys allowed where an unknown one was found, as far as plain nesting tells."""
    for part in loc[:-1]:
        field = cls.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        cls = inner
    return sorted(cls.model_fields)
