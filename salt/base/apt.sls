# Before any package: what a package merely recommends stays out, on this machine and for everybody
# who uses apt on it. What is needed beside the hard dependencies is named by the formula that needs it.
{% from 'base/map.jinja' import base with context %}

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
