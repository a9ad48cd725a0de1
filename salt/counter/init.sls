# The application: its release, its unit, then the instances, moved one at a time.
{% from 'counter/map.jinja' import counter with context %}
{% from 'haproxy/map.jinja' import haproxy with context %}
{% from 'redis/map.jinja' import redis with context %}
{% set version = salt['release.choose'](counter.name, counter.root, counter.version) %}
{% set store = salt['topology.machines']('store')[0] %}
{% set store_tls = salt['topology.elsewhere']('app', store.name) %}
{% set files = counter.over_tls.files if store_tls else {} %}
{% set unit = '/etc/systemd/system/' ~ counter.name ~ '@.service' %}

{% if store_tls %}
include:
  - pki
{% endif %}

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
    - source: {{ counter.release.source | json }}
    - sha256: {{ counter.release.sha256 | json }}
    - signers: {{ counter.release.signers | json }}
    - require:
      - pkg: {{ counter.name }} runtime

{{ counter.name }} unit:
  checked.files:
    - files:
        {{ unit }}: {source: salt://counter/files/unit.j2}
    - context:
        counter: {{ counter | json }}
        files: {{ files | json }}
        tunnels: {{ salt['topology.elsewhere']('edge') | json }}
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
    - address: 127.0.0.1
    - port: {{ counter.port }}
    - health: {{ counter.health.ready | json }}
    - smoke: {{ counter.health.smoke | json }}
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
        store_scheme: {{ 'rediss' if store_tls else 'redis' }}
        store_port: {{ redis.tls_port if store_tls else redis.port }}
        drain_seconds: {{ counter.drain_seconds }}
        finish_seconds: {{ counter.finish_seconds }}
    - environment: {{ dict(counter.environment, **(counter.over_tls.environment if store_tls else {})) | json }}
    - probation: {{ counter.probation_seconds }}
    - hooks: {{ counter.hooks | json }}
    - keep: {{ counter.keep }}
    - uses:
        - {{ unit }}
        {% for secret in counter.credentials.values() | unique %}
        - {{ salt['secret.path'](secret) }}
        {% endfor %}
        {% for path in files.values() %}
        - {{ path }}
        {% endfor %}
    - require:
      - checked: {{ counter.name }} unit
      {% if store_tls %}
      - pki: machine certificate
      {% endif %}
