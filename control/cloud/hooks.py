"""What salt-cloud runs before and after it makes a droplet (cloud/cloud.providers.d, cloud/cloud.profiles.d)."""

from __future__ import annotations

import re
import ssl
import subprocess
import urllib.request

from .. import atomic_file, bundle
from ..application import NAME
from ..artifacts import build
from ..credentials.certificates import WITHOUT_KEYS
from ..errors import OperationError
from ..options import Options
from ..topology import Topology
from . import account, addresses, firewalls, inbound_rules

TREE = account.STATE / "tree.tar.gz"
# The tag and firewall of droplets that `salt-cloud -p prod` makes, which are of no topology.
SINGLE = "single"


def prepare(topology: Topology, options: Options) -> int:
    """Before a droplet is made: the key; for `salt-cloud -p prod` also tree and firewall."""
    with account.report_api_errors():
        return _prepare(topology, options)


def _prepare(topology: Topology, options: Options) -> int:
    account.ensure_key()
    if options.salt_cloud_profile != "prod" or options.salt_cloud_deploy == "False":
        return 0
    release = build.build_artifact(options)
    _, archive = bundle.pack(topology, topology.edge.name, release)
    atomic_file.write(TREE, archive)
    api = account.connect()
    name, tag = f"{NAME}-{SINGLE}", f"{NAME}:{SINGLE}"
    inbound = inbound_rules.ask_machines(
        addresses.read_for_cloud(topology), topology.name, [topology.edge.name]
    )
    rules = [
        firewalls.make_rule(allowed, str)
        for allowed in inbound[topology.edge.name].rules
        if allowed["from"] == "any"
    ]
    firewall = firewalls.make_firewall(name, tag, rules)
    api.call("tags", "create", {"name": tag}, repeat=True)
    old = next((one for one in api.all("firewalls", "firewalls") if one["name"] == name), None)
    if old is None:
        firewalls.create(api, firewall)
    elif not firewalls.is_same(old, firewall):
        api.call("firewalls", "update", old["id"], firewall)
    print(f"tree and {release} packed, firewall: {firewalls.describe(firewall)}")
    return 0


def check(options: Options) -> int:
    """After a droplet was made: one count over HTTPS, as a client, the certificate verified."""
    address = options.salt_cloud_address
    words = [word for one in account.ssh_options() for word in ("-o", one.replace(" ", "=", 1))]
    # Its host key was made minutes ago; the CA comes over the connection that the deploy used.
    words += ["-o", "UserKnownHostsFile=/dev/null"]
    done = subprocess.run(
        [
            "ssh",
            "-F",
            "none",
            *words,
            f"{account.provider_settings()['ssh_username']}@{address}",
            f"{WITHOUT_KEYS} /etc/stack/pki/ca.pem",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OperationError(f"{address}: its CA could not be read: {done.stderr.strip()}")
    context = ssl.create_default_context(cadata=done.stdout)
    try:
        # To the machine itself, past any proxy, as ssh reaches it.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(f"https://{address}/", timeout=20) as answer:
            text = answer.read(200).decode()
    except OSError as error:
        raise OperationError(f"https://{address}/: {error}") from error
    if not re.fullmatch(r"Hello World! I have been seen \d+ times\.\n", text):
        raise OperationError(f"https://{address}/ answers {text!r}")
    print(f"https://{address}/ answers: {text.strip()}")
    return 0
