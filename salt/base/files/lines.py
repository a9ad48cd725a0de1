"""Whether every line of a file looks as it must, for files whose programs have no check.

    lines.py FILE REGEX

Blank lines and comments are fine. Exit code 1, with a line each, otherwise.
"""

import re
import sys


def main(path, pattern):
    with open(path, encoding="utf-8") as file:
        wrong = [
            f"{path}:{number}: {line.rstrip()}: must match {pattern}"
            for number, line in enumerate(file, 1)
            if line.strip() and line[0] != "#" and not re.fullmatch(pattern, line.rstrip("\n"))
        ]
    print("\n".join(wrong), end="")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
