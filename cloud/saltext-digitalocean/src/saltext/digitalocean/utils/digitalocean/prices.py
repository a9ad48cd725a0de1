"""
What costs money and is in no answer of the API, in one table: a droplet's own price the API tells (``/v2/sizes``).

==========================  =====================  =======================================================  ==========
what                        US dollars             source                                                   as of
==========================  =====================  =======================================================  ==========
daily backups               30 % of the droplet's  docs.digitalocean.com/products/backups/details/pricing/  2026-11
weekly backups              20 % of the droplet's  the same                                                 2026-11
node of a load balancer     12.00 a month          docs.digitalocean.com/products/networking/               2025-02-27
(regional, HTTP and TCP)                           load-balancers/details/pricing/
==========================  =====================  =======================================================  ==========

The last is the date that DigitalOcean's page itself bears ("Validated on"), of a stored copy: look there before a
budget depends on it. Older copies say $10 for a node.
"""

# Share of a droplet's own price, by plan.
BACKUPS = {"daily": 0.30, "weekly": 0.20}
# A month, each.
LOAD_BALANCER_NODE = 12.0
