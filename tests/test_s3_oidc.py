"""Tokens of an OpenID Connect issuer: as bearers, and in exchange for temporary access keys."""

from __future__ import annotations

import base64
import json
import logging
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import httpx
import jwt
import oidc_provider_mock  # type: ignore[import-untyped]
import pytest
from botocore.client import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from cache.index import Table
from cache.keys import AccessKey
from cache.records import unpack
from s3api import oidc
from s3api.config import AuthConfig
from tests.support.issuer import AUDIENCE, Issuer, serving_issuer
from tests.support.s3 import REGION, Answer, Door, serving

BUCKET = "tokens"
ROLE = "arn:aws:iam::000000000000:role/any"


def config(issuer: str, **settings: Any) -> AuthConfig:
    return AuthConfig(mode="oidc", oidc_issuer=issuer, oidc_audiences=(AUDIENCE,), **settings)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with serving_issuer() as issuer:
        issuer.add_key("ec", "EC")
        issuer.add_key("ed", "Ed25519")
        issuer.add_key("for-encryption", use="enc")
        yield issuer


@pytest.fixture(scope="module")
def door(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with serving(tmp_path_factory.mktemp("oidc"), auth=config(issuer.url)) as door:
        door.volume.buckets.create(BUCKET, "alice")
        yield door


@pytest.fixture
def rotates_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "_ASK_AGAIN_S", 0.0)


def ask(
    door: Door, token: str, method: str = "GET", path: str = f"/{BUCKET}", **more: Any
) -> Answer:
    headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
    return door.request(method, path, headers, sign=False, **more)


def assume(door: Door, token: str, **parameters: Any) -> dict[str, Any]:
    """By boto3's STS client, which signs nothing for this."""
    make: Any = boto3.client
    sts = make("sts", endpoint_url=door.url, region_name=REGION)
    arguments = {"RoleArn": ROLE, "RoleSessionName": "test", "WebIdentityToken": token}
    found: dict[str, Any] = sts.assume_role_with_web_identity(**{**arguments, **parameters})
    return found


def raw_assume(door: Door, **parameters: str | None) -> Answer:
    """The same by hand; a parameter of None is left out."""
    values = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": ROLE,
        "RoleSessionName": "test",
        **parameters,
    }
    given = {name: value for name, value in values.items() if value is not None}
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    body = urllib.parse.urlencode(given, safe="&=").encode()
    return door.request("POST", "/", headers, body, sign=False)


def s3_with(door: Door, credentials: dict[str, Any]) -> Any:
    make: Any = boto3.client
    return make(
        "s3",
        endpoint_url=door.url,
        region_name=REGION,
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials.get("SessionToken"),
        config=Config(
            signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}
        ),
    )


# --------------------------------------------------------------------------- a provider of others


def test_a_token_of_a_mock_provider(tmp_path: Path) -> None:
    """The authorization code flow, as a browser and an application go through it."""
    with oidc_provider_mock.run_server_in_thread() as provider:
        url = f"http://localhost:{provider.server_port}"
        callback = "https://app.example.org/callback"
        query = {
            "client_id": AUDIENCE, "redirect_uri": callback, "response_type": "code",
            "scope": "openid", "state": "s",
        }  # fmt: skip
        there = httpx.post(f"{url}/oauth2/authorize", params=query, data={"sub": "bob"})
        location = urllib.parse.urlsplit(there.headers["location"])
        code = urllib.parse.parse_qs(location.query)["code"][0]
        tokens = httpx.post(
            f"{url}/oauth2/token",
            data={"grant_type": "authorization_code", "code": code, "redirect_uri": callback},
            auth=(AUDIENCE, "secret"),
        ).json()
        with serving(tmp_path, auth=config(url)) as door:
            door.volume.buckets.create(BUCKET, "bob")
            assert ask(door, tokens["id_token"]).status == 200
            assumed = assume(door, tokens["id_token"])
            assert assumed["SubjectFromWebIdentityToken"] == "bob"
            s3 = s3_with(door, assumed["Credentials"])
            s3.put_object(Bucket=BUCKET, Key="k", Body=b"by a token")
            assert s3.get_object(Bucket=BUCKET, Key="k")["Body"].read() == b"by a token"


