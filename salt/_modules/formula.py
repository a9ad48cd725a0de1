"""
A formula's settings: its own defaults, overlaid with the operating system's and the pillar's,
and refused as a whole when the pillar says anything that no schema knows.

Every ``map.jinja`` calls :py:func:`settings`. Rendering comes before the first state runs, so a
misspelt pillar key stops ``state.apply`` before anything changes, also when only one formula is
applied.
"""

import copy
import difflib
import ipaddress
import os
import re

import salt.utils.dictupdate
import salt.utils.yaml
from salt.exceptions import CommandExecutionError

__virtualname__ = "formula"

_TREE = "salt://"
# Pillar keys that are not a formula's: what pillar/topology.sls says of the machines, which it
# has checked itself, and the encrypted secrets (salt/_modules/secret.py).
_DATA = ("topology", "machine", "secrets")


def __virtual__():
    return __virtualname__


def _read(source):
    """Parsed YAML of a ``salt://`` file, or None where there is none."""
    if source[len(_TREE) :] not in _files():
        return None
    path = __salt__["cp.cache_file"](source)
    with open(path, encoding="utf-8") as file:
        return salt.utils.yaml.safe_load(file)


def _files():
    """Every path of the tree; listed once a run."""
    if "formula.files" not in __context__:
        __context__["formula.files"] = frozenset(__salt__["cp.list_master"]())
    return __context__["formula.files"]


def names():
    """Formulas of the tree: every directory with a ``schema.yaml``, sorted."""
    return sorted(
        path.split("/")[0]
        for path in _files()
        if path.count("/") == 1 and path.endswith("/schema.yaml") and not path.startswith("_")
    )


