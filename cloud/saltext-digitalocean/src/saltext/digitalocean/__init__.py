"""A salt-cloud driver for DigitalOcean, on DigitalOcean's own client (pydo)."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("saltext.digitalocean")
except PackageNotFoundError:
    # Run from its sources.
    __version__ = "0.0.0.not-installed"
