"""What is wrong with a topology: the schema beside this file, and what no schema can say.

Used alike by the controller (control/topology.py) and by every machine (topology.sls), so that
none of them believes what the other refuses. Needs nothing but jsonschema, and salt/_utils beside this folder.
"""

import importlib.util
import ipaddress
import os
import re

# Without one of each there is no service to give.
NEEDED = ("edge", "app", "store")


def problems(data, schema, name=None):
    """
    What is wrong with the parsed topology ``data``, one line each, ``path: reason``; an empty list
    when all is well.

    schema
        topology.schema.yaml, parsed
    name
        the file's own name, without its suffix
    """
    # Costs a tenth of a second: only who checks pays it.
    import jsonschema

    # A schema compares keys with text, takes 2.0 for an integer, and `$` for before a last line break.
    if found := list(_odd(data)):
        return found
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(data), key=lambda error: list(map(str, error.path)))
    found = [line for error in errors for line in _explain(error)]
    # What follows relies on the shape.
    return found or _contradictions(data, name)


def _odd(value, where=""):
    """A line for each key and value that YAML has made of something else, or that is not of one line."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            path = f"{where}:{key}".lstrip(":")
            if isinstance(value, dict) and not isinstance(key, str):
                yield f"{path}: key {key!r} is not text: quote it"
            else:
                yield from _odd(inner, path)
    elif isinstance(value, float):
        yield f"{where}: {value!r} is no whole number"
    elif isinstance(value, str) and not value.isprintable():
        yield f"{where}: {value!r} has a control character or more than one line"


def _suggest():
    """What Salt and the controller use too."""
    path = os.path.join(os.path.dirname(__file__), "..", "salt", "_utils", "suggest.py")
    spec = importlib.util.spec_from_file_location("suggest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _hint(value, known):
    return _suggest().hint(value, known)


def _explain(error):
    path = [str(one) for one in error.absolute_path]
    where = f"{':'.join(path)}: " if path else ""
    rule, value = error.validator, error.instance
    if rule == "additionalProperties":
        known = list(error.schema["properties"])
        prefix = "".join(f"{one}:" for one in path)
        return [
            f"{prefix}{key}: unknown key; {_hint(key, known)}" for key in value if key not in known
        ]
    if rule == "required":
        prefix = "".join(f"{one}:" for one in path)
        return [f"{prefix}{key}: is missing" for key in error.validator_value if key not in value]
    if rule == "enum" and len(path) >= 2 and path[-2] == "roles":
        where = ":".join(path[:-1])
        return [f"{where}: unknown role {value}; {_hint(value, error.validator_value)}"]
    if rule == "enum":
        return [f"{where}{value!r} is not one of {', '.join(error.validator_value)}"]
    if rule == "type":
        kinds = {"object": "a map", "array": "a list", "string": "text", "integer": "a number"}
        what = error.schema.get("description")
        where = where or "not a topology: "
        return [f"{where}needs {kinds[error.validator_value]}{f' ({what})' if what else ''}"]
    if rule == "pattern":
        allowed = error.schema.get("description", error.validator_value)
        return [f"{where}{value!r}: allowed: {allowed}"]
    return [f"{where}{error.message}"]


def _entrance(data, network, owner):
    """What is wrong with the address that several edges share; ``owner`` of each address."""
    edges = [name for name, machine in data["machines"].items() if "edge" in machine["roles"]]
    address = data.get("floating_address")
    if balancer := data.get("balancer"):
        yield from _balancer(balancer, owner)
        if address is not None:
            yield "balancer: and a floating_address: clients use one of them, take the other out"
            return
    if address is None:
        if len(edges) > 1 and not balancer:
            yield (
                f"floating_address: is missing: {', '.join(edges)} have role edge, and clients need one"
                f" address that is served by whichever of them works: a free one of network {network}"
            )
        return
    try:
        inside = ipaddress.IPv4Address(address) in network
    except ValueError as error:
        yield f"floating_address: {error}"
        return
    if not inside:
        yield f"floating_address: {address} is not in network {network}"
    elif address in owner:
        yield f"floating_address: {address} is {owner[address]}'s already"
    elif address in (str(network.network_address), str(network.broadcast_address)):
        yield f"floating_address: {address} is no machine's to have: the first or last of {network}"
    if len(edges) < 2:
        yield (
            f"floating_address: needs two machines with role edge, and there is {', '.join(edges) or 'none'}:"
            " add one, or take floating_address out"
        )


def _balancer(balancer, owner):
    """What is wrong with the balancer before the edges."""
    try:
        address = str(ipaddress.IPv4Address(balancer["address"]))
    except ValueError as error:
        yield f"balancer:address: {error}"
        return
    if address in owner:
        yield f"balancer:address: {address} is {owner[address]}'s already"
    for one in balancer["from"]:
        try:
            network = ipaddress.ip_network(one)
        except ValueError as error:
            yield f"balancer:from: {error}"
            continue
        if network.prefixlen == 0:
            yield f"balancer:from: {one} is everybody: any client could say that it is another"


def _stores(data):
    """What is wrong with how many stores there are."""
    stores = [name for name, machine in data["machines"].items() if "store" in machine["roles"]]
    if len(stores) == 2:
        yield (
            f"machines: {' and '.join(stores)} have role store, and of two no majority outlives either:"
            " one, or three and more"
        )


def _contradictions(data, name):
    found = []
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name):
        found.append(f"file name: {name!r}: allowed: a-z, 0-9 and -, at most 41")
    if name is not None and data.get("name", name) != name:
        found.append(f"name: {data['name']} is not the file's own, {name}")
    try:
        network = ipaddress.IPv4Network(data["network"])
    except ValueError as error:
        return [*found, f"network: {error}"]
    for one in data.get("trusted", []):
        try:
            trusted = ipaddress.ip_network(one)
        except ValueError as error:
            found.append(f"trusted: {error}")
            continue
        if trusted.prefixlen == 0:
            found.append(f"trusted: {one} is everybody: nobody would ever be banned")
    # A single droplet is a network of its own.
    owner = {str(next(network.hosts())): "the lab's host"} if network.num_addresses > 1 else {}
    for machine, given in data["machines"].items():
        where = f"machines:{machine}:address"
        address = given["address"]
        try:
            inside = ipaddress.IPv4Address(address) in network
        except ValueError as error:
            found.append(f"{where}: {error}")
            continue
        if not inside:
            found.append(f"{where}: {address} is not in network {network}")
        elif address in owner:
            found.append(f"{where}: {address} is {owner[address]}'s already")
        else:
            owner[address] = machine
    found += _entrance(data, network, owner)
    found += _stores(data)
    for role in NEEDED:
        if not any(role in machine["roles"] for machine in data["machines"].values()):
            found.append(f"no machine has role {role}")
    return found
