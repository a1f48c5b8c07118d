"""Receives signed requests (Standard Webhooks): SECRET=whsec_... PORT=9000 python3 receiver.py"""
import base64, hashlib, hmac, json, os, sys, threading, time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(os.environ["SECRET"].removeprefix("whsec_"))
TOLERANCE = 300  # seconds between the sender's clock and ours
MAX_BODY = 1024 * 1024
MAX_SEEN = 100_000  # in production: a table with a unique column, written with what the request does
seen, lock = OrderedDict(), threading.Lock()


def is_authentic(headers, body):
    """Whether one of the signatures is ours; during a rotation there are two."""
    message, sent_at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not sent_at.isascii() or not sent_at.isdigit() or abs(time.time() - int(sent_at)) > TOLERANCE:
        return False
    signed = f"{message}.{sent_at}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest())
    given = headers.get("webhook-signature", "").encode("latin-1").split(b" ")
    return any([hmac.compare_digest(expected, one) for one in given])


def is_new(message):
    with lock:
        if message in seen:
            return False
        seen[message] = True
        if len(seen) > MAX_SEEN:
            seen.popitem(last=False)
        return True


def handle(message, body):
    print("handled", message, flush=True)  # your work; where it fails, forget the message and answer 500
    return {"handled": message, "bytes": len(body)}


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        if length > MAX_BODY:
            return self.answer(413, {"error": "the body is too large"})
        body, message = self.rfile.read(length), self.headers.get("webhook-id", "")
        if not is_authentic(self.headers, body):
            return self.answer(401, {"error": "the signature is not valid"})
        if not is_new(message):
            return self.answer(200, {"repeated": message})
        self.answer(200, handle(message, body))

    def answer(self, status, document):
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Receiver).serve_forever()
