"""An HTTP server on the loopback with a script per path: complete, partial, interrupted, changed or rejected files."""

import http.server
import re
import threading

CONTENT = bytes(range(256)) * 2000
SIZE = len(CONTENT)
HALF = SIZE // 2
ETAG = {"ETag": '"1"'}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        script = self.server.scripts.get(self.path, [])
        (script.pop(0) if len(script) > 1 else script[0])(self) if script else self.send_error(404)
        self.close_connection = True

    def reply(self, status, body=b"", **headers):
        """Sends `body`, and a Content-Length unless one is given (None for none)."""
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.server.sent.append(len(body))
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def whole(content=CONTENT, **headers):
    """Sends the whole file, and ignores ranges."""
    return lambda handler: handler.reply(200, content, **headers)


def ranged(content=CONTENT, etag='"1"'):
    """Sends the requested range, as servers should."""

    def behave(handler):
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if asked is None or handler.headers.get("If-Range", etag) != etag:
            return handler.reply(200, content, ETag=etag)
        start = int(asked[1])
        if start >= len(content):
            return handler.reply(416, Content_Range=f"bytes */{len(content)}")
        content_range = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return handler.reply(206, content[start:], Content_Range=content_range, ETag=etag)

    return behave


def ranged_whatever_if_range(handler):
    del handler.headers["If-Range"]
    ranged(etag='"2"')(handler)


def other_range(handler):
    handler.reply(206, CONTENT[5:], Content_Range=f"bytes 5-{SIZE - 1}/{SIZE}", **ETAG)


def cut(at=HALF, **headers):
    """Promises the whole file and closes the connection after `at` bytes."""
    return lambda handler: handler.reply(200, CONTENT[:at], Content_Length=SIZE, **headers)


def partly(end, total=SIZE):
    """Closes the connection at byte `end` of a resumed file."""

    def behave(handler):
        start = int(handler.headers["Range"][6:-1])
        body, content_range = CONTENT[start:end], f"bytes {start}-{SIZE - 1}/{total}"
        handler.reply(206, body, Content_Length=SIZE - start, Content_Range=content_range, **ETAG)

    return behave


def status(code, **headers):
    return lambda handler: handler.reply(code, **headers)


class Server(http.server.ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.sent, self.scripts, self.over = [], [], {}, threading.Event()

    def on(self, path, *script):
        """Answers the requests for `path` by the entries of `script` in turn, then by the last one. Returns the URL."""
        self.scripts[path] = list(script)
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, *_):
        pass  # a client that hangs up is part of the script
