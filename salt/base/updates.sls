# Security upgrades by themselves; what must then be restarted is reported, not restarted.
{% from 'base/map.jinja' import base with context %}

update packages:
  pkg.installed:
    - pkgs: [unattended-upgrades, needrestart]

unattended security upgrades:
  checked.files:
    - files:
        /etc/apt/apt.conf.d/60stack: {source: salt://base/files/apt.conf.j2}
    - context:
        updates: {{ base.updates | json }}
        # Machines of one kind reboot one after the other.
        turn: {{ salt['topology.turn']() | json }}
    - checks:
        - apt-config -c={staged}/etc/apt/apt.conf.d/60stack dump
    - require:
      - pkg: update packages

needrestart reports only:
  checked.files:
    - files:
        /etc/needrestart/conf.d/60-stack.conf: {source: salt://base/files/needrestart.conf.j2}
    - context:
        updates: {{ base.updates | json }}
    - checks:
        - perl -wc {staged}/etc/needrestart/conf.d/60-stack.conf
    - require:
      - pkg: update packages
