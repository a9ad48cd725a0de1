"""Notes: what a visitor writes and uploads, kept in Redis under the visitor's session."""

from notes.app import make_app

application = make_app()
