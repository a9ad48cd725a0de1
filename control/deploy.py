"""
`make deploy`, `rollback`, `releases` and `publish`: releases of the application, from the store to
the machines that run it.

A deploy brings a stored release and this checkout's tree to one application machine after the
other and converges the formula `counter` there: the same states as a first install or a changed setting
(salt/_states/release.py). What is asked for travels beside the pillar, with the one run; what a machine
came to run stays on it, and is what every later apply keeps. docs/decisions/0017-deploys.md.
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import hashlib
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import fleet, holder, lab, remote, store
from .errors import Refused
from .terminal import printable
from .topology import ROOT, Topology

# Fetched artifacts; a second deploy of the same one asks the store for its hash alone.
FETCHED = ROOT / ".cache" / "releases"
# What a machine was brought to (salt/_modules/record.py).
HISTORY = f"/var/lib/stack/releases/{store.NAME}.json"
# Every attempt on a machine, a line of JSON each (salt/_modules/record.py).
ATTEMPTS = f"/var/log/stack/{store.NAME}-deploys.log"
# Held by an apply as long as it runs (bootstrap/converge). A roll goes on without its deployer.
APPLYING = "/run/stack/apply.lock"
# A shell's: who holds it, by its note; not by that of a process that does not (proc_locks(5)).
_APPLIER = (
    f"pid=$(sed -n 's/^process \\([0-9]*\\),.*/\\1/p' {APPLYING});"
    f' grep -q " FLOCK .* WRITE $pid [^ ]*:$(stat -c %i {APPLYING}) " /proc/locks'
    f" && cat {APPLYING} || echo 'process unknown'"
)
# Seconds to wait for such a roll, and for a machine to answer again.
ROLL_PATIENCE, REACH_PATIENCE = 900, 120
# Held from beginning to end; called, it refuses when it is held no more.
Held = Callable[[], None]
# The formula that is converged.
FORMULA = "counter"


def who() -> str:
    """Who deploys, for the lock and the audit log."""
    if job := os.environ.get("CI_JOB_URL"):
        return f"{os.environ.get('GITLAB_USER_LOGIN', 'ci')} by {job}"
    return f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()}"


def request(action: str, version: str, why: str) -> dict[str, str]:
    given = os.environ.get("WHY") or why
    return {
        "action": action,
        "version": version,
        "who": who(),
        "why": given,
        "id": uuid.uuid4().hex[:12],
    }


def hosts(where: Topology) -> list[str]:
    """Application machines, in the order in which they are deployed to."""
    if not lab.is_up(where):
        raise lab.not_up(where)
    return where.with_role("app")


def history(where: Topology, host: str) -> list[dict[str, Any]]:
    """Releases that were good on a machine, the one in use last."""
    text = remote.run(where, host, f"cat {HISTORY} 2>/dev/null || true").strip()
    try:
        known = json.loads(text)["history"] if text else []
        # They become names of files here, and words on the terminal.
        for entry in known:
            store.checked(entry["version"])
    except (KeyError, TypeError, ValueError, Refused) as error:
        raise Refused(f"{host}: {HISTORY} is damaged: {error}") from error
    return list(known)


def current(where: Topology, host: str) -> str | None:
    known = history(where, host)
    return str(known[-1]["version"]) if known else None


def of_new(where: Topology) -> dict[str, dict[str, str]]:
    """
    What application machines that were never brought to a release shall run: what the others run, not
    what this checkout happens to build. ``{host: {version: its sha256}}``, one version where they agree;
    empty where none runs any.
    """
    apps = where.with_role("app")
    if len(apps) < 2:
        return {}
    ends: dict[str, dict[str, Any]] = {}
    new: set[str] = set()

    def ask(host: str) -> int:
        # One that is away is named where it is worked on.
        with contextlib.suppress(Refused):
            if known := history(where, host):
                ends[host] = known[-1]
            else:
                new.add(host)
        return 0

    fleet.each(where, ask, apps)
    runs = {
        str(ends[host]["version"]): str(ends[host].get("sha256") or "") for host in sorted(ends)
    }
    return {host: runs for host in apps if host in new and runs}


def bring_along(host: str, built: str, runs: dict[str, str]) -> tuple[str, Path | None]:
    """
    The release to carry to ``host``, and the folder where its artifact is (None: where it was built).
    ``runs`` as :func:`of_new` gives it. Refused where that release is not to be had.
    """
    if not runs or list(runs) == [built]:
        return built, None
    if len(runs) > 1:
        raise Refused(
            f"{host}: the other machines run different releases ({', '.join(runs)}): 'make deploy"
            " VERSION=…' brings them to one, then this one comes to it"
        )
    ((version, wanted),) = runs.items()
    place, folder = store.store(), FETCHED
    try:
        _, digest = store.fetch(place, version, FETCHED)
    except Refused as error:
        folder = ROOT / "dist"
        path = folder / store.archive(version)
        if not path.is_file() or not path.with_name(f"{path.name}.sha256").is_file():
            raise Refused(
                f"{host}: the others run {version}, which is to be had neither from {place.where} nor"
                f" in dist/: 'make publish' it from its checkout, or deploy another ({error})"
            ) from error
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if wanted and digest != wanted:
        raise Refused(
            f"{host}: the others run {version} with sha256 {wanted}, but {place.where} has {digest}"
        )
    fleet.say(
        f"{host}: gets {store.NAME} {version}, as the others run; this checkout builds {built}"
    )
    return version, folder


def notice(where: Topology, built: str) -> None:
    """Say on stderr where a machine runs another release than this checkout builds: it stays so."""
    with contextlib.suppress(Refused):
        for host in hosts(where):
            now = current(where, host)
            if now and now != built:
                print(
                    f"{host}: {store.NAME} stays on {now}, as deployed; this checkout builds {built}:"
                    f" 'make publish' and 'make deploy VERSION={built}' bring it there",
                    file=sys.stderr,
                )


@contextlib.contextmanager
def lock(where: Topology, host: str, asked: dict[str, str]) -> Iterator[Held]:
    """Hold a machine's deploy lock; Refused, naming who holds it, when it is taken."""
    began = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    mine = {
        "who": asked["who"],
        "when": began,
        "what": f"{asked['action']} of {asked['version']}",
        "why": asked["why"],
    }
    program = (Path(__file__).parent / "holder.py").read_text(encoding="utf-8")
    start = "python3 -Ic 'import ast, sys; exec(ast.literal_eval(sys.stdin.readline()))'"
    with subprocess.Popen(
        # A connection of its own: it must end with this process, not with the shared one.
        remote.ssh(where, host, start, fresh=True),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C is for this process, which then lets go by itself.
        start_new_session=True,
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None
        over = threading.Event()

        def beat() -> None:
            while not over.wait(holder.BEAT):
                with contextlib.suppress(OSError, ValueError):
                    stdin.write("\n")
                    stdin.flush()

        def held() -> None:
            if process.poll() is not None:
                raise Refused(
                    f"{host}: the deploy lock was lost with its connection: somebody else may deploy"
                    " by now; 'make releases' shows what runs, then deploy again"
                )

        beats = threading.Thread(target=beat, daemon=True)
        try:
            with contextlib.suppress(BrokenPipeError):
                stdin.write(f"{program!r}\n{json.dumps(mine)}\n")
                stdin.flush()
            word, _, rest = stdout.readline().strip().partition(" ")
            if word == "taken":
                raise Refused(f"{host}: {_holder(rest)}; nothing was changed", 75)
            if word != "held":
                said = process.communicate(timeout=30)[1].strip()
                raise Refused(f"{host}: the deploy lock cannot be taken: {said}")
            beats.start()
            yield held
        finally:
            over.set()
            if beats.is_alive():
                beats.join()
            with contextlib.suppress(OSError):
                stdin.close()


def _holder(text: str) -> str:
    try:
        held = json.loads(text)
        why = f" ({held['why']})" if held["why"] else ""
        said = f"{held['who']} has been doing a {held['what']}{why} since {held['when']}"
    except (KeyError, TypeError, ValueError):
        said = "another deploy is running, and has not said whose it is"
    return printable(said)


def converge(where: Topology, host: str, asked: dict[str, str], words: list[str]) -> int:
    """The formula on one machine, with progress; the exit code."""
    command = shlex.join([f"{remote.PLACE}/bootstrap/converge", FORMULA, *words])
    given = shlex.quote(json.dumps(asked))
    return remote.stream(where, host, f"cd {remote.PLACE} && STACK_DEPLOY={given} exec {command}")


def wait_for_roll(where: Topology, host: str) -> None:
    """Return once no apply runs on a machine: what it runs is not settled before."""
    free = f"test ! -e {APPLYING} || flock -n {APPLYING} true"
    said = remote.run(where, host, f"{free} || {{ {_APPLIER}; }}").strip()
    if said:
        print(f"==> {host}: waiting for the end of an apply that runs there ({said})", flush=True)
        late = f"an apply has been running for more than {ROLL_PATIENCE} s: {said}"
        remote.run(
            where,
            host,
            f"flock -w {ROLL_PATIENCE} {APPLYING} true || {{ echo {shlex.quote(late)} >&2; exit 1; }}",
            fresh=True,
        )


def _outcome(where: Topology, host: str, asked: dict[str, str]) -> str:
    """What came of this very attempt on a machine, as its record says; empty without any end."""
    text = remote.run(where, host, f"tail -n 50 {ATTEMPTS} 2>/dev/null || true")
    for line in reversed(text.splitlines()):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            told = json.loads(line)
            if (told["id"], told["to"]) == (asked["id"], asked["version"]):
                return printable(str(told["outcome"]))
    return ""


def _bring(where: Topology, host: str, asked: dict[str, str], words: list[str]) -> int:
    """
    :func:`converge`, judged by the machine where the connection broke: its roll went on without us.
    Refused when it does not answer again.
    """
    code = converge(where, host, asked, words)
    # 255 is ssh's own; from 128 on a signal ended it.
    if code < 128:
        return code
    print(f"==> {host}: the connection broke; what came of it there is asked", flush=True)
    deadline = time.monotonic() + REACH_PATIENCE
    while True:
        try:
            wait_for_roll(where, host)
            outcome, now = _outcome(where, host, asked), current(where, host)
            break
        except Refused as error:
            if time.monotonic() > deadline:
                raise Refused(
                    f"the connection broke, and WHAT IT RUNS IS NOT KNOWN ({error}): 'make releases'"
                    " tells, once it answers"
                ) from error
            time.sleep(2)
    print(f"==> {host}: {outcome or 'nothing began'}, it runs {now}", flush=True)
    return 0 if now == asked["version"] and outcome in ("succeeded", "unchanged") else code


def _one_by_one(
    where: Topology,
    asked: dict[str, str],
    words: list[str],
    bring: Path | None,
    held: Mapping[str, Held] | None = None,
) -> dict[str, float]:
    """
    Converge every application machine in order, those first that are not in use; at the first failure,
    put those before it back.
    Seconds spent by what. ``bring``: folder of the artifact, to be carried with the tree. ``held``: each
    machine's lock, asked before it is touched.
    """
    spent = {"carry": 0.0, "states": 0.0}
    held = held or {}
    done: list[tuple[str, str | None]] = []
    order = hosts(where)
    if len(order) > 1:
        order = fleet.unused_first(where, order)
    for host in order:
        old, code, said = None, 1, ""
        try:
            for each in held.values():
                each()
            old = current(where, host)
            print(f"==> {host}: {old or 'nothing'} -> {asked['version']}", flush=True)
            began = time.monotonic()
            if bring:
                remote.carry(where, host, asked["version"], bring)
            spent["carry"] += time.monotonic() - began
            began = time.monotonic()
            code = _bring(where, host, asked, words)
            spent["states"] += time.monotonic() - began
        except Refused as error:
            said = f": {error}"
        if not code:
            done.append((host, old))
            if len(where.machines) > 1:
                # On a machine of its own the roll sees this itself: the edge is beside it.
                try:
                    fleet.wait_for_edges(where, [host])
                except Refused as error:
                    back = _put_back(where, asked, host, done, held)
                    raise Refused(f"{host} runs {asked['version']}, but {error}{back}") from error
            continue
        back = _put_back(where, asked, host, done, held)
        what = f"{asked['action']} of {asked['version']}"
        raise Refused(f"{host}: the {what} failed{said or ' (see above)'}{back}", code)
    return spent


def _put_back(
    where: Topology,
    asked: dict[str, str],
    failed: str,
    done: list[tuple[str, str | None]],
    held: Mapping[str, Held],
) -> str:
    """The machines before the failed one run what they ran before; what came of it, in words."""
    words = []
    for host, old in reversed(done):
        if old in (None, asked["version"]):
            continue
        print(f"==> {host}: back to {old}, because {failed} failed", flush=True)
        again = {
            **asked,
            "action": "rollback",
            "version": str(old),
            "why": f"{asked['action']} of {asked['version']} failed on {failed}",
        }
        code, said = 1, ""
        try:
            # Without its lock it is another's by now, and what runs there too.
            if host in held:
                held[host]()
            code = _bring(where, host, again, [])
        except Refused as error:
            print(f"{host}: {error}", file=sys.stderr)
            said = f" ({error})"
        words.append(f"{host} COULD NOT BE PUT BACK{said}" if code else f"{host} is back on {old}")
    return "; " + ", ".join(words) if words else ""


def _overlay() -> list[str]:
    """PILLAR for this run, as `make apply` takes it."""
    from .__main__ import overlay

    return overlay()


@contextlib.contextmanager
def _told(where: Topology, machines: list[str], asked: dict[str, str]) -> Iterator[None]:
    """What is refused in here, before a machine's own states see it, is a line in the record of each
    machine that can be reached."""
    try:
        yield
    except Refused as error:
        given = shlex.quote(json.dumps({**asked, "reason": str(error)}))
        command = f"cd {remote.PLACE} && STACK_DEPLOY={given} salt-call record.refused {store.NAME}"

        def tell(host: str) -> int:
            # The reason that is told is the first one, whatever else is wrong with a machine.
            with contextlib.suppress(Refused):
                remote.run(where, host, command)
            return 0

        fleet.each(where, tell, machines)
        raise


def command_deploy(where: Topology) -> int:
    version = os.environ.get("VERSION") or ""
    place = store.store()
    if not version:
        try:
            newest = [one.version for one in place.releases()][-3:]
        except store.NoListing as error:
            raise Refused(f"VERSION=… is needed; {error}", 2) from error
        known = ", ".join(reversed(newest)) or "none yet: 'make publish' stores this checkout's"
        raise Refused(f"VERSION=… is needed; newest in {place.where}: {known}", 2)
    store.checked(version)
    began = time.monotonic()
    words = _overlay()
    machines = hosts(where)
    asked = request("deploy", version, "")
    with contextlib.ExitStack() as locks:
        with _told(where, machines, asked):
            path, digest = store.fetch(place, version, FETCHED)
            fetched = time.monotonic() - began
            size = path.stat().st_size / 1e6
            print(f"{path.name}, {size:.1f} MB, sha256 {digest}, from {place.where}", flush=True)
            held = {host: locks.enter_context(lock(where, host, asked)) for host in machines}
            for host in machines:
                wait_for_roll(where, host)
        spent = _one_by_one(where, asked, words, FETCHED, held)
    total = time.monotonic() - began
    parts = {"fetch": fetched, **spent}
    print(f"{total:.0f} s in all: " + ", ".join(f"{n} {s:.1f} s" for n, s in parts.items()))
    return 0


def command_rollback(where: Topology) -> int:
    wanted = os.environ.get("VERSION") or ""
    if wanted:
        store.checked(wanted)
    began = time.monotonic()
    words = _overlay()
    machines = hosts(where)
    asked = request("rollback", wanted or "the last good release", "")
    with contextlib.ExitStack() as locks:
        # First: what is good is not settled while another deploy runs.
        with _told(where, machines, asked):
            held = {host: locks.enter_context(lock(where, host, asked)) for host in machines}
            for host in machines:
                wait_for_roll(where, host)
            asked["version"] = _back_to(where, machines, wanted)
        _one_by_one(where, asked, words, None, held)
    print(f"{time.monotonic() - began:.0f} s in all")
    return 0


def _back_to(where: Topology, machines: list[str], wanted: str) -> str:
    """The release that all machines can go back to: ``wanted``, or the last good one before this."""
    targets: dict[str, str] = {}
    for host in machines:
        versions = [str(entry["version"]) for entry in history(where, host)]
        before = [version for version in versions if version != versions[-1]]
        if wanted and wanted not in versions:
            known = ", ".join(dict.fromkeys(reversed(before))) or "none"
            raise Refused(
                f"{host}: {wanted} was never good here; a rollback goes to one of: {known}."
                f" Anything stored can be deployed: 'make deploy VERSION={wanted}'"
            )
        if not wanted and not before:
            now = versions[-1] if versions else "nothing"
            raise Refused(
                f"{host}: nothing further to go back to: {now} is the first good release of its"
                " history; 'make releases' shows what is stored, 'make deploy VERSION=…' goes to any"
            )
        targets[host] = wanted or before[-1]
    if len(set(targets.values())) > 1:
        told = ", ".join(f"{host}: {version}" for host, version in targets.items())
        raise Refused(f"the machines would go back to different releases ({told}): say VERSION=…")
    return next(iter(targets.values()))


def command_publish(_: Topology) -> int:
    """Build the artifact of this checkout and store it."""
    from .__main__ import build_artifact

    place = store.store()
    version = build_artifact()
    path = ROOT / "dist" / store.archive(version)
    known = store.OWN_KEY.exists()
    key = store.signing_key(make=True)
    added, digest = store.publish(place, path, key)
    what = "stored" if added else "stored already, the same"
    print(f"{what}: {path.name}, sha256 {digest}, in {place.where}")
    signature = place.read(version, f"{path.name}.sig")
    if key and not store.is_signed(path, signature, key):
        print(f"its signature there is not by {key}, and stays: one by another key, or none of it")
    else:
        _tell_signed(place, key, new=key == store.OWN_KEY and not known)
    print(version)
    return 0


def _tell_signed(place: store.Store, key: Path | None, new: bool) -> None:
    """Who signed it, and whether machines ask for that; one line."""
    if not key:
        print(
            f"not signed: whoever may write to {place.where} decides what runs; RELEASE_KEY=file signs it"
            " (salt/counter/README.md)",
            file=sys.stderr,
        )
        return
    public = store.public_half(key)
    said = f"signed with {key}" + (", made now: keep a copy" if new else "")
    for path in sorted((ROOT / "pillar").rglob("*.sls")):
        if public.split()[1] in path.read_text(encoding="utf-8"):
            print(f"{said}; asked for by {path.relative_to(ROOT)}")
            return
    settings = f"counter: {{release: {{signers: [{public}]}}}}"
    print(
        f"{said}; machines refuse all that it has not signed with this in pillar/settings.sls: {settings}"
    )


def command_releases(where: Topology) -> int:
    """What is stored, and what runs where: the latter also when the store cannot be asked."""
    place, trouble, unlisted = store.store(), "", ""
    stored: list[store.Stored] = []
    hashes: dict[str, str | None] = {}
    try:
        stored = place.releases()
        # Newest ones only: each hash is a question to the store.
        hashes = {one.version: store.hash_of(place, one.version) for one in stored[-20:]}
    except store.NoListing as error:
        unlisted = str(error)
    except Refused as error:
        trouble = str(error)
    running: dict[str, list[str]] = {}
    lines = []
    machines = hosts(where) if lab.is_up(where) else []
    for host in machines:
        try:
            said = remote.run(
                where, host, f"cd {remote.PLACE} && salt-call --out=json release.overview"
            )
            told = json.loads(said)["local"]
            versions = sorted({store.checked(one) for one in told["running"].values()})
            for version in versions:
                running.setdefault(version, []).append(host)
            known = [entry["version"] for entry in told["history"]]
            before = [version for version in known if version != known[-1]]
            units = ", ".join(f"@{n} {v}" for n, v in sorted(told["running"].items()))
            lines.append(f"  {host}: {units or 'nothing'}; back: {before[-1] if before else '-'}")
            here = [one for one in told["installed"] if one not in versions]
            if here:
                lines.append(f"  {'':{len(host)}}  also installed: {', '.join(map(str, here))}")
        except (Refused, ValueError, KeyError, TypeError, AttributeError) as error:
            lines.append(f"  {host}: cannot be asked: {str(error).splitlines()[0]}")
    if unlisted:
        # It can be asked for what runs, by name.
        hashes = {one: store.hash_of(place, one) for one in sorted(running)}
        stored = [store.Stored(one) for one, digest in hashes.items() if digest]
        print(f"{unlisted}; of what runs:")
    else:
        print(f"stored in {place.where}:")
    for one in stored:
        digest = hashes.get(one.version)
        runs = f"  <- {', '.join(running[one.version])}" if one.version in running else ""
        line = f"  {one.version:<40} {(digest or '')[:16]:<16}  {one.at}{runs}"
        print(printable(line.rstrip()))
    if not stored and not trouble and not unlisted:
        print("  nothing yet: 'make publish' stores this checkout's release")
    print(f"machines of topology {where.name}:")
    print("\n".join(map(printable, lines)) or "  none is up")
    if trouble:
        raise Refused(trouble)
    missing = sorted(set(running) - {one.version for one in stored})
    if missing:
        print(printable(f"not in this store, but running: {', '.join(missing)}"), file=sys.stderr)
    return 0


COMMANDS = {
    "deploy": command_deploy,
    "rollback": command_rollback,
    "publish": command_publish,
    "releases": command_releases,
}
