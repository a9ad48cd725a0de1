"""The counter as a WSGI application: `application`, with the settings of the environment."""

from __future__ import annotations

import atexit
import os
import sys
import warnings

from counter.settings import SettingsError, read_settings
from serving.log import complain, current

try:
    _settings = read_settings(os.environ)
except SettingsError as error:
    complain(str(error))
    sys.exit(2)
# Pyramid 2.1 needs pkg_resources, which warns on every start that it will go.
warnings.filterwarnings("ignore", message=".*pkg_resources is deprecated.*")
# Late, so that wrong settings are told at once: Pyramid takes a while to import.
from counter.app import make_app  # noqa: E402
from counter.store import Store  # noqa: E402

_store = Store(_settings, current())
atexit.register(_store.close)
application = make_app(_store)
