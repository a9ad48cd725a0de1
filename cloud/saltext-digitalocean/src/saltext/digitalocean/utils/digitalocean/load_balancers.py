"""
Load balancers: regional ones, before droplets that have a tag or are named; what their options may be,
what they cost.
"""

import time

from saltext.digitalocean.utils.digitalocean import prices
from saltext.digitalocean.utils.digitalocean.api import ApiError
from saltext.digitalocean.utils.digitalocean.interrupts import undisturbed
from saltext.digitalocean.utils.digitalocean.options import (
    OptionError,
    boolean,
    check_names,
    integer,
    nearest,
)

PROTOCOLS = ("http", "https", "http2", "http3", "tcp", "udp")
CHECKS = ("http", "https", "tcp")

# By load_balancer_create.yml and what it refers to in DigitalOcean's OpenAPI specification.
_RULE = ("entry_protocol", "entry_port", "target_protocol", "target_port", "certificate_id", "tls_passthrough")  # fmt: skip
# Options of a health check that are numbers, with the least and the greatest.
_CHECK_NUMBERS = {
    "port": (1, 65535),
    "check_interval_seconds": (3, 300),
    "response_timeout_seconds": (3, 300),
    "unhealthy_threshold": (2, 10),
    "healthy_threshold": (2, 10),
}
_CHECK = ("protocol", "path", *_CHECK_NUMBERS)
_BOOLEANS = (
    "enable_proxy_protocol", "redirect_http_to_https", "enable_backend_keepalive",
    "disable_lets_encrypt_dns_records",
)  # fmt: skip
_CHOICES = {
    "network": ("EXTERNAL", "INTERNAL"),
    "network_stack": ("IPV4", "DUALSTACK"),
    "tls_cipher_policy": ("DEFAULT", "STRONG"),
}
OPTIONS = (
    "name", "region", "tag", "droplet_ids", "forwarding_rules", "health_check", "size_unit", "vpc_uuid",
    "project_id", "http_idle_timeout_seconds", "firewall", *_BOOLEANS, *_CHOICES,
)  # fmt: skip


def _check_rule(number, given):
    where = f"forwarding_rules[{number}]"
    if not isinstance(given, dict):
        raise OptionError(
            f"{where}: use such as {{entry_protocol: tcp, entry_port: 443, target_protocol: tcp, target_port: 443}}"
        )
    check_names(where, given, _RULE)
    rule = dict(given)
    for key in ("entry_protocol", "target_protocol"):
        # HTTP/3 ends at the load balancer.
        known = [one for one in PROTOCOLS if (key, one) != ("target_protocol", "http3")]
        if rule.get(key) not in known:
            raise OptionError(f"{where}: {key}: {rule.get(key)}: use one of {', '.join(known)}")
    for key in ("entry_port", "target_port"):
        rule[key] = integer(f"{where}: {key}", rule.get(key), 1, 65535)
    if "tls_passthrough" in rule:
        rule["tls_passthrough"] = boolean(f"{where}: tls_passthrough", rule["tls_passthrough"])
    entry, target = rule["entry_protocol"], rule["target_protocol"]
    if "udp" in (entry, target) and entry != target:
        raise OptionError(f"{where}: udp goes to udp only, not {entry} to {target}")
    if (entry == "tcp") != (target == "tcp"):
        raise OptionError(f"{where}: tcp goes to tcp only, not {entry} to {target}")
    has_certificate = bool(rule.get("certificate_id"))
    if entry in ("https", "http2", "http3") and not (
        has_certificate or rule.get("tls_passthrough")
    ):
        raise OptionError(f"{where}: {entry} needs certificate_id, or tls_passthrough: true")
    if has_certificate and (entry in ("http", "tcp", "udp") or rule.get("tls_passthrough")):
        raise OptionError(
            f"{where}: certificate_id is of no use for {entry} that is passed on as it is"
        )
    return rule


