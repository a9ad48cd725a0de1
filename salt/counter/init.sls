# The counter: an application as any other (salt/apps/application.jinja), with settings of its own.
{% from 'counter/map.jinja' import counter with context %}

{% if salt['endpoints.find']('redis').tls %}
include:
  - pki
{% endif %}

units of former names absent:
  applications.only: []

{% set app = counter %}
{% set brought = pillar.get('machine', {}).get('release') %}
{% set version = salt['release.choose'](counter.name, counter.root, counter.version, brought) %}
{% set manifest = {} %}
{% include 'apps/application.jinja' with context %}
