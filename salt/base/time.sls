# The clock follows NTP. A container's clock is its host's and cannot be set from within
# (timedatex and chronyd refuse, timesyncd's unit has ConditionVirtualization=!container).
{% from 'base/map.jinja' import base with context %}

{% if salt['kernel.container']() %}
clock set by the container's host:
  test.nop
{% else %}
time package:
  pkg.installed:
    - name: systemd-timesyncd

ntp client running:
  checked.service:
    - name: systemd-timesyncd
    - files:
        /etc/systemd/timesyncd.conf.d/60-stack.conf: {source: salt://base/files/timesyncd.conf.j2}
    - context:
        servers: {{ base.time.servers | json }}
    - checks:
        - salt://base/files/known_keys.py {staged}/etc/systemd/timesyncd.conf.d/60-stack.conf
    - require:
      - pkg: time package
{% endif %}
