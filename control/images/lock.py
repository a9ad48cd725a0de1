"""
The packages of the images, by version and hash: containers/SUITE.lock.

An image is made from the lock alone. What is in it Debian's own apt has resolved and verified once, from the
signed lists of the suite, in a folder of its own: nothing of this computer is read but the archive's keys.
"""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import atomic_file
from ..errors import OperationError, UserError
from ..options import Options, child_environment
from ..paths import ROOT
from .description import Description

SUITE = "trixie"
ARCHITECTURE = "amd64"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org"
# In every image: who it is, for those who look for known vulnerabilities.
ALWAYS = ("base-files",)
# Only packages' own scripts call these, and none is run here: an image has no shell, no Perl and no dpkg.
LEFT_OUT = (
    "adduser", "awk", "debconf", "dpkg", "init-system-helpers", "lsb-base", "mawk", "passwd", "perl", "perl-base",
    "javascript-common", "openssl", "procps", "sysvinit-utils", "tar", "ucf",
)  # fmt: skip
HOW_TO_RENEW = "make images RENEW=1"


@dataclass(frozen=True)
class Package:
    """One Debian package; ``path`` is below the mirror's root."""

    name: str
    version: str
    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Lock:
    """``packages`` by name; ``images``: what each asked for, and all that it has; ``snapshot``: when, in UTC."""

    suite: str
    snapshot: str
    packages: Mapping[str, Package]
    images: Mapping[str, Mapping[str, list[str]]]

    @property
    def time(self) -> int:
        """Seconds since 1970 of the snapshot: the time of all that is made from it."""
        parsed = datetime.datetime.strptime(self.snapshot, "%Y%m%dT%H%M%SZ")
        return int(parsed.replace(tzinfo=datetime.UTC).timestamp())

    def packages_of(self, image: str) -> list[Package]:
        """All of an image, by its description's key."""
        return [self.packages[name] for name in self.images[image]["all"]]


def path(suite: str = SUITE) -> Path:
    return ROOT / "containers" / f"{suite}.lock"


def read(images: Iterable[Description], suite: str = SUITE) -> Lock:
    """The lock of the checkout; UserError when there is none, or one of other packages than ``images`` ask for."""
    file = path(suite)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        packages = {name: Package(name=name, **one) for name, one in value["packages"].items()}
        lock = Lock(value["suite"], value["snapshot"], packages, value["images"])
        for key in lock.images:
            lock.packages_of(key)
        _ = lock.time
    except FileNotFoundError:
        raise UserError(f"containers/{file.name} is missing: {HOW_TO_RENEW} makes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"containers/{file.name}: not a lock: {error}; git has the last good one, {HOW_TO_RENEW} a new one"
        ) from error
    for image in images:
        if lock.images.get(image.key, {}).get("asked") != sorted(image.packages):
            raise UserError(
                f"containers/{file.name} was made before {image.name} asked for"
                f" {', '.join(image.packages)}: {HOW_TO_RENEW}"
            )
    return lock


def write(lock: Lock) -> None:
    value = {
        "suite": lock.suite,
        "snapshot": lock.snapshot,
        "images": lock.images,
        "packages": {
            name: {key: one for key, one in asdict(package).items() if key != "name"}
            for name, package in sorted(lock.packages.items())
        },
    }
    file = path(lock.suite)
    atomic_file.write(file, json.dumps(value, indent=1) + "\n", 0o644)


def mirror(options: Options) -> str:
    return (options.debian_mirror or MIRROR).rstrip("/")


