"""
DigitalOcean's API as the driver needs it: every answer checked, every page read, retries that
never create a thing twice, errors in one line, and the token in none of them.

pydo is DigitalOcean's own client (https://pydo.readthedocs.io). Its retries are switched off: they
repeat a POST that was answered by a 5xx (azure-core, RetryPolicySettings.is_method_retryable),
and a droplet that was created although the answer was a 500 would be created, and paid, twice.
"""

import base64
import binascii
import datetime
import hashlib
import logging
import os
import random
import re
import shlex
import subprocess
import time

log = logging.getLogger(__name__)

ENDPOINT = "https://api.digitalocean.com"
# doctl reads the second, Terraform either.
TOKEN_VARIABLES = ("DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN")
# The largest page that the API gives (https://docs.digitalocean.com/reference/api/#section/Introduction/Links--Pagination).
PER_PAGE = 200
# Seconds to connect, TLS included, and to wait for the next part of an answer. pydo's own `timeout`
# is only the first; the second is 300 s by default (azure-core, ConnectionConfiguration).
CONNECTION_TIMEOUT, READ_TIMEOUT = 10, 60
# Times that a droplet is unknown to its own deletion before that means that it has gone.
UNKNOWN = 5
TRY_AGAIN = (429, 500, 502, 503, 504)
# "Droplet already has a pending event.": what was asked for was not done, and can be when that has ended.
_PENDING = re.compile(
    r"pending (event|action)|(event|action)\b.* pending|in progress|processes previous actions",
    re.IGNORECASE,
)
# Seconds for which lists that hardly change are kept: the workers of a map share what their parent
# asked, for keys may be listed 10 times a minute.
_KEEP = 300
_kept = {}
# What a droplet is after an action.
_STATUS_AFTER = {"power_on": "active", "shutdown": "off", "power_off": "off"}
_TOKEN = re.compile(r"[\x21-\x7e]+")
# What to do next, for statuses whose message alone does not say it.
HINTS = {
    401: "the token is wrong, expired or revoked",
    403: "the token lacks a scope for this, or the account may not do it",
}


# Tag of a droplet whose reserved address was made with it, and goes with it.
OWN_ADDRESS = "salt-cloud:reserved-ip"


class ApiError(Exception):
    """
    What the API refused, in one line.

    status
        HTTP status, or 0 when there was no answer
    unsure
        whether what was asked for may have been done all the same
    """

    def __init__(self, what, status, message, request_id="", unsure=False):
        self.what, self.status, self.message = what, status, message
        self.request_id, self.unsure = request_id, unsure
        hint = HINTS.get(status)
        parts = [
            f"DigitalOcean: {what}: {status or 'no answer'}: {message}",
            f" ({hint})" if hint else "",
            f" [request {request_id}]" if request_id else "",
        ]
        super().__init__(" ".join("".join(parts).split()))


class StillThere(Exception):
    """A droplet that could not be removed, and is paid."""

    def __init__(self, identity, name, why):
        super().__init__(
            f"droplet {identity} ({name}) could not be removed and is still paid: {why}"
        )


class NoToken(Exception):
    """No token was given, or the command that should print it failed."""


def check_token(text, source):
    """``text`` without surrounding space; NoToken when it could not be a header's value. A client
    that refuses a header shows it in full."""
    token = str(text).strip()
    if not _TOKEN.fullmatch(token):
        raise NoToken(f"{source}: no token: it must be one line of printable ASCII, without spaces")
    return token


