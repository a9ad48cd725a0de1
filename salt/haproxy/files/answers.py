"""Whether the application's servers answer the health check of a new configuration.

    answers.py STAGED.cfg ADMIN_SOCKET HAPROXY_SOCKET.PY

HAProxy takes every server out that does not answer its check with 200, so a path that they do not
serve, or a port where they are not, would be an outage. Those that are in rotation are asked
what the new configuration would have it ask, where that is not what it asks now. Exit code 0 when they
answer, else 1 and a line on stderr.
"""

import http.client
import importlib.util
import re
import socket
import ssl
import sys

LIVE = "/etc/haproxy/haproxy.cfg"


def checks(path):
    """``{server: (what is sent, host, port, its TLS options)}`` of the applications' backends; the names as
    haproxy_socket.py has them."""
    with open(path, encoding="utf-8") as file:
        _, *parts = re.split(r"(?m)^backend (app(?:-\S+)?)$", file.read())
    found = {}
    for backend, text in zip(parts[::2], parts[1::2], strict=True):
        # Up to the next section.
        text = re.split(r"(?m)^\w", text)[0]
        sent = re.search(r"http-check send meth GET uri (\S+) ver \S+ hdr Host (\S+)", text)
        for name, host, port, more in re.findall(r"(?m)^ +server (\S+) (\S+):(\d+)(.*)$", text):
            name = name if backend == "app" else f"{backend}/{name}"
            found[name] = (sent.groups(), host, int(port), more)
    return found


def in_rotation(path, module):
    """Names of the servers that HAProxy sends requests to; none where it does not run."""
    spec = importlib.util.spec_from_file_location("haproxy_socket", module)
    haproxy_socket = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(haproxy_socket)
    return [name for name, server in haproxy_socket.servers(path).items() if server["in_rotation"]]


def answer(sent, host, port, more):
    """The status of its answer, or what went wrong."""
    path, name = sent
    options = dict(re.findall(r"(verifyhost|ca-file|crt) (\S+)", more))
    connection = http.client.HTTPConnection(host, port, timeout=2)
    if options:
        context = ssl.create_default_context(cafile=options["ca-file"])
        context.load_cert_chain(options["crt"], re.sub(r"crt$", "key", options["crt"]))
        connection = http.client.HTTPSConnection(host, port, timeout=2, context=context)
        # The name that its certificate is for is not the address where it is.
        connection._create_connection = lambda *words: socket.create_connection((host, port), 2)
        connection.host = options["verifyhost"]
    try:
        connection.request("GET", path, headers={"Host": name})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()


def main():
    staged, path, module = sys.argv[1:]
    try:
        now = checks(LIVE)
    except FileNotFoundError:
        return 0
    new = checks(staged)
    wrong = []
    for name in in_rotation(path, module):
        if name in new and new[name] != now.get(name):
            said = answer(*new[name])
            if said != 200:
                (uri, _), host, port, _ = new[name]
                wrong.append(f"{name} answers GET {uri} at {host}:{port} with {said}")
    if wrong:
        print(
            f"{'; '.join(wrong)}, not 200: it would be taken out of use. The application must answer"
            " the health check (health in its backend.yaml.j2) before the edge asks for it",
            file=sys.stderr,
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
