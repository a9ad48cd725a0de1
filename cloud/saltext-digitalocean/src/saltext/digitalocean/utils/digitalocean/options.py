"""
Options of a provider and of a profile: which there are, what they may be, what older ones are called
now; and what backups cost.

An option that nobody knows is refused: a machine without the backups that were meant is worse than none.
"""

import difflib

from saltext.digitalocean.utils.digitalocean import prices

# What `backups: true` alone asks for (droplet_create.yml of DigitalOcean's OpenAPI specification).
DEFAULT_PLAN = "daily"

INTERFACES = ("public", "private", "public_ips", "private_ips")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_POLICY = {"plan": tuple(prices.BACKUPS), "weekday": _WEEKDAYS, "hour": (0, 4, 8, 12, 16, 20)}

# The driver's own, by what they may be.
OWN = {
    **dict.fromkeys(
        (
            "location", "size", "image", "vpc", "project", "reserved_ip", "userdata",
            "userdata_file", "ssh_key_file", "ssh_public_key_file", "personal_access_token",
            "api_endpoint", "api_ca_file",
        ),
        "text",
    ),
    **dict.fromkeys(("ssh_key_names", "tags", "firewalls", "after_deploy"), "list"),
    **dict.fromkeys(("token_command", "before_create", "after_create"), "command"),
    **dict.fromkeys(
        ("backups", "ipv6", "monitoring", "keep_failed", "reserved_ip_take", "progress", "deploy"),
        "boolean",
    ),
    **dict.fromkeys(
        (
            "wait_for_ip_timeout", "wait_for_ssh_timeout", "destroy_timeout", "import_timeout", "unsure_timeout",
            "api_patience", "api_backoff", "api_read_timeout", "poll_interval", "ssh_port",
        ),
        "number",
    ),
    "ssh_interface": "interface",
    "backup_policy": "policy",
    # For templates of a deploy script ({{ vm.custom.… }}); never looked at here.
    "custom": "anything",
}  # fmt: skip
# What Salt itself reads in a provider, a profile or a map
# (https://docs.saltproject.io/en/latest/topics/cloud/misc.html); a test compares it with Salt's sources.
SALT = frozenset(
    {
        "append_domain", "cache", "cloud_grains", "delete_sshkeys", "deploy_command",
        "display_ssh_output", "domain", "driver", "extends", "file_map", "file_transport",
        "force_minion_config", "gateway", "grains", "inline_script", "keep_tmp", "key_filename",
        "keysize", "known_hosts_file", "level", "make_master", "make_minion", "map_grains",
        "map_master", "map_minion", "map_requires", "map_volumes", "master", "master_finger",
        "master_pem", "master_pub", "master_sign_pub_file", "minion", "name", "os", "password",
        "preflight_cmds", "preseed_minion_keys", "priv_key", "profile", "profiles", "provider",
        "pub_key", "requires", "salt_host", "salt_interface", "script", "script_args", "script_env",
        "smb_port", "ssh_agent", "ssh_host", "ssh_keyfile", "ssh_username", "start_action", "sudo",
        "sudo_password", "sync_after_install", "tmp_dir", "tty", "use_fqdn", "use_winrm",
        "userdata_template", "volumes", "wait_for_passwd_maxtries", "win_delay_start",
        "win_install_dir", "win_installer", "win_password", "win_username", "winrm_port",
        "winrm_use_ssl", "winrm_verify_ssl",
    }
)  # fmt: skip
# Of Salt's core driver until 3007, and of the API; what they are called here.
ALIASES = {
    "backups_enabled": "backups",
    "vpc_name": "vpc",
    "vpc_uuid": "vpc",
    "ssh_key_name": "ssh_key_names",
    "region": "location",
    "user_data": "userdata",
    "api_root": "api_endpoint",
    "wait_for_ip_interval": "poll_interval",
}
# Those that can be no more, and what to do instead; false and empty they ask for nothing.
GONE = {
    "create_dns_record": "DNS records are not made here: make them with after_create (MIGRATION.md)",
    "delete_dns_record": "DNS records are not made here (MIGRATION.md)",
    "dns_hostname": "DNS records are not made here: make them with after_create (MIGRATION.md)",
    "dns_domain": "DNS records are not made here: make them with after_create (MIGRATION.md)",
    "client_key": "it was the first API's: use personal_access_token or DIGITALOCEAN_TOKEN",
    "api_key": "it was the first API's: use personal_access_token or DIGITALOCEAN_TOKEN",
}
_YES, _NO = ("true", "yes", "on"), ("false", "no", "off", "")