# ---------------------------------------------------------------------------------------- bearers


@pytest.mark.parametrize(
    ("kid", "alg"),
    [("first", "RS256"), ("first", "PS512"), ("ec", "ES256"), ("ed", "EdDSA")],
)
def test_bearers(door: Door, issuer: Issuer, kid: str, alg: str) -> None:
    token = issuer.token(kid, alg)
    assert ask(door, token, "PUT", f"/{BUCKET}/a", body=b"x").status == 200
    assert ask(door, token, path=f"/{BUCKET}/a").body == b"x"
    found = door.volume.objects.get(BUCKET, b"a")
    assert found.attributes.owner in ("alice", "")


def test_who_it_was_issued_to_counts_as_audience(door: Door, issuer: Issuer) -> None:
    assert ask(door, issuer.token(aud=None, azp=AUDIENCE)).status == 200
    assert ask(door, issuer.token(aud=["other", AUDIENCE])).status == 200


def forged(issuer: Issuer) -> str:
    head, body, signature = issuer.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    changed = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "root"}).encode())
    return f"{head}.{changed.decode().rstrip('=')}.{signature}"


def symmetric(issuer: Issuer) -> str:
    """Signed with the public key as if it were a secret (CVE-2022-29217)."""
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"first","typ":"JWT"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(issuer.claims()).encode()).rstrip(b"=")
    secret = json.dumps(issuer.published[0]).encode()
    signed = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = signed.sign(head + b"." + body, secret)
    return b".".join([head, body, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def brings_its_key(issuer: Issuer) -> str:
    own = Issuer(issuer.url)
    jwk = own.published[0]
    headers = {"jwk": jwk, "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/x"}
    return jwt.encode(own.claims(), own.private["first"], "RS256", {"kid": "first", **headers})


now = int(time.time())
BAD: dict[str, Callable[[Issuer], str]] = {
    "empty": lambda _: "",
    "no JWT": lambda _: "abc",
    "dots": lambda _: "..",
    "not base64": lambda _: "!!.!!.!!",
    "changed claims": forged,
    "no signature": lambda issuer: issuer.token().rpartition(".")[0] + ".",
    "alg none": lambda issuer: jwt.encode(issuer.claims(), "", "none", {"kid": "first"}),
    "symmetric": symmetric,
    "its own key": brings_its_key,
    "another key": lambda issuer: jwt.encode(
        issuer.claims(), issuer.private["ec"], "ES256", {"kid": "first"}
    ),
    "an unknown key": lambda issuer: jwt.encode(
        issuer.claims(), issuer.private["first"], "RS256", {"kid": "unknown"}
    ),
    "no key id": lambda issuer: jwt.encode(issuer.claims(), issuer.private["first"], "RS256"),
    "a key id that is no text": lambda issuer: _with_header(issuer, {"kid": 1}),
    "a key for encryption": lambda issuer: issuer.token("for-encryption"),
    "another issuer": lambda issuer: issuer.token(iss="https://evil.example.org"),
    "an issuer that begins alike": lambda issuer: issuer.token(iss=issuer.url + "/"),
    "no issuer": lambda issuer: issuer.token(iss=None),
    "another audience": lambda issuer: issuer.token(aud="other"),
    "no audience": lambda issuer: issuer.token(aud=None),
    "an audience that is no text": lambda issuer: issuer.token(aud=[1, None]),
    "no end": lambda issuer: issuer.token(exp=None),
    "an end that is no number": lambda issuer: issuer.token(exp="soon"),
    "not yet": lambda issuer: issuer.token(nbf=now + 3600),
    "from the future": lambda issuer: issuer.token(iat=now + 3600),
    "no subject": lambda issuer: issuer.token(sub=None),
    "an empty subject": lambda issuer: issuer.token(sub=""),
    "a subject that no user has": lambda issuer: issuer.token(sub="a*"),
    "a subject with a line break": lambda issuer: issuer.token(sub="a\nb"),
    "a subject that is too long": lambda issuer: issuer.token(sub="a" * 300),
    "critical extensions": lambda issuer: issuer.token(headers={"crit": ["x"], "x": 1}),
}


def _with_header(issuer: Issuer, header: dict[str, Any]) -> str:
    head = base64.urlsafe_b64encode(json.dumps({"alg": "RS256", **header}).encode()).rstrip(b"=")
    return head.decode() + "." + issuer.token().partition(".")[2]


@pytest.mark.parametrize("name", BAD)
def test_bad_tokens(door: Door, issuer: Issuer, name: str) -> None:
    token = BAD[name](issuer)
    answer = ask(door, token, "PUT", f"/{BUCKET}/bad", body=b"x")
    assert (answer.status, answer.code) == (400, "InvalidToken")
    assert ask(door, issuer.token(), "HEAD", f"/{BUCKET}/bad").status == 404
    expected = "InvalidIdentityToken" if token else "ValidationError"
    assert raw_assume(door, WebIdentityToken=token).code == expected


def test_expired_tokens(door: Door, issuer: Issuer) -> None:
    token = issuer.token(exp=int(time.time()) - 60)
    assert ask(door, token).code == "ExpiredToken"
    with pytest.raises(ClientError, match="ExpiredTokenException"):
        assume(door, token)


def test_bearers_sign_no_chunks(door: Door, issuer: Issuer) -> None:
    headers = {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}
    answer = ask(door, issuer.token(), "PUT", f"/{BUCKET}/b", headers=headers, body=b"x")
    assert answer.code == "AccessDenied"


def test_bearers_are_for_mode_oidc(issuer: Issuer, tmp_path: Path) -> None:
    with serving(tmp_path) as door:
        assert ask(door, issuer.token()).status == 400
        body = b"Action=AssumeRoleWithWebIdentity"
        assert door.request("POST", "/", body=body, sign=False).code == "MethodNotAllowed"


def test_the_claim_that_names_the_user(issuer: Issuer, tmp_path: Path) -> None:
    settings = config(issuer.url, oidc_user_claim="email", oidc_user_prefix="idp:")
    with serving(tmp_path, auth=settings) as door:
        token = issuer.token(email="alice@example.org")
        assert ask(door, token, "PUT", "/mine").status == 200
        assert door.volume.buckets.get("mine").owner == "idp:alice@example.org"
        assert ask(door, issuer.token()).code == "InvalidToken"


def test_signatures_are_checked_as_before(door: Door) -> None:
    assert door.request("GET", "/").status == 200
    assert door.request("GET", "/", sign=False).code == "AccessDenied"


# ----------------------------------------------------------------------------------------- the keys


@pytest.mark.usefixtures("rotates_at_once")
def test_keys_are_rotated(tmp_path: Path) -> None:
    with serving_issuer() as issuer, serving(tmp_path, auth=config(issuer.url)) as door:
        old = issuer.token(sub=door.key.user)
        assert ask(door, old, path="/").status == 200
        count = len(issuer.asked)
        assert ask(door, old, path="/").status == 200
        assert len(issuer.asked) == count, "the keys are kept"
        issuer.add_key("second")
        del issuer.published[0]
        assert ask(door, issuer.token("second"), path="/").status == 200
        assert ask(door, old, path="/").code == "InvalidToken"


@pytest.mark.usefixtures("rotates_at_once")
def test_an_issuer_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "s3api.oidc")
    with serving_issuer() as issuer:
        auth = config(issuer.url, oidc_keys_fresh_s=0.001, oidc_keys_max_s=1000)
        with serving(tmp_path, auth=auth) as door:
            issuer.status = 500
            answer = ask(door, issuer.token(), path="/")
            assert (answer.status, answer.code) == (503, "ServiceUnavailable")
            with pytest.raises(ClientError, match="IDPCommunicationError"):
                assume(door, issuer.token())
            issuer.status = 200
            assert ask(door, issuer.token(), path="/").status == 200
            issuer.status = 302  # nor is anybody followed elsewhere
            assert ask(door, issuer.token(), path="/").status == 200, "known keys are used on"
            later_s = time.monotonic() + 2000
            monkeypatch.setattr(time, "monotonic", lambda: later_s)
            assert ask(door, issuer.token(), path="/").code == "ServiceUnavailable"
    assert "does not tell its keys" in caplog.text


@pytest.mark.usefixtures("rotates_at_once")
def test_discovery_that_leads_elsewhere(tmp_path: Path) -> None:
    with serving_issuer() as issuer, serving(tmp_path, auth=config(issuer.url)) as door:
        for changed in (
            {"issuer": "https://other"},
            {"jwks_uri": "file:///etc/passwd"},
            {"jwks_uri": 1},
        ):
            whole, issuer.discovery = issuer.discovery, issuer.discovery | changed
            assert ask(door, issuer.token(), path="/").code == "ServiceUnavailable"
            issuer.discovery = whole
        assert ask(door, issuer.token(), path="/").status == 200


def test_made_up_key_ids_are_no_load_on_the_issuer(door: Door, issuer: Issuer) -> None:
    assert ask(door, issuer.token()).status == 200
    count = len(issuer.asked)
    for number in range(20):
        ask(
            door,
            jwt.encode(issuer.claims(), issuer.private["first"], "RS256", {"kid": f"{number}"}),
        )
    assert len(issuer.asked) - count <= 2


# --------------------------------------------------------------------------------- temporary keys


@pytest.fixture(scope="module")
def temporary(door: Door, issuer: Issuer) -> dict[str, Any]:
    found: dict[str, Any] = assume(door, issuer.token())["Credentials"]
    return found


def test_temporary_keys(door: Door, temporary: dict[str, Any]) -> None:
    assert temporary["AccessKeyId"].startswith("ASIA")
    left_s = temporary["Expiration"].timestamp() - time.time()
    assert 3000 < left_s <= 3600
    s3 = s3_with(door, temporary)
    s3.put_object(Bucket=BUCKET, Key="t", Body=b"temporary")
    assert s3.get_object(Bucket=BUCKET, Key="t")["Body"].read() == b"temporary"
    url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "t"})
    assert httpx.get(url).content == b"temporary"
    form = s3.generate_presigned_post(BUCKET, "form")
    answer = httpx.post(form["url"], data=form["fields"], files={"file": b"posted"})
    assert answer.status_code == 204, answer.text
    assert s3.get_object(Bucket=BUCKET, Key="form")["Body"].read() == b"posted"


