# Whether files of packages are still what they were: Debian's debsums, on systemd's clock; and how
# wide they are open. After every package of this formula, for they bring folders.
{% from 'base/map.jinja' import base with context %}

debsums package:
  pkg.installed:
    - name: debsums

package checksum timer running:
  checked.service:
    - name: stack-debsums.timer
    - files:
        /etc/default/debsums: {contents: {{ ('# Managed by Salt (salt/base).\nCRON_CHECK=' ~ base.package_check ~ '\n') | json }}}
        /etc/systemd/system/stack-debsums.service: {source: salt://base/files/debsums.service.j2}
        /etc/systemd/system/stack-debsums.timer: {source: salt://base/files/debsums.timer.j2}
    - context:
        # Debian's script does nothing but on its own day; never is any.
        when: {{ (base.package_check if base.package_check != 'never' else 'weekly') | json }}
    - checks:
        - sh -n {staged}/etc/default/debsums
    - require:
      - pkg: debsums package

# Last: a package that another formula installs brings files of its own, or widens these again.
package file permissions:
  modes.at_most:
    - order: last
    - paths: {{ base.permissions | json }}
