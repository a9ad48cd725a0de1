# The service: credentials, then Filebeat on its checked configuration.
{% from 'filebeat/map.jinja' import filebeat with context %}
{% set output = filebeat.output %}
{% set archive = filebeat.install.from == 'archive' %}
{% set home = '/opt/filebeat/' ~ (filebeat.install.sha256 or '')[:12] if archive else '/usr/share/filebeat' %}
{% set binary = home ~ ('/filebeat' if archive else '/bin/filebeat') %}
{# {name in the unit's credentials: name of the secret} #}
{% set credentials = {} %}
{% for name, secret in [('OUTPUT_PASSWORD', output.password), ('OUTPUT_API_KEY', output.api_key), ('TLS_KEY', output.tls.key)] if secret %}
{% do credentials.update({name: secret}) %}
{% endfor %}
{% set check = ['salt://filebeat/files/check {staged}', binary, salt['secret.path']('x')[:-2]] %}
{% for name, secret in credentials.items() %}
{% do check.append(name ~ '=' ~ secret) %}
{% endfor %}
{% set services = salt['logs.collect'](true) %}
{% for name in filebeat.services if name != 'system' and name not in services %}
{% do salt['formula.refuse']('pillar filebeat:services: ' ~ name ~ ': no such service here; there are: system, ' ~ services | join(', ')) %}
{% endfor %}

{% for name, secret in credentials.items() %}
{{ ('filebeat credential ' ~ name) | json }}:
  secret.present:
    - name: {{ secret | json }}
    - require_in:
      - checked: filebeat running
{% endfor %}

filebeat keystore program:
  checked.files:
    - files:
        /usr/local/libexec/filebeat-keystore: {source: salt://filebeat/files/keystore, mode: '0755'}
    - checks:
        - sh -n {staged}/usr/local/libexec/filebeat-keystore

filebeat running:
  checked.service:
    - name: filebeat
    - files:
        /etc/filebeat/filebeat.yml: {source: salt://filebeat/files/filebeat.yml.j2}
        /etc/filebeat/ecs.js: {source: salt://filebeat/files/ecs.js.j2}
        {% if output.tls.ca %}
        /etc/filebeat/ca.crt: {contents: {{ (output.tls.ca.strip() ~ '\n') | json }}}
        {% endif %}
        {% if output.tls.certificate %}
        /etc/filebeat/client.crt: {contents: {{ (output.tls.certificate.strip() ~ '\n') | json }}}
        {% endif %}
        /etc/systemd/system/filebeat.service: {source: salt://filebeat/files/unit.service.j2}
    - context:
        filebeat: {{ filebeat | json }}
        services: {{ services | json }}
        topology: {{ pillar['topology']['name'] | json }}
        machine: {{ salt['topology.machine']().name | json }}
        binary: {{ binary | json }}
        home: {{ home | json }}
        credentials: {{ credentials | json }}
        secrets: {{ salt['secret.path']('x')[:-2] | json }}
    - checks:
        - {{ check | join(' ') | json }}
    - clean: [/etc/filebeat/*.crt]
    - watch_files:
        - /usr/local/libexec/filebeat-keystore
        {% for secret in credentials.values() %}
        - {{ salt['secret.path'](secret) | json }}
        {% endfor %}
    - require:
      - checked: filebeat keystore program
      - {{ 'archive' if archive else 'pkg' }}: filebeat program
