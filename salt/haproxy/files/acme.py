#!/opt/salt/bin/python
"""
Orders the site's certificate from a public authority and has HAProxy serve it: three steps of haproxy-acme.service.

    haproxy-acme request    as root: a request signed with the site's own key, which never leaves its place
    haproxy-acme order      as stack-acme: lego(1) answers the authority's challenge, where a certificate is due
    haproxy-acme install    as root: what was ordered is checked, taken by HAProxy without a reload, and written

A certificate is due when there is none for these names and this key, or it ends within `renew_days`. After an order
that failed the next waits 15 minutes, then twice as long each time, a day at most: an authority counts failures too.
"""

import glob
import hashlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

SETTINGS = "/etc/stack/acme/settings.json"
REQUEST = "/etc/stack/acme/request.pem"
STATE = "/var/lib/haproxy-acme"
# For clients and `make status`, as of a certificate that somebody gave.
SHOWN = "/etc/stack/pki/site.pem"
FIRST_WAIT, LONGEST_WAIT = 900, 86400
LARGEST = 1 << 20


def checks():
    """What judges every certificate of this product, put beside this program."""
    path = os.path.join(os.path.dirname(os.path.realpath(__file__)), "certificate_checks.py")
    spec = importlib.util.spec_from_file_location("certificate_checks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path):
    """Text of a file that another account may have written: no link is followed, nothing endless read."""
    with open(path, encoding="utf-8", opener=lambda p, f: os.open(p, f | os.O_NOFOLLOW)) as file:
        return file.read(LARGEST)


def write(path, text, mode=0o644):
    """Whole or not at all; the group of what was there stays."""
    folder = os.path.dirname(path)
    handle, part = tempfile.mkstemp(dir=folder, prefix=".")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(part, mode)
    os.replace(part, path)


def folder(settings):
    """lego's, one for each authority: a try with another one changes nothing of the first."""
    return os.path.join(STATE, hashlib.sha256(settings["directory"].encode()).hexdigest()[:12])


def ordered(settings):
    """Path of the certificate that lego keeps, named by the first of the names."""
    name = settings["names"][0].replace("*", "_")
    return os.path.join(folder(settings), "certificates", f"{name}.crt")


def public(of):
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return of.public_key().public_bytes(serialization.Encoding.DER, form)


def request(settings):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    with open(f"{settings['live']}.key", "rb") as file:
        key = serialization.load_pem_private_key(file.read(), password=None)
    names = [x509.DNSName(name) for name in settings["names"]]
    try:
        old = x509.load_pem_x509_csr(read(REQUEST).encode())
        found = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if public(old) == public(key) and list(found) == names:
            return
    except (OSError, ValueError, x509.ExtensionNotFound):
        pass
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, settings["names"][0][:64])])
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    write(REQUEST, made.public_bytes(serialization.Encoding.PEM).decode())


def due(settings):
    """Why a certificate is to be ordered; empty when the one that is there will do."""
    from cryptography import x509

    try:
        pem = read(ordered(settings))
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except (OSError, ValueError):
        return "there is none yet"
    if public(certificate) != public(x509.load_pem_x509_csr(read(REQUEST).encode())):
        return "the site's key is another one"
    if not checks().carries(pem, settings["names"], []):
        return "the names are others"
    # cryptography before 42 knows no not_valid_after_utc.
    until = getattr(certificate, "not_valid_after_utc", None)
    left = (until.timestamp() - time.time()) / 86400
    return f"it ends in {left:.0f} days" if left < settings["renew_days"] else ""


def order(settings):
    reason = due(settings)
    if not reason:
        return
    path = folder(settings)
    os.makedirs(path, exist_ok=True)
    note = os.path.join(path, "failures.json")
    asked = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    try:
        failed = json.loads(read(note))
    except (OSError, ValueError):
        failed = {}
    # With other settings, a new try.
    count = failed.get("count", 0) if failed.get("of") == asked else 0
    wait = failed.get("at", 0) + min(FIRST_WAIT * 2 ** (count - 1), LONGEST_WAIT) - time.time()
    if count and wait > 0:
        sys.exit(f"{failed['said']}; tried {count} times, again in {wait / 60:.0f} minutes")
    print(f"ordering a certificate for {', '.join(settings['names'])}: {reason}", flush=True)
    words = ["lego", "--accept-tos", "--server", settings["directory"], "--path", path]
    words += ["--email", settings["email"], "--csr", REQUEST]
    if settings["challenge"] == "dns":
        words += ["--dns", "digitalocean"]
    else:
        words += ["--http", "--http.port", f"127.0.0.1:{settings['port']}"]
    try:
        done = subprocess.run(
            [*words, "run"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=600,
        )  # fmt: skip
        code, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        code, said = (
            1,
            f"{(late.stdout or b'').decode(errors='replace')}\nno answer within 10 minutes",
        )
    print(said, flush=True)
    if code:
        # The last thing that it said is why.
        last = next(
            (line for line in reversed(said.splitlines()) if line.strip()), "lego said nothing"
        )
        found = {"of": asked, "count": count + 1, "at": time.time(), "said": last.strip()[:500]}
        write(note, json.dumps(found), 0o600)
        sys.exit(
            f"{settings['directory']} gave no certificate, what is there goes on serving: {found['said']}"
        )
    for left in glob.glob(note):
        os.unlink(left)


def ask(path, text):
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(10)
        admin.connect(path)
        admin.sendall(text.encode())
        return admin.makefile(encoding="utf-8").read().strip()


def install(settings):
    live = settings["live"]
    try:
        certificate = read(ordered(settings)).strip() + "\n"
    except OSError:
        return
    if certificate == read(live):
        return
    key = read(f"{live}.key")
    wrong = checks().pair_problems(certificate, key)
    if not wrong and not checks().carries(certificate, settings["names"], []):
        wrong = ["certificate: carries other names than were asked for"]
    if wrong:
        sys.exit(f"what {settings['directory']} gave is not used: {'; '.join(wrong)}")
    try:
        # The payload ends with an empty line, so it must have none.
        pem = "\n".join(line for line in (certificate + key).splitlines() if line.strip())
        said = ask(settings["socket"], f"set ssl cert {live} <<\n{pem}\n\n")
        if "Transaction" in said:
            said = ask(settings["socket"], f"commit ssl cert {live}\n")
        if "Success" not in said:
            ask(settings["socket"], f"abort ssl cert {live}\n")
            sys.exit(f"HAProxy refuses what {settings['directory']} gave: {said}")
    except (FileNotFoundError, ConnectionError):
        print("HAProxy does not run: it reads the certificate when it starts")
    write(live, certificate)
    write(SHOWN, certificate)
    print(f"served now: the certificate for {', '.join(settings['names'])}")


if __name__ == "__main__":
    if sys.argv[1:] == ["check"]:
        # Before there are settings: whether it can run here, with what judges certificates.
        sys.exit(not checks().pair_problems("", ""))
    with open(SETTINGS, encoding="utf-8") as file:
        given = json.load(file)
    {"request": request, "order": order, "install": install}[sys.argv[1]](given)
