"""What a topology wants on DigitalOcean, what there is, and what would be done about it, with its price."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..application import NAME
from ..errors import OperationError, UserError
from ..paths import ROOT
from ..topology import ROLES, Machine, Topology
from . import account, balancers, container_hosts, firewalls
from .balancers import Balancer
from .inbound_rules import Inbound


@dataclass(frozen=True)
class Wanted:
    """A droplet as the topology wants it."""

    machine: str
    name: str
    profile: str
    size: str
    image: str
    region: str
    tags: tuple[str, ...]
    backups: bool
    # {plan, …}, of the backups.
    policy: dict[str, Any] | None = None
    # An address of the account, or `new`.
    reserved_ip: str | None = None


def _make_tags(topology: Topology, machine: Machine) -> tuple[str, ...]:
    tags = [
        NAME,
        account.make_tag(topology),
        *(account.make_tag(topology, role) for role in machine.roles),
    ]
    return tuple(dict.fromkeys([*tags, account.make_tag(topology, account.join_roles(machine))]))


def profile_name(topology: Topology, machine: Machine) -> str:
    """Of cloud/cloud.profiles.d, the profile that a machine is made from."""
    if topology.has_containers:
        return container_hosts.PROFILE
    return "prod" if set(machine.roles) == set(ROLES) else account.join_roles(machine)


def list_wanted(topology: Topology) -> list[Wanted]:
    """The droplets of a topology, as their profiles have them; UserError for a profile that cannot be used."""
    profiles, default = account.read_settings("profiles"), account.provider_settings()
    result = []
    for machine in topology.machines.values():
        profile = profile_name(topology, machine)
        if profile not in profiles:
            raise UserError(
                f"cloud/cloud.profiles.d: no profile {profile} for {machine.name}, which has roles"
                f" {', '.join(machine.roles)}; there are: {', '.join(profiles)}",
                2,
            )
        settings = account.check_settings(
            {**default, **profiles[profile]}, f"cloud/cloud.profiles.d: profile {profile}"
        )
        missing = [
            key_name for key_name in ("size", "image", "location") if not settings.get(key_name)
        ]
        if missing:
            raise UserError(f"cloud/cloud.profiles.d: profile {profile}: no {missing[0]}", 2)
        for key in ("ssh_key_file", "ssh_public_key_file"):
            path = ROOT / Path(settings.get(key) or account.OWN_KEY).expanduser()
            # This checkout's own is made at need.
            if path.with_suffix("") != account.OWN_KEY and not path.is_file():
                raise UserError(
                    f"cloud/cloud.profiles.d: profile {profile}: {key}: {path}: no such file", 2
                )
        result.append(
            Wanted(
                machine.name,
                account.droplet_name(topology, machine.name),
                profile,
                settings["size"],
                settings["image"],
                settings["location"],
                _make_tags(topology, machine),
                settings["backup_policy"] is not None,
                settings["backup_policy"],
                settings.get("reserved_ip"),
            )
        )
    given = [one.reserved_ip for one in result if one.reserved_ip not in (None, "new")]
    for one in result:
        if one.reserved_ip and given.count(one.reserved_ip) > 1:
            raise UserError(
                f"cloud/cloud.profiles.d: profile {one.profile}: reserved_ip: {one.reserved_ip}: several"
                f" machines of {topology.name} have this profile: use new, and each gets its own",
                2,
            )
    return result


@dataclass
class Plan:
    """What the account has and what it lacks. Prices in US dollars a month."""

    create: list[Wanted] = field(default_factory=list)
    keep: list[tuple[Wanted, dict[str, Any]]] = field(default_factory=list)
    differ: list[tuple[Wanted, list[str]]] = field(default_factory=list)
    off: list[dict[str, Any]] = field(default_factory=list)
    gone: list[dict[str, Any]] = field(default_factory=list)
    retag: list[tuple[dict[str, Any], list[str], list[str]]] = field(default_factory=list)
    firewalls_new: list[dict[str, Any]] = field(default_factory=list)
    firewalls_changed: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    firewalls_gone: list[dict[str, Any]] = field(default_factory=list)
    network_new: bool = False
    balancer: Balancer = field(default_factory=lambda: Balancer(None, None))
    # What machines let in, asked of the formulas.
    inbound: dict[str, Inbound] = field(default_factory=dict, repr=False)
    now: float = 0.0
    after: float = 0.0

    @property
    def is_empty(self) -> bool:
        return not (
            self.create
            or self.off
            or self.gone
            or self.retag
            or self.firewalls_new
            or self.firewalls_changed
            or self.firewalls_gone
            or self.network_new
            or self.balancer.is_new
            or self.balancer.is_gone
            or self.balancer.is_broken
            or self.balancer.differs
        )


def monthly_price(size: dict[str, Any], policy: dict[str, Any] | None) -> float:
    """US dollars a month of a droplet of this size, with its backups."""
    from saltext.digitalocean.utils.digitalocean.options import OptionError, price_factor

    try:
        return float(size["price_monthly"]) * float(price_factor(policy))
    except OptionError as error:
        raise OperationError(str(error)) from error


def read_backup_policies(api: Any, droplets: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The backup policies of those droplets that have backups, by ID."""
    from saltext.digitalocean.utils.digitalocean.api import ApiError
    from saltext.digitalocean.utils.digitalocean.options import DEFAULT_PLAN

    policies = {}
    for droplet in droplets:
        if "backups" in (droplet.get("features") or ()):
            try:
                answer = api.call("droplets", "get_backup_policy", droplet["id"], key="policy")
            except ApiError as error:
                if error.status != 404:
                    raise
                answer = {"policy": {}}
            policies[droplet["id"]] = answer["policy"].get("backup_policy") or {
                "plan": DEFAULT_PLAN
            }
    return policies


