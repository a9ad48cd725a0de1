# The application: its release, its unit, then the instances, moved one at a time.
{% from 'counter/map.jinja' import counter with context %}
{% set version = salt['release.choose'](counter.name, counter.root, counter.version) %}
{% set store = salt['endpoints.find']('redis') %}
{% set files = counter.over_tls.files if store.tls else {} %}
{% set values = {
  'machine': salt['topology.machine']().name,
  'store': store.address,
  'store_scheme': 'rediss' if store.tls else 'redis',
  'store_port': store.port,
  'drain_seconds': counter.drain_seconds,
  'finish_seconds': counter.finish_seconds,
} %}
{% do salt['instance.refuse_unusable']('pillar counter:environment', counter.environment, values) %}
{% do salt['instance.refuse_unusable']('pillar counter:over_tls:environment', counter.over_tls.environment, values) %}
{% set unit = '/etc/systemd/system/' ~ counter.name ~ '@.service' %}

{% if store.tls %}
include:
  - pki

# Its processes are no machine: with what they hold, only the store lets anybody in.
{{ (counter.name ~ ' certificate') | json }}:
  pki.present:
    - machine: {{ salt['topology.machine']().name | json }}
    - application: true
    - require:
      - pki: machine certificate
{% endif %}

{{ (counter.name ~ ' runtime') | json }}:
  pkg.installed:
    # The artifact brings all but the interpreter.
    - name: python3

{% for secret in counter.credentials.values() | unique %}
{{ (counter.name ~ ' credential ' ~ secret) | json }}:
  secret.present:
    - name: {{ secret | json }}
    - require_in:
      - release: {{ (counter.name ~ ' instances') | json }}
{% endfor %}

{{ (counter.name ~ ' release') | json }}:
  release.installed:
    - name: {{ counter.name | json }}
    - root: {{ counter.root | json }}
    - version: {{ version | json }}
    - source: {{ counter.release.source | json }}
    - sha256: {{ counter.release.sha256 | json }}
    - signers: {{ counter.release.signers | json }}
    - require:
      - pkg: {{ (counter.name ~ ' runtime') | json }}

{{ (counter.name ~ ' unit') | json }}:
  checked.files:
    - files:
        {{ unit | json }}: {source: salt://counter/files/unit.j2}
    - context:
        counter: {{ counter | json }}
        files: {{ files | json }}
        tunnels: {{ salt['topology.is_remote']('edge') | json }}
    # Not an instance that runs: the one that release.installed points to the new release.
    - instance: new
    - require:
      - release: {{ (counter.name ~ ' release') | json }}

{{ (counter.name ~ ' instances') | json }}:
  release.rolled:
    - name: {{ counter.name | json }}
    - root: {{ counter.root | json }}
    - version: {{ version | json }}
    - instances: {{ salt['topology.instances'](count=counter.instances) | json }}
    - address: 127.0.0.1
    - port: {{ counter.port | json }}
    - health: {{ counter.health.ready | json }}
    - smoke: {{ counter.health.smoke | json }}
    - timeout: {{ counter.ready_seconds | json }}
    {% if 'edge' in salt['topology.machine']().roles %}
    # The edge is here: it is asked whether it uses the instance.
    - in_rotation: {{ salt['edge.rotation_check'](salt['topology.machine']().name ~ '-{instance}', '{address}:{port}') | json }}
    {% else %}
    - rotation_seconds: {{ counter.rotation_seconds | json }}
    {% endif %}
    - values: {{ values | json }}
    - environment: {{ dict(counter.environment, **(counter.over_tls.environment if store.tls else {})) | json }}
    - bake_seconds: {{ counter.bake_seconds | json }}
    - hooks: {{ counter.hooks | json }}
    - keep: {{ counter.keep | json }}
    - watch_files:
        - {{ unit | json }}
        {% for secret in counter.credentials.values() | unique %}
        - {{ salt['secret.path'](secret) | json }}
        {% endfor %}
        {% for path in files.values() %}
        - {{ path | json }}
        {% endfor %}
    - require:
      - checked: {{ (counter.name ~ ' unit') | json }}
      {% if store.tls %}
      - pki: {{ (counter.name ~ ' certificate') | json }}
      {% endif %}
