"""
Makes fail2ban take an IPv6 /64 for one client, as HAProxy's limits do: a client has all of its addresses
to come from. fail2ban itself knows single addresses only (github.com/fail2ban/fail2ban/issues/927).

Loaded as an action of each jail, which does nothing: what counts happens on loading. Who is never banned
is decided before, by the single address.
"""

from fail2ban.server.action import ActionBase
from fail2ban.server.actions import Actions
from fail2ban.server.ipdns import IPAddr
from fail2ban.server.ticket import Ticket


def client(address):
    """An address as IPAddr, the /64 of one of IPv6; anything else (a network, a list) as it is."""
    known = IPAddr(address) if isinstance(address, str) else address
    if isinstance(known, IPAddr) and known.isIPv6 and known.isSingle:
        return IPAddr(known.ntoa, 64)
    return address


def patch():
    set_id, unban = Ticket.setID, Actions.removeBannedIP

    def set_client(self, value):
        set_id(self, client(value))

    def unban_client(self, ip=None, *rest, **options):
        found = client(ip)
        return unban(self, str(found) if isinstance(found, IPAddr) else found, *rest, **options)

    Ticket.setID, Actions.removeBannedIP = set_client, unban_client
    Ticket.by_network = True


# Each jail loads this file anew.
if not hasattr(Ticket, "by_network"):
    patch()


class Action(ActionBase):
    def start(self):
        pass

    stop = start

    def ban(self, info):
        pass

    unban = ban
