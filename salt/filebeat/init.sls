# Filebeat, where the pillar gives it an output: program, then the service on its checked settings.
{% from 'filebeat/map.jinja' import filebeat with context %}
{% if filebeat.output.kind %}
include:
  - filebeat.install
  - filebeat.service
{% elif salt['file.file_exists']('/etc/systemd/system/filebeat.service') %}
filebeat stopped without an output:
  service.dead:
    - name: filebeat
    - enable: false
{% else %}
# Salt calls stopping what is not there a change to be made; and an empty file is an error.
filebeat absent without an output:
  test.nop
{% endif %}
