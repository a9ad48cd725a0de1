# The program: Elastic's package, held at its version, or one archive with its checksum.
{% from 'filebeat/map.jinja' import filebeat with context %}
{% set install = filebeat.install %}

{% if install.from == 'repository' %}
elastic signing key:
  apt_key.pinned:
    - name: /etc/apt/keyrings/elastic.asc
    - source: {{ install.key | json }}
    - fingerprint: {{ install.fingerprint | json }}

elastic repository:
  checked.files:
    - files:
        /etc/apt/sources.list.d/elastic.sources: {source: salt://filebeat/files/elastic.sources.j2}
    - context:
        url: {{ install.repository | json }}
    - checks:
        - apt-get indextargets -o Dir::Etc::SourceList={staged}/etc/apt/sources.list.d/elastic.sources -o Dir::Etc::SourceParts=/dev/null
    - require:
      - apt_key: elastic signing key

filebeat program:
  pkg.installed:
    - name: filebeat
    - version: {{ install.version | json }}
    - hold: true
    - update_holds: true
    - refresh: true
    - require:
      - checked: elastic repository
{% else %}
filebeat program:
  archive.extracted:
    - name: {{ ('/opt/filebeat/' ~ install.sha256[:12]) | json }}
    - source: {{ install.archive | json }}
    - source_hash: {{ ('sha256=' ~ install.sha256) | json }}
    - archive_format: tar
    - options: --strip-components=1 --no-same-owner
    - enforce_toplevel: false
    - user: root
    - group: root
    - if_missing: {{ ('/opt/filebeat/' ~ install.sha256[:12] ~ '/filebeat') | json }}
{% endif %}
