"""An issuer of tokens: real keys of each kind, and what it signs with them."""

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://login.example"
AUDIENCE = "shop"


class Issuer:
    """One key pair of `algorithm`, known as `kid`."""

    def __init__(self, algorithm: str = "EdDSA", kid: str = "one") -> None:
        self.algorithm = algorithm
        self.kid = kid
        self._private: Any
        match algorithm[:2]:
            case "RS" | "PS":
                self._private = rsa.generate_private_key(65537, 2048)
                public = RSAAlgorithm.to_jwk(self._private.public_key())
            case "ES":
                curve = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1}[algorithm]
                self._private = ec.generate_private_key(curve())
                public = ECAlgorithm.to_jwk(self._private.public_key())
            case _:
                self._private = ed25519.Ed25519PrivateKey.generate()
                public = OKPAlgorithm.to_jwk(self._private.public_key())
        self.public: dict[str, Any] = {**json.loads(public), "kid": kid, "alg": algorithm}

    def token(self, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Sign good claims, changed by `claims`; None leaves one out."""
        now = int(time.time())
        good = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "sub": "ann", "scope": "read buy"}
        wanted = {k: v for k, v in {**good, **claims}.items() if v is not None}
        return jwt.encode(
            wanted, self._private, self.algorithm, {"kid": self.kid, **(header or {})}
        )
