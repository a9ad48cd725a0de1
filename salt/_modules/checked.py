"""
Configuration that goes live only after its own program has accepted it: rendered to a staging folder, and
checked there. The work behind the states ``checked.files`` and ``checked.service``, with ``file_set`` (how files
are swapped in, and back) and ``units`` (which of them a service has loaded).
"""

import os
import shlex
import shutil
import subprocess
import tempfile

from salt.exceptions import CommandExecutionError

__virtualname__ = "checked"

# Seconds a check may take; a hanging check must not hang the apply.
_CHECK_TIMEOUT = 60
_ORIGINS = ("source", "contents", "from_secret")
_SPEC = {*_ORIGINS, "mode", "user", "group", "template", "secret"}


def __virtual__():
    return __virtualname__


def render(files, context=None, made=None):
    """
    The files as they are to be: ``{path: {data: bytes, mode: int, user, group, secret: bool}}``.

    files
        ``{path: {…, mode: '0644', user: root, group: root, template: jinja, secret: false}}`` with
        one of ``source: salt://…`` (a Jinja template if it ends in ``.j2``), ``contents: text`` and
        ``from_secret: NAME``, the value of a secret of this machine, never shown
    context
        what the templates get beside Salt's own names
    made
        ``{module.function: {its arguments}}``, each of which gives more such files, as a pair of
        certificate and key that only go together
    """
    wanted = {}
    for function, words in (made or {}).items():
        wanted.update(__salt__[function](**words))
    for path, spec in files.items():
        origins = [key for key in _ORIGINS if key in spec]
        if set(spec) - _SPEC or len(origins) != 1 or not os.path.isabs(path):
            raise CommandExecutionError(
                f"{path}: needs an absolute path and one of {', '.join(_ORIGINS)};"
                f" allowed: {', '.join(sorted(_SPEC))}"
            )
        wanted[path] = {
            "data": _data(path, spec, context or {}),
            "mode": int(str(spec.get("mode", "0644")), 8),
            "user": spec.get("user", "root"),
            "group": spec.get("group", "root"),
            "secret": bool(spec.get("secret")) or "from_secret" in spec,
        }
    return wanted


def _data(path, spec, context):
    if "contents" in spec:
        return spec["contents"].encode()
    if "from_secret" in spec:
        source = __salt__["secret.path"](spec["from_secret"])
    elif spec.get("template") == "jinja" or spec["source"].endswith(".j2"):
        with tempfile.TemporaryDirectory(prefix="checked-") as scratch:
            target = os.path.join(scratch, "rendered")
            # `salt`, `pillar` and `grains` are there as in an SLS.
            done = __salt__["cp.get_template"](
                spec["source"], target, template="jinja", context=context
            )
            if not done:
                raise CommandExecutionError(f"{path}: {spec['source']} did not render")
            with open(target, "rb") as file:
                return file.read()
    else:
        source = __salt__["cp.cache_file"](spec["source"])
        if not source:
            raise CommandExecutionError(f"{path}: {spec['source']} is not in the tree")
    with open(source, "rb") as file:
        return file.read()


def check(wanted, checks, instance="1"):
    """
    Run every check on a staged copy of the files; None when all accept, else what the first one
    that refused said. Unit files and drop-ins are checked by ``systemd-analyze verify`` without
    being asked for.

    checks
        shell commands; ``{staged}`` is the folder that holds the files under their own whole
        paths (``{staged}/etc/haproxy/haproxy.cfg``), a word ``salt://…`` a file of the tree
    instance
        instance name with which template units are verified
    """
    # Beside nothing of the machine's: a private folder that only root can enter, for staged
    # files may be secret. Files have their final owner and mode, as the checks may ask for it.
    staged = tempfile.mkdtemp(prefix="checked-")
    try:
        for path, spec in wanted.items():
            target = staged + path
            os.makedirs(os.path.dirname(target), exist_ok=True)
            owner = __salt__["file_set.owner"](spec)
            __utils__["atomic_file.create"](target, spec["data"], spec["mode"], owner)
        for command in checks:
            refusal = _run_check(command, staged)
            if refusal is not None:
                return refusal.replace(staged, "")
        refusal = __salt__["units.verify"](wanted, staged, instance)
        return refusal.replace(staged, "") if refusal is not None else None
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _run_check(command, staged):
    words = []
    for word in shlex.split(command.replace("{staged}", staged)):
        if word.startswith("salt://"):
            # A file of the tree, by its interpreter: a cached copy has no execute bit.
            words += [_interpreter(word)] if not words else []
            word = __salt__["tree.file"](word)
        words.append(word)
    try:
        code, output = __utils__["process.run"](words, _CHECK_TIMEOUT)
    except FileNotFoundError:
        return f"{words[0]}: not found, so the configuration cannot be checked"
    except subprocess.TimeoutExpired:
        return f"{command}: no answer within {_CHECK_TIMEOUT} s"
    if code == 0:
        return None
    return output or f"{command}: exit code {code}, without a word"


def _interpreter(source):
    return "/usr/bin/python3" if source.endswith(".py") else "/bin/sh"


def run(command):
    """``(exit code, output)`` of a shell command; a leading ``salt://…`` is a program of the tree."""
    program, _, rest = command.partition(" ")
    if program.startswith("salt://"):
        path = shlex.quote(__salt__["tree.file"](program))
        command = f"{_interpreter(program)} {path} {rest}"
    try:
        code, output = __utils__["process.run"](command, 10, shell=True)
    except subprocess.TimeoutExpired:
        return 124, f"{command}: no answer"
    return code, output or (f"{command}: exit code {code}" if code else "")


def ready(command):
    """None when the shell command says that the service does its work, else what it said."""
    code, output = run(command)
    return None if code == 0 else output