def _check_health_check(given):
    if not isinstance(given, dict):
        raise OptionError("health_check: use such as {protocol: tcp, port: 443}")
    check_names("health_check", given, _CHECK)
    checked = dict(given)
    if checked.get("protocol", "http") not in CHECKS:
        raise OptionError(
            f"health_check: protocol: {checked['protocol']}: use one of {', '.join(CHECKS)}"
        )
    for key, (least, most) in _CHECK_NUMBERS.items():
        if key in checked:
            checked[key] = integer(f"health_check: {key}", checked[key], least, most)
    if checked.get("protocol") == "tcp":
        if checked.get("path") not in (None, "", "/"):
            raise OptionError("health_check: path: there is none in a check by tcp")
        checked.pop("path", None)
    elif not str(checked.get("path", "/")).startswith("/"):
        raise OptionError(f"health_check: path: {checked['path']}: it begins with /")
    return checked


def check(options):
    """
    The body that creates a load balancer, of options that are called as in DigitalOcean's API.

    Raises OptionError.
    """
    check_names("load balancer", options, OPTIONS)
    body = {key: value for key, value in options.items() if value is not None}
    for key in ("name", "region"):
        if not isinstance(body.get(key), str) or not body[key]:
            raise OptionError(f"load balancer: {key} is needed")
    if bool(body.get("tag")) == bool(body.get("droplet_ids")):
        raise OptionError("load balancer: give either tag or droplet_ids")
    if "droplet_ids" in body:
        given = body["droplet_ids"]
        if not isinstance(given, (list, tuple)):
            raise OptionError("droplet_ids: use a list of IDs")
        body["droplet_ids"] = [integer("droplet_ids", one, 1) for one in given]
    rules = body.get("forwarding_rules")
    if not isinstance(rules, list) or not rules:
        raise OptionError("forwarding_rules: a list of at least one is needed")
    rules = body["forwarding_rules"] = [_check_rule(at, one) for at, one in enumerate(rules)]
    entries = [(one["entry_protocol"] == "udp", one["entry_port"]) for one in rules]
    for _, port in [one for one in entries if entries.count(one) > 1]:
        raise OptionError(f"forwarding_rules: port {port} is taken by two of them")
    if "health_check" in body:
        body["health_check"] = _check_health_check(body["health_check"])
    elif any(one["entry_protocol"] == "udp" for one in rules):
        raise OptionError("health_check: udp needs one by tcp, http or https")
    for key in _BOOLEANS:
        if key in body:
            body[key] = boolean(key, body[key])
    for key, known in _CHOICES.items():
        if key in body and body[key] not in known:
            raise OptionError(f"{key}: {body[key]}: use one of {', '.join(known)}")
    for key, least, most in (("size_unit", 1, 100), ("http_idle_timeout_seconds", 30, 600)):
        if key in body:
            body[key] = integer(key, body[key], least, most)
    if "firewall" in body:
        firewall = body["firewall"]
        if not isinstance(firewall, dict):
            raise OptionError("firewall: use such as {allow: ['cidr:198.51.100.0/24']}")
        check_names("firewall", firewall, ("allow", "deny"))
        for one in [*(firewall.get("allow") or ()), *(firewall.get("deny") or ())]:
            if not str(one).startswith(("ip:", "cidr:")):
                raise OptionError(f"firewall: {one}: it begins with ip: or cidr:")
    return body


def monthly_price(load_balancer):
    """US dollars a month of a load balancer, as asked for or as the API shows it."""
    return prices.LOAD_BALANCER_NODE * int(load_balancer.get("size_unit") or 1)


def list_all(api):
    """All of the account, as the API shows them."""
    return api.all("load_balancers", "load_balancers")


def find(api, name):
    """The load balancer of that name or ID; None when there is none. OptionError when there are two."""
    known = [one for one in list_all(api) if name in (one.get("name"), one["id"])]
    if len(known) > 1:
        ids = " or ".join(one["id"] for one in known)
        raise OptionError(
            f"{len(known)} load balancers are called {name}: name one by its ID: {ids}"
        )
    return known[0] if known else None


def get(api, name):
    """As ``find``; OptionError when there is none."""
    found = find(api, name)
    if found is None:
        known = [one.get("name") for one in list_all(api)]
        raise OptionError(f"load balancer {name}: no such load balancer; {nearest(name, known)}")
    return found


def differences(options, load_balancer):
    """``[(option, is, should be)]``: how one that the API shows is not what (checked) options say."""
    is_ = {
        **load_balancer,
        "region": (load_balancer.get("region") or {}).get("slug"),
        "size_unit": load_balancer.get("size_unit") or 1,
    }
    found = []
    for key, should in options.items():
        value = is_.get(key)
        if key == "forwarding_rules":
            # What is not given is shown all the same: certificate_id: "", tls_passthrough: false.
            same = [_told(one) for one in value or []] == [_told(one) for one in should]
        elif key == "droplet_ids":
            same = sorted(value or []) == sorted(should)
        elif isinstance(should, dict):
            same = all((value or {}).get(one) == two for one, two in should.items())
        else:
            same = value == should or (should is False and not value)
        if not same:
            found.append((key, value, should))
    return found


