"""Photographs in, `.oslic` streams out, and back, over HTTP: the runtime inside a service.

python service.py PORT
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from oslic.runtime import Codec
from oslic.runtime.errors import ImageError, LimitError, OslicError, StreamError
from oslic.runtime.image.metadata import Metadata
from oslic.runtime.image.writing import encode_image

CODEC = Codec.open(threads=1)  # one for all threads; its limits refuse what is too large
STATUS = {ImageError: 415, StreamError: 422, LimitError: 413}
MOST = 64 << 20


class Handler(BaseHTTPRequestHandler):
    """POST /compress with an image file, POST /decompress with a stream."""

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        if length > MOST:
            return self.send_error(413)
        data = self.rfile.read(length)
        try:
            if self.path == "/compress":
                return self.answer(CODEC.compress(data, 60), "application/x-oslic")
            if self.path == "/decompress":
                return self.answer(encode_image(CODEC.decompress(data), Metadata(), "x.png"), "image/png")
        except OslicError as error:
            return self.send_error(STATUS.get(type(error), 500), str(error))
        return self.send_error(404)

    def answer(self, content, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
    server.serve_forever()
