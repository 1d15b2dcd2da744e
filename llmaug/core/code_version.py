"""Which code the result of a stage depends on: what its module imports, and what that imports.

Read from the sources, not from what is loaded: worker code brings torch and vLLM, ten seconds
that only a worker has to spend. Counted is what the code does: comments, docstrings and line
breaks may change. Of a plug-in the modules of its own package count as those of `llmaug` do. The
packages that either is built on do not: their versions are for whoever runs the job to keep.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

from llmaug import __version__
from llmaug.config import BEHAVIOUR_MODELS, FILTERS, RECOMMENDERS
from llmaug.core.objects import digest

PACKAGE = "llmaug"

# Not followed: no edit here makes the result of a finished stage another one.
CUT = {
    "llmaug.api": "calls the stages; no stage calls it",
    "llmaug.config": "its values are in the fingerprint",
    "llmaug.errors": "words of refusals: a stage that refuses has no result",
    "llmaug.urls": "which addresses are refused",
    "llmaug.core.cluster": "where the work is done, not which",
    "llmaug.core.code_version": "what is done again, not how",
    "llmaug.core.contract": "checks figures before they are written",
    "llmaug.core.formats": "how files of earlier versions are read",
    "llmaug.core.contents": "lists and checks files that were written",
    "llmaug.core.folders": "copies files as they are",
    "llmaug.core.gpus": "where the work is done, not which",
    "llmaug.core.lease": "who may write",
    "llmaug.core.model_files": "hands a folder of files on as it was written, or refuses it",
    "llmaug.core.model_sources": "what is done again, not how",
    "llmaug.core.node_types": "where the work is done, not which",
    "llmaug.core.objects": "puts bytes where they are sent; does not make them",
    "llmaug.core.parts": "puts tables where they are sent; does not make them",
    "llmaug.core.placing": "where the work is done, not which",
    "llmaug.core.progress": "shows",
    "llmaug.core.refusals": "words of refusals",
    "llmaug.core.s3": "how bytes travel",
    "llmaug.ingest.complete": "when a run begins, not what it makes",
    "llmaug.core.shared": "where an object lies, not which",
    "llmaug.core.source_digests": "what is done again, not how",
    "llmaug.core.stage": "what is done again, and spreads the parts",
    "llmaug.core.storage": "puts bytes where they are sent; does not make them",
    "llmaug.core.stored": "reads JSON back, or refuses it",
    "llmaug.core.terminal": "shows",
    "llmaug.generate.counts": "checks figures before they are written",
    "llmaug.ingest.counts": "checks figures before they are written",
    "llmaug.plan.counts": "checks figures before they are written",
    "llmaug.text.stages": "says of each stage what it is made of, and makes nothing",
}

# A night has one or two of each kind. Code that serves all of them imports them all, and one that
# the config does not ask for changes nothing: they are followed from there only where a stage
# names them as its roots, and always from one to another. Of a behaviour model it is the package
# that trains it.
CHOSEN = tuple(sorted(
    {kind.implementation.partition(":")[0] for kind in (*RECOMMENDERS, *FILTERS)}
    | {kind.training.partition(":")[0].rpartition(".")[0] for kind in BEHAVIOUR_MODELS}
))  # fmt: skip


def code_version(roots: Iterable[str], package: Traversable | None = None) -> str:
    """Version of the package, and digest of the code that `roots`, names of modules, reach.

    A root that is a package stands for those of its modules that are reached. package: the folder
    of `llmaug`; default: the one that runs.
    """
    found = reached(roots, package)
    return f"{__version__}+{digest(sorted(found.items()))[:8]}"


def reached(roots: Iterable[str], package: Traversable | None = None) -> dict[str, str]:
    """{module: digest of what it does} of the `roots` and of all modules that they import, at
    whatever depth: at the top or in a function, but not for type checkers alone. Followed are
    imports of `llmaug`, and those of a plug-in from its own package."""
    home: Any = package or files(PACKAGE)
    roots = tuple(roots)
    code: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module in code:
            continue
        source = _source(module, home) or _loaded(module)
        code[module], names = _read(source, _top(module))
        for name in names:
            # `from package import module`, or `from module import name`
            imported = name if _is_there(name, home) else name.rpartition(".")[0]
            if _is_followed(imported, module, roots) and _is_there(imported, home):
                waiting.append(imported)
    return code


def _is_followed(imported: str, importer: str, roots: tuple[str, ...]) -> bool:
    if _within(imported, CUT):
        return False
    by_all = _within(importer, [PACKAGE]) and not _within(importer, CHOSEN)
    return not (by_all and _within(imported, CHOSEN)) or _within(imported, roots)


def _within(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _top(module: str) -> str:
    return module.partition(".")[0]


class _Source(NamedTuple):
    text: str | bytes
    """bytes: compiled."""
    package: str
    """What its relative imports are relative to."""


def _is_there(module: str, home: Any) -> bool:
    own = _top(module) == PACKAGE
    return (_file(module, home) if own else _spec(module)) is not None


def _source(module: str, home: Any) -> _Source | None:
    """Of a module of `llmaug` in `home`, or of one from elsewhere; None where it has no file."""
    if _top(module) != PACKAGE:
        return _source_elsewhere(module)
    file = _file(module, home)
    if file is None:
        return None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return _Source(file.read_text(encoding="utf-8"), package)


@cache
def _file(module: str, home: Any) -> Any:
    """Of a module of the package in `home`, a Traversable; None where there is no such module."""
    _, *steps = module.split(".")
    folder = home.joinpath(*steps)
    own = home.joinpath(*steps[:-1], f"{steps[-1]}.py") if steps else folder / "__init__.py"
    return next((file for file in (own, folder / "__init__.py") if file.is_file()), None)


def _source_elsewhere(module: str) -> _Source | None:
    spec = _spec(module)
    if spec is None:
        return None
    if spec.loader is None:  # a folder without __init__.py
        return _Source("", module)
    text: str | bytes | None = getattr(spec.loader, "get_source", lambda name: None)(module)
    if text is None and spec.has_location and spec.origin:
        text = Path(spec.origin).read_bytes()
    return None if text is None else _Source(text, spec.parent or "")


def _spec(module: str) -> ModuleSpec | None:
    """Where an import would find a module; none of its package is run for it."""
    top, *steps = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a script: __main__ has none
        return None
    for step in steps:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{spec.name}.{step}"
        finders = map(pkgutil.get_importer, spec.submodule_search_locations)
        found = [finder.find_spec(name) for finder in finders if finder]
        spec = next((each for each in found if each), None)
    return spec


def _loaded(module: str) -> _Source:
    """Of a module that has no file where an import looks: a script."""
    return _Source(inspect.getsource(import_module(module)), "")


@cache
def _read(source: _Source, top: str) -> tuple[str, tuple[str, ...]]:
    """Digest of what a module does, and the names that it imports from `llmaug` and below `top`."""
    if isinstance(source.text, bytes):
        return digest(source.text), ()
    tree = ast.parse(source.text)
    names = (name for name in _imports(tree, source.package) if _within(name, [PACKAGE, top]))
    return digest(_plain(tree).encode()), tuple(dict.fromkeys(names))


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if node.level:
                module = importlib.util.resolve_name(module, package)
            yield from (f"{module}.{alias.name}" for alias in node.names)
        else:
            yield from _imports(node, package)


def _plain(tree: ast.Module) -> str:
    """The tree without docstrings and empty lists, of which other versions of Python have more."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [inner for inner in node.body if not _is_text(inner)]
    return re.sub(r"(, )?\w+=\[\]", "", ast.dump(tree))


def _is_text(node: ast.stmt) -> bool:
    """A docstring, of a field too."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