def find_offer(api: Any, wanted: Wanted) -> tuple[str, str, str | int]:
    """Region, size and image as DigitalOcean has them now; OptionError when it has not."""
    from saltext.digitalocean.utils.digitalocean.options import offer

    wish = {"location": wanted.region, "size": wanted.size, "image": wanted.image}
    kept = [api.kept(group) for group in ("regions", "sizes", "images")]
    result: tuple[str, str, str | int] = offer(wish, *kept)
    return result


def _find_differences(
    api: Any, wanted: Wanted, droplet: dict[str, Any], policy: dict[str, Any] | None
) -> list[str]:
    """How a droplet is not what its profile says."""
    from saltext.digitalocean.utils.digitalocean.options import OptionError

    region, image = wanted.region, cast("str | int", wanted.image)
    # What is there may be what is no longer sold.
    with contextlib.suppress(OptionError):
        region, _, image = find_offer(api, wanted)
    has_region = str((droplet.get("region") or {}).get("slug"))
    has_image = droplet.get("image") or {}
    if image in (has_image.get("slug"), has_image.get("id")) or not has_image:
        image = has_image.get("slug") or image
    pairs = [
        ("size", droplet["size_slug"], wanted.size),
        ("image", has_image.get("slug") or has_image.get("id") or image, image),
        (
            "region",
            has_region,
            has_region if has_region.rstrip("0123456789") == wanted.region else region,
        ),
        ("backups", policy is not None, wanted.backups),
    ]
    if policy and wanted.policy:
        pairs[-1:] = [
            (f"backup {key}", policy.get(key), value) for key, value in wanted.policy.items()
        ]
    return [
        f"{what} is {is_}, the profile says {should}"
        for what, is_, should in pairs
        if is_ != should
    ]


def _find_region(api: Any, plan: Plan) -> str:
    """Where the droplets are, or are to be."""
    for _, droplet in plan.keep:
        if slug := (droplet.get("region") or {}).get("slug"):
            return str(slug)
    for one in plan.create:
        return find_offer(api, one)[0]
    return ""


