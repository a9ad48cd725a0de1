"""
Through which every run of Salt on a machine passes, bare or not (salt/_etc/minion): what a login
happens to have set changes nothing, and packages that a killed run left half-installed are finished
before a state relies on them. The controller uses :py:func:`settle` too (control/options.py).
"""

import os

# A program's own switches; what is read here is PIP_*, *_proxy and the settings of the Makefile.
_PREFIXES = ("BASH_FUNC_", "BUNDLE_", "GEM_", "GIT_", "GREP_", "LC_", "PYTHON", "RUBY")
_NAMES = {
    *("BASH_ENV", "CDPATH", "ENV", "GLOBIGNORE", "LANGUAGE", "POSIXLY_CORRECT"),
    *("GZIP", "TAR_OPTIONS", "VAGRANT_CWD", "VAGRANT_VAGRANTFILE", "XZ_DEFAULTS", "XZ_OPT"),
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# These run states; all others only ask.
_APPLIES = {"state.apply", "state.highstate", "state.sls", "state.sls_id", "state.single"}


def settle(environ, addresses=()):
    """
    Set the umask and the variables of ``environ`` that this project's own programs rely on, and drop
    those that would change what they do. Package indexes are still reached through a proxy;
    loopback and ``addresses``, the machines' own, never are.
    """
    os.umask(0o022)
    for name in list(environ):
        if name.startswith(_PREFIXES) or name in _NAMES:
            del environ[name]
    # Messages are read and sorted by programs here.
    environ["LANG"] = environ["LC_ALL"] = "C.UTF-8"
    direct = dict.fromkeys(environ.get("no_proxy", environ.get("NO_PROXY", "")).split(","))
    direct.update(dict.fromkeys([*_LOOPBACK, *addresses]))
    environ["no_proxy"] = environ["NO_PROXY"] = ",".join(filter(None, direct))


def execute(opts, data, func, args, kwargs):
    """Run nothing: Salt goes on to the next executor, which does."""
    topology = opts.get("pillar", {}).get("topology") or {}
    settle(os.environ, [one["address"] for one in topology.get("machines", {}).values()])
    applies = data["fun"] in _APPLIES and not (kwargs.get("test") or opts.get("test"))
    # bootstrap/converge does it itself, when it is this machine's turn.
    applies = applies and "STACK_FINISHES" not in os.environ
    # Not there on a machine without dpkg.
    if applies and "packages.finish" in __salt__:
        __salt__["packages.finish"]()
