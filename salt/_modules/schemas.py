"""
JSON Schema as this tree has it: what is wrong with a value, one line each, with path, what is allowed and
the nearest right name. Settings (``SERVICE/schema.yaml``) and the small files that formulas hand to each
other (``_schemas/``) are checked here alike.
"""

import functools
import ipaddress
import math
import re

__virtualname__ = "schemas"

# What YAML calls no printable character (1.2.2, 5.1), the byte order mark, and each that some program
# takes for the end of a line: what goes into a file of one line each must have none.
_ODD = re.compile(
    r"[^\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
# Formats of a schema whose text has lines.
_OF_LINES = ("certificates", "script", "lines")
# Said of a number or a boolean where text is wanted: YAML has changed it already.
_QUOTE = (
    "quote it: without quotes YAML makes a number or a boolean of 0027, 12:30, 1.10, yes and no"
)


def __virtual__():
    return __virtualname__


class _Formats:
    """
    What ``format:`` means in a schema. ``secret``: the name of a secret, kept in ``secrets`` with its
    form (see secret.problem), which somebody must give; ``secret key``: one that is a private key;
    ``made secret``: one that this machine makes where nobody gives it, kept in ``made`` too; ``application``: its
    name, whose password for the store is such a one, ``redis-NAME``; ``network``:
    an address or a network, as ``ipaddress`` reads it; ``certificates``: PEM that everybody may read;
    ``script``, ``lines``: text of several lines. Of any other, such as ``role``, ``known(format)`` gives the names.
    """

    def __init__(self, known=None):
        self.secrets = {}
        self.made = set()
        self.known = known or (lambda form: None)

    def check(self, instance, form):
        from jsonschema.exceptions import FormatError

        if form in ("secret", "secret key", "made secret") and isinstance(instance, str):
            self.secrets[instance] = "key" if form == "secret key" else "text"
            if form == "made secret":
                self.made.add(instance)
        elif form == "application" and isinstance(instance, str):
            self.secrets[f"redis-{instance}"] = "text"
            self.made.add(f"redis-{instance}")
        elif form == "certificates" and isinstance(instance, str):
            if wrong := __utils__["certificate_checks.unfit"](instance):
                raise FormatError("no certificates", cause=ValueError(wrong))
        elif form == "network" and isinstance(instance, str):
            try:
                everybody = ipaddress.ip_network(instance).prefixlen == 0
            except ValueError as error:
                raise FormatError("no network", cause=error) from None
            if everybody:
                raise FormatError("no network", cause=ValueError(f"{instance} is everybody"))
        elif (names := self.known(form)) is not None and instance not in names:
            raise FormatError("no such name")


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


def _validator(schema, formats):
    return _dialect()(schema, format_checker=formats)


def odd_keys(value, where=""):
    """
    ``[path: what is wrong]`` of each key that is no text: no schema can name it, and none may meet it.

    CLI Example:

    .. code-block:: bash

        salt-call schemas.odd_keys '{12: x}'
    """
    return list(_odd_keys(value, where))


def _odd_keys(value, where):
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{where}:{key}".lstrip(":")
            if not isinstance(key, str):
                yield f"{path}: key {_shown(key)} is not text; {_QUOTE}"
            elif not key.isprintable():
                yield f"{where}: key {_shown(key)} is not one line of text"
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


def _path(error, instance):
    """``key:list[2]:key`` of an error in ``instance``; an item that has a title goes by that."""
    path = ""
    for part in error.absolute_path:
        instance = instance[part]
        if isinstance(part, int):
            title = instance.get("title") if isinstance(instance, dict) else None
            path += f"[{title if isinstance(title, str) else part}]"
        else:
            path += f"{':' if path else ''}{part}"
    return path


def nearest(value, known):
    """
    ``did you mean 'NAME'? `` of the name in ``known`` that is most like ``value``; empty if none is.

    CLI Example:

    .. code-block:: bash

        salt-call schemas.nearest haporxy '[haproxy, redis]'
    """
    near = __utils__["suggest.nearest"](value, known, cutoff=0.5)
    return f"did you mean '{near}'? " if near else ""


def unknown(key, known):
    """
    What is said of a key that no schema knows, with the nearest right one.

    CLI Example:

    .. code-block:: bash

        salt-call schemas.unknown haporxy '[haproxy, redis]'
    """
    return f"unknown key; {nearest(key, known)}known: {', '.join(known)}"


def _is_other_kind(error):
    """Whether a text, say, is where a map is allowed."""
    kind = type(error.validator_value) is type(error.instance)
    return not error.path and (
        error.validator == "type" or (error.validator == "const" and not kind)
    )


def _leaves(error):
    """The error itself; or of several allowed shapes, what is wrong within the only one that was meant."""
    if error.validator not in ("oneOf", "anyOf"):
        return [error]
    shapes = {}
    for inner in error.context:
        shapes.setdefault(inner.schema_path[0], []).append(inner)
    meant = [found for found in shapes.values() if not any(map(_is_other_kind, found))]
    if len(meant) > 1:
        # Its own keys are right.
        meant = [found for found in meant if all(inner.path for inner in found)]
    if len(meant) != 1 or any(inner.validator == "const" for inner in meant[0]):
        return [error]
    return [leaf for inner in meant[0] for leaf in _leaves(inner)]


def problems(schema, value, subject, known=None):
    """
    What is wrong with ``value`` by the JSON Schema ``schema``, one line each; an empty list when all is well.

    subject
        what the lines begin with: ``pillar haproxy``; with a colon and a blank when a path follows
        after that, ``redis/firewall.yaml.j2: ``
    known
        ``known(format)``: the names that a ``format:`` stands for, which is none of this module's own; None
        where it stands for none

    CLI Example:

    .. code-block:: bash

        salt-call schemas.problems '{type: object}' '[]' 'pillar redis'
    """
    known = known or (lambda form: None)
    found = _validator(schema, _Formats(known)).iter_errors(value)
    lines = []
    for error in sorted(found, key=lambda error: _path(error, value)):
        for leaf in _leaves(error):
            for path, what in _explain(leaf, _path(leaf, value), known):
                if subject.endswith(": "):
                    where = f"{subject}{path}".removesuffix(": ")
                else:
                    where = ":".join(filter(None, [subject, path]))
                lines.append(f"{where}: {what}")
    return list(dict.fromkeys(lines))


def secrets(schema, value):
    """
    Secrets that ``value`` names, by the ``format: secret`` of ``schema``: ``{names: {name: form},
    made: {names}}``; see secret.problem. ``made`` are those that this machine makes where nobody gives them.

    CLI Example:

    .. code-block:: bash

        salt-call schemas.secrets '{format: secret}' site-key
    """
    found = _Formats()
    list(_validator(schema, found).iter_errors(value))
    return {"names": found.secrets, "made": found.made}


def _explain(error, where, known):
    """``(path, what is wrong and what is allowed)`` of one error."""
    rule, wanted, value, schema = (
        error.validator, error.validator_value, error.instance, error.schema,
    )  # fmt: skip
    names = known(wanted) if rule == "format" else None
    if "propertyNames" in error.relative_schema_path:
        # The key itself.
        where = ":".join(filter(None, [where, str(value)]))
    shown = _shown(value)
    # Text was wanted, and something else came of it.
    quote = f"; {_QUOTE}" if isinstance(value, (bool, int, float)) else ""
    if rule == "additionalProperties":
        allowed = sorted(schema.get("properties", {}))
        for key in sorted(set(value) - set(allowed)):
            yield ":".join(filter(None, [where, key])), unknown(key, allowed)
        return
    if names is not None:
        key = "propertyNames" in error.relative_schema_path
        said = "" if key else f"{shown}: "
        yield (
            where,
            f"{said}unknown {'key' if key else wanted}; {nearest(value, names)}known: {', '.join(names)}",
        )
        return
    if rule == "type":
        wanted = wanted if isinstance(wanted, list) else [wanted]
        what = f"{shown} is not of type {' or '.join(wanted)}{quote if 'string' in wanted else ''}"
    elif rule == "text":
        what = f"{shown} has a control character or more than one line; allowed: one line of text"
    elif rule == "dependentRequired":
        # {certificate: [key]}: named by what is there and what is not.
        what = "; ".join(
            f"{there} needs {needed} too"
            for there, all_needed in wanted.items()
            if there in value
            for needed in all_needed
            if needed not in value
        )
    elif rule == "enum":
        texts = all(isinstance(one, (str, type(None))) for one in wanted)
        near = nearest(value, [one for one in wanted if isinstance(one, str)]).rstrip()
        near = f"; {near}" if near else ""
        what = f"{shown} is not one of {', '.join(map(str, wanted))}{near}{quote if texts else ''}"
    elif rule in ("minimum", "maximum"):
        low, high = (schema.get(end, "") for end in ("minimum", "maximum"))
        what = f"{shown} is out of range; allowed: {low}..{high}"
    elif rule == "format" and wanted == "network":
        # The reason, such as `192.0.2.1/24 has host bits set`.
        what = f"{error.cause}; allowed: an address, or a network such as 192.0.2.0/24"
    elif rule == "format":
        what = str(error.cause)
    elif rule == "required":
        missing = [key for key in wanted if key not in value]
        about = schema.get("properties", {}).get(missing[0], {}).get("description")
        what = f"needs {', '.join(missing)}{f' ({about})' if about and len(missing) == 1 else ''}"
    else:
        allowed = schema.get("description", wanted if rule == "pattern" else f"{rule} {wanted}")
        what = f"{shown} does not look right; allowed: {allowed}"
    yield where, what