def make_plan(api: Any, topology: Topology) -> Plan:
    """What is wanted beside what the account has; UserError for what cannot be had."""
    from saltext.digitalocean.utils.digitalocean.options import OptionError

    sizes = {one["slug"]: one for one in api.kept("sizes")}
    droplets = account.list_droplets(api, topology)
    policies = read_backup_policies(api, droplets)
    there = {one["name"]: one for one in droplets}
    plan = Plan()
    for one in list_wanted(topology):
        droplet = there.pop(one.name, None)
        if droplet is None:
            try:
                _, size, _ = find_offer(api, one)
            except OptionError as error:
                more = (
                    container_hosts.NO_IMAGE
                    if str(error).startswith("image ") and topology.has_containers
                    else ""
                )
                raise UserError(
                    f"cloud/cloud.profiles.d: profile {one.profile}: {error}{more}", 2
                ) from error
            plan.create.append(one)
            plan.after += monthly_price(sizes[size], one.policy)
            continue
        policy = policies.get(droplet["id"])
        price = monthly_price(droplet["size"], policy)
        plan.now += price
        plan.after += price
        plan.keep.append((one, droplet))
        if droplet["status"] == "off":
            plan.off.append(droplet)
        wrong = _find_differences(api, one, droplet, policy)
        if wrong:
            plan.differ.append((one, wrong))
        # Tags say which firewall shields it, and whom others let in; those of other tools are theirs.
        tags = droplet.get("tags") or []
        has = {tag for tag in tags if account.is_own_tag(topology, tag)}
        add = [tag for tag in one.tags if tag not in tags]
        drop = sorted(has - set(one.tags))
        if add or drop:
            plan.retag.append((droplet, add, drop))
    for droplet in there.values():
        plan.gone.append(droplet)
        plan.now += monthly_price(droplet["size"], policies.get(droplet["id"]))
    plan.inbound = firewalls.ask(topology)
    plan.balancer = balancers.make_plan(
        api, topology, _find_region(api, plan), firewalls.ask_edge(topology, plan.inbound).haproxy
    )
    now, after = balancers.prices(plan.balancer)
    plan.now += now
    plan.after += after
    known = firewalls.list_own(api, topology)
    for firewall in firewalls.make_firewalls(topology, plan.inbound, plan.balancer.identity):
        old = known.pop(firewall["name"], None)
        if old is None:
            plan.firewalls_new.append(firewall)
        elif not firewalls.is_same(old, firewall):
            plan.firewalls_changed.append((old["id"], firewall))
    plan.firewalls_gone = list(known.values())
    plan.network_new = len(topology.machines) > 1 and account.find_network(api, topology) is None
    return plan


def describe(topology: Topology, plan: Plan) -> str:
    """The plan for a person."""
    lines = []
    differing = {item.name: wrong for item, wrong in plan.differ}
    for item in plan.create:
        extra = f" with {item.policy['plan']} backups" if item.policy else ""
        if item.reserved_ip:
            extra += f", and reserved address {item.reserved_ip}"
        lines.append(
            f"+ create   droplet {item.name}: {item.size} in {item.region}, {item.image}{extra}"
        )
    for item, droplet in plan.keep:
        if item.name in differing:
            lines.append(
                f"! differs  droplet {item.name}: {'; '.join(differing[item.name])} (left as it is)"
            )
        else:
            lines.append(
                f"= keep     droplet {item.name} at {account.find_address(droplet) or 'no address yet'}"
            )
    lines += [f"~ start    droplet {droplet['name']}: it is off" for droplet in plan.off]
    lines += [
        f"~ change   tags of droplet {droplet['name']}:"
        f" {' '.join([*(f'+{tag}' for tag in add), *(f'-{tag}' for tag in drop)])}"
        for droplet, add, drop in plan.retag
    ]
    lines += [f"- destroy  droplet {item['name']}: not in the topology" for item in plan.gone]
    if plan.network_new:
        lines.append(f"+ create   private network {account.network_name(topology)}")
    lines += balancers.describe(plan.balancer)
    lines += [
        f"+ create   firewall {item['name']}: {firewalls.describe(item)}"
        for item in plan.firewalls_new
    ]
    lines += [
        f"~ change   firewall {item['name']}: {firewalls.describe(item)}"
        for _, item in plan.firewalls_changed
    ]
    lines += [f"- destroy  firewall {item['name']}" for item in plan.firewalls_gone]
    if plan.is_empty:
        lines.append("nothing to do")
    balancer = " and load balancer" if plan.balancer.there or plan.balancer.wanted else ""
    lines.append(
        f"${plan.now:.2f} a month now, ${plan.after:.2f} afterwards (droplets{balancer}, before tax and traffic)"
    )
    return "\n".join(lines)
