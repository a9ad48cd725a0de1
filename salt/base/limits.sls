# No core dumps: a core of redis or haproxy holds secrets and keys.
{% from 'base/map.jinja' import base with context %}

core dumps off for sessions and services:
  checked.files:
    - files:
        /etc/security/limits.d/60-stack.conf: {source: salt://base/files/limits.conf}
        /etc/systemd/system.conf.d/60-stack.conf: {source: salt://base/files/system.conf}
        # Also where systemd-coredump is not installed: it is off from its first moment.
        /etc/systemd/coredump.conf.d/60-stack.conf: {source: salt://base/files/coredump.conf}
    - checks:
        - salt://base/files/lines.py {staged}/etc/security/limits.d/60-stack.conf '\S+ (hard|soft|-) core 0'
        - salt://base/files/known_keys.py {staged}/etc/systemd/system.conf.d/60-stack.conf
        - salt://base/files/known_keys.py {staged}/etc/systemd/coredump.conf.d/60-stack.conf
