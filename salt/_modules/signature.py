"""
For formulas counter and apps: signatures of artifacts: made by ``make publish`` with ``ssh-keygen -Y sign``, for the namespace ``NAME-release``.
"""

import os
import subprocess
import tempfile

from salt.exceptions import CommandExecutionError

__virtualname__ = "signature"


def __virtual__():
    return __virtualname__


def verify(path, signature, signers, name):
    """
    Which of ``signers`` (public keys as OpenSSH writes them) has signed an artifact for ``NAME-release`` by
    ``ssh-keygen -Y sign``; without its comment.

    Raises CommandExecutionError where none has, also for an absent signature.
    """
    if not signature or not os.path.isfile(signature):
        raise CommandExecutionError(
            f"{path} is not signed, and pillar {_setting(name)} asks for it; refused, nothing was"
            f" changed: 'make publish{__salt__['applications.option'](name, 'FOLDER')}' with the signer's key signs it (RELEASE_KEY)"
        )
    namespace, reason = f"{name}-release", ""
    for key in signers:
        with tempfile.NamedTemporaryFile("w", suffix=".signers", encoding="utf-8") as allowed:
            # No option of the key's own line may widen what it is allowed for.
            allowed.write(f'release namespaces="{namespace}" {key.strip()}\n')
            allowed.flush()
            with open(path, "rb") as artifact_file:
                command = ["ssh-keygen", "-Y", "verify", "-f", allowed.name, "-I", "release"]
                command += ["-n", namespace, "-s", signature]
                done = subprocess.run(
                    command,
                    stdin=artifact_file,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=60,
                )
        if not done.returncode:
            return _without_comment(key)
        reason = (done.stderr or done.stdout).strip()
    raise CommandExecutionError(
        f"{path}: no signer of pillar {_setting(name)} has signed it: {reason}; refused"
    )


def _setting(name):
    return f"{__salt__['applications.pillar'](name)}:release:signers"


def _without_comment(key):
    """A public key without its comment."""
    return " ".join(key.split()[:2])


def is_signed(name, top, path, sha256, signers, record=True):
    """
    Whether the release in folder ``top`` is one that a signer has signed: as was seen when it was
    installed, or is now of the artifact ``path`` (or None), which is then written down.

    sha256
        of the artifact that it was installed from; None where that is not known
    record
        write it down

    Raises CommandExecutionError for an artifact that is another one, or is signed by somebody else.
    """
    if not signers:
        return True
    known = __salt__["manifest.signer"](top)
    if path and os.path.isfile(f"{path}.sig"):
        if sha256 and __salt__["artifact.sha256"](path) != sha256:
            raise CommandExecutionError(f"{path}: sha256 is not {sha256}, as installed; refused")
        signer = verify(path, f"{path}.sig", signers, name)
        if sha256 and record and signer != known:
            __salt__["manifest.set_signer"](top, signer)
        # Without a hash nobody knows that it is what is installed.
        return bool(sha256)
    return known in map(_without_comment, signers)


def missing(name, version):
    """What to say of an installed release without the signature that is asked for."""
    option = __salt__["applications.option"]
    return (
        f"{version} was installed without a signature of pillar {_setting(name)}, which asks for one;"
        f" refused, nothing was changed: 'make publish{option(name, 'FOLDER')}' of its commit with a signer's key signs it"
        f" (RELEASE_KEY), then 'make deploy{option(name)} VERSION={version}'"
    )
