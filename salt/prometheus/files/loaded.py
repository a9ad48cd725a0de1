"""
Whether Prometheus or Alertmanager has loaded the configuration that is there now.

    loaded.py PORT NAME FILE      NAME: the beginning of its metrics' names

A reload is a signal: nobody else says that it was refused.
"""

import os
import re
import sys
import urllib.request


def main():
    port, name, path = sys.argv[1:]
    url = f"http://127.0.0.1:{port}"
    urllib.request.urlopen(f"{url}/-/ready", timeout=3).close()
    with urllib.request.urlopen(f"{url}/metrics", timeout=3) as answer:
        text = answer.read().decode()
    found = dict(re.findall(rf"(?m)^{name}_(config_last_reload_\w+) (\S+)$", text))
    when = float(found["config_last_reload_success_timestamp_seconds"])
    if float(found["config_last_reload_successful"]) != 1:
        sys.exit(f"{name}: its last reload failed: journalctl -u '*{name}*' -n 5")
    # It tells whole seconds.
    if when + 1 < os.stat(path).st_mtime:
        sys.exit(f"{name}: {path} is newer than what it has loaded")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"no answer: {error}")
