"""
DigitalOcean for salt-cloud
===========================

Provider (``cloud.providers.d/digitalocean.conf``):

.. code-block:: yaml

    my-digitalocean:
      driver: digitalocean
      location: fra1
      ssh_key_names: [my-key]          # names in the account
      ssh_key_file: ~/.ssh/id_ed25519  # the private half, for the deploy
      # The token comes from DIGITALOCEAN_TOKEN; or from a command's output:
      # token_command: pass show digitalocean

Profile (``cloud.profiles.d/web.conf``):

.. code-block:: yaml

    web:
      provider: my-digitalocean
      size: s-1vcpu-1gb
      image: debian-13-x64

Every key is described in the README of this extension.

:depends: pydo
"""

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import time

import salt.config
import salt.utils.cloud
import salt.utils.files
import salt.utils.yaml
from salt.exceptions import SaltCloudConfigError, SaltCloudSystemExit
from saltext.digitalocean.utils.digitalocean import dns, exit_code, load_balancers, options
from saltext.digitalocean.utils.digitalocean.api import (
    OWN_ADDRESS,
    Api,
    ApiError,
    NoToken,
    StillThere,
    find_token,
    fingerprint,
)
from saltext.digitalocean.utils.digitalocean.interrupts import undisturbed
from saltext.digitalocean.utils.digitalocean.options import OptionError, nearest

try:
    import pydo  # noqa: F401

    HAS_PYDO = True
except ImportError:
    HAS_PYDO = False

log = logging.getLogger(__name__)

__virtualname__ = "digitalocean"
# As the driver in Salt's core until 3007 could be called, too.
__virtual_aliases__ = ("digital_ocean", "do")
# What Salt's loader puts here.
__opts__ = {}
__utils__ = {}
__active_provider_name__ = None

# Keys of the configuration that hold the token and must not travel with the machine's own.
_SECRET_KEYS = ("personal_access_token", "token_command")
# Seconds between two looks at something that changes by itself, at most; see poll_interval.
_LOOK_AT_MOST = 5.0
# A name as the API takes it (droplet_single_create.yml of DigitalOcean's OpenAPI specification).
_NAME = re.compile(r"[a-zA-Z0-9]?[a-z0-9A-Z.\-]*[a-z0-9A-Z]")
_USER_DATA_MAX = 64 * 1024
# Seconds until a droplet is known everywhere.
_UNKNOWN = 30
_FINGERPRINT = re.compile(r"([0-9a-f]{2}:){15}[0-9a-f]{2}")


def __virtual__():
    if not HAS_PYDO:
        return False, "the digitalocean driver needs pydo: pip install pydo"
    return __virtualname__


# --- configuration ----------------------------------------------------------------------------------


def get_configured_provider():
    """
    The provider's configuration, False when there is none.

    Ends it all when there is one that cannot be, or none of a token: salt-cloud would otherwise go on
    without the provider and report, with exit code 0, that no machine exists.
    """
    found = _configured()
    if not found:
        return False
    try:
        provider = _checked(found)
        _token(provider)
    except SaltCloudSystemExit as error:
        _fail(str(error))
    return found


def get_dependencies():
    """Whether the driver's libraries are there."""
    return salt.config.check_driver_dependencies(__virtualname__, {"pydo": HAS_PYDO})


def optimize_providers(providers):
    """
    All of them as they are, once their machines have been listed.

    salt-cloud calls this before it lists machines, and takes a listing that failed for an empty one:
    a wrong token would end in "No machines were found" and exit code 0. It is also the last that is
    called before a map's workers are forked: they share what is asked here.
    """
    exit_code.watch()
    asked = __opts__.get("destroy") or __opts__.get("action")
    for alias, details in providers.items():
        try:
            api = _api(details)
            counts = {}
            for one in api.droplets():
                counts.setdefault(one["name"], []).append(one)
            for name in (__opts__.get("names") or ()) if asked else ():
                if len(counts.get(name, ())) > 1:
                    raise _ambiguous(name, counts[name])
            if (__opts__.get("map") or __opts__.get("profile")) and not asked:
                with contextlib.suppress(ApiError):
                    # Those who make a machine tell what they miss.
                    api.kept("ssh_keys")
        except (ApiError, SaltCloudSystemExit) as error:
            _fail(f"{alias}: {error}")
    return providers


def _fail(message):
    """End with one line and exit code 1, also where salt-cloud would take an exception for nothing."""
    if exit_code.is_command():
        sys.exit(f"Error: {message}")
    raise SaltCloudSystemExit(message)


def _token(provider):
    try:
        return find_token(provider.get("personal_access_token"), provider.get("token_command"))
    except NoToken as error:
        raise SaltCloudSystemExit(f"DigitalOcean: {error}") from error


def _configured():
    return salt.config.is_provider_configured(
        __opts__, __active_provider_name__ or __virtualname__, (), False, __virtual_aliases__
    )


def _checked(given):
    """Options as they are read here (``options.checked``)."""
    try:
        return options.checked(given, __opts__)
    except OptionError as error:
        where = given.get("name") or (__active_provider_name__ or __virtualname__).split(":")[0]
        raise SaltCloudSystemExit(f"DigitalOcean: {where}: {error}") from error


def _provider():
    found = _configured()
    if not found:
        raise SaltCloudSystemExit("DigitalOcean: no provider is configured with this driver")
    return _checked(found)


def _api(provider=None, name=None):
    """The API as the provider configures it."""
    provider = _provider() if provider is None else _checked(provider)
    return Api(
        _token(provider),
        endpoint=provider.get("api_endpoint"),
        ca_file=provider.get("api_ca_file"),
        patience=float(provider.get("api_patience", 300)),
        backoff=float(provider.get("api_backoff", 1.0)),
        read_timeout=float(provider.get("api_read_timeout", 60)),
        say=lambda text: _say(name or __virtualname__, text),
    )


def _say(name, text):
    """Progress, on stderr: stdout is salt-cloud's answer."""
    log.info("%s: %s", name, text)
    if _provider_setting("progress", True):
        print(f"{name}: {text}", file=sys.stderr, flush=True)


