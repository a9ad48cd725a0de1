# What every machine gets, whatever its roles; in reading order.
{% from 'base/map.jinja' import base with context %}

include:
  - base.apt
  - base.system
  - base.kernel
  - base.limits
  - base.time
  - base.journal
  - base.updates
  - base.integrity
  - base.login
  - base.sudo
  - base.users
  - base.ssh