def _unknown(where, key, known):
    """The line for a key that no schema knows, with the nearest right one."""
    near = difflib.get_close_matches(str(key), known, 1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"pillar {where}: unknown key; {hint}known: {', '.join(known)}"


class _Names:
    """
    What ``format:`` means in a schema. ``secret``: the name of a secret, kept in ``secrets``, which
    somebody must give; ``made secret``: one that this machine makes where nobody does, kept in ``made``
    too; ``key of FILE``: a top-level key of FILE in any formula, on this machine or not; ``network``: an
    address or a network, as ``ipaddress`` reads it.
    """

    def __init__(self):
        self.secrets = set()
        self.made = set()

    def known(self, file):
        return {key for name in names() for key in _keys(f"{name}/{file}")}

    def check(self, instance, form):
        from jsonschema.exceptions import FormatError

        if form in ("secret", "made secret") and isinstance(instance, str):
            self.secrets.add(instance)
            if form == "made secret":
                self.made.add(instance)
        elif form.startswith("key of ") and instance not in self.known(form[len("key of ") :]):
            raise FormatError("no such name")
        elif form == "network" and isinstance(instance, str):
            try:
                everybody = ipaddress.ip_network(instance).prefixlen == 0
            except ValueError as error:
                raise FormatError("no network", cause=error) from None
            if everybody:
                raise FormatError("no network", cause=ValueError(f"{instance} is everybody"))


def _keys(path):
    """Top-level keys of a YAML file of the tree, also those that its Jinja leaves out here."""
    if path not in _files():
        return []
    with open(__salt__["cp.cache_file"](_TREE + path), encoding="utf-8") as file:
        return re.findall(r"(?m)^([a-z][a-z0-9-]*):", file.read())


def _where(error):
    path = ""
    for part in error.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f"{':' if path else ''}{part}"
    return path


def _explain(name, error):
    """One line: path, what is wrong, what is allowed."""
    where = ":".join(filter(None, [name, _where(error)]))
    rule, wanted, value = error.validator, error.validator_value, error.instance
    if rule == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        return [
            _unknown(f"{where}:{key}", key, allowed) for key in sorted(set(value) - set(allowed))
        ]
    if rule == "type":
        wanted = " or ".join(wanted) if isinstance(wanted, list) else wanted
        what = f"{value!r} is not of type {wanted}"
    elif rule == "dependentRequired":
        # {certificate: [key]}: named by what is there and what is not.
        gaps = [
            f"{there} needs {needed} too"
            for there, all_needed in wanted.items()
            if there in value
            for needed in all_needed
            if needed not in value
        ]
        what = "; ".join(gaps)
    elif rule == "enum":
        what = f"{value!r} is not one of {', '.join(map(str, wanted))}"
    elif rule in ("minimum", "maximum"):
        low, high = (error.schema.get(end, "") for end in ("minimum", "maximum"))
        what = f"{value!r} is out of range; allowed: {low}..{high}"
    elif rule == "format" and wanted == "network":
        # The reason, such as `192.0.2.1/24 has host bits set`.
        what = f"{error.cause}; allowed: an address, or a network such as 192.0.2.0/24"
    elif rule == "format":
        file = wanted[len("key of ") :]
        return [_unknown(f"{where}:{value}", value, sorted(_Names().known(file)))]
    elif rule == "pattern":
        what = f"{value!r} does not look right; allowed: {error.schema.get('description', wanted)}"
    else:
        what = error.message
    return [f"pillar {where}: {what}"]


def problems(pillar=None):
    """
    What is wrong with the pillar, one line each; an empty list when all is well.

    pillar
        the pillar to look at; this run's by default

    CLI Example:

    .. code-block:: bash

        salt-call formula.problems
    """
    # jsonschema costs a tenth of a second to import: only a run that validates pays it.
    import jsonschema

    pillar = __pillar__ if pillar is None else pillar
    known = names()
    lines = []
    for key in pillar:
        if key not in known and key not in _DATA:
            lines.append(_unknown(key, key, known))
    for name in known:
        if name not in pillar:
            continue
        validator = jsonschema.Draft202012Validator(_schema(name), format_checker=_Names())
        for error in sorted(validator.iter_errors(_plain(pillar[name])), key=str):
            lines.extend(_explain(name, error))
    if pillar.get("secrets") and not lines:
        used = sorted({*_declared(), *_named(pillar).secrets})
        # The controller's were checked there (control/given.py): settings may be taken back before them.
        known = {*used, *((pillar.get("machine") or {}).get("secrets") or ())}
        # Names only: what stands below them is nobody's to read.
        lines += [
            _unknown(f"secrets:{name}", name, used)
            for name in pillar["secrets"]
            if name not in known
        ]
    return lines


def _declared():
    """``{name: {roles, kind}}`` of the secrets in every formula's ``secrets.yaml``."""
    return {
        secret: said or {}
        for name in names()
        for secret, said in (_read(f"{_TREE}{name}/secrets.yaml") or {}).items()
    }


def _named(pillar):
    """Names of the secrets that any formula's settings name, on this machine or not."""
    import jsonschema

    found = _Names()
    for name in names():
        validator = jsonschema.Draft202012Validator(_schema(name), format_checker=found)
        list(validator.iter_errors(_merged(name, pillar)))
    return found


def secret_kind(name):
    """
    What becomes of secret ``name`` where nobody gives it: ``random`` or ``age``, for one that a formula
    declares as its own to make (``secrets.yaml``, or ``format: made secret`` of the setting that names
    it). Any other is another system's, ``given``: no machine can make it up (``secret.ensure``).

    CLI Example:

    .. code-block:: bash

        salt-call formula.secret_kind redis-counter
    """
    declared = _declared()
    if name in declared:
        return declared[name].get("kind", "random")
    return "random" if name in _named(__pillar__).made else "given"


def _schema(name):
    return _read(f"{_TREE}{name}/schema.yaml")


def _plain(value):
    """Salt's ordered and proxied containers as plain ones, which jsonschema tells apart."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def settings(name):
    """
    All settings of formula ``name``: ``defaults.yaml``, then what ``os.yaml`` says for this
    release (key: ``oscodename``) or family (key: ``os_family``), then the pillar, merged
    recursively; lists are replaced, not joined.

    Raises CommandExecutionError, with every problem on a line of its own, when any part of the
    pillar is invalid, not only this formula's.

    CLI Example:

    .. code-block:: bash

        salt-call formula.settings haproxy
    """
    if "formula.valid" not in __context__:
        found = problems()
        __context__["formula.valid"] = not found
        if found:
            raise CommandExecutionError(
                "the pillar is refused; nothing was changed:\n" + "\n".join(found)
            )
    if not __context__["formula.valid"]:
        # Every SLS of the run comes by here; once said is enough.
        raise CommandExecutionError(
            "the pillar is refused; nothing was changed (reasons: see above)"
        )
    return _merged(name, __pillar__)


def _merged(name, pillar):
    merged = _read(f"{_TREE}{name}/defaults.yaml")
    if merged is None:
        raise CommandExecutionError(f"formula {name} has no defaults.yaml")
    system = _read(f"{_TREE}{name}/os.yaml") or {}
    for layer in (
        system.get(__grains__.get("os_family")),
        system.get(__grains__.get("oscodename")),
        pillar.get(name),
    ):
        if layer:
            merged = salt.utils.dictupdate.update(merged, copy.deepcopy(_plain(layer)))
    return merged


def seconds(duration):
    """Seconds of a duration as HAProxy writes it: ``500ms``, ``2s``, ``1m``.

    CLI Example:

    .. code-block:: bash

        salt-call formula.seconds 500ms
    """
    found = re.fullmatch(r"(\d+)(ms|s|m|h)", str(duration))
    if not found:
        raise CommandExecutionError(f"{duration!r} is no duration: use 500ms, 2s, 1m")
    return int(found.group(1)) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[found.group(2)]


def refuse(reason):
    """Stop the run while it renders, before anything changes, for settings that are valid each
    but not together.

    CLI Example:

    .. code-block:: bash

        salt-call formula.refuse 'pillar a:b: does not fit c:d'
    """
    raise CommandExecutionError(f"the pillar is refused; nothing was changed:\n{reason}")


def applied():
    """Formulas that this machine's roles bring, in the order of top.sls.

    CLI Example:

    .. code-block:: bash

        salt-call formula.applied
    """
    if "formula.applied" not in __context__:
        # concurrent: what runs while an apply does (make status, a runbook's command) is not refused.
        tops = __salt__["state.show_top"](concurrent=True)
        __context__["formula.applied"] = [one for env in tops.values() for one in env]
    return list(__context__["formula.applied"])


def collect(filename):
    """
    What each formula of this machine says in its own ``filename`` (Jinja, then YAML), for the
    formulas that serve all others and know none by name: ``{formula: data}``, in the order of
    top.sls, without the formulas that have no such file.

    CLI Example:

    .. code-block:: bash

        salt-call formula.collect status.yaml.j2
    """
    return {
        name: __salt__["slsutil.renderer"](
            f"{_TREE}{name}/{filename}", default_renderer="jinja|yaml"
        )
        for name in applied()
        if f"{name}/{filename}" in _files()
    }


def file(source):
    """
    Path on this machine of a ``salt://`` file, for programs that a check runs.

    CLI Example:

    .. code-block:: bash

        salt-call formula.file salt://redis/files/check
    """
    path = __salt__["cp.cache_file"](source)
    if not path or not os.path.exists(path):
        raise CommandExecutionError(f"{source} is not in the tree")
    return path