def _told(rule):
    return {key: value for key, value in rule.items() if value not in (None, "", False)}


def ensure(api, options, seconds=600, poll=2.0):
    """
    The load balancer that ``options`` (``check``) describe, active and with its address: one of that name
    is changed to what they say, where it is not, and made where there is none. One that was made and
    does not become active is removed again.

    Raises OptionError, ApiError.
    """
    body = check(options)
    existing = find(api, body["name"])
    if existing and existing.get("status") == "errored":
        # It never serves, and is paid.
        api.say(f"load balancer {body['name']}: its creation had failed; removing it")
        remove(api, existing["id"], poll=poll)
        existing = None
    if existing:
        if differences(body, existing):
            # One that is still being made or changed refuses to be changed.
            wait_until_active(api, existing["id"], seconds, poll)
            api.call("load_balancers", "update", existing["id"], body, key="load_balancer")
        return wait_until_active(api, existing["id"], seconds, poll)

    def made_all_the_same():
        found = find(api, body["name"])
        return {"load_balancer": found} if found else None

    made = None
    try:
        made = api.call(
            "load_balancers", "create", body, found=made_all_the_same, key="load_balancer"
        )["load_balancer"]
        return wait_until_active(api, made["id"], seconds, poll)
    except BaseException as error:
        if made is None and isinstance(error, ApiError) and not error.unsure:
            raise
        # What is not awaited is paid.
        _clean_up(api, body["name"], made, error, poll)
        if isinstance(error, SystemExit):
            # Salt's own handler of SIGINT and SIGTERM raises it with code 0, as if all were well.
            message = f"load balancer {body['name']}: interrupted; nothing was left"
            raise ApiError("load_balancers.create", 0, message) from error
        raise


def _clean_up(api, name, made, error, poll):
    """Remove what a creation that did not end well has made; ApiError where it is left, or may be."""
    interrupted = isinstance(error, (SystemExit, KeyboardInterrupt))
    reason = "interrupted" if interrupted else str(error)
    with undisturbed():
        try:
            found = made or find(api, name)
            if found:
                api.say(f"load balancer {name}: failed ({reason}); removing it")
                remove(api, found["id"], poll=poll)
        except (ApiError, OptionError) as problem:
            what = (
                f"{name} ({made['id']}) was left, and is paid"
                if made
                else f"{name} may exist and be paid"
            )
            raise ApiError(
                "load_balancers.create", 0, f"{reason}; and {what}: {problem}"
            ) from error


def wait_until_active(api, identity, seconds=600, poll=2.0):
    """It, once it is active; ApiError when it failed, or is not after ``seconds``."""
    deadline = time.monotonic() + seconds
    what = "load_balancers.get"
    while True:
        found = api.call("load_balancers", "get", identity, key="load_balancer", unknown=30)
        balancer = found["load_balancer"]
        if balancer.get("status") == "active" and (
            balancer.get("ip") or balancer.get("network") == "INTERNAL"
        ):
            return balancer
        name = balancer.get("name")
        if balancer.get("status") == "errored":
            raise ApiError(what, 0, f"load balancer {name} ({identity}): its creation failed")
        if time.monotonic() > deadline:
            status = balancer.get("status")
            raise ApiError(what, 0, f"load balancer {name}: still {status} after {seconds:.0f} s")
        api.say(f"load balancer {name}: {balancer.get('status')}")
        time.sleep(poll)


def remove(api, identity, seconds=120, poll=2.0):
    """Delete a load balancer by its ID, and return once it is gone; one that has gone is no error."""
    deadline = time.monotonic() + seconds
    try:
        api.call("load_balancers", "delete", identity)
        while time.monotonic() < deadline:
            api.call("load_balancers", "get", identity, key="load_balancer")
            time.sleep(poll)
    except ApiError as error:
        if error.status != 404:
            raise
        return
    raise ApiError("load_balancers.delete", 0, f"{identity}: still there, and paid")
