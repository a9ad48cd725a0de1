"""What the unit tests share: Salt modules loaded with names of our own, and real Salt without a machine."""

from __future__ import annotations

import base64
import concurrent.futures
import fcntl
import fnmatch
import functools
import grp
import json
import os
import pwd
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# `import control`, whatever folder pytest was started from.
sys.path.insert(0, str(ROOT))

from control import salt_copy  # noqa: E402

IN_SALT = "tests.unit.in_salt"
RELEASE = "0.1.0-g0123456789ab"
# As a machine would have made it; no rendered file but a secret one may hold even its hash.
SECRETS = {"redis-admin": "sentinel-of-the-administrator", "redis-counter": "sentinel-of-the-app"}

# What a person may have in ~/.gitconfig.
GITCONFIG = """
[status]
    showUntrackedFiles = no
[log]
    showSignature = true
[core]
    quotePath = true
    autocrlf = true
    excludesFile = {folder}/ignored
[color]
    ui = always
"""


class Utils(dict[str, Any]):
    """As Salt gives ``__utils__``: ``MODULE.FUNCTION`` of `salt/_utils`."""

    def __missing__(self, key: str) -> Any:
        name = key.partition(".")[0]
        module = load(ROOT / "salt" / "_utils" / f"{name}.py", utils=self)
        for function, value in vars(module).items():
            self.setdefault(f"{name}.{function}", value)
        return self[key]


def functions(**modules: ModuleType) -> dict[str, Any]:
    """As Salt gives ``__salt__``: ``{MODULE.FUNCTION: function}``, as they are at this moment."""
    return {
        f"{name}.{function}": value
        for name, module in modules.items()
        for function, value in vars(module).items()
        if callable(value) and not function.startswith("_")
    }


def load(path: Path, **dunders: Any) -> ModuleType:
    """A fresh module from `path`, with Salt's dunders as given, else empty."""
    module = ModuleType(f"loaded_{path.stem}_{uuid.uuid4().hex}")
    module.__file__ = str(path)
    names: dict[str, Any] = {
        "__salt__": {},
        "__utils__": Utils(),
        "__opts__": {"test": False, "file_roots": {"base": ["salt"]}},
        "__pillar__": {},
        "__grains__": {},
        "__context__": {},
    }
    for key, value in {**names, **{f"__{k}__": v for k, v in dunders.items()}}.items():
        setattr(module, key, value)
    stat = path.stat()
    exec(_compiled(path, stat.st_mtime_ns, stat.st_size), vars(module))
    return module


@functools.cache
def _compiled(path: Path, *_: int) -> CodeType:
    """Once a process for each state of a file. No __pycache__ beside the sources: bootstrap/converge has no suffix."""
    return compile(path.read_bytes(), path, "exec", dont_inherit=True)


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Each test begins with the usual one and leaves none behind: programs set theirs, and run in here."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def load_source() -> Callable[..., ModuleType]:
    """`load_source('salt/_modules/checked.py', salt={…}, opts={…})`."""
    return lambda path, **dunders: load(ROOT / path, **dunders)


@pytest.fixture(scope="session")
def formula_on() -> Callable[..., ModuleType]:
    """`formula_on(TREE)`: the module formula on the formulas in that folder, without Salt."""

    def load_on(tree: Path) -> ModuleType:
        def cached(source: str) -> str:
            path = tree / source.removeprefix("salt://")
            return str(path) if path.exists() else ""

        schemas = load(ROOT / "salt/_modules/schemas.py")
        secret = load(ROOT / "salt/_modules/secret.py")
        topology = load(ROOT / "salt/_modules/topology.py")
        rules = load(ROOT / "salt/_modules/rules.py")
        names = ("nearest", "odd_keys", "problems", "secrets", "unknown")
        salt = {
            "cp.list_master": lambda: [
                str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()
            ],
            "cp.cache_file": cached,
            "secret.problem": secret.problem,
            "topology.roles": topology.roles,
            **{f"schemas.{name}": getattr(schemas, name) for name in names},
            **functions(rules=rules),
        }
        context: dict[str, Any] = {}
        files = load(ROOT / "salt/_modules/tree.py", salt=salt, context=context)
        salt.update(functions(tree=files))
        grains = {"os_family": "Debian", "oscodename": "bookworm"}
        return load(ROOT / "salt/_modules/formula.py", salt=salt, context=context, grains=grains)

    return load_on


