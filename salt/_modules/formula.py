"""
A formula's settings: its own defaults, overlaid with the operating system's and the pillar's,
and refused as a whole when the pillar says anything that no schema knows.

Every ``map.jinja`` calls :py:func:`settings`. Rendering comes before the first state runs, so a
misspelt pillar key stops ``state.apply`` before anything changes, also when only one formula is
applied.
"""

import copy

import salt.utils.dictupdate
import salt.utils.yaml
from salt.exceptions import CommandExecutionError

__virtualname__ = "formula"

# Pillar keys that are not a formula's: what pillar/topology.sls says of the machines, which it
# has checked itself, and the encrypted secrets (salt/_modules/secret.py).
_DATA = ("topology", "machine", "secrets")


def __virtual__():
    return __virtualname__


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
    known = __salt__["tree.names"]()
    lines = [f"pillar {one}" for one in __salt__["schemas.odd_keys"](pillar)]
    if lines:
        # What follows compares keys with text.
        return lines
    for key in pillar:
        if key not in known and key not in _DATA:
            lines.append(f"pillar {key}: {__salt__['schemas.unknown'](key, known)}")
    for name in known:
        if name in pillar:
            lines += __salt__["schemas.problems"](
                _schema(name),
                __salt__["tree.plain"](pillar[name]),
                f"pillar {name}",
                __salt__["tree.names_of"],
            )
    lines += [] if lines else _broken_rules(pillar, known)
    if pillar.get("secrets") is not None and not lines:
        # The controller's were checked there (control/credentials/given_secrets.py): settings may be taken back before them.
        others = set((pillar.get("machine") or {}).get("secrets") or ())
        lines += _secret_problems(
            __salt__["tree.plain"](pillar["secrets"]), _secrets(pillar), others
        )
    return lines


def _broken_rules(pillar, known):
    """
    Lines for what must hold between settings and does not: ``rules.yaml`` of each formula, and of the tree
    for what is between formulas. Only rules with a setting of this pillar are looked at: among themselves
    the defaults hold (a test says so).
    """
    merged, lines = {}, []
    if not set(known) & set(pillar):
        return lines
    rules = __salt__["tree.read"]("rules.yaml") or []
    for rule in [
        *rules,
        *(rule for name in known for rule in __salt__["tree.said"](name, "rules.yaml") or []),
    ]:
        named = __salt__["rules.formulas"](rule)
        # A tree that took some of the formulas over keeps to what it can know.
        if not named & set(pillar) or not named <= set(known):
            continue
        merged.update({one: _merged(one, pillar) for one in named - set(merged)})
        line = __salt__["rules.problem"](rule, merged)
        if line:
            lines.append(line)
    return lines


def _secret_problems(given, forms, others):
    """A line for each secret of a name that nobody uses, or in a form that its users cannot have.
    None shows any of it: what stands below a name is nobody's to read."""
    if not isinstance(given, dict):
        yield "pillar secrets: needs names with their values (docs/secrets.md)"
        return
    for name, value in given.items():
        if name not in forms:
            if name not in others:
                yield f"pillar secrets:{name}: {__salt__['schemas.unknown'](name, sorted(forms))}"
        elif wrong := __salt__["secret.problem"](value, forms[name]):
            yield f"pillar secrets:{name}: {wrong}"


def _declared():
    """``{name: {roles, kind, form}}`` of the secrets in every formula's ``secrets.yaml``; read once per run."""
    if "formula.declared" not in __context__:
        __context__["formula.declared"] = {
            secret: declared or {}
            for name in __salt__["tree.names"]()
            for secret, declared in (__salt__["tree.said"](name, "secrets.yaml") or {}).items()
        }
    return __context__["formula.declared"]


def _secrets(pillar):
    """All secrets that any formula uses, on this machine or not: ``{name: form}``."""
    declared = {
        name: one.get("form") or ("age" if one.get("kind") == "age" else "text")
        for name, one in _declared().items()
    }
    return {**declared, **_named(pillar)["names"]}


def _named(pillar):
    """The secrets that any formula's settings name, on this machine or not: see ``schemas.secrets``."""
    found = {"names": {}, "made": set()}
    for name in __salt__["tree.names"]():
        more = __salt__["schemas.secrets"](_schema(name), _merged(name, pillar))
        found["names"].update(more["names"])
        found["made"] |= more["made"]
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
    return "random" if name in _named(__pillar__)["made"] else "given"


def _schema(name):
    return __salt__["tree.read"](f"{name}/schema.yaml")


def settings(name):
    """
    All settings of formula ``name``: ``defaults.yaml``, then what ``os.yaml`` says for this
    release (key: ``oscodename``) or family (key: ``os_family``), then the pillar, merged
    recursively; lists are replaced, not joined.

    Raises CommandExecutionError on a system that the tree is not for (``systems.yaml`` of the tree, where it
    has one); and, with every problem on a line of its own, when any part of the pillar is invalid, not
    only this formula's.

    CLI Example:

    .. code-block:: bash

        salt-call formula.settings haproxy
    """
    if "formula.valid" not in __context__:
        _refuse_system()
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


def _refuse_system():
    systems = __salt__["tree.read"]("systems.yaml")
    if systems and __grains__.get("oscodename") not in systems:
        this = " ".join(
            str(__grains__.get(key) or "") for key in ("osfullname", "osrelease")
        ).strip()
        raise CommandExecutionError(
            f"{this or 'this system'} is not supported; nothing was changed. There are states for"
            f" {', '.join(systems.values())}"
        )


def _merged(name, pillar):
    merged = __salt__["tree.read"](f"{name}/defaults.yaml")
    if merged is None:
        raise CommandExecutionError(f"formula {name} has no defaults.yaml")
    system = __salt__["tree.read"](f"{name}/os.yaml") or {}
    for layer in (
        system.get(__grains__.get("os_family")),
        system.get(__grains__.get("oscodename")),
        pillar.get(name),
    ):
        if layer:
            merged = salt.utils.dictupdate.update(
                merged, copy.deepcopy(__salt__["tree.plain"](layer))
            )
    return merged


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
    What each formula of this machine says in its own ``filename`` (see ``tree.said``), for the
    formulas that serve all others and know none by name: ``{formula: data}``, in the order of
    top.sls, without the formulas that have no such file.

    CLI Example:

    .. code-block:: bash

        salt-call formula.collect status.yaml.j2
    """
    return {
        name: __salt__["tree.said"](name, filename)
        for name in applied()
        if f"{name}/{filename}" in __salt__["tree.files"]()
    }


def offered(filename):
    """
    What each formula of the tree says in its own ``filename`` (Jinja, then YAML), of this machine or not:
    what a service hands to those who use it from other machines. ``{formula: data}``, sorted.

    CLI Example:

    .. code-block:: bash

        salt-call formula.offered backend.yaml.j2
    """
    found = sorted(
        path.split("/")[0] for path in __salt__["tree.files"]() if path.endswith(f"/{filename}")
    )
    return {
        name: __salt__["tree.said"](name, filename) for name in found if not name.startswith("_")
    }
