"""One file per model; the file's name is the model's name in a run file.

To add a model, add `models/<name>.py` with a `Config` whose `build(channels, grid)` gives a
`Model`. There is no list to extend: the contract tests find it too.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from inspect_ai.errors import UnknownModel
from inspect_ai.settings import Settings


def names() -> list[str]:
    """All model names, sorted."""
    return sorted(module.name for module in iter_modules(__path__))


def config(name: str, fields: dict[str, Any], where: str = "[model]") -> Settings:
    """The checked config of one model; it has a `build(channels, grid)`.

    Raises:
        UnknownModel: no file of that name.
        BadSettings: a field is unknown, missing or out of range.
    """
    if name not in names():
        raise UnknownModel(f"No model '{name}'. Known models: {', '.join(names())}")
    kind: type[Settings] = import_module(f"{__name__}.{name}").Config
    return kind.checked(fields, where)