@pytest.fixture(scope="session")
def formula_of_tree(formula_on: Callable[..., ModuleType]) -> ModuleType:
    """The module formula on the project's own tree, which is read once: it is the same at every question."""
    module: Any = formula_on(ROOT / "salt")
    files = module.__salt__["cp.list_master"]()
    module.__salt__["cp.list_master"] = lambda: files
    for name in ("tree.names", "tree.names_of", "tree.said"):
        module.__salt__[name] = functools.cache(module.__salt__[name])
    formula: ModuleType = module
    return formula


@pytest.fixture(scope="session")
def me() -> dict[str, str]:
    """Owner of files that this process may write: `{user, group}`."""
    return {
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "group": grp.getgrgid(os.getegid()).gr_name,
    }


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, str]:
    """An environment with everything odd that a login may have."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in ("yaml", "json", "pathlib"):
        (folder / f"{name}.py").write_text("raise SystemExit('not the real one')")
    (folder / "gitconfig").write_text(GITCONFIG.format(folder=folder))
    (folder / "ignored").write_text("*.sls\n*.py\n*.lock\n")
    (folder / "bash_env").write_text("exit 3\n")
    proxies = {f"{kind}_proxy": "http://127.0.0.1:1" for kind in ("http", "https", "all")}
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "tr_TR.UTF-8",
        "LC_ALL": "tr_TR.ISO-8859-9",
        "LANGUAGE": "tr",
        "BASH_ENV": str(folder / "bash_env"),
        "CDPATH": "/usr:/etc",
        "POSIXLY_CORRECT": "1",
        "TAR_OPTIONS": "--banana",
        "GREP_OPTIONS": "-v",
        "ENV": str(folder / "bash_env"),
        "PYTHONHOME": "/nonexistent",
        "PYTHONPATH": str(folder),
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": "error",
        "PYTHONOPTIMIZE": "2",
        "PYTHONIOENCODING": "latin-1",
        "GIT_DIR": "/nonexistent",
        "GIT_INDEX_FILE": "/nonexistent",
        "GIT_WORK_TREE": "/etc",
        "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
        **proxies,
        **{name.upper(): value for name, value in proxies.items()},
    }


# --- real Salt without a machine ------------------------------------------------------------------


def prepare(target: Path, machine: dict[str, str], **options: Any) -> Path:
    """As control/salt_copy.py prepares it, with secrets as the machine would have made them."""
    secrets = target / "secrets"
    secrets.mkdir(parents=True)
    for name, value in SECRETS.items():
        (secrets / name).write_text(value, encoding="ascii")
    return salt_copy.prepare(target, machine, secrets_folder=str(secrets), **options)


def ask_salt(tree: Path, questions: list[list[Any]]) -> list[Any]:
    """Answers of real Salt, from within `tree`, to `[function, arguments, keywords]`."""
    return salt_copy.ask([tree / "etc" / "minion"], questions, IN_SALT)[0]


@dataclass
class Rendered:
    """What Salt makes of one machine of one topology."""

    topology: dict[str, Any]
    name: str
    top: list[str]
    low: list[Any]
    files: dict[str, dict[str, Any]]
    status: dict[str, Any]
    tree: list[str] = field(default_factory=list)
    tunnels: list[dict[str, Any]] = field(default_factory=list)

    @property
    def machine(self) -> dict[str, Any]:
        found = self.topology["machines"][self.name]
        assert isinstance(found, dict)
        return found

    def with_role(self, role: str) -> list[dict[str, Any]]:
        return [one for one in self.topology["machines"].values() if role in one["roles"]]

    def data(self, path: str) -> bytes:
        return base64.b64decode(self.files[path]["data"])

    def text(self, path: str) -> str:
        return self.data(path).decode()


def topologies() -> list[dict[str, Any]]:
    """All but those that tests on machines write and remove meanwhile."""
    texts = [
        path.read_text(encoding="utf-8") for path in (ROOT / "pillar/topologies").glob("*.yaml")
    ]
    listed = [yaml.safe_load(text) for text in texts if not text.startswith("# Made by a test.")]
    return sorted(listed, key=lambda one: str(one["name"]))


MACHINES = [(one["name"], name) for one in topologies() for name in one["machines"]]


def render(folder: Path, machines: Iterable[tuple[str, str]], **options: object) -> list[Any]:
    """What Salt makes of each, all of them in one process. ``options``: settings of the minion."""
    configs: list[Path] = []
    for topology, name in machines:
        identity = {"topology": topology, "name": name, "release": RELEASE}
        configs.append(prepare(folder / f"{topology}-{name}", identity, **options))
    answers = salt_copy.ask(configs, [["render everything", [], {}]], IN_SALT)
    return [answer for (answer,) in answers]


def render_all(trees: Path) -> dict[str, Any]:
    """``{"TOPOLOGY/MACHINE": what Salt makes of it}``, by a process for each CPU."""
    processes = min(os.cpu_count() or 2, len(MACHINES))
    parts = [MACHINES[number::processes] for number in range(processes)]
    folders = [trees / str(number) for number in range(processes)]
    with concurrent.futures.ThreadPoolExecutor(max_workers=processes) as pool:
        answers = list(pool.map(render, folders, parts))
    return {
        "/".join(which): answer
        for part, rendered in zip(parts, answers, strict=True)
        for which, answer in zip(part, rendered, strict=True)
    }


@pytest.fixture(scope="session")
def all_rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Rendered]:
    """Every machine of every topology, rendered once for all processes of the run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    kept = folder / "rendered.json"
    with open(folder / "rendered.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            answers = render_all(tmp_path_factory.mktemp("trees"))
            part = kept.with_suffix(".part")
            part.write_text(json.dumps(answers), encoding="utf-8")
            part.rename(kept)
    answers = json.loads(kept.read_text(encoding="utf-8"))
    by_name = {one["name"]: one for one in topologies()}

    def rendered(topology: str, name: str) -> Rendered:
        answer = answers[f"{topology}/{name}"]
        return Rendered(
            by_name[topology],
            name,
            answer["top"].get("base", []),
            answer["low"],
            answer["files"],
            answer["status"],
            answer["tree"],
            answer["tunnels"],
        )

    return {which: rendered(*which) for which in MACHINES}


@pytest.fixture(params=MACHINES, ids=["/".join(which) for which in MACHINES])
def rendered(
    request: pytest.FixtureRequest, all_rendered: dict[tuple[str, str], Rendered]
) -> Rendered:
    """One machine of one topology; a test that asks for it runs once for each."""
    return all_rendered[request.param]


@pytest.fixture(scope="session")
def ask_dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[Any]]]:
    """`ask_dev([[function, arguments, keywords], …])`: answers of Salt as machine dev."""
    tree = tmp_path_factory.mktemp("asked") / "dev"
    prepare(tree, {"topology": "dev", "name": "dev", "release": RELEASE})
    yield lambda questions: ask_salt(tree, questions)


