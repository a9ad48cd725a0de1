# Sentinel beside each of several stores: it votes with the others on which Redis is the master. After formula redis, whose
# package and whose store-set it uses.
{% from 'sentinel/map.jinja' import sentinel with context %}
{% set stores = salt['topology.machines']('store') %}

{% if stores | length > 1 %}
{% for name in ['redis-monitor', 'redis-sentinel', 'sentinel-peer'] %}
{{ ('redis-sentinel password ' ~ name) | json }}:
  secret.present:
    - name: {{ name | json }}
    - require_in:
      - checked: redis-sentinel running
{% endfor %}

redis-sentinel running:
  checked.service:
    - name: redis-sentinel
    - files:
        # What it is given; what it makes of it, and keeps, is in /var/lib/redis-sentinel, and never Salt's.
        /etc/redis/sentinel.conf:
          {source: salt://sentinel/files/sentinel.conf.j2, mode: '0640', group: redis, secret: true}
        /etc/systemd/system/redis-sentinel.service: {source: salt://sentinel/files/unit.conf}
    # The program becomes Sentinel, and tells it what its file cannot.
    - watch_files: {{ (['/usr/local/sbin/store-set'] + salt['pki.paths']().values() | list) | json }}
    - context:
        sentinel: {{ sentinel | json }}
        address: {{ salt['topology.machine']().address | json }}
        pki: {{ salt['pki.paths']() | json }}
        count: {{ stores | length | int }}
    - checks:
        - salt://sentinel/files/check {staged}/etc/redis/sentinel.conf
    # A set that is new has to come together first: its stores converge side by side.
    - ready: /usr/local/sbin/store-set voting 90
    - ready_timeout: 120
{% endif %}
