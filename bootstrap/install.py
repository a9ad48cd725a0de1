"""Install a hash-locked list of packages into a virtual environment, Salt's source among them.

    ENV/bin/python install.py LOCK [--wheels DIR]

Salt is published as source only. Its build backend comes from the same lock and Salt is built
without build isolation, so that nothing unlocked is ever fetched: first all the rest, then Salt.
Every package is checked against the lock's hashes; with --wheels they come from DIR and no index
is asked. Exits as pip does.
"""

import os
import re
import subprocess
import sys
import tempfile


def main():
    lock = sys.argv[1]
    source = ["--no-index", "--find-links", sys.argv[3]] if sys.argv[2:3] == ["--wheels"] else []
    with open(lock, encoding="utf-8") as file:
        blocks = re.split(r"(?m)^(?=[a-z0-9])", file.read())
    # Byte-compiling is the caller's business, all at once.
    pip = [sys.executable, "-Im", "pip", "--disable-pip-version-check", "install", "--quiet"]
    pip += ["--no-user", "--require-hashes", "--no-deps", "--no-compile", *source]
    salt = [block for block in blocks if block.startswith("salt==")]
    for chosen, extra in (
        ([b for b in blocks if b not in salt], []),
        (salt, ["--no-build-isolation"]),
    ):
        if not chosen:
            continue
        with tempfile.NamedTemporaryFile("w", suffix=".lock", encoding="utf-8") as part:
            part.writelines(chosen)
            part.flush()
            code = subprocess.run(
                [*pip, *extra, "-r", part.name], env={**os.environ}, check=False
            ).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