# --- a systemd that only remembers ----------------------------------------------------------------


def _matches(unit: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(f"{unit.removesuffix('.service')}.service", one) for one in patterns)


class Systemd:
    """Stands in for `units.systemctl`: units are up or down, and every command is noted.

    `fail` maps a command (`"reload haproxy"`) to how often it is yet to fail.
    """

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.active: set[str] = set()
        self.enabled: set[str] = set()
        self.fail: dict[str, int] = {}
        self.on: Callable[[str], None] = lambda command: None

    def __call__(self, *words: str, timeout: int = 120) -> tuple[int, str]:
        verb, unit = words[0], words[-1]
        command = " ".join(words)
        if verb == "is-active":
            return (0, "active") if unit in self.active else (3, "inactive")
        if verb == "is-enabled":
            return (0, "enabled") if unit in self.enabled else (1, "disabled")
        if verb == "is-failed":
            return 1, "active"
        if verb == "list-units":
            here = [one for one in sorted(self.active) if _matches(one, words)]
            return 0, "".join(f"{one} loaded active running\n" for one in here)
        self.commands.append(command)
        self.on(command)
        if self.fail.get(command):
            self.fail[command] -= 1
            if verb in ("start", "restart"):
                self.active.discard(unit)
            return 1, f"Job for {unit} failed."
        if verb in ("start", "restart"):
            self.active.add(unit)
        elif verb == "enable":
            self.enabled.add(unit)
        elif verb == "disable":
            self.enabled.discard(unit)
            if "--now" in words:
                self.active.discard(unit)
        return 0, ""

    def did(self, *verbs: str) -> list[str]:
        """Commands of these verbs, in order."""
        return [command for command in self.commands if command.split()[0] in verbs]


@pytest.fixture
def systemd() -> Systemd:
    return Systemd()
