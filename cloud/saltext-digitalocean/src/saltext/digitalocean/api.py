"""
DigitalOcean's API as the driver needs it: every answer checked, every page read, retries that
never create a thing twice, errors in one line, and the token in none of them.

pydo is DigitalOcean's own client (https://pydo.readthedocs.io). Its retries are switched off: they
repeat a POST that was answered by a 5xx (azure-core, RetryPolicySettings.is_method_retryable),
and a droplet that was created although the answer was a 500 would be created, and paid, twice.
"""

import datetime
import logging
import os
import random
import shlex
import subprocess
import time

log = logging.getLogger(__name__)

ENDPOINT = "https://api.digitalocean.com"
# doctl reads the second, Terraform either.
TOKEN_VARIABLES = ("DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN")
# The largest page that the API gives (https://docs.digitalocean.com/reference/api/#section/Introduction/Links--Pagination).
PER_PAGE = 200
# Times that a droplet is unknown to its own deletion before that means that it has gone.
UNKNOWN = 5
TRY_AGAIN = (429, 500, 502, 503, 504)
# What to do next, for statuses whose message alone does not say it.
HINTS = {
    401: "the token is wrong, expired or revoked",
    403: "the token lacks a scope for this, or the account may not do it",
}


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


def find_token(given=None, command=None, variables=TOKEN_VARIABLES):
    """
    The API token: ``given`` (a configured value), else what ``command`` prints (such as
    ``pass show digitalocean``), else the first of the environment's ``variables`` that is set.

    Raises NoToken.
    """
    if given:
        return str(given).strip()
    if command:
        words = command if isinstance(command, list) else shlex.split(str(command))
        try:
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoToken(f"token_command {words[0]}: {error}") from error
        # Its output is never told, it may be half a token.
        if done.returncode or not done.stdout.strip():
            raise NoToken(f"token_command {words[0]}: exit code {done.returncode}, no token")
        return done.stdout.strip().splitlines()[0]
    for name in variables:
        if os.environ.get(name, "").strip():
            return os.environ[name].strip()
    raise NoToken(
        f"no token: set {variables[0]} in the environment, or token_command in the provider"
    )


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
        timeout=60,
        attempts=6,
        say=None,
    ):
        import pydo

        self._token = token
        self.patience, self.backoff, self.attempts = patience, backoff, attempts
        self.say = say or (lambda text: None)
        endpoint = endpoint or os.environ.get("DIGITALOCEAN_API_URL") or ENDPOINT
        ca_file = ca_file or os.environ.get("DIGITALOCEAN_API_CA")
        self._client = pydo.Client(
            token,
            endpoint=endpoint.rstrip("/"),
            timeout=timeout,
            retry_total=0,
            **({"connection_verify": os.path.expanduser(ca_file)} if ca_file else {}),
        )

    def _failure(self, what, response=None, error=None):
        """ApiError of a response, or of no response at all."""
        if response is None:
            reason = str(error).replace(self._token, "***").splitlines() or [type(error).__name__]
            return ApiError(what, 0, reason[0], unsure=True)
        try:
            said = response.json() or {}
        except Exception:  # pylint: disable=broad-except
            # A gateway's HTML, or nothing: the status is all there is.
            said = {}
        message = str(said.get("message") or getattr(response, "reason", "") or "no reason given")
        return ApiError(
            what,
            response.status_code,
            message.replace(self._token, "***"),
            str(said.get("request_id") or response.headers.get("x-request-id") or ""),
            # An answer that says yes and cannot be read leaves open what was done, too.
            unsure=response.status_code >= 500 or response.status_code < 400,
        )

    def _delay(self, response, attempt):
        """Seconds to wait before the next attempt, as the API asks for or growing."""
        if response is not None and response.status_code == 429:
            asked = _number(response.headers.get("retry-after"))
            if asked is None:
                reset = _number(response.headers.get("ratelimit-reset"))
                asked = None if reset is None else reset - time.time()
            if asked is not None:
                # The second in which the limit ends is not over yet; all who wait do not come at once.
                return max(asked, 0) + random.uniform(0.05, 0.5) * self.backoff
        return self.backoff * 2**attempt * random.uniform(0.8, 1.2)

    def call(self, group, method, *args, found=None, repeat=None, **kwargs):
        """
        What operation ``group.method`` of pydo answers, as a dictionary.

        found
            for a call that creates something: looks for it after an answer that leaves open
            whether it was created; what it returns, unless None, is this call's answer
        repeat
            whether a call that may have been done may be done again; by default all but POST

        Raises ApiError; 404 like every other error (pydo returns it as if it were an answer).
        """
        operation = getattr(getattr(self._client, group), method)
        what = f"{group}.{method}"
        if repeat is None:
            repeat = method not in ("create", "post", "create_custom")
        began = time.monotonic()
        attempt = 0
        unsure = False
        while True:
            response, failure = None, None
            try:
                response, data = operation(
                    *args, cls=lambda pipe, data, headers: (pipe.http_response, data), **kwargs
                )
                if response.status_code < 400:
                    return data if data is not None else {}
            except self._errors() as error:
                response = getattr(error, "response", None)
                failure = self._failure(what, response, error)
            failure = failure or self._failure(what, response)
            may_be_done = failure.unsure and not repeat
            # What an attempt before may have done is not undone by this one's clear no.
            if not repeat:
                unsure = failure.unsure = failure.unsure or unsure
            if failure.status >= 400 and failure.status not in TRY_AGAIN:
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
            left = self.patience - (time.monotonic() - began)
            if failure.status == 429 and delay > left:
                until = datetime.datetime.now() + datetime.timedelta(seconds=delay)
                message = f"the rate limit is used up until {until:%H:%M:%S}: run it again then"
                raise ApiError(what, 429, message, failure.request_id, unsure=unsure)
            if delay > left or (attempt >= self.attempts and failure.status != 429):
                raise failure
            self.say(f"{failure}; again in {delay:.0f} s")
            time.sleep(delay)

    @staticmethod
    def _errors():
        from azure.core.exceptions import AzureError

        # ValueError: an answer that is no JSON.
        return (AzureError, OSError, ValueError)

    def all(self, group, key, method="list", **kwargs):
        """Every item of a list, page by page."""
        items, page = [], 1
        while True:
            said = self.call(group, method, per_page=PER_PAGE, page=page, **kwargs)
            items += said.get(key) or []
            pages = ((said.get("links") or {}).get("pages")) or {}
            if "next" not in pages:
                return items
            page += 1

    def give_key(self, text, name=None):
        """The account's entry of the public SSH key ``text``; made when there is none of that key."""
        # Type, key, comment.
        words = text.split()

        def there():
            for one in self.all("ssh_keys", "ssh_keys"):
                if one["public_key"].split()[1:2] == words[1:2]:
                    return {"ssh_key": one}
            return None

        body = {"name": name or (words[2] if len(words) > 2 else "salt-cloud"), "public_key": text}
        known = there()
        if not known:
            try:
                known = self.call("ssh_keys", "create", body, found=there)
            except ApiError as error:
                # Those who make a map side by side all give it; the first one's is there by now.
                known = there() if error.status == 422 else None
                if not known:
                    raise
        return known["ssh_key"]

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
                    self.call("droplets", "destroy", identity)
                    asked = True
                self.call("droplets", "get", identity)
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
