# Bans of who comes through a balancer: HAProxy makes them, as the firewall sees the balancer alone.
{% from 'haproxy/map.jinja' import haproxy with context %}
{% if haproxy.trusted_proxies.values() | sum(start=[]) %}

# nft is its eye, as it is fail2ban's hand.
ban program packages:
  pkg.installed:
    - pkgs: [python3, nftables]

ban program:
  checked.files:
    - files:
        /usr/local/libexec/haproxy-bans: {source: salt://haproxy/files/bans.py, mode: '0755'}
    - checks:
        - '{staged}/usr/local/libexec/haproxy-bans --help'
    - require:
      - pkg: ban program packages

bans behind balancers running:
  checked.service:
    - name: haproxy-bans
    - files:
        /etc/systemd/system/haproxy-bans.service: {source: salt://haproxy/files/bans.service.j2}
    - context:
        haproxy: {{ haproxy | json }}
    - watch_files: [/usr/local/libexec/haproxy-bans]
    - require:
      - checked: haproxy running
      - checked: ban program
{% elif salt['file.file_exists']('/etc/systemd/system/haproxy-bans.service') %}

bans behind balancers stopped:
  service.dead:
    - name: haproxy-bans
    - enable: false

bans behind balancers absent:
  file.absent:
    - names: [/etc/systemd/system/haproxy-bans.service, /usr/local/libexec/haproxy-bans]
    - require:
      - service: bans behind balancers stopped

bans behind balancers failure cleared:
  cmd.run:
    - name: systemctl reset-failed haproxy-bans.service || true
    - onchanges:
      - file: bans behind balancers absent
{% else %}

# An empty file is an error to Salt.
no balancer to ban behind:
  test.nop
{% endif %}
