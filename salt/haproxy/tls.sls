# The edge's certificate: the pillar's, or made here and signed by a small CA of this machine's own,
# so that a client can verify it; then a later apply renews both before they expire.
{% from 'haproxy/map.jinja' import haproxy with context %}
{% set names = salt['topology.names']() %}

ca folder:
  file.directory:
    - name: /etc/stack/pki
    # Certificates are nobody's secret; the key beside them is root's alone.
    - mode: '0755'
    - makedirs: true

{% if haproxy.tls.certificate %}
certificate folder:
  file.directory:
    - name: {{ haproxy.tls.directory | json }}
    - group: haproxy
    - mode: '0750'
    - makedirs: true

certificate key given:
  secret.present:
    - name: {{ haproxy.tls.key | json }}

site certificate:
  checked.files:
    - files:
        {{ (haproxy.tls.directory ~ '/site.pem') | json }}:
          contents: {{ haproxy.tls.certificate | json }}
        {{ (haproxy.tls.directory ~ '/site.pem.key') | json }}:
          {from_secret: {{ haproxy.tls.key | json }}, group: haproxy, mode: '0640'}
        # For clients, in place of ca.pem, which may still be there and is not this certificate's.
        /etc/stack/pki/site.pem:
          contents: {{ haproxy.tls.certificate | json }}
    - checks:
        - {{ ('salt://haproxy/files/check-certificate {staged}' ~ haproxy.tls.directory ~ '/site.pem') | json }}
        - openssl x509 -in {staged}/etc/stack/pki/site.pem -noout
    - require:
      - file: ca folder
      - file: certificate folder
      - secret: certificate key given
{% else %}
certificate given no longer:
  file.absent:
    - name: /etc/stack/pki/site.pem

certificate folder:
  file.directory:
    - name: {{ haproxy.tls.directory | json }}
    - group: haproxy
    - mode: '0750'
    - makedirs: true

ca key:
  x509.private_key_managed:
    - name: /etc/stack/pki/ca.key
    - algo: ec
    - keysize: 256
    - mode: '0600'
    - require:
      - file: ca folder

ca certificate:
  x509.certificate_managed:
    - name: /etc/stack/pki/ca.pem
    - signing_private_key: /etc/stack/pki/ca.key
    - private_key: /etc/stack/pki/ca.key
    - CN: {{ (pillar['topology']['domain'] ~ ' CA') | json }}
    - basicConstraints: critical, CA:TRUE, pathlen:0
    - keyUsage: critical, keyCertSign, cRLSign
    - subjectKeyIdentifier: hash
    - days_valid: 3650
    - days_remaining: 365
    - mode: '0644'
    - require:
      - x509: ca key

site key:
  x509.private_key_managed:
    # HAProxy finds it beside the certificate by this name.
    - name: {{ (haproxy.tls.directory ~ '/site.pem.key') | json }}
    - algo: ec
    - keysize: 256
    - group: haproxy
    - mode: '0640'
    - require:
      - file: certificate folder

site certificate:
  x509.certificate_managed:
    - name: {{ (haproxy.tls.directory ~ '/site.pem') | json }}
    - private_key: {{ (haproxy.tls.directory ~ '/site.pem.key') | json }}
    - signing_private_key: /etc/stack/pki/ca.key
    - signing_cert: /etc/stack/pki/ca.pem
    - CN: {{ pillar['topology']['domain'] | json }}
    - basicConstraints: critical, CA:FALSE
    - keyUsage: critical, digitalSignature
    - extendedKeyUsage: serverAuth
    - subjectAltName:
        {% for name in names.dns %}
        - {{ ('dns:' ~ name) | json }}
        {% endfor %}
        {% for address in names.ip %}
        - {{ ('ip:' ~ address) | json }}
        {% endfor %}
    - subjectKeyIdentifier: hash
    - authorityKeyIdentifier: keyid:always
    - days_valid: 90
    - days_remaining: 30
    - mode: '0644'
    - require:
      - x509: site key
      - x509: ca certificate
{% endif %}
