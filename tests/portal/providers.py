"""Plays Apple, Facebook, Google, VK and Yandex on loopback, as strict as they are, in their answers' own formats.

Formats: Sign in with Apple REST API (form_post, JWKS, client secret as ES256 JWT); Facebook Login manual flow and Graph
API /me with appsecret_proof; Google OpenID Connect with PKCE; VK ID OAuth 2.1 (device_id, PKCE, user_info by POST);
Yandex OAuth and login.yandex.ru/info.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

NAMES = ("apple", "facebook", "google", "vk", "yandex")
SECRET = "the provider's secret"
TEAM, KEY_ID = "TEAM123456", "KEY1234567"


@dataclass
class Persona:
    """Who is signed in at the provider. `verified`: what the provider says of the e-mail, where it says so."""

    uid: str = "1029384756"
    email: str | None = "ann@example.org"
    verified: bool = True
    cancels: bool = False


@dataclass
class Grant:
    provider: str
    persona: Persona
    redirect_uri: str
    challenge: str | None
    used: bool = False


@dataclass
class Played:
    """The five at `base`/<name>/…; `seen` has what was asked of them, `broken` replaces the answer of a path."""

    persona: Persona = field(default_factory=Persona)
    grants: dict[str, Grant] = field(default_factory=dict)
    tokens: dict[str, Grant] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    broken: dict[str, tuple[int, str]] = field(default_factory=dict)
    apple_team_key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    apple_key: Any = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    base: str = ""

    def apple_secret(self) -> str:
        """The PEM file that the host downloads from Apple."""
        pem: bytes = self.apple_team_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem.decode()

    def id_token(self, provider: str, persona: Persona, **claims: Any) -> str:
        issuer = {"apple": "https://appleid.apple.com", "google": "https://accounts.google.com"}[provider]
        now = int(time.time())
        body: dict[str, Any] = {"iss": issuer, "aud": f"{provider}-client", "sub": persona.uid, "iat": now}
        body["exp"] = now + 3600
        if persona.email is not None:
            # Apple writes truth as text.
            body |= {"email": persona.email, "email_verified": persona.verified}
            if provider == "apple":
                body["email_verified"] = "true" if persona.verified else "false"
        return jwt.encode(body | claims, self.apple_key, "RS256", {"kid": "played"})

    # What each path answers: (status, content type or Location, body).

    def authorize(self, name: str, query: dict[str, str]) -> tuple[int, dict[str, str], str]:
        assert query["client_id"] == f"{name}-client"
        assert query["redirect_uri"] == f"http://testserver/accounts/{name}/login/callback/"
        persona = self.persona
        if persona.cancels:
            answer = {"error": "user_cancelled_authorize" if name == "apple" else "access_denied"}
        else:
            code = secrets.token_urlsafe(16)
            challenge = query.get("code_challenge")
            assert challenge is None or query["code_challenge_method"] == "S256"
            self.grants[code] = Grant(name, persona, query["redirect_uri"], challenge)
            answer = {"code": code}
            if name == "vk":
                answer["device_id"] = "device-of-the-browser"
        answer["state"] = query["state"]
        if name != "apple":
            return 302, {"Location": f"{query['redirect_uri']}?{urlencode(answer)}"}, ""
        assert query["response_mode"] == "form_post" and query["response_type"] == "code id_token"
        if "code" in answer:
            answer["id_token"] = self.id_token("apple", persona)
        # A page whose form posts itself to the portal.
        inputs = "".join(f"<input type='hidden' name='{key}' value='{value}'>" for key, value in answer.items())
        return (
            200,
            {"Content-Type": "text/html"},
            f"<form action='{query['redirect_uri']}' method='post'>{inputs}</form>",
        )

    def token(self, name: str, given: dict[str, str]) -> dict[str, Any]:
        grant = self.grants[given["code"]]
        assert not grant.used and grant.provider == name and given["redirect_uri"] == grant.redirect_uri
        grant.used = True
        assert given["client_id"] == f"{name}-client"
        if name == "apple":
            secret = given["client_secret"]
            assert jwt.get_unverified_header(secret) == {"alg": "ES256", "kid": KEY_ID, "typ": "JWT"}
            key = self.apple_team_key.public_key()
            claims = jwt.decode(secret, key, ["ES256"], audience="https://appleid.apple.com")
            assert (claims["iss"], claims["sub"]) == (TEAM, "apple-client")
        else:
            assert given["client_secret"] == SECRET
        if grant.challenge is not None:
            digest = hashlib.sha256(given["code_verifier"].encode()).digest()
            assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == grant.challenge
        assert name != "vk" or given["device_id"] == "device-of-the-browser"
        token = secrets.token_urlsafe(24)
        self.tokens[token] = grant
        answer: dict[str, Any] = {"access_token": token, "token_type": "bearer", "expires_in": 3600}
        if name in ("apple", "google"):
            answer["id_token"] = self.id_token(name, grant.persona)
        return answer

    def facebook(self, given: dict[str, str]) -> dict[str, Any]:
        proof = hmac.new(SECRET.encode(), given["access_token"].encode(), hashlib.sha256).hexdigest()
        assert given["appsecret_proof"] == proof
        persona = self.tokens[given["access_token"]].persona
        asked = given["fields"].split(",")
        assert set(asked) <= {"id", "email", "name"}
        found = {"id": persona.uid, "email": persona.email, "name": "Ann Example"}
        # Graph leaves out what there is not.
        return {name: found[name] for name in asked if found[name] is not None}

    def yandex(self, authorization: str) -> dict[str, Any]:
        scheme, _, token = authorization.partition(" ")
        assert scheme == "OAuth"
        persona = self.tokens[token].persona
        return {
            "id": persona.uid, "login": "ann", "client_id": "yandex-client", "display_name": "ann",
            "real_name": "Ann Example", "default_email": persona.email or "", "psuid": "1.AAaa",
            "emails": [persona.email] if persona.email else [],
        }  # fmt: skip

    def vk(self, given: dict[str, str]) -> dict[str, Any]:
        assert given["client_id"] == "vk-client"
        persona = self.tokens[given["access_token"]].persona
        user = {"user_id": persona.uid, "first_name": "Ann", "last_name": "Example", "phone": "79990000000", "sex": 1}
        return {"user": user | ({"email": persona.email} if persona.email else {})}

    def keys(self) -> dict[str, Any]:
        jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.apple_key.public_key()))
        return {"keys": [jwk | {"kid": "played", "use": "sig", "alg": "RS256"}]}

    def answer(self, method: str, path: str, given: dict[str, str], headers: Any) -> tuple[int, dict[str, str], str]:
        if path in self.broken:
            status, body = self.broken[path]
            return status, {"Content-Type": "application/json"}, body
        _, name, what = path.split("/", 2)
        if what == "authorize":
            assert method == "GET"
            return self.authorize(name, given)
        found: dict[str, Any]
        match (name, what, method):
            case ("facebook", "token", "GET") | ("apple" | "google" | "vk" | "yandex", "token", "POST"):
                found = self.token(name, given)
            case ("facebook", "graph/me", "GET"):
                found = self.facebook(given)
            case ("yandex", "info", "GET"):
                found = self.yandex(headers["Authorization"])
            case ("vk", "user_info", "POST"):
                found = self.vk(given)
            case ("apple", "keys", "GET"):
                found = self.keys()
            case _:
                raise AssertionError(f"{method} {path}")
        return 200, {"Content-Type": "application/json"}, json.dumps(found)


def serve(played: Played) -> ThreadingHTTPServer:
    """Started on a free port of loopback; the caller shuts it down."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._do("GET")

        def do_POST(self) -> None:
            self._do("POST")

        def _do(self, method: str) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            given = {name: values[0] for name, values in parse_qs(url.query if method == "GET" else body).items()}
            played.seen.append((url.path, given))
            try:
                status, headers, content = played.answer(method, url.path, given, self.headers)
            except (AssertionError, KeyError, jwt.PyJWTError) as err:
                # As the real ones refuse; a test that expected something else sees the reason in `seen`.
                played.seen.append(("refused", {"why": repr(err)}))
                status, headers = 400, {"Content-Type": "application/json"}
                content = json.dumps({"error": "invalid_request", "error_description": repr(err)})
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content.encode())))
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    played.base = f"http://127.0.0.1:{server.server_port}"
    return server
