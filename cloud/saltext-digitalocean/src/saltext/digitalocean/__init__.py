"""A salt-cloud driver for DigitalOcean, on DigitalOcean's own client (pydo)."""

__version__ = "1.0.0"
