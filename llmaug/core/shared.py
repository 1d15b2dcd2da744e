"""One large object for all workers of a node, in place of one in each process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llmaug.core.stage import Context

T = TypeVar("T")


def share(context: Context, make: Callable[[], T]) -> Callable[[], T]:
    """What `make` returns, made once, by one worker; whoever calls the function that comes back,
    which can be sent to workers, gets it. Its NumPy arrays are read-only views into the node's
    memory (Ray's object store), so that they are there once a node."""
    import ray

    from llmaug.core.cluster import connect

    connect(context.config.ray)

    def made() -> T:  # `ray.remote` takes functions alone
        return make()

    return _Shared(ray.remote(num_cpus=1)(made).remote())


class _Shared:
    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def __call__(self) -> Any:
        import ray

        return ray.get(self._reference)
