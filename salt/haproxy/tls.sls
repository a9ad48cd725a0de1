# What the edge's certificate needs to be there; the certificate itself is among the files of the service
# (init.sls), which HAProxy checks as it will load them.
{% from 'haproxy/map.jinja' import haproxy with context %}

ca folder:
  file.directory:
    - name: /etc/stack/pki
    # Certificates are nobody's secret; the key beside them is root's alone.
    - mode: '0755'
    - makedirs: true

certificate folder:
  file.directory:
    - name: {{ haproxy.tls.directory | json }}
    - group: haproxy
    - mode: '0750'
    - makedirs: true

{% if haproxy.tls.key %}
site certificate key:
  secret.present:
    - name: {{ haproxy.tls.key | json }}
{% endif %}
