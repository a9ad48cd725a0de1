#!/opt/salt/bin/python
"""
Orders the site's certificate from a public authority and has HAProxy serve it: three steps of haproxy-acme.service.

    haproxy-acme request    as root: a request signed with the site's own key, which never leaves its place
    haproxy-acme order      as stack-acme: lego(1) answers the authority's challenge, where a certificate is due
    haproxy-acme install    as root: what was ordered is checked, taken by HAProxy without a reload, and written

Of several edges the first orders, and the others get the certificate from it: in a TLS handshake, which only who holds the
site's key can complete.

    haproxy-acme try SETTINGS    as root, before settings are in use: the authority's staging directory, asked for the same

A certificate is due when there is none for these names and this key, or it ends within `renew_days`. After an order
that failed the next waits 15 minutes, then twice as long each time, a day at most: an authority counts failures too.
"""

import glob
import hashlib
import http.server
import importlib.util
import json
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

SETTINGS = "/etc/stack/acme/settings.json"
REQUEST = "/etc/stack/acme/request.pem"
STATE = "/var/lib/haproxy-acme"
# Where HAProxy asks for what an authority asks for. Nobody else can listen in that folder.
CHALLENGE = "/run/haproxy-acme/challenge"
TRIAL = "haproxy-acme-trial"
PROGRAM = "/usr/local/libexec/haproxy-acme/haproxy-acme"
# For clients and `make status`, as of a certificate that somebody gave.
SHOWN = "/etc/stack/pki/site.pem"
# What HAProxy runs on, as the formula remembers it (salt/_modules/units.py).
LOADED = "/var/lib/stack/loaded/haproxy.json"
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


def request(settings, path=REQUEST):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    with open(f"{settings['live']}.key", "rb") as file:
        key = serialization.load_pem_private_key(file.read(), password=None)
    names = [x509.DNSName(name) for name in settings["names"]]
    try:
        old = x509.load_pem_x509_csr(read(path).encode())
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
    write(path, made.public_bytes(serialization.Encoding.PEM).decode())


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


class Answer(http.server.BaseHTTPRequestHandler):
    """What lego has laid down for an authority, and nothing else."""

    folder = ""
    timeout = 10

    def do_GET(self):
        token = re.fullmatch(r"/\.well-known/acme-challenge/([A-Za-z0-9_-]{1,200})", self.path)
        try:
            text = read(os.path.join(self.folder, ".well-known/acme-challenge", token[1])).encode()
        except (OSError, TypeError, ValueError):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """HAProxy logs requests."""


