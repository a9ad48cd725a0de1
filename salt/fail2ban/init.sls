# Bans: package, then the service on its checked configuration, with each service's own jails.
{% from 'fail2ban/map.jinja' import fail2ban with context %}
{% set jails = salt['jails.collect'](fail2ban.jails) %}
{% set attacked = salt['jails.attacked'](jails) %}

fail2ban package:
  pkg.installed:
    - pkgs: [fail2ban, python3-systemd, nftables]

# Who may ask it how many it bans (and, its socket being one, tell it to).
fail2ban socket group:
  group.present:
    - name: fail2ban
    - system: true

fail2ban running:
  checked.service:
    - name: fail2ban
    - files:
        /etc/fail2ban/fail2ban.local: {source: salt://fail2ban/files/fail2ban.local.j2}
        /etc/fail2ban/jail.local: {source: salt://fail2ban/files/jail.local.j2}
        {% for name, source in salt['jails.filters']().items() %}
        {{ ('/etc/fail2ban/filter.d/' ~ name ~ '.conf') | json }}: {source: {{ source | json }}}
        {% endfor %}
        /etc/fail2ban/action.d/bans.conf: {source: salt://fail2ban/files/bans.conf}
        /etc/fail2ban/action.d/networks.py: {source: salt://fail2ban/files/networks.py}
        /etc/fail2ban/bans.nft: {source: salt://fail2ban/files/bans.nft.j2}
        /etc/systemd/system/fail2ban.service: {source: salt://fail2ban/files/unit.service}
    - context:
        fail2ban: {{ fail2ban | json }}
        jails: {{ jails | json }}
        attacked: {{ attacked | json }}
        ignore: {{ (salt['topology.trusted']() + fail2ban.ignore) | unique | json }}
    - checks:
        - salt://fail2ban/files/check {staged}
        - nft -c -f {staged}/etc/fail2ban/bans.nft
    - reload: true
    # These are read at its start only.
    - restart_on: [/etc/fail2ban/fail2ban.local, /etc/fail2ban/action.d/networks.py, /etc/fail2ban/bans.nft]
    - ready: fail2ban-client ping
    - require:
      - pkg: fail2ban package
      - group: fail2ban socket group
