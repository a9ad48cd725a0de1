# The applications of pillar `apps`, one after the other: user, then what salt/apps/application.jinja does for each.
{% from 'apps/map.jinja' import apps with context %}

{% if apps.values() | selectattr('redis') | list and salt['endpoints.find']('redis').tls %}
include:
  - pki
{% endif %}

units of former applications absent:
  applications.only: []
{% if apps %}

app-run command:
  checked.files:
    - files:
        /usr/local/sbin/app-run: {source: salt://apps/files/app-run, mode: '0755'}
{% endif %}

{% for name, app in salt['applications.chosen']().items() %}
{% if salt['applications.has_release'](name) %}
{{ (name ~ ' user') | json }}:
  user.present:
    - name: {{ app.user | json }}
    - system: true
    - usergroup: true
    - home: /nonexistent
    - createhome: false
    - shell: /usr/sbin/nologin
    - require_in:
      - release: {{ (name ~ ' instances') | json }}

{% set brought = (pillar.machine.releases | default({})).get(name) %}
{% set version = salt['release.choose'](name, app.root, app.version, brought) %}
{% set manifest = salt['commands.manifest'](name, app.root, version) %}
{% include 'apps/application.jinja' with context %}
{% else %}
{{ (name ~ ' waits for its first release: make deploy APP=…') | json }}:
  test.nop: []
{% endif %}
{% endfor %}
