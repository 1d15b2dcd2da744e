"""Which code the result of a stage depends on: what its module imports, and what that imports.

Read from the sources, not from what is loaded: worker code brings torch and vLLM, ten seconds
that only a worker has to spend. Counted is what the code does: comments, docstrings and line
breaks may change.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from llmaug import __version__
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
    "llmaug.core.lease": "who may write",
    "llmaug.core.model_files": "hands a folder of files on as it was written, or refuses it",
    "llmaug.core.model_sources": "what is done again, not how",
    "llmaug.core.objects": "puts bytes where they are sent; does not make them",
    "llmaug.core.parts": "puts tables where they are sent; does not make them",
    "llmaug.core.progress": "shows",
    "llmaug.core.refusals": "words of refusals",
    "llmaug.core.s3": "how bytes travel",
    "llmaug.core.source_digests": "what is done again, not how",
    "llmaug.core.stage": "what is done again, and spreads the parts",
    "llmaug.core.storage": "puts bytes where they are sent; does not make them",
    "llmaug.core.stored": "reads JSON back, or refuses it",
    "llmaug.core.terminal": "shows",
    "llmaug.generate.counts": "checks figures before they are written",
    "llmaug.ingest.counts": "checks figures before they are written",
    "llmaug.plan.counts": "checks figures before they are written",
}

# A night has one or two of each. Code that serves all of a kind imports them all, and one that
# the config does not ask for changes nothing: they are followed from there only where a stage
# names them as its roots, and always from one to another.
CHOSEN = (
    "llmaug.recommenders.ease",
    "llmaug.recommenders.linear",
    "llmaug.recommenders.popularity",
    "llmaug.recommenders.sasrec",
    "llmaug.recommenders.two_tower",
    "llmaug.lm.causal",
    "llmaug.lm.chat",
    "llmaug.lm.masked",
    "llmaug.lm.ngram",
    "llmaug.filter.rules",
)


def code_version(roots: Iterable[str], package: Traversable | None = None) -> str:
    """Version of the package, and digest of the code that `roots`, names of modules, reach.

    A root that is a package stands for those of its modules that are reached. package: the folder
    of `llmaug`; default: the one that runs.
    """
    found = reached(roots, package)
    return f"{__version__}+{digest(sorted(found.items()))[:8]}"


def reached(roots: Iterable[str], package: Traversable | None = None) -> dict[str, str]:
    """{module: digest of what it does} of the `roots` and of all modules of the package that they
    import, at whatever depth: at the top or in a function, but not for type checkers alone."""
    home: Any = package or files(PACKAGE)
    roots = tuple(roots)
    code: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module in code:
            continue
        code[module], names = _read(_source(module, home))
        for name in names:
            # `from package import module`, or `from module import name`
            imported = name if _file(name, home) else name.rpartition(".")[0]
            if not _within(imported, CUT) and _is_asked_for(imported, module, roots):
                waiting.append(imported)
    return code


def _is_asked_for(imported: str, importer: str, roots: tuple[str, ...]) -> bool:
    return not _within(imported, CHOSEN) or _within(importer, CHOSEN) or _within(imported, roots)


def _within(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _source(module: str, home: Any) -> str:
    """Of a module of the package, or of one from elsewhere that brings a stage."""
    if file := _file(module, home):
        return file.read_text(encoding="utf-8")
    return inspect.getsource(import_module(module))


@cache
def _file(module: str, home: Any) -> Any:
    """Of a module of the package in `home`, a Traversable; None where there is no such module."""
    top, *steps = module.split(".")
    if top != PACKAGE:
        return None
    folder = home.joinpath(*steps)
    own = home.joinpath(*steps[:-1], f"{steps[-1]}.py") if steps else folder / "__init__.py"
    return next((file for file in (own, folder / "__init__.py") if file.is_file()), None)


@cache
def _read(source: str) -> tuple[str, tuple[str, ...]]:
    """Digest of what a module does, and the names below the package that it imports."""
    tree = ast.parse(source)
    return digest(_plain(tree).encode()), tuple(dict.fromkeys(_imports(tree)))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _within(alias.name, [PACKAGE]))
        elif isinstance(node, ast.ImportFrom) and _within(node.module or "", [PACKAGE]):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from _imports(node)


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
