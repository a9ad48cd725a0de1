"""The counter as tutorials write it: Pyramid, redis-py, waitress. No logs, no drain, no timeouts."""

import sys

import redis
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from waitress import serve

store = redis.Redis(port=int(sys.argv[2]))


def count(request: Request) -> Response:
    return Response(f"Hello World! I have been seen {store.incr('seen')} times.\n")


with Configurator() as config:
    config.add_route("count", "/")
    config.add_view(count, route_name="count")
    application = config.make_wsgi_app()

serve(application, host="127.0.0.1", port=int(sys.argv[1]))
