"""
The files of the tree: which formulas there are, and what each says in its small files, refused when it says anything that
no schema knows.
"""

import os
import pickle
import re

import salt.utils.yaml
from salt.exceptions import CommandExecutionError

__virtualname__ = "tree"

_TREE = "salt://"


def __virtual__():
    return __virtualname__


def read(path):
    """
    Parsed YAML of a file of the tree, such as ``redis/defaults.yaml``, or None where there is none. Parsed once a run;
    whoever asks has it alone, to change as they like.
    """
    if path not in files():
        return None
    parsed = __context__.setdefault("tree.read", {})
    if path not in parsed:
        with open(__salt__["cp.cache_file"](_TREE + path), encoding="utf-8") as file:
            parsed[path] = pickle.dumps(salt.utils.yaml.safe_load(file))
    return pickle.loads(parsed[path])


def files():
    """Every path of the tree; listed once a run."""
    if "tree.files" not in __context__:
        __context__["tree.files"] = frozenset(__salt__["cp.list_master"]())
    return __context__["tree.files"]


def names():
    """Formulas of the tree: every directory with a ``schema.yaml``, sorted."""
    return sorted(
        path.split("/")[0]
        for path in files()
        if path.count("/") == 1 and path.endswith("/schema.yaml") and not path.startswith("_")
    )


def _keys(path):
    """Top-level keys of a YAML file of the tree, also those that its Jinja leaves out here."""
    if path not in files():
        return []
    with open(__salt__["cp.cache_file"](_TREE + path), encoding="utf-8") as file:
        return re.findall(r"(?m)^([a-z][a-z0-9-]*):", file.read())


def names_of(form):
    """What a schema's ``format: role`` or ``format: key of FILE`` allows: a key of FILE in any formula, on
    this machine or not; None for another format."""
    if form == "role":
        return __salt__["topology.roles"]()
    if not form.startswith("key of "):
        return None
    return sorted({key for name in names() for key in _keys(f"{name}/{form[len('key of ') :]}")})


def plain(value):
    """Salt's ordered and proxied containers as plain ones, which jsonschema tells apart."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def said(name, filename):
    """
    What formula ``name`` says in its own small file ``filename`` (``.j2``: Jinja, then YAML), also one that
    is none of this machine's; None where it has no such file. What each may hold is in ``_schemas/``.

    Raises CommandExecutionError, with file, path and what is allowed, for what its schema does not allow.

    CLI Example:

    .. code-block:: bash

        salt-call tree.said redis logs.yaml.j2
    """
    path = f"{name}/{filename}"
    if path not in files():
        return None
    if filename.endswith(".j2"):
        data = __salt__["slsutil.renderer"](f"{_TREE}{path}", default_renderer="jinja|yaml")
    else:
        data = read(path)
    if lines := problems(path, data):
        raise CommandExecutionError(f"refused: {'; '.join(lines)}; nothing was changed")
    return data


def problems(path, data):
    """
    What is wrong with ``data`` of a small file, such as ``redis/logs.yaml.j2``, one line each; an empty list
    when all is well, and where it says nothing.

    CLI Example:

    .. code-block:: bash

        salt-call tree.problems shop/loopback.yaml.j2 '[{port: 80}]'
    """
    # Salt makes an empty map of a file whose Jinja leaves nothing.
    if not data:
        return []
    schema = read(f"_schemas/{path.split('/')[1].split('.')[0]}.schema.yaml")
    # What was lifted out of this tree may come without.
    if schema is None:
        return []
    data = plain(data)
    lines = [f"{path}: {line}" for line in __salt__["schemas.odd_keys"](data)]
    return lines or __salt__["schemas.problems"](schema, data, f"{path}: ", names_of)


def file(source):
    """
    Path on this machine of a ``salt://`` file, for programs that a check runs.

    CLI Example:

    .. code-block:: bash

        salt-call tree.file salt://redis/files/check
    """
    path = __salt__["cp.cache_file"](source)
    if not path or not os.path.exists(path):
        raise CommandExecutionError(f"{source} is not in the tree")
    return path
