"""Runs a command in a child process where memory is limited, and says what the child dies of.

Libraries of native code crash or end their process where the system refuses them memory, and now
and then wait for a thread that could not begin. Only another process can tell.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_GRACE = 30
"""Seconds for the child to end after it was asked to."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

ADVICE = "raise the limit of address space (ulimit -v)"


def is_limited() -> bool:
    """Whether this process has a limit of address space (`ulimit -v`)."""
    try:
        import resource
    except ImportError:  # on Windows
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def guarded(name: str, run: Callable[[], int]) -> int:
    """Run a command in a child process.

    Args:
        name: of the command, for messages.
        run: the command; gives its exit code.

    Returns:
        Its exit code; 2 if it crashed, after a line that says so; 128 plus the number of a signal
        that ended it.
    """
    outlet, inlet = os.pipe()
    # None is lost before it can be forwarded.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(outlet)
        _report(inlet, name, run)
    os.close(inlet)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        os.kill(child, number)
        signal.alarm(_GRACE)

    signal.signal(signal.SIGALRM, lambda number, frame: os.kill(child, signal.SIGKILL))
    for number in _SIGNALS:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    # A signal just before a read would not end it; here it leaves something to read.
    while outlet not in select.select([outlet, wake], [], [])[0]:
        os.read(wake, 1)
    with open(outlet, "rb") as file:
        answer = file.read()
    _, status = os.waitpid(child, 0)
    if answer:
        return answer[0]
    if received:
        return 128 + received[0]
    if os.WIFSIGNALED(status):
        end = f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    else:
        end = f"ended with code {os.WEXITSTATUS(status)}"
    print(f"{name}: {end}, as libraries do without memory; {ADVICE}", file=sys.stderr)
    return 2


def _report(inlet: int, name: str, run: Callable[[], int]) -> None:
    """Run, send the exit code, and end this process without any farewell of the libraries."""
    code = 2
    try:
        code = run()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception as error:  # whatever does without memory, it ends here
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"{name}: {reason}; {ADVICE}", file=sys.stderr)
    finally:
        with suppress(OSError):  # of a pipe that nobody reads
            sys.stdout.flush()
        os.write(inlet, bytes([code]))
        os._exit(code)


@contextmanager
def hushed() -> Iterator[None]:
    """Silence what libraries say on standard error while they are loaded."""
    before = os.dup(2)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