class Answers(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def lego(settings, path, csr):
    """``(exit code, output)`` of an order."""
    words = ["lego", "--accept-tos", "--server", settings["directory"], "--path", path]
    words += ["--email", settings["email"], "--csr", csr]
    with tempfile.TemporaryDirectory() as folder:
        if settings["challenge"] == "dns":
            words += ["--dns", "digitalocean"]
        else:
            words += ["--http", "--http.webroot", folder]
            server = Answers(CHALLENGE, type("Here", (Answer,), {"folder": folder}))
            # HAProxy's account may ask, as anybody may by port 80.
            os.chmod(CHALLENGE, 0o666)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            done = subprocess.run(
                [*words, "run"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, timeout=600,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            return (
                1,
                f"{(late.stdout or b'').decode(errors='replace')}\nno answer within 10 minutes",
            )
    return done.returncode, done.stdout


def last_line(said):
    """The last thing that lego said is why."""
    found = (line for line in reversed(said.splitlines()) if line.strip())
    return next(found, "lego said nothing").strip()[:500]


def fetch(settings):
    """The certificate that the edge that orders serves, if it is a public one."""
    leader = settings["leader"]
    words = ["openssl", "s_client", "-connect", f"{leader['address']}:{settings['https_port']}"]
    words += [
        "-servername",
        settings["names"][0].replace("*", "www"),
        "-showcerts",
        "-verify_quiet",
    ]
    done = subprocess.run(words, input="", capture_output=True, text=True, timeout=60)
    if done.returncode:
        sys.exit(
            f"{leader['name']}, which orders the certificate, gives none: {last_line(done.stderr)}"
        )
    block = r"(?s)-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n"
    chain = "".join(re.findall(block, done.stdout[:LARGEST]))
    # One that the edges made themselves carries addresses too.
    carried = checks().carried(chain)
    if not carried or carried[1] or not checks().carries(chain, settings["names"], []):
        print(f"{leader['name']} has no certificate for {', '.join(settings['names'])} yet")
        return
    try:
        if read(ordered(settings)) == chain:
            return
    except OSError:
        os.makedirs(os.path.dirname(ordered(settings)), exist_ok=True)
    write(ordered(settings), chain)


def try_staging(settings):
    """Ask the staging directory for what the real one will be asked for; nothing of it is kept."""
    staging = settings["staging"]
    # What answers the challenge is there from the first apply on.
    ready = shutil.which("lego") and os.path.exists(SETTINGS)
    if (
        not staging
        or not ready
        or settings["leader"]
        or not os.path.exists(f"{settings['live']}.key")
    ):
        return
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        os.chmod(folder, 0o755)
        csr = os.path.join(folder, "request.pem")
        request(settings, csr)
        unit = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={TRIAL}"]
        # As haproxy-acme.service: what speaks to the internet is neither root nor HAProxy.
        with open("/etc/systemd/system/haproxy-acme.service", encoding="utf-8") as file:
            lines = [
                line.strip().replace("%d", f"/run/credentials/{TRIAL}.service") for line in file
            ]
        skipped = ("Exec", "Type=", "TimeoutStartSec=", "StateDirectory", "#", "[")
        own = lines[lines.index("[Service]") :]
        unit += [
            f"--property={line}" for line in own if "=" in line and not line.startswith(skipped)
        ]
        done = subprocess.run(
            [*unit, PROGRAM, "trial", csr],
            input=json.dumps({**settings, "directory": staging}),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=700,
        )  # fmt: skip
    if done.returncode:
        sys.exit(f"{staging} would give no certificate: {last_line(done.stdout)}")


def order(settings):
    if settings["leader"]:
        fetch(settings)
        return
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
    code, said = lego(settings, path, REQUEST)
    print(said, flush=True)
    if code:
        found = {"of": asked, "count": count + 1, "at": time.time(), "said": last_line(said)}
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


def mark_loaded(paths, text):
    """Remember that HAProxy has this as ``paths`` already, or the next apply would reload it for them."""
    try:
        known = json.loads(read(LOADED))
    except (FileNotFoundError, ValueError):
        return
    digest = hashlib.sha256(text.encode()).hexdigest()
    # Not where an apply under way says that nobody knows.
    new = {path: digest for path in paths if known.get(path) != "unknown"}
    write(LOADED, json.dumps({**known, **new}, sort_keys=True), 0o600)


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
    is_loaded = True
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
        is_loaded = False
    write(live, certificate)
    write(SHOWN, certificate)
    if is_loaded:
        mark_loaded([live, SHOWN], certificate)
    print(f"served now: the certificate for {', '.join(settings['names'])}")


if __name__ == "__main__":
    if sys.argv[1:] == ["check"]:
        # Before there are settings: whether it can run here, with what judges certificates.
        sys.exit(not checks().pair_problems("", ""))
    if sys.argv[1:2] == ["try"]:
        with open(sys.argv[2], encoding="utf-8") as file:
            try_staging(json.load(file))
        sys.exit()
    if sys.argv[1:2] == ["trial"]:
        given = json.load(sys.stdin)
        with tempfile.TemporaryDirectory() as path:
            code, said = lego(given, path, sys.argv[2])
        print(said)
        sys.exit(code)
    with open(SETTINGS, encoding="utf-8") as file:
        given = json.load(file)
    {"request": request, "order": order, "install": install}[sys.argv[1]](given)
