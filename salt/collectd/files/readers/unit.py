"""What systemd knows of this machine's services: one question for all of them."""

import subprocess

PROPERTIES = "Id,ActiveState,NRestarts,ControlGroup,CPUUsageNSec,MainPID"
_GROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")
_PAGE = 4096
# Most failed units that are named.
NAMED = 20
_named = set()


def systemctl(*words):
    done = subprocess.run(
        # --all: without it a pattern finds no unit that is stopped.
        ["systemctl", "show", "--all", *words],
        capture_output=True,
        text=True,
        timeout=5,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"systemctl show: {done.stderr.strip()[:200]}")
    return done.stdout


def parse(text):
    """Each unit's properties, of what `systemctl show` says of many."""
    for block in text.strip().split("\n\n"):
        yield dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def processes(group):
    """Process ids of a control group."""
    for base in _GROUPS:
        try:
            with open(f"{base}{group}/cgroup.procs", encoding="ascii") as file:
                return file.read().split()
        except OSError:
            continue
    return []


def memory(pids):
    """Bytes that these processes have for themselves: resident, without what is shared."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                _, resident, shared = file.read().split()[:3]
        except OSError:
            continue
        total += (int(resident) - int(shared)) * _PAGE
    return total


def frozen(pid):
    """1 when a process is stopped (SIGSTOP, a debugger): it is there and does nothing."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[0] in ("T", "t"))
    except OSError:
        return 0


def read(settings):
    units = settings["unit"]
    for one in parse(systemctl(f"--property={PROPERTIES}", *units)):
        name = one["Id"].removesuffix(".service")
        active = one["ActiveState"] in ("active", "reloading")
        yield "active", int(active), name
        if active and one.get("MainPID", "0") != "0":
            yield "frozen", frozen(one["MainPID"]), name
        if one.get("NRestarts", "").isdigit():
            yield "restarts", int(one["NRestarts"]), name
        if active and one.get("ControlGroup"):
            yield "memory_bytes", memory(processes(one["ControlGroup"])), name
            # 2^64-1 is systemd's word for "no accounting".
            if one.get("CPUUsageNSec", "").isdigit() and len(one["CPUUsageNSec"]) < 20:
                yield "cpu_ns", int(one["CPUUsageNSec"]), name
    count = int(systemctl("--property=NFailedUnits").partition("=")[2])
    yield "failed_units", count
    names = set()
    if count:
        listed = parse(systemctl("--property=Id", "--state=failed", "*"))
        names = set(sorted(one["Id"].removesuffix(".service") for one in listed)[:NAMED])
    # One that is mended is told of as long as it was named before: else it would go stale as failed.
    _named.update(names)
    for name in sorted(_named):
        yield "failed", int(name in names), name
    _named.intersection_update(names)
