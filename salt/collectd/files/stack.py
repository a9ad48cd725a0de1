"""
collectd's side of the services' own readers: loads each, calls it, and says how that went.

A reader is a file with ``read(settings)``, which yields ``(metric, value)`` or ``(metric, value,
instance)``. What a service is like is a value (``up`` 0), also when it does not answer; an exception
means that the reader itself is at a loss. It must end within its interval.

Each reader is told of by ``collectd_reader_*``: ``ok`` (0 or 1), ``ok_time`` (of its last success,
seconds since 1970), ``took`` (seconds), ``known`` (1).
"""

import importlib.util
import json
import os
import signal
import sys
import time

import collectd


class Reader:
    """One reader: ``spec`` is ``{path, settings, metrics, credentials}``."""

    def __init__(self, name, spec):
        self.name = name
        self.metrics = frozenset(spec["metrics"])
        self.settings = dict(spec["settings"])
        folder = os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")
        for key, secret in spec["credentials"].items():
            self.settings[key] = os.path.join(folder, secret)
        self.module = load(name, spec["path"])
        self.complaint = None
        self.succeeded = 0

    def __call__(self):
        began = time.monotonic()
        complaint = None
        try:
            for metric, value, *instance in self.module.read(self.settings):
                if metric not in self.metrics:
                    raise ValueError(f"{metric} is not among its metrics")
                self.send(self.name, metric, value, *instance)
        except Exception as error:
            complaint = f"{type(error).__name__}: {error}"
        # A reader that stays at a loss is one line, not one every ten seconds.
        if complaint and complaint != self.complaint:
            collectd.warning(f"reader {self.name}: {complaint}")
        elif self.complaint and not complaint:
            collectd.notice(f"reader {self.name}: recovered")
        self.complaint = complaint
        if not complaint:
            self.succeeded = time.time()
        self.send("reader", "ok", 0 if complaint else 1, self.name)
        self.send("reader", "took", time.monotonic() - began, self.name)
        if self.succeeded:
            self.send("reader", "ok_time", self.succeeded, self.name)

    def send(self, plugin, metric, value, instance=""):
        collectd.Values(
            plugin=plugin,
            plugin_instance=str(instance)[:120],
            type=metric,
            values=[value],
        ).dispatch()


def load(name, path):
    spec = importlib.util.spec_from_file_location(f"reader_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def configure(node):
    """`File`: JSON, {reader: spec}. All are loaded here: a broken one stops collectd -T."""
    sys.dont_write_bytecode = True
    options = {child.key: child.values[0] for child in node.children}
    with open(options["Readers"], encoding="utf-8") as file:
        specs = json.load(file)
    readers = []
    for name, spec in specs.items():
        spec["path"] = os.path.join(options["Folder"], f"{name}.py")
        reader = Reader(name, spec)
        collectd.register_read(reader, name=f"reader-{name}")
        readers.append(reader)

    def known():
        """Which there are: one that hangs is missed by this (alert ReaderNotReporting)."""
        for reader in readers:
            reader.send("reader", "known", 1, reader.name)

    collectd.register_read(known, name="reader-known")


def restore_signals():
    """
    collectd ignores SIGCHLD, with which the exit code of every program that a reader runs would be
    lost, and taken for 0 (collectd-python(5), CAVEATS; subprocess asks waitpid(2)).
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


collectd.register_config(configure)
collectd.register_init(restore_signals)
