"""Whether systemd knows every section and key of a drop-in.

    known_keys.py DROPIN

systemd's daemons have no check mode: they log "Unknown key" and go on without it. The main file
that the distribution ships, /etc/systemd/NAME.conf for /etc/systemd/NAME.conf.d/*.conf, lists all
keys of this version, commented out. Exit code 1, with a line each, for a key that it lacks.
Where that daemon is not installed there is no such file, and only the syntax is checked.
"""

import os
import re
import sys

LINE = re.compile(r"#?([A-Z][A-Za-z0-9]*)=")


def keys(path, pattern):
    """``{(section, key)}`` of a file, and the lines that are neither."""
    section, found, odd = None, set(), []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(map(str.strip, file), 1):
            if heading := re.fullmatch(r"\[(\w+)\]", line):
                section = heading[1]
            elif key := pattern.match(line):
                found.add((section, key[1]))
            elif line and not line.startswith(("#", ";")):
                odd.append(f"{path}:{number}: {line}: not KEY=VALUE")
    return found, odd


def main(path):
    main_file = path[path.rindex("/etc/systemd/") :].split(".conf.d/")[0] + ".conf"
    used, wrong = keys(path, re.compile(r"([A-Za-z0-9]+)\s*="))
    known = keys(main_file, LINE)[0] if os.path.exists(main_file) else used
    for section, key in sorted(used - known, key=str):
        wrong.append(f"{path}: [{section}] {key}=: unknown to this systemd ({main_file})")
    print("\n".join(wrong), end="")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
