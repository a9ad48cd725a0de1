# Before any package: nobody but root may hold a lock that installations take, and what a package merely
# recommends stays out, on this machine and for everybody who uses apt on it. What is needed beside the hard dependencies is named by the formula that needs it.
{% from 'base/map.jinja' import base with context %}

# debconf locks its files themselves, which all may read, and gives up when somebody else holds one.
debconf lock permissions:
  file.directory:
    - name: /var/cache/debconf
    - mode: '0700'
    - order: first

# The same of apt's daily upgrade.
apt daily lock permissions:
  checked.files:
    - files:
        /etc/systemd/system/apt-daily.service.d/stack.conf: {source: salt://base/files/apt-lock.conf}
        /etc/systemd/system/apt-daily-upgrade.service.d/stack.conf: {source: salt://base/files/apt-lock.conf}

apt recommends off:
  checked.files:
    - files:
        /etc/apt/apt.conf.d/50stack-recommends: {source: salt://base/files/apt-recommends.conf.j2}
    - context:
        packages: {{ base.apt | json }}
    - checks:
        - apt-config -c={staged}/etc/apt/apt.conf.d/50stack-recommends dump
    # Whatever a tree's own top.sls puts before this formula.
    - order: first