class OptionError(ValueError):
    """An option that there is not, or that cannot be what it is; one line."""


def nearest(name, known):
    """What to say about a name that is not among the known."""
    known = sorted({str(one) for one in known if one})
    near = difflib.get_close_matches(str(name), known, 1)
    if near:
        return f"did you mean {near[0]}?"
    more = ", …" if len(known) > 12 else ""
    return f"there are: {', '.join(known[:12])}{more}" if known else "there is none"


def boolean(key, value):
    """True or False; texts that YAML would read as one, such as a quoted ``"no"``, are that."""
    text = str(value).strip().lower()
    if value is None or text in _NO:
        return False
    if text in _YES:
        return True
    raise OptionError(f"{key}: {value}: use true or false")


def _number(key, value):
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = None
    if number is None or not 0 <= number < float("inf"):
        raise OptionError(f"{key}: {value}: use a number that is not negative")
    return value


def integer(key, value, least, most=None):
    """A whole number between ``least`` and ``most``; texts that are one, as on a command line, too."""
    try:
        number = None if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        number = None
    if number is None or number < least or (most is not None and number > most):
        limits = f"from {least} to {most}" if most is not None else f"of {least} or more"
        raise OptionError(f"{key}: {value}: use a whole number {limits}")
    return number


def check_names(what, given, known):
    """OptionError when one of the given is not known."""
    for name in given:
        if name not in known:
            raise OptionError(f"{what}: {name}: no such option; {nearest(name, known)}")


def _policy(key, value):
    if not isinstance(value, dict) or not value.get("plan"):
        raise OptionError(f"{key}: {value}: use such as {{plan: weekly, weekday: SUN, hour: 4}}")
    for name, given in value.items():
        if name not in _POLICY:
            raise OptionError(f"{key}: {name}: no such option; {nearest(name, _POLICY)}")
        if given not in _POLICY[name] or isinstance(given, bool):
            raise OptionError(
                f"{key}: {name}: {given}: use one of {', '.join(map(str, _POLICY[name]))}"
            )
    return value


def _checked(key, value):
    kind = OWN.get(key)
    if value is None or kind in (None, "anything"):
        return value
    if kind == "boolean":
        return boolean(key, value)
    if kind == "number":
        return _number(key, value)
    if kind == "policy":
        return _policy(key, value)
    if kind == "interface" and value not in INTERFACES:
        raise OptionError(f"{key}: {value}: use public or private; {nearest(value, INTERFACES)}")
    if kind in ("list", "command") and not isinstance(value, (str, list, tuple, int)):
        raise OptionError(f"{key}: use a text or a list")
    if kind == "text" and isinstance(value, (dict, list, bool)):
        # Not what it is, for it may be a token.
        raise OptionError(f"{key}: use a text")
    return value


