# Services without TLS of their own, for the other machines: one sandboxed process per tunnel.
{% from 'stunnel/map.jinja' import stunnel with context %}
{% set tunnels = salt['tunnel.servers']() %}
{% set address = salt['topology.machine']().address %}
{% set unit = '/etc/systemd/system/tunnel@.service' %}

{% if tunnels %}
include:
  - pki

# Debian's own service would run every file of /etc/stunnel in one process, as root.
packaged stunnel service masked:
  service.masked:
    - name: stunnel4
    - unless: test -e /usr/bin/stunnel4

stunnel package:
  pkg.installed:
    - name: stunnel4
    - require:
      - service: packaged stunnel service masked

stunnel account:
  user.present:
    - name: stack-tunnel
    - system: true
    - home: /nonexistent
    - createhome: false
    - shell: /usr/sbin/nologin
    - usergroup: true

stunnel unit:
  checked.files:
    - files:
        {{ unit | json }}: {source: salt://stunnel/files/unit.j2}
    - context:
        stunnel: {{ stunnel | json }}
    - instance: {{ tunnels[0].name | json }}
    - require:
      - pkg: stunnel package
      - user: stunnel account
      - pki: machine certificate
{% endif %}

{% for tunnel in tunnels %}
{{ ('stunnel ' ~ tunnel.name ~ ' running') | json }}:
  checked.service:
    - name: {{ ('tunnel@' ~ tunnel.name) | json }}
    - files:
        {{ ('/etc/stunnel/' ~ tunnel.name ~ '.conf') | json }}: {source: salt://stunnel/files/tunnel.conf.j2}
    - context:
        stunnel: {{ stunnel | json }}
        tunnel: {{ tunnel | json }}
        address: {{ address | json }}
    - checks:
        - {{ ('salt://stunnel/files/check {staged}/etc/stunnel/' ~ tunnel.name ~ '.conf') | json }}
    - uses: {{ ([unit] + salt['pki.paths']().values() | list) | json }}
    - reload: true
    - ready: {{ ('salt://stunnel/files/accepts.py ' ~ address ~ ' ' ~ tunnel.accept) | json }}
    {%- if tunnel.follows %}
    - follows: {{ tunnel.follows | json }}
    {%- endif %}
    - require:
      - checked: stunnel unit
{% endfor %}

{% for name in salt['tunnel.left']() %}
{{ ('stunnel ' ~ name ~ ' stopped') | json }}:
  service.dead:
    - name: {{ ('tunnel@' ~ name) | json }}
    - enable: false

{{ ('stunnel ' ~ name ~ ' configuration absent') | json }}:
  file.absent:
    - name: {{ ('/etc/stunnel/' ~ name ~ '.conf') | json }}
    - require:
      - service: {{ ('stunnel ' ~ name ~ ' stopped') | json }}
{% endfor %}
