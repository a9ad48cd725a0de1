"""
The clock, as the kernel's NTP discipline sees it (adjtimex(2)); no daemon is asked, so it serves
whichever there is.
"""

import ctypes

STA_UNSYNC = 0x0040
STA_NANO = 0x2000


class Timex(ctypes.Structure):
    """struct timex of <sys/timex.h>; what follows `tick` is not looked at."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def read(settings):
    libc = ctypes.CDLL(None, use_errno=True)
    now = Timex()
    if libc.adjtimex(ctypes.byref(now)) < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")
    unit = 1e9 if now.status & STA_NANO else 1e6
    yield "offset_seconds", now.offset / unit
    yield "maxerror_seconds", now.maxerror / 1e6
    # A container's clock is its host's business.
    if settings["own"]:
        yield "synchronised", 0 if now.status & STA_UNSYNC else 1