def checked(options, others=()):
    """
    The options as the driver reads them: older names replaced, texts that mean a boolean made one.

    others
        names that are somebody else's, such as those of salt-cloud's own configuration

    Raises OptionError.
    """
    found = {}
    for name, value in options.items():
        key = ALIASES.get(name, name)
        if name in GONE:
            if value not in (None, "", False, "false", "no"):
                raise OptionError(f"{name}: {GONE[name]}")
            continue
        if name == "private_networking":
            # Of every droplet since VPCs.
            if not boolean(name, value):
                raise OptionError(
                    "private_networking: false: every droplet is in a VPC, and has a private address"
                )
            continue
        if key not in OWN and name not in SALT and name not in others:
            raise OptionError(f"{name}: no such option; {nearest(name, [*OWN, *SALT])}")
        if key != name and options.get(key) not in (None, value):
            raise OptionError(f"{name} is {key} now, and both are set: leave {key} alone")
        value = _checked(key, value)
        if name == "api_root" and value:
            value = str(value).rstrip("/").removesuffix("/v2")
        found[key] = value
    return found


def backup_policy(options):
    """The backup policy that (checked) options ask for, ``{plan, …}``; None without backups."""
    policy = options.get("backup_policy")
    if policy and options.get("backups") is False:
        raise OptionError("backups: false, and a backup_policy is set: leave one of them")
    if policy:
        return dict(policy)
    return {"plan": DEFAULT_PLAN} if options.get("backups") else None


def price_factor(policy):
    """What a droplet with that backup policy costs, of its size's price."""
    if policy is None:
        return 1.0
    if policy.get("plan") not in prices.BACKUPS:
        raise OptionError(f"backup plan {policy.get('plan')}: its price is not known here")
    return 1.0 + prices.BACKUPS[policy["plan"]]


def offer(wanted, regions, sizes, images):
    """
    ``(region, size, image)`` as the API takes them, of ``{location, size, image}`` by slug, name or ID.

    regions, sizes, images
        as the API lists them

    Raises OptionError for what cannot be had now.
    """
    location, slug, image = (str(wanted[key]) for key in ("location", "size", "image"))
    # The beginning of a slug stands for a region of that city (droplet_create.yml).
    match = [one for one in regions if location in (one["slug"], one["name"])] or [
        one for one in regions if one["slug"].rstrip("0123456789") == location
    ]
    if not match:
        raise OptionError(f"location {location}: {nearest(location, [r['slug'] for r in regions])}")
    open_regions = {one["slug"] for one in match if one.get("available", True)}
    if not open_regions:
        raise OptionError(f"location {location}: takes no new droplets now")
    size = next((one for one in sizes if one["slug"] == slug.lower()), None)
    if size is None:
        raise OptionError(f"size {slug}: {nearest(slug, [one['slug'] for one in sizes])}")
    if not size.get("available", True) or not open_regions & set(size["regions"]):
        where = ", ".join(size["regions"]) if size.get("available", True) else ""
        raise OptionError(
            f"size {slug}: not available in {location}; it can be had in: {where or 'no region now'}"
        )
    known = [one for one in images if image in (str(one.get("slug")), str(one["id"]))] or [
        one for one in images if image in (one.get("name"), _title(one))
    ]
    if not known:
        names = [one.get("slug") or one.get("name") for one in images]
        raise OptionError(f"image {image}: {nearest(image, names)}")
    if len(known) > 1:
        names = ", ".join(str(one.get("slug") or one["id"]) for one in known)
        raise OptionError(f"image {image}: {len(known)} are called that: {names}")
    regions = open_regions & set(size["regions"])
    found = known[0]
    if found.get("status") not in (None, "available"):
        why = found.get("error_message") or "wait until it is available"
        raise OptionError(f"image {image}: {found['status']}: {why}")
    if found.get("regions") and not regions & set(found["regions"]):
        raise OptionError(
            f"image {image}: not available in {location}; it can be had in: {', '.join(found['regions'])}"
        )
    if (found.get("min_disk_size") or 0) > (size.get("disk") or float("inf")):
        raise OptionError(
            f"image {image}: needs a disk of {found['min_disk_size']} GB, and size {slug} has {size['disk']}"
        )
    region = min(regions & set(found.get("regions") or regions))
    return region, size["slug"], found.get("slug") or found["id"]


def _title(image):
    return f"{image.get('distribution')} {image.get('name')}"
