"""Classes and modules that a configuration names: looked at as text, imported only if they fit.

A configuration can be a stranger's, and importing a module runs it: any that is installed, and of
a package's the packages that it lies in. So before it is imported, a module's source must show that
it was made for us.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from rlhydra.schema import ConfigError

REGISTRY = b"gymnasium"  # what the source of a module names that registers environments


def settings_class(
    target: str, base: type[Any], where: str, namespace: Mapping[str, Any]
) -> type[Any]:
    """Return the dataclass `<Class>Config` that stands beside the class `target`.

    It is read from the module's source where the module is not loaded yet: importing an agent
    imports torch, which takes 1.5 s, and a wrong command line must end sooner. A class statement
    that needs more than the names in `namespace` is had by importing its module after all.

    Raises:
        ConfigError: where there is none that extends `base`.
    """
    module, _, name = target.rpartition(".")
    found = None
    if module not in sys.modules:
        found = _read_class(_fitting_source(target, where), f"{name}Config", namespace)
    if found is None:
        found = getattr(_import(target, where), f"{name}Config", None)
    if not (isinstance(found, type) and issubclass(found, base)):
        problem = f"{module} needs a dataclass {name}Config that extends {base.__name__}"
        raise ConfigError(where, problem)
    return found


def target_class(target: str, base: type[Any]) -> type[Any]:
    """Import the class `target`; only subclasses of our own extension points are accepted.

    Raises:
        ConfigError: where it is anything else.
    """
    found = getattr(_import(target, "_target_"), target.rpartition(".")[2], None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError("_target_", f"{target} is not a subclass of {base.__name__}")
    return found


def check_registers(module: str) -> None:
    """Raise ImportError unless `module`, or the package that it is, names Gymnasium somewhere."""
    if module in sys.modules:
        return
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(f"No module named {module!r}")
    package = path.name == "__init__.py"
    sources = (path, *(sorted(path.parent.rglob("*.py")) if package else ()))
    if not any(REGISTRY in source.read_bytes() for source in sources):
        raise ImportError(f"{module} registers no environments: it does not name Gymnasium")


def _import(target: str, where: str) -> Any:
    module = target.rpartition(".")[0]
    if module not in sys.modules:
        _fitting_source(target, where)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(where, f"cannot import {module}: {error}") from error


def _fitting_source(target: str, where: str) -> str:
    """Return the source of the module of the class `target`, which defines it and its settings."""
    module, _, name = target.rpartition(".")
    path = _path(module)
    if path is None:
        raise ConfigError(where, f"there is no module {module}")
    source = path.read_text(encoding="utf-8") if path.suffix == ".py" else ""
    missing = {name, f"{name}Config"} - set(_bound(source))
    if missing:
        problem = f"{module} defines no {' and no '.join(sorted(missing))}"
        raise ConfigError(where, f"{problem}: give package.module.Class")
    return source


def _bound(source: str) -> Iterator[str]:
    """Yield the names that `source` gives to what can be a class."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in statement.names)
        elif isinstance(statement, ast.Assign):
            yield from (node.id for node in statement.targets if isinstance(node, ast.Name))


def _path(module: str) -> Path | None:
    """Return the file of a module, found without importing what it lies in."""
    places: list[str] | None = None  # where to look for the next part of the name
    path = None
    parts = module.split(".")
    for number, part in enumerate(parts, 1):
        spec = _spec(".".join(parts[:number]), places)
        if spec is not None and spec.origin is not None:
            path, places = Path(spec.origin), spec.submodule_search_locations
        else:  # a folder without a file of its own
            around = sys.path if places is None and number == 1 else places or ()
            folders = (Path(place) / part for place in around)
            path, places = None, [str(folder) for folder in folders if folder.is_dir()]
        if not places and number < len(parts):
            break
    else:
        if path is not None and path.is_file():
            return path
    return None


def _spec(module: str, places: list[str] | None) -> ModuleSpec | None:
    if module in sys.modules:
        return sys.modules[module].__spec__
    if places is None and "." in module:
        return None
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(module, places)
        except KeyError:  # a folder in one that is not imported
            continue
        if spec is not None:
            return spec
    return None


def _read_class(source: str, name: str, namespace: Mapping[str, Any]) -> type[Any] | None:
    statements: list[ast.stmt] = [
        s for s in ast.parse(source).body if isinstance(s, ast.ClassDef) and s.name == name
    ]
    names = dict(namespace)
    try:
        exec(compile(ast.Module(statements, []), name, "exec", dont_inherit=True), names)
    except NameError:
        return None
    return names.get(name)


def import_nothing_from(folder: Path) -> None:
    """Take `folder` out of the module path: nothing in it is code, whoever made it."""
    sys.path[:] = [path for path in sys.path if not Path(path).resolve().is_relative_to(folder)]
