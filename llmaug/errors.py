"""The one exception whose message is written for the person who runs the job."""

from __future__ import annotations

from llmaug.urls import redacted


class UserError(ValueError):
    """Something the user can mend: names the thing (file, row, field) and the fix.

    The CLI prints the message without a traceback and exits with 1.
    """

    def __init__(self, message: str) -> None:
        message = redacted(message)
        super().__init__(message)
        self.message = message  # Ray Data appends hints for developers to `args`


class Interrupted(UserError):
    """A signal ended the run in good order; the message says how to go on. Exit code 130."""


def find_user_error(error: BaseException) -> UserError | None:
    """The UserError inside `error`, or None.

    Ray wraps what a task raises, several layers deep, in `cause` and `__cause__`.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        # Ray's own wrapper is a UserError too, with a traceback for its text: look inside.
        if type(current) is UserError:
            return UserError(current.message)
        seen.add(id(current))
        failures = getattr(current, "worker_failures", None) or {}
        queue += [getattr(current, "cause", None), current.__cause__, current.__context__]
        queue += [getattr(current, "training_failed_error", None), *failures.values()]
    return None