def test_an_sdk_that_finds_its_token_in_a_file(
    door: Door, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(issuer.token())
    for name, value in {
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_ENDPOINT_URL_S3": door.url,
        "AWS_ENDPOINT_URL_STS": door.url,
        "AWS_ROLE_ARN": ROLE,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
    }.items():
        monkeypatch.setenv(name, value)
    session: Any = boto3.Session(region_name=REGION)
    s3 = session.client("s3", config=Config(s3={"addressing_style": "path"}))
    assert s3.list_objects_v2(Bucket=BUCKET)["Name"] == BUCKET


def test_temporary_keys_without_their_token(door: Door, temporary: dict[str, Any]) -> None:
    for token, code in ((None, "403"), ("other", "400"), (temporary["SessionToken"] + "x", "400")):
        s3 = s3_with(door, temporary | {"SessionToken": token})
        with pytest.raises(ClientError) as refusal:
            s3.head_object(Bucket=BUCKET, Key="t")
        assert refusal.value.response["Error"]["Code"] == code
        url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "t"})
        assert str(httpx.get(url).status_code) == code
        form = s3.generate_presigned_post(BUCKET, "form2")
        answer = httpx.post(form["url"], data=form["fields"], files={"file": b"posted"})
        assert str(answer.status_code) == code


