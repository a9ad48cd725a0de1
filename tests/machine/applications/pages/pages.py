"""Says who it is, and how large what it got was."""


def application(environ, start_response):
    size = len(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    secret = "COUNTER_LISTEN" in environ or any("REDIS" in key for key in __import__("os").environ)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"pages {size} {secret}\n".encode()]
