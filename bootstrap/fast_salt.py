"""
Faster runs of a Salt that works on a tree of this machine (docs/decisions/0004-fast-apply.md).

Salt is made for daemons that serve many trees, and does again for each template and each loader what
one short run on one tree needs once. :func:`speed_up` has it done once. Nothing here skips a state or
remembers what a machine looked like.
"""

import fcntl
import functools
import gc
import hashlib
import importlib.util
import marshal
import os
import sys

import jinja2
import salt.fileclient
import salt.loader
import salt.loader.lazy
import salt.utils.jinja
import salt.utils.optsdict
import salt.version

# Compiled templates of the runs before; root's own, as all of Salt's cache.
TEMPLATES = "/var/cache/salt/stack/templates"
# Bytes after which what this run did not use is forgotten.
TEMPLATES_LIMIT = 4_000_000


def speed_up_run():
    """:func:`speed_up` for a process of one run. Returns its templates, to ``save()`` at its end."""
    # It is over before it has made much garbage.
    gc.disable()
    return speed_up(TEMPLATES)


def speed_up(kept=None):
    """
    Make Salt do once what it would do again, as long as this process lives. Returns the compiled
    :class:`Templates`; ``kept``: the file that keeps them from run to run.
    """
    share_clients()
    share_listings()
    salt.utils.optsdict.OptsDict.__bool__ = _has_a_key
    templates = Templates(kept)
    templates.install()
    return templates


def _has_a_key(opts):
    """Of ``if opts``: by default Python counts all keys, through all layers, each time."""
    return any(key in opts for key in opts._get_all_keys())


# --- files ----------------------------------------------------------------------------------------


def share_clients():
    """
    One file client for each tree, that reads files where they are.

    By default each template gets a client of its own, which loads every fileserver again, and copies
    and hashes each file. The tree does not change while it is in use.
    """
    make, clients = salt.fileclient.get_file_client, {}

    class Client(salt.fileclient.PillarClient):
        """Salt's own for a pillar's files, on the states' roots."""

        def __init__(self, opts):
            super().__init__(opts)
            self.lists = {}

        def file_list(self, saltenv="base", prefix=""):
            if (saltenv, prefix) not in self.lists:
                self.lists[saltenv, prefix] = super().file_list(saltenv, prefix)
            return list(self.lists[saltenv, prefix])

        def destroy(self):
            """It serves the next template too."""

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    class Loader(salt.utils.jinja.SaltCacheLoader):
        """Reads what a template imports from where the client says it is."""

        def __init__(self, opts, saltenv="base", *words, **more):
            super().__init__(opts, saltenv, *words, **more)
            if not self.pillar_rend:
                self.searchpath = [os.path.abspath(r) for r in opts["file_roots"].get(saltenv, ())]

    def get(opts, pillar=False):
        if pillar or opts.get("file_client") != "local":
            return make(opts, pillar)
        key = repr(opts["file_roots"])
        if key not in clients:
            roots = {env: list(map(os.path.abspath, r)) for env, r in opts["file_roots"].items()}
            clients[key] = Client({**opts, "pillar_roots": roots})
        return clients[key]

    salt.fileclient.get_file_client = get
    salt.utils.jinja.SaltCacheLoader = Loader


# --- modules --------------------------------------------------------------------------------------


