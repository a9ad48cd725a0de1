"""
The exit code of a ``salt-cloud`` some of whose machines failed.

Of a map, or of several names, salt-cloud tells a failure in its answer alone and ends with 0
(salt/cloud/cli.py). What the driver knows to have failed, here or in a worker, ends it with 1.
"""

import atexit
import logging
import multiprocessing
import multiprocessing.util
import os
import sys

_failed = None


def is_command():
    """Whether this process is ``salt-cloud``, and not one that lives longer, such as a master."""
    return os.path.basename(sys.argv[0]).startswith("salt-cloud")


def watch():
    """Before workers are forked: they share what is noted from now on."""
    global _failed
    if _failed is None and is_command():
        _failed = multiprocessing.Value("b", 0)
        atexit.register(_end, os.getpid())


def failed():
    """Note that a machine failed."""
    if _failed is not None:
        _failed.value = 1


def _end(pid):
    if _failed.value and os.getpid() == pid:
        # What is left to do at the end of an interpreter that os._exit does not reach.
        multiprocessing.util._exit_function()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