def _provider_setting(key, default):
    found = _configured()
    return _checked(found).get(key, default) if found else default


def _setting(key, vm_, default=None):
    return salt.config.get_cloud_config_value(
        key, vm_, __opts__, default=default, search_global=False
    )


def _one_line(function):
    """Errors of the API and of what they mean for a machine as Salt's own, without a traceback."""

    def wrapped(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except (ApiError, StillThere) as error:
            raise SaltCloudSystemExit(str(error)) from error
        except OptionError as error:
            raise SaltCloudSystemExit(f"DigitalOcean: {error}") from error

    wrapped.__name__, wrapped.__doc__ = function.__name__, function.__doc__
    wrapped.__module__ = function.__module__
    return wrapped


def _listing(function):
    """As `_one_line`, for what salt-cloud takes for an empty list when it fails."""

    def wrapped(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except ApiError as error:
            return _fail(str(error))

    wrapped.__name__, wrapped.__doc__ = function.__name__, function.__doc__
    wrapped.__module__ = function.__module__
    return wrapped


def _must_be(call, kind, name):
    if call != kind:
        how = "-a ACTION NAME" if kind == "action" else "-f FUNCTION PROVIDER"
        raise SaltCloudSystemExit(f"{name} is called with {how}")


# --- what can be had ----------------------------------------------------------------------------------


@_listing
def avail_locations(call=None):
    """Regions by slug.

    CLI Example:

    .. code-block:: bash

        salt-cloud --list-locations my-digitalocean
    """
    if call == "action":
        raise SaltCloudSystemExit("avail_locations is called with --list-locations")
    return {one["slug"]: one for one in _api().all("regions", "regions")}


@_listing
def avail_sizes(call=None):
    """Sizes by slug, with their prices.

    CLI Example:

    .. code-block:: bash

        salt-cloud --list-sizes my-digitalocean
    """
    if call == "action":
        raise SaltCloudSystemExit("avail_sizes is called with --list-sizes")
    return {one["slug"]: one for one in _api().all("sizes", "sizes")}


@_listing
def avail_images(call=None):
    """Public and own images by slug, or by ID where there is no slug.

    CLI Example:

    .. code-block:: bash

        salt-cloud --list-images my-digitalocean
    """
    if call == "action":
        raise SaltCloudSystemExit("avail_images is called with --list-images")
    return {str(one.get("slug") or one["id"]): one for one in _api().all("images", "images")}


@_one_line
def import_image(kwargs=None, call=None):
    """
    Give the account an image of its own, which DigitalOcean fetches from a URL (raw, qcow2, vhdx, vdi or vmdk, maybe
    compressed by gzip or bzip2); returns once it is available. One that it has under that name already is left.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f import_image my-digitalocean name=fedora-coreos region=fra1 distribution=CoreOS \\
            url=https://example.com/fedora-coreos-digitalocean.x86_64.qcow2.gz
    """
    _must_be(call, "function", "import_image")
    given = _given(kwargs)
    options.check_names(
        "image", given, ("name", "url", "region", "distribution", "description", "tags")
    )
    name = _argument(kwargs, "name")
    body = {
        "name": name,
        "url": _argument(kwargs, "url"),
        "region": given.get("region") or _provider().get("location"),
    }
    body.update({key: given[key] for key in ("distribution", "description") if given.get(key)})
    if given.get("tags"):
        body["tags"] = _listed(given["tags"])
    if not body["region"]:
        raise SaltCloudSystemExit("DigitalOcean: region=… is needed")
    api = _api(name=name)

    def there():
        return next(
            ({"image": one} for one in api.all("images", "images") if one.get("name") == name), None
        )

    made = (there() or api.call("images", "create_custom", body, found=there, key="image"))["image"]
    api.forget("images")

    def look():
        now = api.call("images", "get", made["id"], key="image", unknown=_UNKNOWN)["image"]
        if now.get("status") in ("deleted", "retired") or now.get("error_message"):
            why = now.get("error_message") or now["status"]
            raise SaltCloudSystemExit(f"DigitalOcean: image {name}: not imported: {why}")
        return (now, "") if now.get("status") in (None, "available") else (None, now["status"])

    return _wait(f"image {name}", look, float(_provider_setting("import_timeout", 3600)), name)


@_one_line
def list_keypairs(call=None):
    """SSH keys of the account by name.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f list_keypairs my-digitalocean
    """
    _must_be(call, "function", "list_keypairs")
    return {one["name"]: one for one in _api().all("ssh_keys", "ssh_keys")}


@_one_line
def show_keypair(kwargs=None, call=None):
    """One SSH key of the account.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f show_keypair my-digitalocean keyname=my-key
    """
    _must_be(call, "function", "show_keypair")
    name = _argument(kwargs, "keyname")
    keys = {one["name"]: one for one in _api().all("ssh_keys", "ssh_keys")}
    if name not in keys:
        raise SaltCloudSystemExit(
            f"DigitalOcean: SSH key {name}: no such key; {nearest(name, keys)}"
        )
    return keys[name]


@_one_line
def import_keypair(kwargs=None, call=None):
    """Give the account a public SSH key; one that it has under that name already is left.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f import_keypair my-digitalocean keyname=my-key file=~/.ssh/id_ed25519.pub
    """
    _must_be(call, "function", "import_keypair")
    return _import(_api(), _argument(kwargs, "file"), _argument(kwargs, "keyname"))


@_one_line
def create_key(kwargs=None, call=None):
    """Give the account a public SSH key, which is an argument.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f create_key my-digitalocean name=my-key public_key='ssh-ed25519 AAAA…'
    """
    _must_be(call, "function", "create_key")
    return _api().give_key(_argument(kwargs, "public_key"), _argument(kwargs, "name"))


def _import(api, path, name=None):
    """The account's entry of the public key in ``path``; made when there is none of that key."""
    try:
        with salt.utils.files.fopen(_expanded(path), encoding="utf-8") as file:
            text = file.read().strip()
    except OSError as error:
        raise SaltCloudConfigError(f"DigitalOcean: {error}") from error
    if "PRIVATE KEY" in text:
        raise SaltCloudSystemExit(f"{path} is a private key: give the .pub file")
    if not fingerprint(text):
        raise SaltCloudSystemExit(f"{path} is no public SSH key")
    return api.give_key(text, name)


@_one_line
def remove_key(kwargs=None, call=None):
    """Take an SSH key out of the account.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f remove_key my-digitalocean keyname=my-key
    """
    _must_be(call, "function", "remove_key")
    name = _argument(kwargs, "keyname")
    key = show_keypair({"keyname": name}, call="function")
    api = _api()
    api.call("ssh_keys", "delete", key["id"])
    api.forget("ssh_keys")
    return {"removed": name}


def _argument(kwargs, name):
    value = (kwargs or {}).get(name)
    if value in (None, ""):
        raise SaltCloudSystemExit(f"DigitalOcean: {name}=… is needed")
    return value


# --- machines -----------------------------------------------------------------------------------------


def _addresses(droplet, kind):
    networks = droplet.get("networks") or {}
    return [
        one["ip_address"]
        for version in ("v4", "v6")
        for one in networks.get(version) or []
        if one.get("type") == kind
    ]


def _node(droplet):
    """What every driver of salt-cloud says of a machine (list_nodes)."""
    return {
        "id": droplet["id"],
        "image": (droplet.get("image") or {}).get("slug")
        or (droplet.get("image") or {}).get("name"),
        "size": droplet.get("size_slug"),
        "state": droplet.get("status"),
        "region": (droplet.get("region") or {}).get("slug"),
        "private_ips": _addresses(droplet, "private"),
        "public_ips": _addresses(droplet, "public"),
        "tags": droplet.get("tags") or [],
        "vpc_uuid": droplet.get("vpc_uuid"),
    }


def _by_name(droplets):
    """Machines by name; a name that two have is followed by the ID, so that none is hidden."""
    labels = {one["id"]: one["name"] for one in droplets}
    while len(set(labels.values())) < len(labels):
        known = list(labels.values())
        labels = {
            identity: label if known.count(label) == 1 else f"{label}-{identity}"
            for identity, label in labels.items()
        }
    return {labels[one["id"]]: one for one in droplets}


def _ambiguous(name, droplets):
    labels = " or ".join(sorted(_by_name(droplets)))
    return SaltCloudSystemExit(
        f"DigitalOcean: {len(droplets)} droplets are called {name}: name one as {labels}"
    )


@_listing
def list_nodes(call=None):
    """Machines with their addresses.

    CLI Example:

    .. code-block:: bash

        salt-cloud -Q
    """
    if call == "action":
        raise SaltCloudSystemExit("list_nodes is called with -Q")
    return {name: _node(one) for name, one in _by_name(_api().droplets()).items()}


@_listing
def list_nodes_min(call=None):
    """Names and IDs of the machines.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f list_nodes_min my-digitalocean
    """
    return {
        name: {"id": one["id"], "state": one["status"]}
        for name, one in _by_name(_api().droplets()).items()
    }


@_listing
def list_nodes_full(call=None):
    """Machines with all that the API says of them.

    CLI Example:

    .. code-block:: bash

        salt-cloud -F
    """
    if call == "action":
        raise SaltCloudSystemExit("list_nodes_full is called with -F")
    return {name: {**one, **_node(one)} for name, one in _by_name(_api().droplets()).items()}


def list_nodes_select(call=None):
    """Machines with the fields that ``query.selection`` names.

    CLI Example:

    .. code-block:: bash

        salt-cloud -S
    """
    return salt.utils.cloud.list_nodes_select(
        list_nodes_full("function"), __opts__["query.selection"], call
    )


def _find(api, name, must=True):
    """The droplet of that name, or as listings name one of several. Refused when there are two; None,
    or refused, when there is none."""
    found = api.droplets(name=name)
    if len(found) > 1:
        raise _ambiguous(name, found)
    if found or not must:
        return found[0] if found else None
    known = _by_name(api.droplets())
    if name not in known:
        raise SaltCloudSystemExit(f"DigitalOcean: {name}: no such droplet; {nearest(name, known)}")
    return known[name]


@_one_line
def show_instance(name, call=None):
    """All that the API says of one machine.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a show_instance web1
    """
    _must_be(call, "action", "show_instance")
    droplet = _find(_api(), name)
    return {**droplet, **_node(droplet)}


def _wait(what, look, seconds, name=None):
    """
    What ``look`` returns once that is not None; it says what it sees in a text, or returns the
    result. SaltCloudSystemExit after ``seconds``.
    """
    began = time.monotonic()
    shown, pause = None, float(_provider_setting("poll_interval", 1.0))
    while True:
        result, text = look()
        if result is not None:
            return result
        waited = time.monotonic() - began
        if name and text != shown:
            _say(name, f"{text} ({waited:.0f} s)")
            shown = text
        if waited >= seconds:
            raise SaltCloudSystemExit(f"DigitalOcean: {what}: still {text} after {seconds:.0f} s")
        time.sleep(min(pause, max(seconds - waited, 0.05)))
        pause = min(pause * 1.5, _LOOK_AT_MOST)


def _wait_action(api, action, what, seconds, name=None):
    """Wait for an action to complete; refused when it errored."""

    def look():
        now = api.call("actions", "get", action["id"], key="action")["action"]
        if now["status"] == "errored":
            raise SaltCloudSystemExit(f"DigitalOcean: {what}: the action {now['id']} failed")
        return (now, "") if now["status"] == "completed" else (None, now["status"])

    return _wait(what, look, seconds, name)


def _act(name, kind, call, seconds=300):
    """Run a droplet action to its end."""
    _must_be(call, "action", kind)
    api = _api(name=name)
    droplet = _find(api, name)
    # Done twice, none of these does harm; reboot is left to the caller.
    repeat = kind not in ("reboot", "power_cycle")
    action = api.act(droplet["id"], kind, repeat)
    if action:
        _wait_action(api, action, f"{name}: {kind}", seconds, name)
    return {"name": name, "action": kind, "status": "completed"}


@_one_line
def reboot(name, call=None):
    """Reboot a machine, as from its own console.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a reboot web1
    """
    return _act(name, "reboot", call)


@_one_line
def start(name, call=None):
    """Power a machine on.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a start web1
    """
    return _act(name, "power_on", call)


@_one_line
def stop(name, call=None):
    """Shut a machine down from within; it is still paid.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a stop web1
    """
    return _act(name, "shutdown", call)


@_one_line
def power_off(name, call=None):
    """Take the power from a machine that does not shut down.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a power_off web1
    """
    return _act(name, "power_off", call)


@_one_line
def power_cycle(name, call=None):
    """Take the power from a machine and give it back.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a power_cycle web1
    """
    return _act(name, "power_cycle", call)


# --- create -------------------------------------------------------------------------------------------


def _expanded(path):
    return os.path.expanduser(str(path))


def _listed(value):
    """A list of a list or of a text with commas."""
    if value is None or value == "":
        return []
    if isinstance(value, int):
        return [value]
    if isinstance(value, str):
        return [one.strip() for one in value.split(",") if one.strip()]
    return list(value)


def _choose(api, kind, group, wanted, what):
    """The account's entry of each wanted thing, by name, ID or fingerprint."""
    found = []
    known = api.all(group, group) if wanted else []
    for one in wanted:
        match = [
            item
            for item in known
            if str(one) in (str(item.get(key)) for key in ("name", "id", "fingerprint"))
        ]
        if not match:
            near = nearest(one, [item.get("name") for item in known])
            raise SaltCloudConfigError(
                f"DigitalOcean: {kind}: {what} {one}: not in this account; {near}"
            )
        found.append(match[0])
    return found


def _choose_keys(api, wanted):
    """IDs or fingerprints of the wanted keys. They are asked for once a run, but for one that is not
    among them."""
    if all(_FINGERPRINT.fullmatch(str(one)) for one in wanted):
        return [str(one) for one in wanted]
    known = {
        str(item.get(key)): item["id"]
        for key in ("fingerprint", "id", "name")
        for item in api.kept("ssh_keys")
    }
    if all(str(one) in known for one in wanted):
        return [known[str(one)] for one in wanted]
    return [one["id"] for one in _choose(api, "ssh_key_names", "ssh_keys", wanted, "key")]


def _offer(api, vm_):
    """Slugs of region and size, slug or ID of the image: by slug, name or ID, as they can be had now."""
    wanted = {key: _setting(key, vm_) for key in ("location", "size", "image")}
    for key, value in wanted.items():
        if not value:
            raise SaltCloudConfigError(f"DigitalOcean: no {key} in profile or provider")
    try:
        region, size, image = options.offer(
            wanted, api.kept("regions"), api.kept("sizes"), api.kept("images")
        )
    except OptionError as error:
        raise SaltCloudConfigError(f"DigitalOcean: {error}") from error
    return {"region": region, "size": size, "image": image}


def _user_data(vm_):
    text = _setting("userdata", vm_)
    path = _setting("userdata_file", vm_)
    if path:
        try:
            with salt.utils.files.fopen(_expanded(path), encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise SaltCloudConfigError(f"DigitalOcean: userdata_file: {error}") from error
        text = salt.utils.cloud.userdata_template(__opts__, vm_, text)
    if text and len(text.encode()) > _USER_DATA_MAX:
        raise SaltCloudConfigError("DigitalOcean: user data is larger than 64 KiB")
    return text


def _request(api, vm_, offer):
    """
    The body that creates the droplet, and what is to be done with it afterwards:
    ``{project, firewalls, reserved_ip}``. Every name is looked up before anything is made.
    """
    name = vm_["name"]
    key_file = _setting("ssh_key_file", vm_)
    if key_file and _setting("deploy", vm_, True) and not os.path.isfile(_expanded(key_file)):
        raise SaltCloudConfigError(f"DigitalOcean: {name}: ssh_key_file: {key_file}: no such file")
    if not _NAME.fullmatch(name) or len(name) > 255:
        raise SaltCloudConfigError(f"DigitalOcean: {name}: a name has letters, digits, '-' and '.'")
    try:
        policy = options.backup_policy(vm_)
    except OptionError as error:
        raise SaltCloudConfigError(f"DigitalOcean: {name}: {error}") from error
    body = {
        "name": name,
        **offer,
        "tags": [str(one) for one in _listed(_setting("tags", vm_))],
        "backups": policy is not None,
        "ipv6": _setting("ipv6", vm_, False),
        "monitoring": _setting("monitoring", vm_, False),
    }
    if _setting("backup_policy", vm_):
        body["backup_policy"] = policy
    body["ssh_keys"] = _choose_keys(api, _listed(_setting("ssh_key_names", vm_)))
    public = _setting("ssh_public_key_file", vm_)
    if public:
        body["ssh_keys"].append(_import(api, public)["id"])
    if not body["ssh_keys"] and _setting("deploy", vm_, True):
        raise SaltCloudConfigError(
            f"DigitalOcean: {name}: no ssh_key_names nor ssh_public_key_file: nobody could log in (DigitalOcean would mail a password)"
        )
    vpc = _setting("vpc", vm_)
    if vpc:
        body["vpc_uuid"] = _choose(api, "vpc", "vpcs", [vpc], "VPC")[0]["id"]
    text = _user_data(vm_)
    if text:
        body["user_data"] = text
    if _setting("reserved_ip", vm_) == "new":
        body["tags"].append(OWN_ADDRESS)
    project = _setting("project", vm_)
    firewalls = _listed(_setting("firewalls", vm_))
    after = {
        "project": _choose(api, "project", "projects", [project], "project")[0]
        if project
        else None,
        "firewalls": _choose(api, "firewalls", "firewalls", firewalls, "firewall"),
        "reserved_ip": _setting("reserved_ip", vm_),
    }
    if after["reserved_ip"] and after["reserved_ip"] != "new":
        known = {one["ip"]: one for one in api.all("reserved_ips", "reserved_ips")}
        wanted = after["reserved_ip"]
        if wanted not in known:
            raise SaltCloudConfigError(
                f"DigitalOcean: reserved_ip: {wanted}: not in this account; {nearest(wanted, known)}"
            )
        holder = known[wanted].get("droplet")
        if holder and holder.get("name") != name and not _setting("reserved_ip_take", vm_, False):
            raise SaltCloudConfigError(
                f"DigitalOcean: reserved_ip: {wanted} is {holder.get('name')}'s:"
                " set reserved_ip_take: true to move it here"
            )
    return body, after


def _after_unsure(api, name):
    """The droplet of that name if the API made it although its answer was lost; else None."""
    deadline = time.monotonic() + float(_provider_setting("unsure_timeout", 6))
    while True:
        droplet = _find(api, name, must=False)
        if droplet or time.monotonic() > deadline:
            return {"droplet": droplet} if droplet else None
        # A list may lag behind what was made.
        time.sleep(float(_provider_setting("poll_interval", 1.0)))


def _ssh_answers(address, port):
    """Whether an SSH server greets there (RFC 4253, section 4.2): a port that is open alone may be a
    machine that is still starting."""
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            connection.settimeout(5)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _remove(api, droplet, name, seconds):
    """Delete a droplet and wait until it is gone."""
    poll = float(_provider_setting("poll_interval", 1.0))
    api.remove_droplet(droplet["id"], name, seconds, poll)


def _event(name, message, tag, args):
    """Tell the master's event bus, where there is one: firing into nothing takes Salt a second."""
    if not os.path.exists(os.path.join(__opts__["sock_dir"], "master_event_pull.ipc")):
        return
    __utils__["cloud.fire_event"](
        "event",
        message,
        f"salt/cloud/{name}/{tag}",
        args=args,
        sock_dir=__opts__["sock_dir"],
        transport=__opts__.get("transport", "zeromq"),
    )


def create(vm_):
    """
    Make a droplet, wait until it can be logged in to, deploy; on any failure remove it again.

    CLI Example:

    .. code-block:: bash

        salt-cloud -p web web1
    """
    name = vm_["name"]
    if vm_.get("profile") and not salt.config.is_profile_configured(
        __opts__, (__active_provider_name__ or __virtualname__), vm_["profile"], vm_=vm_
    ):
        raise SaltCloudConfigError(
            f"DigitalOcean: {name}: profile {vm_['profile']} is not complete (see above)"
        )
    try:
        provider = {key: value for key, value in _provider().items() if key != "profiles"}
        vm_ = {**provider, **vm_, **_checked(vm_)}
        return _create(_api(name=name), vm_)
    except (ApiError, SaltCloudConfigError) as error:
        exit_code.failed()
        # salt-cloud shows the usage and exits 2 for a configuration error; and a map goes on.
        raise SaltCloudSystemExit(str(error)) from error
    except BaseException:
        exit_code.failed()
        raise


def _create(api, vm_):
    name = vm_["name"]
    existing = _find(api, name, must=False)
    if existing:
        _say(name, f"droplet {existing['id']} exists already, nothing is done")
        return {**_node(existing), "name": name, "Message": "exists already"}
    offer = _offer(api, vm_)
    _local(name, "before_create", vm_, deploy=bool(_setting("deploy", vm_, True)))
    body, after = _request(api, vm_, offer)
    _event(
        name,
        "starting create",
        "creating",
        {"name": name, "profile": vm_.get("profile"), "provider": vm_.get("provider")},
    )
    _say(name, f"creating {body['size']} in {body['region']} from {body['image']}")
    made = {"droplet": None, "reserved_ip": None}
    try:
        said = api.call(
            "droplets", "create", body, found=lambda: _after_unsure(api, name), key="droplet"
        )
        made["droplet"] = said["droplet"]
        result = _finish(api, vm_, made, said, after)
    except BaseException as error:
        # Also when interrupted: what exists by halves is paid in full.
        if made["droplet"]:
            _clean_up(api, vm_, made, error)
        elif isinstance(error, ApiError) and not error.unsure:
            raise
        else:
            _clean_up_unsure(api, vm_, error)
        if isinstance(error, SystemExit):
            # Salt's own handler of SIGINT and SIGTERM raises it with code 0, as if all were well.
            raise SaltCloudSystemExit(f"DigitalOcean: {name}: interrupted") from error
        raise
    _event(name, "created instance", "created", {"name": name, "id": result["id"]})
    return result


def _local(name, key, vm_, **more):
    """
    Run the setting ``key``, a command on this computer that must succeed: it packs what the deploy
    carries, or looks at the machine from outside. The machine is in its environment, SALT_CLOUD_*.
    """
    command = _setting(key, vm_)
    if not command:
        return
    words = command if isinstance(command, list) else ["sh", "-c", command]
    environment = {
        **os.environ,
        "SALT_CLOUD_NAME": name,
        "SALT_CLOUD_PROFILE": vm_.get("profile") or "",
    }
    environment.update({f"SALT_CLOUD_{one.upper()}": str(value) for one, value in more.items()})
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
        )
    except OSError as error:
        raise SaltCloudConfigError(f"DigitalOcean: {name}: {key}: {error}") from error
    said = f"{done.stdout}\n{done.stderr}".strip().splitlines()
    if done.returncode:
        why = said[-1].strip() if said else f"exit code {done.returncode}"
        raise SaltCloudConfigError(f"DigitalOcean: {name}: {key}: {why}")
    for line in said:
        _say(name, line)


def _reason(error):
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return "interrupted"
    return str(error) or type(error).__name__


def _clean_up_unsure(api, vm_, error):
    """After a creation whose answer was never seen: remove what it made, or say that nobody knows."""
    name = vm_["name"]
    why = ""
    with undisturbed():
        try:
            found = _after_unsure(api, name)
            if found:
                _clean_up(api, vm_, {"droplet": found["droplet"], "reserved_ip": None}, error)
                return
        except ApiError as problem:
            why = f" ({problem})"
    raise SaltCloudSystemExit(
        f"{_reason(error)}; a droplet {name} may exist and be paid: salt-cloud -Q{why}"
    ) from error


def _clean_up(api, vm_, made, error):
    with undisturbed():
        _remove_made(api, vm_, made, error)


def _remove_made(api, vm_, made, error):
    name, droplet = vm_["name"], made["droplet"]
    reason = _reason(error)
    if _setting("keep_failed", vm_, False):
        _say(name, f"failed; droplet {droplet['id']} is kept, as keep_failed says, and paid")
        return
    _say(name, f"failed ({reason}); removing what was made")
    problems = []
    if _setting("reserved_ip", vm_) == "new" and not made["reserved_ip"]:
        # It may have been given although the answer was never seen.
        with contextlib.suppress(ApiError):
            made["reserved_ip"] = api.find_reserved_ip(droplet["id"])
    try:
        _remove(api, droplet, name, float(_setting("destroy_timeout", vm_, 300)))
    except (ApiError, StillThere) as problem:
        problems.append(str(problem))
    if made["reserved_ip"]:
        try:
            api.call("reserved_ips", "delete", made["reserved_ip"])
        except ApiError as problem:
            if problem.status != 404:
                problems.append(f"reserved address {made['reserved_ip']} was left: {problem}")
    if problems:
        raise SaltCloudSystemExit(f"{reason}; and {'; '.join(problems)}") from error
    _say(name, "nothing was left")


def _finish(api, vm_, made, said, after):
    """From the droplet that the API has accepted to the machine that serves."""
    name = vm_["name"]
    identity = made["droplet"]["id"]
    # Before it can be reached at all.
    for firewall in after["firewalls"]:
        body = {"droplet_ids": [identity]}
        api.call("firewalls", "assign_droplets", firewall["id"], body, unknown=_UNKNOWN)
    patience = float(_setting("wait_for_ip_timeout", vm_, 600))
    actions = [
        one for one in (said.get("links") or {}).get("actions") or [] if one.get("rel") == "create"
    ]
    kind = _setting("ssh_interface", vm_, "public").removesuffix("_ips")

    def active():
        if actions:
            action = api.call("actions", "get", actions[0]["id"], key="action")["action"]
            if action["status"] == "errored":
                raise SaltCloudSystemExit(
                    f"DigitalOcean: {name}: the creation failed (action {action['id']})"
                )
        try:
            droplet = api.call("droplets", "get", identity, key="droplet")["droplet"]
        except ApiError as error:
            if error.status == 404:
                # What was just made is not everywhere known yet.
                return None, "not known yet"
            raise
        if droplet["status"] == "active" and _addresses(droplet, kind):
            return droplet, ""
        return None, droplet["status"] if droplet[
            "status"
        ] != "active" else f"without a {kind} address"

    droplet = made["droplet"] = _wait(f"{name} (droplet {identity})", active, patience, name)
    if after["project"]:
        api.call(
            "projects",
            "assign_resources",
            after["project"]["id"],
            {"resources": [f"do:droplet:{identity}"]},
            unknown=_UNKNOWN,
        )
    if after["reserved_ip"]:
        _reserve(api, name, identity, made, after["reserved_ip"])
    address = _addresses(droplet, kind)[0]
    _say(name, f"active at {address}")
    node = {**droplet, **_node(droplet), "name": name}
    if made["reserved_ip"] or after["reserved_ip"]:
        node["reserved_ip"] = made["reserved_ip"] or after["reserved_ip"]
    if not _setting("deploy", vm_, True) and not _setting("inline_script", vm_):
        return node
    port = int(_setting("ssh_port", vm_, 22))
    seconds = float(_setting("wait_for_ssh_timeout", vm_, 300))
    _wait(
        f"{name}: ssh at {address} port {port}",
        lambda: (True, "") if _ssh_answers(address, port) else (None, "waiting for ssh"),
        seconds,
        name,
    )
    node.update(_deploy(vm_, address))
    _local(name, "after_create", vm_, address=address, id=identity)
    return node


def _reserve(api, name, identity, made, wanted):
    """Give the droplet a reserved address: its own old one, or a new one."""
    if wanted == "new":

        def there():
            address = api.find_reserved_ip(identity)
            return {"reserved_ip": {"ip": address}} if address else None

        made["reserved_ip"] = api.call(
            "reserved_ips",
            "create",
            {"droplet_id": identity},
            found=there,
            key="reserved_ip",
            unknown=_UNKNOWN,
        )["reserved_ip"]["ip"]
        _say(name, f"reserved address {made['reserved_ip']}")
        return
    action = api.call(
        "reserved_ips_actions",
        "post",
        wanted,
        {"type": "assign", "droplet_id": identity},
        repeat=True,
        key="action",
        unknown=_UNKNOWN,
    )["action"]
    _wait_action(api, action, f"{name}: reserved address {wanted}", 120)


def _deploy(vm_, address):
    """Salt's own deploy over ssh, and the commands that must succeed after it, on new connections."""
    name = vm_["name"]
    key = _setting("ssh_key_file", vm_)
    given = {
        **{key: value for key, value in vm_.items() if key not in _SECRET_KEYS},
        "ssh_host": address,
        "key_filename": _expanded(key) if key else None,
    }
    _say(name, "deploying")
    answer = __utils__["cloud.bootstrap"](given, __opts__)
    if "Error" in answer:
        reason = answer["Error"]
        reason = "; ".join(reason.values()) if isinstance(reason, dict) else reason
        raise SaltCloudSystemExit(f"DigitalOcean: {name}: deploy: {reason}")
    if answer.get("File Upload Failure"):
        lost = ", ".join(path for one in answer["File Upload Failure"] for path in one)
        raise SaltCloudSystemExit(f"DigitalOcean: {name}: deploy: not carried: {lost}")
    for command in _setting("after_deploy", vm_, []) or []:
        code = salt.utils.cloud.root_cmd(
            command,
            False,
            _setting("sudo", vm_, _setting("ssh_username", vm_, "root") != "root"),
            allow_failure=True,
            hostname=address,
            port=int(_setting("ssh_port", vm_, 22)),
            username=_setting("ssh_username", vm_, "root"),
            key_filename=given["key_filename"],
            ssh_timeout=15,
        )
        if code:
            raise SaltCloudSystemExit(
                f"DigitalOcean: {name}: after_deploy: {command}: exit code {code}"
            )
    return {"deployed": True, "deploy_kwargs": {"host": address}}


# --- destroy ------------------------------------------------------------------------------------------


def destroy(name, call=None):
    """Remove a machine and all that is on it; returns once it is gone.

    CLI Example:

    .. code-block:: bash

        salt-cloud -d web1
    """
    if call == "function":
        raise SaltCloudSystemExit("destroy is called with -d or -a destroy")
    try:
        return _destroy(_api(name=name), name)
    except (ApiError, StillThere) as error:
        exit_code.failed()
        raise SaltCloudSystemExit(str(error)) from error
    except SaltCloudSystemExit:
        exit_code.failed()
        raise


def _destroy(api, name):
    _event(name, "destroying instance", "destroying", {"name": name})
    droplet = _find(api, name)
    api.remove_with_address(
        {**droplet, "name": name},
        float(_provider_setting("destroy_timeout", 300)),
        float(_provider_setting("poll_interval", 1.0)),
    )
    _event(name, "destroyed instance", "destroyed", {"name": name})
    if __opts__.get("update_cachedir", False) is True:
        __utils__["cloud.delete_minion_cachedir"](
            name, (__active_provider_name__ or __virtualname__).split(":")[0], __opts__
        )
    return {"name": name, "id": droplet["id"], "destroyed": True}


# --- networks, firewalls, addresses, projects -----------------------------------------------------------


@_one_line
def list_vpcs(call=None):
    """Private networks by name.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f list_vpcs my-digitalocean
    """
    _must_be(call, "function", "list_vpcs")
    return {one["name"]: one for one in _api().all("vpcs", "vpcs")}


@_one_line
def ensure_vpc(kwargs=None, call=None):
    """A private network of that name; one that is there already is left.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f ensure_vpc my-digitalocean name=prod region=fra1 ip_range=10.20.0.0/20
    """
    _must_be(call, "function", "ensure_vpc")
    name = _argument(kwargs, "name")
    api = _api()

    def there():
        return next(({"vpc": one} for one in api.all("vpcs", "vpcs") if one["name"] == name), None)

    body = {
        key: kwargs[key] for key in ("name", "region", "ip_range", "description") if kwargs.get(key)
    }
    return (there() or api.call("vpcs", "create", body, found=there, key="vpc"))["vpc"]


@_one_line
def delete_vpc(kwargs=None, call=None):
    """Remove an empty private network.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f delete_vpc my-digitalocean name=prod
    """
    _must_be(call, "function", "delete_vpc")
    api = _api()
    found = _choose(api, "name", "vpcs", [_argument(kwargs, "name")], "VPC")[0]
    if found.get("default"):
        raise SaltCloudSystemExit(
            f"DigitalOcean: {found['name']} is the default VPC of {found.get('region')}, which stays;"
            " it costs nothing"
        )
    api.call("vpcs", "delete", found["id"])
    return {"removed": found["name"]}


@_one_line
def list_firewalls(call=None):
    """Cloud firewalls by name.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f list_firewalls my-digitalocean
    """
    _must_be(call, "function", "list_firewalls")
    return {one["name"]: one for one in _api().all("firewalls", "firewalls")}


@_one_line
def list_reserved_ips(call=None):
    """Reserved addresses and who has them.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f list_reserved_ips my-digitalocean
    """
    _must_be(call, "function", "list_reserved_ips")
    return {one["ip"]: one for one in _api().all("reserved_ips", "reserved_ips")}


@_one_line
def release_reserved_ip(kwargs=None, call=None):
    """Give a reserved address back.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f release_reserved_ip my-digitalocean ip=203.0.113.7
    """
    _must_be(call, "function", "release_reserved_ip")
    _api().call("reserved_ips", "delete", _argument(kwargs, "ip"))
    return {"released": kwargs["ip"]}


@_one_line
def create_reserved_ip(kwargs=None, call=None):
    """A reserved address, paid until a droplet has it.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f create_reserved_ip my-digitalocean region=fra1
    """
    _must_be(call, "function", "create_reserved_ip")
    body = {"region": _argument(kwargs, "region")}
    return _api().call("reserved_ips", "create", body, key="reserved_ip")["reserved_ip"]


@_one_line
def assign_reserved_ip(kwargs=None, call=None):
    """Give a droplet a reserved address, whoever has it now.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f assign_reserved_ip my-digitalocean ip=203.0.113.7 droplet=web1
    """
    _must_be(call, "function", "assign_reserved_ip")
    api, name = _api(), _argument(kwargs, "droplet")
    address = _argument(kwargs, "ip")
    _reserve(api, name, _find(api, name)["id"], {}, address)
    return {"ip": address, "droplet": name}


@_one_line
def unassign_reserved_ip(kwargs=None, call=None):
    """Take a reserved address from its droplet; it is kept, and paid.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f unassign_reserved_ip my-digitalocean ip=203.0.113.7
    """
    _must_be(call, "function", "unassign_reserved_ip")
    api, address = _api(), _argument(kwargs, "ip")
    action = api.call(
        "reserved_ips_actions", "post", address, {"type": "unassign"}, repeat=True, key="action"
    )["action"]
    _wait_action(api, action, f"reserved address {address}", 120)
    return {"unassigned": address}


def _given(kwargs, lists=()):
    """Arguments of a function by name, those in ``lists`` read from a text as YAML: they are lists or
    mappings, and a command line has only texts."""
    given = {key: value for key, value in (kwargs or {}).items() if not key.startswith("__")}
    for key in lists:
        if isinstance(given.get(key), str):
            try:
                given[key] = salt.utils.yaml.safe_load(given[key])
            except salt.utils.yaml.YAMLError as error:
                line = " ".join(str(error).split())
                raise SaltCloudSystemExit(f"DigitalOcean: {key}: no YAML: {line}") from error
    return given


@_one_line
def list_load_balancers(call=None):
    """Load balancers by name.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f list_load_balancers my-digitalocean
    """
    _must_be(call, "function", "list_load_balancers")
    return _by_name(load_balancers.list_all(_api()))


@_one_line
def show_load_balancer(kwargs=None, call=None):
    """One load balancer, by name or ID.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f show_load_balancer my-digitalocean name=edge
    """
    _must_be(call, "function", "show_load_balancer")
    return load_balancers.get(_api(), _argument(kwargs, "name"))


@_one_line
def create_load_balancer(kwargs=None, call=None):
    """
    A regional load balancer, returned once it is active; one of that name is changed to what is asked for.

    Its options are those of DigitalOcean's API; ``droplets`` names what ``droplet_ids`` numbers, ``vpc`` may
    be a name.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f create_load_balancer my-digitalocean name=edge region=fra1 tag=edge \\
            forwarding_rules='[{entry_protocol: tcp, entry_port: 443, target_protocol: tcp, target_port: 443}]' \\
            health_check='{protocol: tcp, port: 443}' enable_proxy_protocol=true
    """
    _must_be(call, "function", "create_load_balancer")
    given = _given(kwargs, ("forwarding_rules", "health_check", "firewall", "droplet_ids"))
    names, vpc = _listed(given.pop("droplets", None)), given.pop("vpc", None)
    wanted = {**given, **({"droplet_ids": [1]} if names else {})}
    # Before anything is asked.
    load_balancers.check(wanted)
    api = _api(name=_argument(kwargs, "name"))
    if names:
        given["droplet_ids"] = [_find(api, name)["id"] for name in names]
    if vpc:
        given["vpc_uuid"] = _choose(api, "vpc", "vpcs", [vpc], "VPC")[0]["id"]
    return load_balancers.ensure(
        api,
        given,
        float(_provider_setting("wait_for_ip_timeout", 600)),
        float(_provider_setting("poll_interval", 1.0)),
    )


@_one_line
def delete_load_balancer(kwargs=None, call=None):
    """Remove a load balancer by name or ID; returns once it is gone.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f delete_load_balancer my-digitalocean name=edge
    """
    _must_be(call, "function", "delete_load_balancer")
    api = _api()
    found = load_balancers.get(api, _argument(kwargs, "name"))
    load_balancers.remove(api, found["id"], poll=float(_provider_setting("poll_interval", 1.0)))
    return {"removed": found["name"]}


def _record(kwargs):
    """Zone and record of a function's arguments."""
    given = _given(kwargs)
    given.pop("domain", None)
    return _argument(kwargs, "domain"), given


@_one_line
def list_domains(call=None):
    """DNS zones of the account by name.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f list_domains my-digitalocean
    """
    _must_be(call, "function", "list_domains")
    return dns.list_zones(_api())


@_one_line
def list_records(kwargs=None, call=None):
    """Records of a DNS zone by ID; of one ``type`` and one ``name`` below the zone, where given.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f list_records my-digitalocean domain=example.com type=TXT
    """
    _must_be(call, "function", "list_records")
    zone, given = _record(kwargs)
    options.check_names("record", given, ("type", "name"))
    api = _api()
    dns.get_zone(api, zone)
    records = dns.list_records(api, zone, given.get("type"), given.get("name"))
    return {str(one["id"]): one for one in records}


@_one_line
def create_record(kwargs=None, call=None):
    """
    A record of a DNS zone, beside those of the same name; one that is there already is left, but for its TTL.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f create_record my-digitalocean domain=example.com type=A name=www data=203.0.113.7 ttl=300
    """
    _must_be(call, "function", "create_record")
    zone, given = _record(kwargs)
    # Before anything is asked.
    dns.check(given)
    return dns.ensure(_api(), zone, given)


@_one_line
def delete_record(kwargs=None, call=None):
    """Remove the records of a DNS zone that have this type, name and, where given, data.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f delete_record my-digitalocean domain=example.com type=TXT name=_acme-challenge
    """
    _must_be(call, "function", "delete_record")
    zone, given = _record(kwargs)
    return {"removed": dns.remove(_api(), zone, given)}


@_one_line
def list_projects(call=None):
    """Projects by name.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f list_projects my-digitalocean
    """
    _must_be(call, "function", "list_projects")
    return {one["name"]: one for one in _api().all("projects", "projects")}


@_one_line
def show_pricing(kwargs=None, call=None):
    """What a profile costs, in US dollars, as the API says now.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f show_pricing my-digitalocean profile=web
    """
    _must_be(call, "function", "show_pricing")
    name = _argument(kwargs, "profile")
    profile = __opts__["profiles"].get(name)
    if not profile:
        raise SaltCloudSystemExit(
            f"DigitalOcean: profile {name}: no such profile; {nearest(name, __opts__['profiles'])}"
        )
    given = _checked({**_provider(), **profile})
    slug = given.get("size")
    sizes = {one["slug"]: one for one in _api().kept("sizes")}
    if slug not in sizes:
        raise SaltCloudSystemExit(
            f"DigitalOcean: size {slug}: no such size; {nearest(slug, sizes)}"
        )
    try:
        factor = options.price_factor(options.backup_policy(given))
    except OptionError as error:
        raise SaltCloudSystemExit(f"DigitalOcean: {name}: {error}") from error
    hour, month = sizes[slug]["price_hourly"] * factor, sizes[slug]["price_monthly"] * factor
    return {
        name: {
            "per_hour": hour,
            "per_day": hour * 24,
            "per_week": hour * 24 * 7,
            "per_month": month,
            "per_year": month * 12,
        }
    }