def test_a_token_beside_lasting_keys(door: Door, temporary: dict[str, Any]) -> None:
    lasting = Credentials(door.key.access_key, door.key.secret, temporary["SessionToken"])
    with_token = replace_credentials(door, lasting)
    assert with_token("GET", "/").code == "InvalidToken"
    headers = {"x-amz-security-token": temporary["SessionToken"]}
    assert door.request("GET", "/", headers, sign=False).code == "InvalidToken"


def replace_credentials(door: Door, credentials: Credentials) -> Callable[..., Answer]:
    class Other(Door):
        @property
        def credentials(self) -> Credentials:
            return credentials

    return Other(door.port, door.volume, door.key, door.store).request


def test_temporary_keys_expire(door: Door, issuer: Issuer) -> None:
    credentials = assume(door, issuer.token(), DurationSeconds=900)["Credentials"]
    s3 = s3_with(door, credentials)
    assert s3.list_objects_v2(Bucket=BUCKET)["Name"] == BUCKET
    name = credentials["AccessKeyId"].encode()

    def expire(txn: Any) -> None:
        key = unpack(txn.get(Table.KEYS, name), AccessKey)
        past_ns = time.time_ns() - 2 * 86400 * 10**9
        fields = {field: getattr(key, field) for field in key.__struct_fields__}
        txn.put_record(Table.KEYS, name, AccessKey(**fields | {"expires_ns": past_ns}))

    door.volume.index.commit(expire)
    with pytest.raises(ClientError, match="ExpiredToken"):
        s3.list_objects_v2(Bucket=BUCKET)
    before = len(door.volume.keys.list())
    assert door.volume.keys.forget_expired() == 1
    assert len(door.volume.keys.list()) == before - 1
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        s3.list_objects_v2(Bucket=BUCKET)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"Action": "AssumeRole"}, "InvalidAction"),
        ({"Action": None}, "InvalidAction"),
        ({"WebIdentityToken": None}, "ValidationError"),
        ({"RoleArn": "role"}, "ValidationError"),
        ({"RoleArn": None}, "ValidationError"),
        ({"RoleSessionName": "a b"}, "ValidationError"),
        ({"DurationSeconds": "899"}, "ValidationError"),
        ({"DurationSeconds": "43201"}, "ValidationError"),
        ({"DurationSeconds": "-1"}, "ValidationError"),
        ({"Policy": "{}"}, "ValidationError"),
        ({"ProviderId": "www.amazon.com"}, "ValidationError"),
        ({"x": "y" * 40_000}, "ValidationError"),
        ({"RoleSessionName": "ab&RoleSessionName=cd"}, "ValidationError"),
    ],
)
def test_bad_requests(door: Door, issuer: Issuer, changed: dict[str, Any], code: str) -> None:
    before = len(door.volume.keys.list())
    answer = raw_assume(door, **{"WebIdentityToken": issuer.token(), **changed})
    assert (answer.status, answer.code) == (400, code)
    assert b"<ErrorResponse" in answer.body
    assert len(door.volume.keys.list()) == before


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"oidc_issuer": None}, "mode"),
        ({"oidc_audiences": ()}, "mode"),
        ({"oidc_issuer": "ftp://x"}, "oidc_issuer"),
        ({"oidc_keys_url": "x"}, "oidc_keys_url"),
        ({"oidc_session_s_max": 60}, "oidc_session_s_max"),
        ({"oidc_keys_max_s": 0}, "oidc_keys_max_s"),
    ],
)
def test_settings_that_cannot_work(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}"):
        replace(config("https://x"), **wrong)
