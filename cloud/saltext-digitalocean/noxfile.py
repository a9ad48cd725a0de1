"""
Sessions: ``nox -s tests``, ``lint``, ``docs``, ``build``. SALT_REQUIREMENT names the Salt to test with, such as
``salt==3007.17``; or SALT_LOCK a file with it and all that it needs, such as ``tests/salt-3007.lock``, where an index has not
every version that Salt asks for.
"""

import os

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

SALT = os.environ.get("SALT_REQUIREMENT") or "salt>=3007"
LOCK = os.environ.get("SALT_LOCK")


@nox.session(python=("3.11", "3.12", "3.13"))
def tests(session):
    """Unit and functional tests against the stand-in of the API; no account is needed."""
    # Salt is published as source, whose build wants an older setuptools than is current.
    session.install("setuptools<75.6", "wheel")
    if LOCK:
        session.install("--no-build-isolation", "--no-deps", "--require-hashes", "-r", LOCK)
        # What the lock has stays: Salt's own limits may name what the index has not.
        session.install("-e", ".", "--no-deps")
        session.install("pydo", "cryptography", "jsonschema>=4.18", "pytest>=8", "pyyaml")
        session.run("pytest", *(session.posargs or ["tests"]))
        return
    session.install("--no-build-isolation", SALT)
    session.install("-e", ".[tests]")
    session.run("pytest", *(session.posargs or ["tests"]))


@nox.session
def lint(session):
    session.install("-e", ".[lint]", "--no-deps")
    session.install("ruff")
    session.run("ruff", "check", "src", "tests", "noxfile.py")


@nox.session
def docs(session):
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "-b", "html", "docs", "docs/_build")


@nox.session
def build(session):
    """Wheel and source distribution into dist/."""
    session.install("build")
    session.run("python", "-m", "build")
