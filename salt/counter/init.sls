# The application: its release, its unit, then the instances, moved one at a time.
{% from 'counter/map.jinja' import counter with context %}
{% from 'haproxy/map.jinja' import haproxy with context %}
{% from 'redis/map.jinja' import redis with context %}
{% set version = salt['release.choose'](counter.name, counter.root, counter.version) %}
{% set store = salt['topology.machines']('store')[0] %}
{% set check = haproxy.backend.check %}
{% if counter.drain_seconds < salt['formula.seconds'](check.interval) * check.fall + 1 %}
{{ salt['formula.refuse']('pillar counter:drain_seconds: ' ~ counter.drain_seconds ~ ' is too short: the edge needs haproxy:backend:check interval x fall + 1 s = ' ~ (salt['formula.seconds'](check.interval) * check.fall + 1) ~ ' s to see that an instance drains') }}
{% endif %}
{% set unit = '/etc/systemd/system/' ~ counter.name ~ '@.service' %}

{{ counter.name }} runtime:
  pkg.installed:
    # The artifact brings all but the interpreter.
    - name: python3

{% for secret in counter.credentials.values() | unique %}
{{ counter.name }} credential {{ secret }}:
  secret.present:
    - name: {{ secret }}
    - require_in:
      - release: {{ counter.name }} instances
{% endfor %}

{{ counter.name }} release:
  release.installed:
    - name: {{ counter.name }}
    - root: {{ counter.root }}
    - version: {{ version }}
    - keep: {{ counter.keep }}
    - require:
      - pkg: {{ counter.name }} runtime

{{ counter.name }} unit:
  checked.files:
    - files:
        {{ unit }}: {source: salt://counter/files/unit.j2}
    - context:
        counter: {{ counter | json }}
    # Not an instance that runs: the one that release.installed points to the new release.
    - instance: new
    - require:
      - release: {{ counter.name }} release

{{ counter.name }} instances:
  release.rolled:
    - name: {{ counter.name }}
    - root: {{ counter.root }}
    - version: {{ version }}
    - instances: {{ salt['topology.instances'](count=counter.instances) }}
    - address: {{ salt['topology.address']('edge') }}
    - port: {{ counter.port }}
    - health: {{ counter.health.ready }}
    - timeout: {{ counter.ready_seconds }}
    {% if 'edge' in salt['topology.machine']().roles %}
    # The edge is here: it is asked whether it uses the instance.
    - settled: >-
        /usr/bin/python3 {{ salt['formula.file']('salt://haproxy/files/server_up.py') }}
        {{ haproxy.admin.socket }} {{ salt['topology.machine']().name }}-{instance} {address}:{port}
    {% else %}
    - settle: {{ counter.settle_seconds }}
    {% endif %}
    - values:
        machine: {{ salt['topology.machine']().name }}
        store: {{ salt['topology.address']('app', store.name) }}
        store_port: {{ redis.port }}
        drain_seconds: {{ counter.drain_seconds }}
        finish_seconds: {{ counter.finish_seconds }}
    - environment: {{ counter.environment | json }}
    - uses:
        - {{ unit }}
        {% for secret in counter.credentials.values() | unique %}
        - {{ salt['secret.path'](secret) }}
        {% endfor %}
    - require:
      - checked: {{ counter.name }} unit
