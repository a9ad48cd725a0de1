# Settings that stay: whatever is laid here over the formulas' defaults (salt/*/defaults.yaml is the
# reference) holds for every machine of every topology and every apply. What is for one topology, such as its
# certificate, its pager, its bucket, goes into settings/TOPOLOGY.sls, which is laid over this. For one run
# alone there is make's PILLAR=.
#
# counter:
#   instances: 4
#
# Logs to Elasticsearch as well, as is usual in a cloud (salt/filebeat/README.md). Give the password by
# `make secret SECRET=filebeat-password` (docs/secrets.md): no machine can make it up.
#
# filebeat:
#   output:
#     kind: elasticsearch
#     hosts: ['https://logs.example.org:9200']
#     username: shipper
#     password: filebeat-password
{}
