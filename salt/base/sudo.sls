# How root's power is used: on a terminal of its own, logged, remembered briefly.
{% from 'base/map.jinja' import base with context %}

sudo package:
  pkg.installed:
    - name: sudo

sudo settings:
  checked.files:
    - files:
        /etc/sudoers.d/60-stack: {source: salt://base/files/sudoers.j2, mode: '0440'}
    - context:
        sudo: {{ base.sudo | json }}
    - checks:
        - visudo -c -f {staged}/etc/sudoers.d/60-stack
    - require:
      - pkg: sudo package
