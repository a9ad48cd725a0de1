"""The runtime that serves a WSGI application: waitress with drain, readiness and access log."""
