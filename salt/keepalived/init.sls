# One address for several edges: package, then the service on its checked configuration.
{% from 'keepalived/map.jinja' import keepalived with context %}
{% set group = salt['floating.group']() %}

{% if group %}
# Debian starts it as soon as there is a configuration.
keepalived package:
  pkg.installed:
    # Without what Debian recommends: ipvsadm, for it balances nothing here.
    - pkgs: [keepalived, iproute2, nftables]

floating address scripts:
  checked.files:
    - files:
        /usr/local/sbin/address-check: {source: salt://keepalived/files/address-check, mode: '0755'}
        /usr/local/sbin/floating-address: {source: salt://keepalived/files/floating-address.j2, mode: '0755'}
    - context:
        keepalived: {{ keepalived | json }}
        group: {{ group | json }}
    - checks:
        - perl -wc {staged}/usr/local/sbin/address-check
        - bash -n {staged}/usr/local/sbin/floating-address

keepalived running:
  checked.service:
    - name: keepalived
    - files:
        /etc/keepalived/keepalived.conf: {source: salt://keepalived/files/keepalived.conf.j2}
        /etc/systemd/system/keepalived.service.d/hardening.conf: {source: salt://keepalived/files/hardening.conf.j2}
    - context:
        keepalived: {{ keepalived | json }}
        group: {{ group | json }}
    - checks:
        - salt://keepalived/files/check {staged}/etc/keepalived/keepalived.conf
    - reload: true
    - require:
      - pkg: keepalived package
      - checked: floating address scripts
{% elif salt['floating.is_left']() %}
# The topology has no floating address any more.
keepalived stopped:
  service.dead:
    - name: keepalived
    - enable: false

keepalived configuration absent:
  file.absent:
    - name: /etc/keepalived/keepalived.conf
    - require:
      - service: keepalived stopped
{% else %}
# An empty file is an error to Salt.
keepalived absent without a floating address:
  test.nop
{% endif %}