class _Apt:
    """apt in a folder of its own, with an empty machine to install on."""

    def __init__(self, folder: Path, base: str, suite: str) -> None:
        self.folder, self.base = folder, base
        for name in ("state/lists/partial", "cache/archives/partial", "parts"):
            (folder / name).mkdir(parents=True)
        signed = f"deb [signed-by={KEYRING}]"
        (folder / "sources.list").write_text(
            f"{signed} {base}/debian {suite} main\n{signed} {base}/debian {suite}-updates main\n"
            f"{signed} {base}/debian-security {suite}-security main\n"
        )
        (folder / "status").write_text(
            "".join(
                f"Package: {name}\nStatus: install ok installed\nVersion: 999\nArchitecture: {ARCHITECTURE}\n"
                "Multi-Arch: allowed\nMaintainer: none\nDescription: left out\n\n"
                for name in LEFT_OUT
            )
        )
        (folder / "apt.conf").write_text(
            f'Dir::State "{folder}/state";\nDir::State::status "{folder}/status";\nDir::Cache "{folder}/cache";\n'
            f'Dir::Etc::sourcelist "{folder}/sources.list";\nDir::Etc::sourceparts "{folder}/parts";\n'
            f'Dir::Etc::preferences "{folder}/none";\nDir::Etc::preferencesparts "{folder}/parts";\n'
            f'APT::Architecture "{ARCHITECTURE}";\nAPT::Architectures "{ARCHITECTURE}";\n'
            'APT::Install-Recommends "false";\nAcquire::Languages "none";\nAPT::Sandbox::User "";\n'
            'Acquire::Retries "2";\nAPT::Update::Error-Mode "any";\n'
        )

    def run(self, *command: str) -> str:
        environment = child_environment(APT_CONFIG=str(self.folder / "apt.conf"))
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            lines = [one for one in done.stderr.splitlines() if one.startswith("E:")] or [
                done.stderr
            ]
            raise OperationError(f"{self.base}: {' '.join(command[:2])}: {lines[0].strip()}")
        return done.stdout

    def resolve(self, names: Iterable[str]) -> list[str]:
        """``name=version`` of all that has to be installed for them."""
        listed = self.run("apt-get", "-qq", "--print-uris", "install", *names)
        resolved = []
        for line in listed.splitlines():
            name, version, _ = line.split()[1].removesuffix(".deb").split("_")
            resolved.append(f"{name}={urllib.parse.unquote(version)}")
        return sorted(resolved)

    def describe(self, packages: Iterable[str]) -> dict[str, Package]:
        described = {}
        for text in self.run("apt-cache", "show", *packages).strip().split("\n\n"):
            fields = dict(
                line.split(": ", 1)
                for line in text.splitlines()
                if ": " in line and not line.startswith(" ")
            )
            archive = "debian-security" if "/updates/" in fields["Filename"] else "debian"
            described[fields["Package"]] = Package(
                fields["Package"],
                fields["Version"],
                f"{archive}/{fields['Filename']}",
                fields["SHA256"],
                int(fields["Size"]),
            )
        return described


def resolve(images: Iterable[Description], options: Options, suite: str = SUITE) -> Lock:
    """What the suite has today for these images; OperationError when its mirror cannot be asked."""
    if not shutil.which("apt-get"):
        raise UserError(
            "this host has no apt-get: the packages of images are looked up on Debian or Ubuntu"
        )
    if not KEYRING.is_file():
        raise UserError(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
    with tempfile.TemporaryDirectory(prefix="images-apt-") as folder:
        apt = _Apt(Path(folder), mirror(options), suite)
        apt.run("apt-get", "-qq", "update")
        has = {
            one.key: (sorted(one.packages), apt.resolve([*ALWAYS, *one.packages])) for one in images
        }
        packages = apt.describe(sorted({name for _, all_ in has.values() for name in all_}))
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    listed = {
        image: {"asked": asked, "all": [one.partition("=")[0] for one in all_]}
        for image, (asked, all_) in sorted(has.items())
    }
    return Lock(suite, now, packages, listed)


def differences(old: Lock, new: Lock) -> list[str]:
    """One line for each package that is another one in ``new``."""
    lines = []
    for name in sorted({*old.packages, *new.packages}):
        before, after = old.packages.get(name), new.packages.get(name)
        if before != after:
            versions = [one.version if one else "none" for one in (before, after)]
            lines.append(f"{name}: {versions[0]} -> {versions[1]}")
    return lines
