# What Redis asks before it starts and stops, where it is one of several.
{% from 'redis/map.jinja' import redis with context %}
{% set addresses = {} %}
{% for store in salt['topology.machines']('store') %}
{% do addresses.update({store.name: store.address}) %}
{% endfor %}

include:
  - pki

{% for name in ['redis-replica', 'redis-sentinel', 'sentinel-peer'] %}
{{ ('password ' ~ name) | json }}:
  secret.present:
    - name: {{ name | json }}
    - require_in:
      - checked: store-set command
{% endfor %}

store-set command:
  checked.files:
    - files:
        /usr/local/sbin/store-set: {source: salt://redis/files/store-set, mode: '0755'}
        /etc/stack/store-set.json:
          contents: {{ ({
            'name': salt['topology.machine']().name,
            'stores': addresses,
            'port': redis.tls_port,
            'sentinel_port': salt['endpoints.find']('sentinel').port,
            'master': 'main',
            'tls': salt['pki.paths'](),
          } | json ~ '\n') | json }}
    - checks:
        - /usr/bin/python3 {staged}/usr/local/sbin/store-set check {staged}/etc/stack/store-set.json
    - require:
      - pki: machine certificate
