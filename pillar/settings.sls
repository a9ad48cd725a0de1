# Settings that stay: whatever is laid here over the formulas' defaults (salt/*/defaults.yaml is the
# reference) holds for every machine and every apply. For one run alone there is make's PILLAR=.
#
# counter:
#   instances: 4
#
# Logs to Elasticsearch as well, as is usual in a cloud (salt/filebeat/README.md). First encrypt the
# password as secret `filebeat-password` into the pillar (docs/secrets.md): no machine can make it up.
#
# filebeat:
#   output:
#     kind: elasticsearch
#     hosts: ['https://logs.example.org:9200']
#     username: shipper
#     password: filebeat-password
{}