def share_listings():
    """
    Each folder of modules is listed once.

    By default every loader lists all of its folders twice, and a rendered template has a loader.
    """
    find, lists = salt.loader._module_dirs, {}

    def module_dirs(
        opts, ext_type, tag=None, int_type=None, ext_dirs=True, ext_type_dirs=None, *rest, **more
    ):
        own = opts.get(ext_type_dirs or f"{tag or ext_type}_dirs")
        key = repr((ext_type, tag, int_type, ext_dirs, ext_type_dirs, rest, more, own))
        key += repr(
            (opts.get("extension_modules"), opts.get("module_dirs"), opts.get("resource_type"))
        )
        if key not in lists:
            lists[key] = find(opts, ext_type, tag, int_type, ext_dirs, ext_type_dirs, *rest, **more)
        return list(lists[key])

    Lazy = salt.loader.lazy.LazyLoader
    refresh, files = Lazy._refresh_file_mapping, {}

    def refresh_once(self):
        key = repr((self.module_dirs, sorted(self.disabled), self.static_modules))
        if key not in files:
            refresh(self)
            # By default also what Python has left of a module whose source is gone, such as one that was renamed.
            self.file_mapping = {
                name: found
                for name, found in self.file_mapping.items()
                if "/__pycache__/" not in found[0]
            }
            files[key] = self.file_mapping, self.suffix_map, self.suffix_order
        mapping, suffixes, order = files[key]
        self.file_mapping, self.suffix_map, self.suffix_order = (
            dict(mapping),
            dict(suffixes),
            list(order),
        )

    salt.loader._module_dirs, Lazy._refresh_file_mapping = module_dirs, refresh_once

    clean = Lazy._LazyLoader__clean_sys_path

    def clean_if_dirty(self):
        # By default also makes Python forget what it knows of all other folders, at each module.
        if self._clean_module_dirs:
            clean(self)

    Lazy._LazyLoader__clean_sys_path = clean_if_dirty


# --- templates ------------------------------------------------------------------------------------


class Templates:
    """
    Compiled templates, kept from run to run by their whole source and all that Jinja compiles it with.

    By default each is compiled again in each run, and what many import once for each of them.
    """

    def __init__(self, path=None):
        versions = (jinja2.__version__, salt.version.__version__, importlib.util.MAGIC_NUMBER.hex())
        self.path = path and "-".join((path, *versions))
        self.used, self.is_changed = {}, False

    @functools.cached_property
    def kept(self):
        """What runs before have kept, read when the first template is asked for."""
        return self._load()

    def _load(self):
        """``{key: compiled template}``; empty for a file that is not there or not whole."""
        if not self.path:
            return {}
        try:
            with open(self.path, "rb") as file:
                digest, content = file.read(32), file.read()
        except OSError:
            return {}
        return marshal.loads(content) if hashlib.sha256(content).digest() == digest else {}

    def install(self):
        """Make every Jinja environment of this process ask here first."""
        compile_, Environment = jinja2.Environment.compile, jinja2.Environment

        def compile_once(env, source, name=None, filename=None, raw=False, defer_init=False):
            if raw or not isinstance(source, str):
                return compile_(env, source, name, filename, raw, defer_init)
            key = self._key(env, source, name, filename, defer_init)
            if key not in self.used:
                code = self.kept.get(key)
                if code is None:
                    code, self.is_changed = (
                        compile_(env, source, name, filename, raw, defer_init),
                        True,
                    )
                self.used[key] = code
            return self.used[key]

        Environment.compile = compile_once

    @staticmethod
    def _key(env, source, name, filename, defer_init):
        syntax = [
            getattr(env, option)
            for option in (
                *("block_start_string", "block_end_string", "variable_start_string"),
                *("variable_end_string", "comment_start_string", "comment_end_string"),
                *("line_statement_prefix", "line_comment_prefix", "trim_blocks", "lstrip_blocks"),
                *(
                    "newline_sequence",
                    "keep_trailing_newline",
                    "sandboxed",
                    "is_async",
                    "optimized",
                ),
            )
        ]
        parts = (
            type(env).__qualname__,
            sorted(env.extensions),
            # What a template names of these is looked up, or folded, as it is compiled.
            sorted(env.filters),
            sorted(env.tests),
            repr(env.autoescape),
            getattr(env.finalize, "__qualname__", None),
            syntax,
            (name, filename, defer_init, source),
        )
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()

    def save(self):
        """
        Keep what this run has compiled for the next, with what others have kept meanwhile; nothing
        when that cannot be written.
        """
        if not (self.path and self.is_changed):
            return
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
            with open(f"{self.path}.lock", "wb", opener=_own) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                content = marshal.dumps({**self._load(), **self.used})
                if len(content) > TEMPLATES_LIMIT:
                    content = marshal.dumps(self.used)
                new = f"{self.path}.new"
                with open(new, "wb", opener=_own) as file:
                    file.write(hashlib.sha256(content).digest() + content)
                os.replace(new, self.path)
        except OSError as error:
            print(f"compiled templates could not be kept: {error}", file=sys.stderr)


def _own(path, flags):
    """Nobody else's to read, or to lock."""
    return os.open(path, flags, 0o600)
