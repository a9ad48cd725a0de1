"""For formulas counter and apps: commands of the pillar that run around a change of the release, each within limits of its own."""

import subprocess

__virtualname__ = "hooks"


def __virtual__():
    return __virtualname__


def run(hook, environment):
    """
    Run a command of the pillar within its limits; None, or what went wrong.

    hook
        ``{command, timeout, user, memory}``: a shell command, seconds, an account (none: one of its own,
        made for the run), and megabytes. In a transient unit: no new privileges, a read-only system,
        at most 64 tasks.
    environment
        what it is told, ``{NAME: value}``
    """
    limits = {
        "RuntimeMaxSec": hook.get("timeout", 60),
        "MemoryMax": f"{hook.get('memory', 256)}M",
        "TasksMax": 64,
        "NoNewPrivileges": "yes",
        "PrivateTmp": "yes",
        **(
            {"User": hook["user"]}
            if hook.get("user")
            else {"DynamicUser": "yes", "ProtectSystem": "strict", "ProtectHome": "yes"}
        ),
    }
    command = ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--service-type=exec"]
    command += [f"--property={key}={value}" for key, value in limits.items()]
    command += [f"--setenv={key}={value}" for key, value in environment.items()]
    try:
        result = subprocess.run(
            [*command, "/bin/sh", "-c", hook["command"]],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=hook.get("timeout", 60) + 30,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"hook '{hook['command']}': {error}"
    if result.returncode == 0:
        return None
    output = (result.stdout + result.stderr).strip()[-2000:]
    return f"hook '{hook['command']}': exit code {result.returncode}, or over its limits" + (
        f":\n{output}" if output else ""
    )
