# Before any package: nobody but root may hold a lock that every installation takes, and what a package merely recommends stays out, on this machine and for everybody
# who uses apt on it. What is needed beside the hard dependencies is named by the formula that needs it.
{% from 'base/map.jinja' import base with context %}

# debconf locks its files themselves, which all may read, and gives up when somebody else holds one.
debconf's locks are root's:
  file.directory:
    - name: /var/cache/debconf
    - mode: '0700'
    - order: first

# The same of apt's daily upgrade, which makes this file where it is missing.
apt's daily lock is root's:
  file.managed:
    - name: /var/lib/apt/daily_lock
    - replace: false
    - mode: '0600'
    - order: first

recommended packages stay out:
  checked.files:
    - files:
        /etc/apt/apt.conf.d/50stack-recommends: {source: salt://base/files/apt-recommends.conf.j2}
    - context:
        packages: {{ base.apt | json }}
    - checks:
        - apt-config -c={staged}/etc/apt/apt.conf.d/50stack-recommends dump
    # Whatever a tree's own top.sls puts before this formula.
    - order: first
