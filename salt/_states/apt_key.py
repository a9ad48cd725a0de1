"""For formula filebeat: signing keys of package repositories; see the execution module of the same name."""

from salt.exceptions import CommandExecutionError

__virtualname__ = "apt_key"


def __virtual__():
    return __virtualname__


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def pinned(name, source, fingerprint):
    """
    The file ``name`` is the signing key with this fingerprint and holds no other. It is fetched
    only when it is not there; what is fetched and is another key is refused and not kept.

    source
        URL, ``salt://`` or path on the machine

    .. code-block:: yaml

        elastic signing key:
          apt_key.pinned:
            - name: /etc/apt/keyrings/elastic.asc
            - source: https://artifacts.elastic.co/GPG-KEY-elasticsearch
            - fingerprint: 46095ACC8548582C1A2699A9D27D666CD88E42B4
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "is this key"}
    try:
        now = _read(name)
        if now is not None and __salt__["apt_key.problem"](now, fingerprint) is None:
            return ret
        if __opts__["test"]:
            ret["changes"] = {name: f"would be fetched from {source}"}
            return {**ret, "result": None, "comment": "would be fetched"}
        path = source if source.startswith("/") else __salt__["cp.cache_file"](source)
        data = _read(path) if path else None
        if data is None:
            raise CommandExecutionError(f"{source} could not be fetched")
        problem = __salt__["apt_key.problem"](data, fingerprint)
        if problem:
            raise CommandExecutionError(f"{source}: {problem}")
        __utils__["atomic_file.write"](name, data, mode=0o644)
    except (CommandExecutionError, OSError) as error:
        return {**ret, "result": False, "comment": f"nothing was changed: {error}"}
    return {**ret, "changes": {name: fingerprint}, "comment": f"fetched from {source}"}
