"""
What to say of a name that is not known. Loaded by Salt (``__utils__``), and by path by the controller and by
pillar/topology_check.py.
"""

import difflib


def nearest(value, known, cutoff=0.6):
    """The known name that ``value`` was meant to be, or None."""
    return next(iter(difflib.get_close_matches(str(value), known, 1, cutoff)), None)


def hint(value, known, label="known"):
    """``did you mean NAME?``, or where none is near ``LABEL: NAME, NAME``."""
    near = nearest(value, known)
    return f"did you mean {near}?" if near else f"{label}: {', '.join(known)}"
