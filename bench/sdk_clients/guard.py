"""The scripted cloud behind a guard that checks signatures as the provider would.

Signatures of AWS are recomputed with botocore's own signer, statements of service accounts are checked against the
account's public key. Whatever does not hold is answered with 403 or 401 and does not reach the cloud.
"""

import hmac
import http.client
import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import botocore.awsrequest
import botocore.credentials
from google.auth import jwt

BEDROCK_KEY = "bedrock-api-key-test"
ACCESS_KEY, SECRET_KEY, REGION = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "us-east-1"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def signature_fault(method, target, headers, body):
    """Why the signature of a request does not hold; None when it does. Header names are in lower case."""
    kind, _, rest = headers["authorization"].partition(" ")
    fields = dict(part.strip().split("=", 1) for part in rest.split(","))
    key, date, region, service, end = fields["Credential"].split("/")
    # Mantle is a service of its own. Here it has the paths under /v1, which AWS's other endpoints have not.
    wanted = "bedrock-mantle" if target.startswith("/v1/") else "bedrock"
    if (kind, key, region, service, end) != ("AWS4-HMAC-SHA256", ACCESS_KEY, REGION, wanted, "aws4_request"):
        return "the scope is wrong"
    signed = fields["SignedHeaders"].split(";")
    if missing := {"host", "x-amz-date"} - set(signed):
        return f"{missing} are not signed"
    if not headers["x-amz-date"].startswith(date):
        return "two dates"
    request = botocore.awsrequest.AWSRequest(
        method=method,
        url=f"http://{headers['host']}{target}",
        data=body,
        headers={name: headers[name] for name in signed},
    )
    # The header's word for the body's digest is not taken.
    digest = request.headers.get("x-amz-content-sha256")
    signer = botocore.auth.SigV4Auth(botocore.credentials.Credentials(ACCESS_KEY, SECRET_KEY), service, region)
    if digest and digest != signer.payload(request):
        return "the body's digest is wrong"
    request.context["timestamp"] = headers["x-amz-date"]
    text = signer.string_to_sign(request, signer.canonical_request(request))
    same = hmac.compare_digest(signer.signature(text, request), fields["Signature"])
    return None if same else "the signature does not match"


def statement_fault(body, account, audience):
    """Why the statement of a service account does not hold; None when it does."""
    form = parse_qs(body.decode())
    if form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
        return "another grant"
    try:
        claims = jwt.decode(form["assertion"][0], certs=account["public"], audience=audience)
        header = jwt.decode_header(form["assertion"][0])
    except ValueError as error:
        return str(error)
    if header["alg"] != "RS256" or header.get("kid") not in (None, account["id"]):
        return "another algorithm or key"
    if claims["iss"] != account["email"] or SCOPE not in claims["scope"].split():
        return "another account or scope"
    return None if claims["exp"] - claims["iat"] <= 3600 else "it lives too long"


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that goes away is no concern of the guard's; what it did not get is noticed by whoever asked."""


class Cloud:
    """The scripted cloud, its guard and what came through to it."""

    def __init__(self, program, account):
        self.account, self.rejected, self.checked = account, [], {"signature": 0, "statement": 0}
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.inner = self.process.stdout.readline().strip()
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                cloud.pass_on(self)

            def log_message(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.address}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.process.stdin.close()
        self.process.wait(10)

    def fault(self, method, target, headers, body):
        if headers.get("authorization", "").startswith("AWS4"):
            self.checked["signature"] += 1
            return 403, signature_fault(method, target, headers, body)
        if target == "/token":
            self.checked["statement"] += 1
            # Google's own library names Google's address whatever the key file says; ours names the file's.
            audiences = [f"{self.url}/token", "https://oauth2.googleapis.com/token"]
            return 401, statement_fault(body, self.account, audiences)
        if target.startswith("/openai/") and headers.get("authorization") == f"Bearer {BEDROCK_KEY}":
            return 0, None
        if target.startswith(("/model/", "/openai/")):
            return 403, "no signature"
        return 0, None

    def pass_on(self, handler):
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        # Who takes the guard for a proxy writes the whole address.
        target = urlsplit(handler.path)._replace(scheme="", netloc="").geturl()
        status, fault = self.fault(handler.command, target, headers, body)
        if fault:
            self.rejected.append(fault)
            # As AWS puts it; Google's error has no effect on who reads only the status.
            answer, kind, more = json.dumps({"message": fault}).encode(), "application/json", {
                "x-amzn-errortype": "InvalidSignatureException"
            }
        else:
            status, kind, more, answer = self.send(handler.command, target, headers, body)
        handler.send_response(status)
        for name, value in {**more, "Content-Type": kind, "Content-Length": str(len(answer))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(answer)

    def send(self, method, target, headers, body):
        connection = http.client.HTTPConnection(self.inner, timeout=30)
        connection.request(method, target, body, {k: v for k, v in headers.items() if k != "transfer-encoding"})
        answer = connection.getresponse()
        kept = answer.getheader("x-amzn-errortype")
        more = {"x-amzn-errortype": kept} if kept else {}
        result = answer.status, answer.getheader("content-type"), more, answer.read()
        connection.close()
        return result

    def seen(self):
        """All requests that reached the cloud: method, target, headers by lower-case name, body."""
        answer = self.send("GET", "/seen", {}, b"")[3]
        return [
            {**request, "headers": dict(request["headers"]), "body": bytes.fromhex(request["body"])}
            for request in json.loads(answer)
        ]

    def last(self):
        """The last request that asked for an answer."""
        return [request for request in self.seen() if request["target"] != "/token"][-1]

    def replay(self, request, target=None, body=None, **headers):
        """Sends a request that was seen once more, changed; the status of the answer."""
        all_headers = {**request["headers"], **headers}
        body = request["body"] if body is None else body
        all_headers["content-length"] = str(len(body))
        connection = http.client.HTTPConnection(self.address, timeout=30)
        connection.request(request["method"], target or request["target"], body, all_headers)
        status = connection.getresponse().status
        connection.close()
        return status


def make_account(folder, token_url):
    """A service account whose key is made now: its file, and what the guard needs to know."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    account = {"public": public, "id": "k1", "email": "robot@example.iam"}
    file = folder / "account.json"

    def write():
        file.write_text(json.dumps({
            "type": "service_account", "project_id": "p-1", "client_email": account["email"],
            "private_key_id": account["id"], "private_key": private, "token_uri": token_url(),
        }))
        file.chmod(0o600)
        return file

    return account, write