def find_token(given=None, command=None, variables=TOKEN_VARIABLES):
    """
    The API token: ``given`` (a configured value), else what ``command`` prints (such as
    ``pass show digitalocean``), else the first of the environment's ``variables`` that is set.

    Raises NoToken.
    """
    if given:
        return check_token(given, "personal_access_token")
    if command:
        if re.match(r"do[opr]_v1_", command if isinstance(command, str) else str(command[0])):
            raise NoToken("token_command: it is a token, and should be a command that prints it")
        try:
            words = command if isinstance(command, list) else shlex.split(str(command))
        except ValueError as error:
            raise NoToken(f"token_command: {error}") from error
        try:
            done = subprocess.run(
                words,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=60,
                check=False,
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise NoToken(f"token_command {words[0]}: {error}") from error
        # Its output is never told, it may be half a token.
        if done.returncode or not done.stdout.strip():
            raise NoToken(f"token_command {words[0]}: exit code {done.returncode}, no token")
        # As `pass` prints it: the secret is the first line.
        return check_token(done.stdout.strip().splitlines()[0], f"token_command {words[0]}")
    for name in variables:
        if os.environ.get(name, "").strip():
            return check_token(os.environ[name], name)
    raise NoToken(
        f"no token: set {variables[0]} in the environment, or token_command in the provider"
    )


def fingerprint(public_key):
    """What the API calls the fingerprint of a public SSH key: MD5 of its blob, in pairs; None of a
    text that is no key."""
    try:
        blob = base64.b64decode(public_key.split()[1], validate=True)
    except (IndexError, binascii.Error):
        return None
    return hashlib.md5(blob, usedforsecurity=False).digest().hex(":")


def _causes(error):
    """An error and those behind it."""
    while error is not None:
        yield error
        error = getattr(error, "inner_exception", None) or error.__cause__


def _is_final(error):
    """Whether an error without a response would be the same at the next attempt: a refused
    certificate, a header or an address that is none. A connection that ended early is not."""
    from requests import exceptions

    local = (exceptions.InvalidHeader, exceptions.InvalidURL, exceptions.InvalidSchema,
             exceptions.MissingSchema, UnicodeEncodeError)  # fmt: skip
    return any(
        isinstance(one, local) or (isinstance(one, exceptions.SSLError) and "EOF" not in str(one))
        for one in _causes(error)
    )


def _holds(data, key):
    """Whether an answer has what was asked for: a list (of one name to many, a mapping) or a thing."""
    if key is None:
        return True
    value = data.get(key) if isinstance(data, dict) else None
    if not key.endswith("s"):
        return isinstance(value, dict) and bool(value)
    items = value.values() if isinstance(value, dict) else value
    return isinstance(value, (dict, list)) and all(isinstance(one, dict) for one in items)


def _identity(item):
    for key in ("id", "slug", "ip", "droplet_id", "name"):
        if item.get(key) is not None:
            return key, item[key]
    return "", repr(item)


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


class Api:
    """
    Calls of the API.

    endpoint, ca_file
        another API than DigitalOcean's own, such as a stand-in, and the CA that it is verified
        with; from the environment's DIGITALOCEAN_API_URL and DIGITALOCEAN_API_CA when not given
    patience
        seconds that all waiting of one call may take together
    backoff
        seconds of the first wait after a 5xx; doubled each time
    say
        called with a line whenever there is a wait worth telling
    """

    def __init__(
        self,
        token,
        endpoint=None,
        ca_file=None,
        patience=300,
        backoff=1.0,
        attempts=6,
        say=None,
        connection_timeout=CONNECTION_TIMEOUT,
        read_timeout=READ_TIMEOUT,
    ):
        import pydo

        self._token = check_token(token, "token")
        self.patience, self.backoff, self.attempts = patience, backoff, attempts
        self._say, self._said = say or (lambda text: None), set()
        endpoint = endpoint or os.environ.get("DIGITALOCEAN_API_URL") or ENDPOINT
        ca_file = ca_file or os.environ.get("DIGITALOCEAN_API_CA")
        if ca_file and not os.path.isfile(ca_file := os.path.expanduser(ca_file)):
            raise ApiError("api_ca_file", 0, f"{ca_file}: no such file")
        self._account = (endpoint, ca_file, hashlib.sha256(self._token.encode()).digest())
        self._client = pydo.Client(
            self._token,
            endpoint=endpoint.rstrip("/"),
            connection_timeout=connection_timeout,
            read_timeout=read_timeout,
            retry_total=0,
            **({"connection_verify": ca_file} if ca_file else {}),
        )

    def say(self, text, key=None):
        """Tell ``text``, once for each ``key`` (the text itself unless given)."""
        if (key or text) not in self._said:
            self._said.add(key or text)
            self._say(text)

    def _mask(self, text):
        """``text`` without the token, plain or as Python would show it."""
        return str(text).replace(self._token, "***").replace(repr(self._token)[1:-1], "***")

    def _failure(self, what, response=None, error=None):
        """ApiError of a response, or of no response at all."""
        if response is None:
            reason = self._mask(error).splitlines() or [type(error).__name__]
            # Nothing was sent to whom was not trusted, nor what could not be sent.
            return ApiError(what, 0, reason[0], unsure=not _is_final(error))
        try:
            said = response.json()
        except Exception:  # pylint: disable=broad-except
            # A gateway's HTML, or nothing: the status is all there is.
            said = None
        said = said if isinstance(said, dict) else {}
        message = said.get("message") or getattr(response, "reason", "") or "no reason given"
        if response.status_code < 400:
            message = "an answer that is not what was asked for"
        return ApiError(
            what,
            response.status_code,
            self._mask(message),
            self._mask(said.get("request_id") or response.headers.get("x-request-id") or ""),
            # An answer that says yes and cannot be read leaves open what was done, too.
            unsure=response.status_code >= 500 or response.status_code < 400,
        )

    def _delay(self, response, attempt):
        """Seconds to wait before the next attempt, as the API asks for or growing."""
        if response is not None and response.status_code == 429:
            asked = _number(response.headers.get("retry-after"))
            # The reset is the hourly limit's, which is not the one that was met while any of it remains.
            if asked is None and not _number(response.headers.get("ratelimit-remaining")):
                reset = _number(response.headers.get("ratelimit-reset"))
                asked = None if reset is None else reset - time.time()
            if asked is not None:
                # The second in which the limit ends is not over yet; all who wait do not come at once.
                return max(asked, 0) + random.uniform(0.05, 0.5) * self.backoff
        return self.backoff * 2 ** min(attempt, 4) * random.uniform(0.8, 1.2)

    def call(
        self,
        group,
        method,
        *args,
        found=None,
        repeat=None,
        key=None,
        pending=None,
        unknown=0,
        **kwargs,
    ):
        """
        What operation ``group.method`` of pydo answers, as a dictionary.

        found
            for a call that creates something: looks for it after an answer that leaves open
            whether it was created; what it returns, unless None, is this call's answer
        repeat
            whether a call that may have been done may be done again; by default all but POST
        key
            what the answer must have; one that has it not is no answer
        pending
            seconds to wait for a pending event that forbids the call; ``patience`` by default
        unknown
            seconds for which 404 may only mean: what was just made is not everywhere known yet

        Raises ApiError; 404 like every other error (pydo returns it as if it were an answer).
        """
        operation = getattr(getattr(self._client, group), method)
        what = f"{group}.{method}"
        if repeat is None:
            repeat = method not in ("create", "post", "create_custom")
        pending = self.patience if pending is None else pending
        began = time.monotonic()
        attempt = 0
        unsure = False
        while True:
            response, error = None, None
            try:
                response, data = operation(
                    *args, cls=lambda pipe, data, headers: (pipe.http_response, data), **kwargs
                )
                if response.status_code < 400 and _holds(data, key):
                    return data if data is not None else {}
            except self._errors() as caught:
                response, error = getattr(caught, "response", None), caught
            failure = self._failure(what, response, error)
            may_be_done = failure.unsure and not repeat
            # What an attempt before may have done is not undone by this one's clear no.
            if not repeat:
                unsure = failure.unsure = failure.unsure or unsure
            is_unknown = failure.status == 404 and time.monotonic() - began < unknown
            is_pending = is_unknown or (
                failure.status in (409, 422) and bool(_PENDING.search(failure.message))
            )
            if response is None and _is_final(error):
                raise failure
            if failure.status >= 400 and failure.status not in TRY_AGAIN and not is_pending:
                raise failure
            if may_be_done:
                try:
                    answer = found() if found else None
                except ApiError as error:
                    message = f"{failure.message}; and whether it was done all the same: {error}"
                    raise ApiError(what, failure.status, message, unsure=True) from error
                if answer is not None:
                    return answer
                # A yes that could not be read is not asked for again.
                if found is None or 0 < failure.status < 400:
                    raise failure
            delay = self._delay(response, attempt)
            attempt += 1
            left = (pending if is_pending else self.patience) - (time.monotonic() - began)
            if is_pending:
                delay = min(delay, self.backoff * 5)
            if failure.status == 429 and delay > left:
                until = datetime.datetime.now() + datetime.timedelta(seconds=delay)
                message = f"the rate limit is used up until {until:%H:%M:%S}: run it again then"
                raise ApiError(what, 429, message, failure.request_id, unsure=unsure)
            # Well-formed, and not what was asked for: hardly anything that passes by itself.
            attempts = 2 if error is None and failure.status < 400 else self.attempts
            if delay > left or (attempt >= attempts and failure.status != 429 and not is_pending):
                raise failure
            self.say(f"{failure}; again in {delay:.0f} s", (what, failure.status, failure.message))
            time.sleep(delay)

    @staticmethod
    def _errors():
        from azure.core.exceptions import AzureError

        # ValueError: an answer that is no JSON.
        return (AzureError, OSError, ValueError)

    def all(self, group, key, method="list", **kwargs):
        """Every item of a list, page by page."""
        items, page = {}, 1
        while True:
            said = self.call(group, method, per_page=PER_PAGE, page=page, key=key, **kwargs)
            values = said[key].values() if isinstance(said[key], dict) else said[key]
            before = len(items)
            for one in values:
                items.setdefault(_identity(one), one)
            pages = (said.get("links") or {}).get("pages") or {}
            # Also where `next` never ends: a page that brings nothing new is the last.
            if not pages.get("next") or len(items) == before:
                return list(items.values())
            page += 1

    def kept(self, group):
        """``all`` of a list that hardly changes (keys, sizes, regions, images), asked once a run."""
        now, key = time.monotonic(), (self._account, group)
        if key not in _kept or now - _kept[key][0] > _KEEP:
            _kept[key] = (now, self.all(group, group))
        return _kept[key][1]

    def forget(self, group):
        """Let ``kept`` ask again."""
        _kept.pop((self._account, group), None)

    def droplets(self, name=None, tag=None):
        """Droplets, of one name or tag if given; those with GPUs too, which the API lists only when
        asked for them (``type``, which goes with a name and not with a tag)."""
        filters = {"name": name} if name else {}
        found = self.all("droplets", "droplets", **({"tag_name": tag} if tag else filters))
        found += [
            one
            for one in self.all("droplets", "droplets", type="gpus", **filters)
            if not tag or tag in (one.get("tags") or [])
        ]
        # The filter by name is documented as exact but case-insensitive.
        return list({one["id"]: one for one in found if name in (None, one["name"])}.values())

    def give_key(self, text, name=None):
        """The account's entry of the public SSH key ``text``; made when there is none of that key."""
        # Type, key, comment.
        words = text.split()
        for one in self.kept("ssh_keys"):
            if one["public_key"].split()[1:2] == words[1:2]:
                return one

        def there():
            try:
                return self.call("ssh_keys", "get", fingerprint(text), key="ssh_key")
            except ApiError as error:
                if error.status == 404:
                    return None
                raise

        body = {"name": name or (words[2] if len(words) > 2 else "salt-cloud"), "public_key": text}
        try:
            made = self.call("ssh_keys", "create", body, found=there, key="ssh_key")
        except ApiError as error:
            # Those who make a map side by side all give it; the first one's is there by now.
            made = there() if error.status == 422 and fingerprint(text) else None
            if not made:
                raise
        self.forget("ssh_keys")
        return made["ssh_key"]

    def act(self, identity, kind, repeat=False):
        """Begin a droplet action, and return it; None when the droplet is already what it would make it."""
        try:
            body = {"type": kind}
            said = self.call("droplet_actions", "post", identity, body, repeat=repeat, key="action")
            return said["action"]
        except ApiError as error:
            if error.status != 422 or kind not in _STATUS_AFTER:
                raise
            # "Droplet is already powered on."
            droplet = self.call("droplets", "get", identity, key="droplet")["droplet"]
            if droplet["status"] != _STATUS_AFTER[kind]:
                raise
            return None

    def remove_droplet(self, identity, name, seconds=300, poll=1.0):
        """
        Delete a droplet and return once it is gone.

        Raises StillThere, for it goes on being paid.
        """
        deadline = time.monotonic() + seconds
        asked = told = False
        unknown = 0
        while True:
            try:
                if not asked:
                    self.call("droplets", "destroy", identity, pending=0)
                    asked = True
                self.call("droplets", "get", identity, key="droplet")
                why = "it is still being removed"
            except ApiError as error:
                if error.status == 404:
                    unknown += 1
                    # Of one that was just made, 404 may only mean: not everywhere known yet.
                    if asked or unknown >= UNKNOWN:
                        return
                    time.sleep(poll)
                    continue
                # 422: an event is pending, and the deletion is refused until that has ended.
                if error.status != 422:
                    raise StillThere(identity, name, error) from error
                why = error
            if time.monotonic() > deadline:
                raise StillThere(identity, name, why)
            if not told:
                self.say("being removed" if asked else "cannot be removed yet, an event is pending")
                told = asked
            time.sleep(poll)

    def find_reserved_ip(self, identity):
        """The reserved address that a droplet has, or None."""
        for one in self.all("reserved_ips", "reserved_ips"):
            if (one.get("droplet") or {}).get("id") == identity:
                return one["ip"]
        return None

    def remove_with_address(self, droplet, seconds=300, poll=1.0):
        """
        Delete a droplet, as the API lists it, and the reserved address that was made with it: without its
        droplet, an address costs more than with it. Returns once both are gone.

        Raises StillThere, and ApiError when the address stays.
        """
        own = OWN_ADDRESS in (droplet.get("tags") or [])
        address = self.find_reserved_ip(droplet["id"]) if own else None
        self.remove_droplet(droplet["id"], droplet["name"], seconds, poll)
        if address is None:
            return
        try:
            self.call("reserved_ips", "delete", address)
        except ApiError as error:
            if error.status != 404:
                message = f"{droplet['name']} was removed, its reserved address {address} was not and is paid: {error}"
                raise ApiError("reserved_ips.delete", error.status, message) from error
