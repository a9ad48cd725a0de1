"""
A formula's settings: its own defaults, overlaid with the operating system's and the pillar's,
and refused as a whole when the pillar says anything that no schema knows.

Every ``map.jinja`` calls :py:func:`settings`. Rendering comes before the first state runs, so a
misspelt pillar key stops ``state.apply`` before anything changes, also when only one formula is
applied.
"""

import copy
import fnmatch
import functools
import ipaddress
import math
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
# What YAML calls no printable character (1.2.2, 5.1), the byte order mark, and each that some program
# takes for the end of a line: what goes into a file of one line each must have none.
_ODD = re.compile(
    r"[^\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
# Formats of a schema whose text has lines.
_OF_LINES = ("certificates", "script")
# Said of a number or a boolean where text is wanted: YAML has changed it already.
_QUOTE = (
    "quote it: without quotes YAML makes a number or a boolean of 0027, 12:30, 1.10, yes and no"
)


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
    near = __utils__["suggest.nearest"](key, known, cutoff=0.5)
    hint = f"did you mean '{near}'? " if near else ""
    return f"pillar {where}: unknown key; {hint}known: {', '.join(known)}"


class _Names:
    """
    What ``format:`` means in a schema. ``secret``: the name of a secret, kept in ``secrets`` with its
    form (see secret.problem), which somebody must give; ``secret key``: one that is a private key;
    ``made secret``: one that this machine makes where nobody gives it, kept in ``made`` too; ``key of
    FILE``: a top-level key of FILE in any formula, on this machine or not; ``network``: an address or a
    network, as ``ipaddress`` reads it; ``certificates``: PEM that everybody may read; ``script``: lines
    of a shell.
    """

    def __init__(self):
        self.secrets = {}
        self.made = set()

    def known(self, file):
        return {key for name in names() for key in _keys(f"{name}/{file}")}

    def check(self, instance, form):
        from jsonschema.exceptions import FormatError

        if form in ("secret", "secret key", "made secret") and isinstance(instance, str):
            self.secrets[instance] = "key" if form == "secret key" else "text"
            if form == "made secret":
                self.made.add(instance)
        elif form == "certificates" and isinstance(instance, str):
            if wrong := __utils__["certificate_checks.unfit"](instance):
                raise FormatError("no certificates", cause=ValueError(wrong))
        elif form.startswith("key of ") and instance not in self.known(form[len("key of ") :]):
            raise FormatError("no such name")
        elif form == "network" and isinstance(instance, str):
            try:
                everybody = ipaddress.ip_network(instance).prefixlen == 0
            except ValueError as error:
                raise FormatError("no network", cause=error) from None
            if everybody:
                raise FormatError("no network", cause=ValueError(f"{instance} is everybody"))


@functools.cache
def _dialect():
    """JSON Schema, without what Python and YAML would let through: see each of the rules."""
    # It costs a tenth of a second to import: only a run that validates pays it.
    import jsonschema

    base = jsonschema.Draft202012Validator

    def is_number(_, value):
        # No 2.0 for an integer: it would go into a file as 2.0. Neither .inf nor .nan, nor 1e-05, which
        # YAML takes for text.
        return isinstance(value, int) and not isinstance(value, bool)

    kinds = base.TYPE_CHECKER.redefine_many(
        {
            "integer": is_number,
            "number": lambda _, value: (
                is_number(_, value)
                or (isinstance(value, float) and math.isfinite(value) and "e" not in repr(value))
            ),
        }
    )

    def of_type(validator, wanted, value, schema):
        wrong = list(base.VALIDATORS["type"](validator, wanted, value, schema))
        yield from wrong
        if isinstance(value, str) and not wrong:
            lines = schema.get("format") in _OF_LINES
            if _ODD.search(re.sub(r"\r?\n", "", value) if lines else value):
                yield jsonschema.ValidationError("odd", validator="text", instance=value)

    def pattern(validator, wanted, value, schema):
        # Python's `$` also matches before a last line break, JSON Schema's (ECMA 262) does not.
        whole = re.sub(r"(?<!\\)\$$", r"\\Z", wanted)
        if isinstance(value, str) and not re.search(whole, value):
            yield jsonschema.ValidationError("no match")

    rules = {"type": of_type, "pattern": pattern}
    return jsonschema.validators.extend(base, rules, type_checker=kinds)


def _validator(schema, names):
    return _dialect()(schema, format_checker=names)


def _odd_keys(value, where):
    """A line for each key that is no text: no schema can name it, and none may meet it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{where}:{key}".lstrip(":")
            if not isinstance(key, str):
                yield f"pillar {path}: key {_shown(key)} is not text; {_QUOTE}"
            elif not key.isprintable():
                yield f"pillar {where}: key {_shown(key)} is not one line of text"
            else:
                yield from _odd_keys(inner, path)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _odd_keys(inner, f"{where}[{index}]")


def _shown(value):
    """A value as a message shows it: one line, not all of a long one, nothing of a private key."""
    text = repr(value)
    if "PRIVATE KEY" in text:
        return "what is given, which holds a private key,"
    return text if len(text) <= 100 else f"{text[:99]}…"


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
    if "propertyNames" in error.relative_schema_path or str(wanted).startswith("key of "):
        # The key itself.
        where = f"{where}:{value}"
    shown = _shown(value)
    # Text was wanted, and something else came of it.
    quote = f"; {_QUOTE}" if isinstance(value, (bool, int, float)) else ""
    if rule == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        return [
            _unknown(f"{where}:{key}", key, allowed) for key in sorted(set(value) - set(allowed))
        ]
    if rule == "type":
        wanted = wanted if isinstance(wanted, list) else [wanted]
        what = f"{shown} is not of type {' or '.join(wanted)}{quote if 'string' in wanted else ''}"
    elif rule == "text":
        what = f"{shown} has a control character or more than one line; allowed: one line of text"
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
        texts = all(isinstance(one, (str, type(None))) for one in wanted)
        what = f"{shown} is not one of {', '.join(map(str, wanted))}{quote if texts else ''}"
    elif rule in ("minimum", "maximum"):
        low, high = (error.schema.get(end, "") for end in ("minimum", "maximum"))
        what = f"{shown} is out of range; allowed: {low}..{high}"
    elif rule == "format" and wanted == "network":
        # The reason, such as `192.0.2.1/24 has host bits set`.
        what = f"{error.cause}; allowed: an address, or a network such as 192.0.2.0/24"
    elif rule == "format" and wanted == "certificates":
        what = str(error.cause)
    elif rule == "format":
        file = wanted[len("key of ") :]
        return [_unknown(where, value, sorted(_Names().known(file)))]
    elif rule == "pattern":
        what = f"{shown} does not look right; allowed: {error.schema.get('description', wanted)}"
    elif rule == "required":
        what = error.message
    else:
        allowed = error.schema.get("description", f"{rule} {wanted}")
        what = f"{shown} does not look right; allowed: {allowed}"
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
    pillar = __pillar__ if pillar is None else pillar
    known = names()
    lines = list(_odd_keys(pillar, ""))
    if lines:
        # What follows compares keys with text.
        return lines
    for key in pillar:
        if key not in known and key not in _DATA:
            lines.append(_unknown(key, key, known))
    for name in known:
        if name not in pillar:
            continue
        validator = _validator(_schema(name), _Names())
        for error in sorted(validator.iter_errors(_plain(pillar[name])), key=_where):
            lines.extend(_explain(name, error))
    lines += [] if lines else _broken_rules(pillar, known)
    if pillar.get("secrets") is not None and not lines:
        # The controller's were checked there (control/credentials/given_secrets.py): settings may be taken back before them.
        others = set((pillar.get("machine") or {}).get("secrets") or ())
        lines += _secret_problems(_plain(pillar["secrets"]), _secrets(pillar), others)
    return lines


def _broken_rules(pillar, known):
    """
    Lines for what must hold between settings and does not: ``rules.yaml`` of each formula, and of the tree
    for what is between formulas. Only rules with a setting of this pillar are looked at: among themselves
    the defaults hold (a test says so).
    """
    merged, lines = {}, []
    folders = ["", *(f"{name}/" for name in known)]
    for folder in folders if set(known) & set(pillar) else []:
        for rule in _read(f"{_TREE}{folder}rules.yaml") or []:
            named = rule_formulas(rule)
            # A tree that took some of the formulas over keeps to what it can know.
            if not named & set(pillar) or not named <= set(known):
                continue
            merged.update({one: _merged(one, pillar) for one in named - set(merged)})
            line = rule_problem(rule, merged)
            if line:
                lines.append(line)
    return lines


@functools.cache
def _rules():
    """The Jinja in which rules are written."""
    import jinja2.sandbox

    rules = jinja2.sandbox.SandboxedEnvironment()
    rules.filters["seconds"] = seconds
    rules.globals = {
        "seconds": seconds,
        "matches": lambda name, patterns: any(fnmatch.fnmatch(name, one) for one in patterns),
    }
    return rules


def rule_formulas(rule):
    """Names of the formulas whose settings a rule is about."""
    return _variables(rule["holds"])


@functools.cache
def _variables(expression):
    """What an expression of a rule names beside its functions; read once a process."""
    import jinja2.meta

    words = _rules().parse("{{ " + expression + " }}")
    return frozenset(jinja2.meta.find_undeclared_variables(words)) - set(_rules().globals)


@functools.cache
def _compiled(expression):
    return _rules().compile_expression(expression)


def rule_problem(rule, merged):
    """
    None when ``rule`` holds for the merged settings, ``{formula: settings}``, else the line that refuses.

    rule
        ``{setting: path, holds: Jinja expression, says: what must be}``. Beside the formulas' settings it
        knows ``seconds(duration)`` and ``matches(name, patterns)``
    """
    if _compiled(rule["holds"])(**merged):
        return None
    value = merged
    for part in rule["setting"].split(":"):
        value = value[part]
    shown = "" if isinstance(value, (dict, list)) else f"{value!r} "
    says = _rules().from_string(rule["says"]).render(merged)
    return f"pillar {rule['setting']}: {shown}{says}"


def _secret_problems(given, forms, others):
    """A line for each secret of a name that nobody uses, or in a form that its users cannot have.
    None shows any of it: what stands below a name is nobody's to read."""
    if not isinstance(given, dict):
        yield "pillar secrets: needs names with their values (docs/secrets.md)"
        return
    for name, value in given.items():
        if name not in forms:
            if name not in others:
                yield _unknown(f"secrets:{name}", name, sorted(forms))
        elif wrong := __salt__["secret.problem"](value, forms[name]):
            yield f"pillar secrets:{name}: {wrong}"


def _declared():
    """``{name: {roles, kind, form}}`` of the secrets in every formula's ``secrets.yaml``."""
    return {
        secret: said or {}
        for name in names()
        for secret, said in (_read(f"{_TREE}{name}/secrets.yaml") or {}).items()
    }


def _secrets(pillar):
    """All secrets that any formula uses, on this machine or not: ``{name: form}``."""
    declared = {
        name: said.get("form") or ("age" if said.get("kind") == "age" else "text")
        for name, said in _declared().items()
    }
    return {**declared, **_named(pillar).secrets}


def _named(pillar):
    """The secrets that any formula's settings name, on this machine or not."""
    found = _Names()
    for name in names():
        list(_validator(_schema(name), found).iter_errors(_merged(name, pillar)))
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
    """Seconds of a duration: ``500ms``, ``2s``, ``1m``, ``3h``, ``4d``, ``5w``.

    CLI Example:

    .. code-block:: bash

        salt-call formula.seconds 500ms
    """
    found = re.fullmatch(r"(\d+)(ms|s|m|h|d|w)", str(duration))
    if not found:
        raise CommandExecutionError(f"{duration!r} is no duration: use 500ms, 2s, 1m")
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    return int(found.group(1)) * units[found.group(2)]


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
    return {name: said(name, filename) for name in applied() if f"{name}/{filename}" in _files()}


def offered(filename):
    """
    What each formula of the tree says in its own ``filename`` (Jinja, then YAML), of this machine or not:
    what a service hands to those who use it from other machines. ``{formula: data}``, sorted.

    CLI Example:

    .. code-block:: bash

        salt-call formula.offered backend.yaml.j2
    """
    found = sorted(path.split("/")[0] for path in _files() if path.endswith(f"/{filename}"))
    return {name: said(name, filename) for name in found if not name.startswith("_")}


def said(name, filename):
    """
    What formula ``name`` says in its own ``filename`` (Jinja, then YAML), also one that is none of this
    machine's; None where it has no such file.

    CLI Example:

    .. code-block:: bash

        salt-call formula.said redis logs.yaml.j2
    """
    if f"{name}/{filename}" not in _files():
        return None
    return __salt__["slsutil.renderer"](f"{_TREE}{name}/{filename}", default_renderer="jinja|yaml")


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
