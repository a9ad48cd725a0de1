# The kernel's settings, each with its reason in the file, and kernel module blocklist.
{% from 'base/map.jinja' import base with context %}

kernel settings at boot:
  checked.files:
    - files:
        /etc/sysctl.d/60-stack.conf:
          contents: {{ salt['kernel.conf'](base.sysctl) | json }}
    - checks:
        - salt://base/files/check_sysctl {staged}/etc/sysctl.d/60-stack.conf

kernel settings in effect:
  kernel.applied:
    - settings: {{ base.sysctl | json }}
    - require:
      - checked: kernel settings at boot

kernel module blocklist:
  checked.files:
    - files:
        /etc/modprobe.d/stack.conf: {source: salt://base/files/modprobe.conf.j2}
    - context:
        modules: {{ base.blocked_modules | json }}
    - checks:
        - salt://base/files/lines.py {staged}/etc/modprobe.d/stack.conf 'install [a-z0-9_-]+ /bin/false'
