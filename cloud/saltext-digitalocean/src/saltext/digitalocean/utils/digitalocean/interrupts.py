"""Removing what would go on being paid, whatever signal comes meanwhile."""

import contextlib
import signal


@contextlib.contextmanager
def undisturbed():
    """
    Without SIGINT and SIGTERM, for as long as something is removed that would go on being paid:
    Ctrl-C comes to every worker of a map, and their parent ends them by SIGTERM on top.
    """
    try:
        before = {
            one: signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:
        # Not in the main thread, where no signal arrives.
        before = {}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
