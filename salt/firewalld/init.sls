# The firewall: package, the way back, then firewalld on its checked rules.
{% from 'firewalld/map.jinja' import firewalld with context %}
{# Before the first state, of a test run too. -#}
{%- do salt['firewall.refuse_others']() %}

# Debian starts it at once, with rules of its own that close the service.
firewalld masked until configured:
  service.masked:
    - name: firewalld
    - runtime: true
    - unless: test -e /usr/sbin/firewalld

firewalld packages:
  pkg.installed:
    # Without what Debian recommends: iptables and ipset, for it writes nftables; python3-cap-ng, for
    # the unit bounds its capabilities.
    - pkgs: [firewalld, nftables, python3-nftables]
    - require:
      - service: firewalld masked until configured

firewalld unmasked:
  service.unmasked:
    - name: firewalld
    - runtime: true
    - require:
      - pkg: firewalld packages

firewall commands:
  checked.files:
    - files:
        /usr/local/sbin/firewall-confirm: {source: salt://firewalld/files/firewall-confirm, mode: '0755'}
        /usr/local/sbin/firewall-denied: {source: salt://firewalld/files/firewall-denied, mode: '0755'}
        /usr/local/sbin/firewall-state: {source: salt://firewalld/files/firewall-state, mode: '0755'}
    - checks:
        - sh -n {staged}/usr/local/sbin/firewall-confirm
        - sh -n {staged}/usr/local/sbin/firewall-state
        - python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' {staged}/usr/local/sbin/firewall-denied

# A reboot takes back what nobody confirmed.
firewall revert unit:
  checked.files:
    - files:
        /etc/systemd/system/firewall-revert.service: {source: salt://firewalld/files/firewall-revert.service}
        /etc/systemd/system/firewall-.service.d/hardening.conf: {source: salt://firewalld/files/revert-hardening.conf}
    - require:
      - checked: firewall commands

firewall revert at boot:
  service.enabled:
    - name: firewall-revert
    - require:
      - checked: firewall revert unit

firewalld running:
  checked.service:
    - name: firewalld
    - files:
        /etc/firewalld/firewalld.conf: {source: salt://firewalld/files/firewalld.conf.j2}
        /etc/firewalld/zones/stack.xml: {source: salt://firewalld/files/zone.xml.j2}
        /etc/firewalld/guard.nft: {source: salt://firewalld/files/guard.nft.j2}
        /etc/stack/denied.nft: {source: salt://firewalld/files/denied.nft}
        /etc/systemd/system/firewalld.service.d/hardening.conf: {source: salt://firewalld/files/hardening.conf}
    # Nothing but these decides what is let in.
    - clean:
        - /etc/firewalld/*.xml
        - /etc/firewalld/*/*.xml
    - context:
        firewalld: {{ firewalld | json }}
        zone: {{ salt['firewall.zone']() | json }}
        log: {{ salt['firewall.own_kernel_log']() | json }}
    - checks:
        - salt://firewalld/files/check {staged}
        - nft -c -f {staged}/etc/firewalld/guard.nft
        - nft -c -f {staged}/etc/stack/denied.nft
    {%- if firewalld.confirm_seconds %}
    - pre_command: {{ ('/usr/local/sbin/firewall-confirm --arm ' ~ firewalld.confirm_seconds) | json }}
    {%- endif %}
    - reload: true
    - restart_on: [/etc/stack/denied.nft]
    - ready: /usr/local/sbin/firewall-state
    - require:
      - service: firewalld unmasked
      - service: firewall revert at boot

# Last: the accounts are made by the formulas that name them.
firewall on loopback:
  checked.service:
    - name: firewall-loopback
    - files:
        /etc/stack/loopback.nft: {source: salt://firewalld/files/loopback.nft.j2}
        /etc/systemd/system/firewall-loopback.service: {source: salt://firewalld/files/firewall-loopback.service}
    - checks:
        - nft -c -f {staged}/etc/stack/loopback.nft
    - reload: true
    - ready: nft list table inet stack_loopback
    - order: last
    - require:
      - pkg: firewalld packages

# The rules that run are the ones that are wanted: what was once taken back is no news any more.
firewall revert note absent:
  file.absent:
    - name: /var/lib/stack/firewall/reverted
    - require:
      - checked: firewalld running
