"""Of a plug-in the modules of its own package count, and those of `llmaug` that it imports."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmaug.core.code_version import code_version, reached

SOURCES = {
    "shop/__init__.py": "raise AssertionError('nothing of a plug-in is run to read it')",
    "shop/models.py": """
from . import weights
from .deep.rows import ROWS
from llmaug.recommenders.sasrec import SASRec
import shop.late_binding
import numpy as np
import shop_of_others.models
try:
    from shop.fast import solve
except ImportError:
    solve = None
""",
    "shop/weights.py": "def late():\n    from .deep import columns",
    "shop/late_binding.py": "if TYPE_CHECKING:\n    from shop import unrelated",
    "shop/unrelated.py": "",
    "shop/deep/rows.py": "from ..weights import late\nROWS = 3",  # deep has no __init__.py
    "shop/deep/columns.py": "COLUMNS = 4",
    "shop_of_others/__init__.py": "",
    "shop_of_others/models.py": "",
}
ROOT = "shop.models"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    assert not [name for name in sys.modules if name.partition(".")[0] == "shop"]


def test_helpers_of_its_package_are_found_and_no_others(shop: Path) -> None:
    found = {name for name in reached([ROOT]) if not name.startswith("llmaug")}
    used = {"shop.weights", "shop.late_binding", "shop.deep.rows", "shop.deep.columns"}
    assert found == {ROOT, *used}


def test_what_it_takes_from_llmaug_counts_a_kind_too(shop: Path) -> None:
    """One that inherits a kind that comes with llmaug is decided by the code of that."""
    assert "llmaug.recommenders.sasrec" in reached([ROOT])


@pytest.mark.parametrize(
    ("edited", "counts"),
    [
        ("shop/models.py", True),
        ("shop/deep/columns.py", True),
        ("shop/weights.py", True),
        ("shop/unrelated.py", False),
        ("shop_of_others/models.py", False),
    ],
)
def test_an_edit_of_a_helper_counts(shop: Path, edited: str, counts: bool) -> None:
    before = code_version([ROOT])
    path = shop / edited
    path.write_text(f"{path.read_text(encoding='utf-8')}\n# why\n", encoding="utf-8")
    assert code_version([ROOT]) == before
    path.write_text(f"{path.read_text(encoding='utf-8')}\nedited = 1\n", encoding="utf-8")
    assert (code_version([ROOT]) != before) == counts


def test_it_may_lie_in_an_archive_or_be_compiled(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = reached([ROOT])
    (shop / "shop" / "deep" / "__init__.py").touch()  # archives need one
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", shop)
    assert "shop/models.py" in zipfile.ZipFile(archive).namelist()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [archive, *(p for p in sys.path if p != str(shop))])
        assert reached([ROOT]) == there
    module = shop / "shop" / "deep" / "columns"
    module.with_suffix(".py").rename(module.with_suffix(".so"))
    versions = set()
    for content in (b"\x7fELF 1", b"\x7fELF 2"):
        module.with_suffix(".so").write_bytes(content)
        versions.add(reached(["shop.deep.columns"])["shop.deep.columns"])
    assert len(versions) == 2


def test_a_module_that_is_nowhere_is_an_error(shop: Path) -> None:
    with pytest.raises(ImportError):
        reached(["shop_that_is_nowhere.models"])
