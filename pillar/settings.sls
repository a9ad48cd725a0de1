# Settings that stay: whatever is laid here over the formulas' defaults (salt/*/defaults.yaml is the
# reference) holds for every machine and every apply. For one run alone there is make's PILLAR=.
#
# counter:
#   instances: 4
{}
