# The ssh server: keys only, modern algorithms. A reload: sessions that are open stay.
{% from 'base/map.jinja' import base with context %}

ssh server package:
  pkg.installed:
    - name: openssh-server

ssh running:
  checked.service:
    - name: ssh
    - files:
        # Before those of cloud images: sshd takes the first value it reads.
        /etc/ssh/sshd_config.d/10-stack.conf: {source: salt://base/files/sshd.conf.j2, mode: '0600'}
    - context:
        ssh: {{ base.ssh | json }}
        host_keys: {{ salt['hostkeys.offered'](base.ssh.host_rsa_bits) | json }}
    - checks:
        - salt://base/files/check_sshd {staged}/etc/ssh/sshd_config.d/10-stack.conf
    - reload: true
    - ready: ssh-keyscan -T 2 -t ed25519 127.0.0.1 2>/dev/null | grep -q ssh-ed25519
    - require:
      - pkg: ssh server package
