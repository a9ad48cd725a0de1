"""
Archives of others, unpacked so that nothing is written elsewhere. Loaded by Salt (``__utils__``), and by path by the controller.
"""

import os
import tarfile


def extract(archive, members, folder):
    """
    The ``members`` of a tar archive under ``folder``, owned by who unpacks it; TarError before the
    first one is written when any is not a plain file or folder inside of it. Python 3.11.2 of
    Debian 12 has no extraction filters (PEP 706), so what they refuse is refused here.
    Byte code of Python stays behind: it would be run in place of the sources that it lies beside.
    """
    for member in members:
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise tarfile.TarError(f"member {member.name!r} is outside of the archive's own folder")
        if not member.isfile() and not member.isdir():
            raise tarfile.TarError(f"member {member.name!r} is neither a file nor a folder")
        member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
        member.mode = 0o755 if member.isdir() else (member.mode | 0o600) & 0o755
    members = [member for member in members if "__pycache__" not in member.name.split("/")]
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    archive.extractall(folder, members, **safe)
