"""Who may do what: users, policies, ACLs, ownership and blocks, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pytest
from botocore import UNSIGNED
from botocore.client import Config
from botocore.exceptions import ClientError

from cache.config import CacheConfig, VolumeConfig
from cache.publishing import Object
from cache.records import ObjectAttributes, WriteMode
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.users import User, canonical_id_of
from cache.volume import Volume
from s3api.access import Access
from s3api.actions import RULES, Rule, rule_of
from s3api.config import AuthConfig
from s3api.model import MODEL
from tests.support.s3 import REGION, Door, serving

numbers = count(1)
ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"
AUTHENTICATED = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with serving(tmp_path_factory.mktemp("door"), access_log="off") as running:
        users = running.volume.users
        users.create(User("bob", "Bob B.", "bob@example.org"))
        users.create(User("root", admin=True))
        yield running


def door_of(door: Door, user: str) -> Door:
    """The same endpoint with a key of another user."""
    return dataclasses.replace(door, key=door.volume.keys.create(user))


def client_of(door: Door, user: str) -> Any:
    return door_of(door, user).client()


@pytest.fixture(scope="module")
def owner(door: Door) -> Any:
    """tester, who owns the buckets."""
    return door.client()


@pytest.fixture(scope="module")
def bob(door: Door) -> Any:
    return client_of(door, "bob")


@pytest.fixture(scope="module")
def root(door: Door) -> Any:
    return client_of(door, "root")


@pytest.fixture(scope="module")
def nobody(door: Door) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=door.url,
        region_name=REGION,
        config=Config(signature_version=UNSIGNED, retries={"max_attempts": 1}),
    )


@pytest.fixture
def bucket(owner: Any) -> str:
    name = f"bucket-{next(numbers)}"
    owner.create_bucket(Bucket=name)
    owner.put_object(Bucket=name, Key="key", Body=b"body")
    return name


def outcome(operation: Any, **arguments: Any) -> str:
    """The code of the error; "" if it worked."""
    try:
        operation(**arguments)
    except ClientError as exc:
        return str(exc.response["Error"]["Code"])
    return ""


def statement(bucket: str, action: str | list[str], **fields: Any) -> dict[str, Any]:
    arn = f"arn:aws:s3:::{bucket}"
    return {
        "Effect": "Allow",
        "Principal": "*",
        "Action": action,
        "Resource": [arn, f"{arn}/*"],
        **fields,
    }


def put_policy(client: Any, bucket: str, *statements: dict[str, Any]) -> None:
    policy = {"Version": "2012-10-17", "Statement": statements}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def can_read(client: Any, bucket: str, key: str = "key") -> bool:
    code = outcome(client.get_object, Bucket=bucket, Key=key)
    assert code in ("", "AccessDenied")
    return not code


# ----------------------------------------------------------------------------------------- owners


def test_a_user_owns_what_it_makes(bucket: str, owner: Any, bob: Any, nobody: Any) -> None:
    for stranger in (bob, nobody):
        for operation, arguments in (
            (stranger.get_object, {"Key": "key"}),
            (stranger.put_object, {"Key": "new"}),
            (stranger.delete_object, {"Key": "key"}),
            (stranger.list_objects_v2, {}),
            (stranger.get_bucket_acl, {}),
            (stranger.get_object_acl, {"Key": "key"}),
            (stranger.delete_bucket, {}),
            (stranger.put_bucket_acl, {"ACL": "public-read"}),
            (stranger.put_object_acl, {"Key": "key", "ACL": "public-read"}),
            (stranger.create_multipart_upload, {"Key": "key"}),
            (stranger.list_multipart_uploads, {}),
            (stranger.delete_objects, {"Delete": {"Objects": [{"Key": "key"}]}}),
            (stranger.put_bucket_policy, {"Policy": "{}"}),
        ):
            assert outcome(operation, Bucket=bucket, **arguments) == "AccessDenied"
    assert owner.get_object(Bucket=bucket, Key="key")["Body"].read() == b"body"
    assert [b["Name"] for b in bob.list_buckets()["Buckets"]] == []
    assert bucket in [b["Name"] for b in owner.list_buckets()["Buckets"]]


def test_an_administrator_may_do_everything(bucket: str, owner: Any, root: Any) -> None:
    assert can_read(root, bucket)
    root.put_object(Bucket=bucket, Key="roots", Body=b"")
    root.put_bucket_acl(Bucket=bucket, ACL="public-read")
    put_policy(owner, bucket, statement(bucket, "s3:*", Effect="Deny"))
    assert not can_read(root, bucket)
    root.delete_bucket_policy(Bucket=bucket)
    assert can_read(root, bucket)


def test_a_bucket_of_nobody_is_every_users(door: Door, bob: Any, owner: Any, nobody: Any) -> None:
    name = f"bucket-{next(numbers)}"
    door.volume.buckets.create(name, "")
    owner.put_object(Bucket=name, Key="key", Body=b"")
    assert can_read(bob, name)
    bob.delete_object(Bucket=name, Key="key")
    assert outcome(nobody.get_object, Bucket=name, Key="key") == "AccessDenied"
    assert bob.get_bucket_acl(Bucket=name)["Owner"]["DisplayName"] == "forebay"
    put_policy(bob, name, statement(name, "s3:PutObject", Effect="Deny"))
    assert outcome(owner.put_object, Bucket=name, Key="key") == "AccessDenied"


def test_nobody_is_an_owner_where_nothing_is_proven(tmp_path: Path) -> None:
    with serving(tmp_path, auth=AuthConfig(mode="simple"), access_log="off") as door:
        ann, bea = client_of(door, "x"), door.client()
        ann.create_bucket(Bucket="anns")
        ann.put_object(Bucket="anns", Key="key", Body=b"")
        assert can_read(bea, "anns")


def test_what_is_missing_is_told_to_those_who_list(
    bucket: str, owner: Any, bob: Any, nobody: Any
) -> None:
    put_policy(owner, bucket, statement(bucket, "s3:GetObject"))
    for client in (bob, nobody):
        assert outcome(client.get_object, Bucket=bucket, Key="key") == ""
        assert outcome(client.get_object, Bucket=bucket, Key="missing") == "AccessDenied"
        assert outcome(client.head_object, Bucket=bucket, Key="missing") == "403"
    listing = statement(
        bucket, "s3:ListBucket", Condition={"StringLike": {"s3:prefix": "public/*"}}
    )
    put_policy(owner, bucket, listing)
    assert outcome(bob.get_object, Bucket=bucket, Key="public/missing") == "NoSuchKey"
    assert outcome(bob.get_object, Bucket=bucket, Key="missing") == "AccessDenied"
    assert outcome(bob.get_object, Bucket=bucket, Key="key") == "AccessDenied"
    assert outcome(owner.get_object, Bucket=bucket, Key="missing") == "NoSuchKey"
    assert outcome(nobody.get_object, Bucket="no-such-bucket", Key="key") == "NoSuchBucket"


# ------------------------------------------------------------------------------- bucket policies


def test_a_policy_lets_in_whom_it_names(bucket: str, owner: Any, bob: Any, nobody: Any) -> None:
    arn = "arn:aws:iam::000000000000:user/bob"
    for principal in (
        {"AWS": arn},
        {"AWS": "000000000000"},
        {"AWS": "arn:aws:iam::000000000000:root"},
        {"CanonicalUser": canonical_id_of("bob")},
    ):
        put_policy(owner, bucket, statement(bucket, "s3:GetObject", Principal=principal))
        assert can_read(bob, bucket)
        assert not can_read(nobody, bucket)
        assert outcome(bob.put_object, Bucket=bucket, Key="new") == "AccessDenied"
    owner.delete_bucket_policy(Bucket=bucket)
    assert not can_read(bob, bucket)


def test_a_deny_binds_the_owner_but_not_about_the_policy(bucket: str, owner: Any) -> None:
    put_policy(owner, bucket, statement(bucket, "s3:*", Effect="Deny"))
    assert not can_read(owner, bucket)
    assert outcome(owner.put_object, Bucket=bucket, Key="key") == "AccessDenied"
    kept = owner.get_bucket_policy(Bucket=bucket)["Policy"]
    assert json.loads(kept)["Statement"][0]["Effect"] == "Deny"
    owner.delete_bucket_policy(Bucket=bucket)
    assert can_read(owner, bucket)
    assert outcome(owner.get_bucket_policy, Bucket=bucket) == "NoSuchBucketPolicy"


def test_policies_that_are_none_are_refused(bucket: str, owner: Any) -> None:
    for text in ("", "x", "{}", json.dumps({"Statement": statement("other", "s3:GetObject")})):
        assert outcome(owner.put_bucket_policy, Bucket=bucket, Policy=text) == "MalformedPolicy"
    assert outcome(owner.get_bucket_policy, Bucket=bucket) == "NoSuchBucketPolicy"


@pytest.mark.parametrize(
    ("condition", "arguments"),
    [
        ({"StringEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}},
         {"ACL": "bucket-owner-full-control"}),
        ({"StringLike": {"s3:x-amz-grant-full-control": "id=*"}},
         {"GrantFullControl": f"id={canonical_id_of('tester')}"}),
        ({"StringEquals": {"s3:x-amz-storage-class": "GLACIER"}}, {"StorageClass": "GLACIER"}),
        ({"StringEquals": {"s3:RequestObjectTag/team": "red"}}, {"Tagging": "team=red&x=y"}),
        ({"ForAllValues:StringEquals": {"s3:RequestObjectTagKeys": ["team"]},
          "Null": {"s3:RequestObjectTagKeys": "false"}}, {"Tagging": "team=red"}),
        ({"StringEquals": {"s3:if-none-match": "*"}}, {"IfNoneMatch": "*"}),
    ],
)  # fmt: skip
def test_conditions_on_what_is_put(
    bucket: str, owner: Any, bob: Any, condition: dict[str, Any], arguments: dict[str, str]
) -> None:
    put_policy(owner, bucket, statement(bucket, "s3:PutObject", Condition=condition))
    assert outcome(bob.put_object, Bucket=bucket, Key="new", Body=b"") == "AccessDenied"
    assert outcome(bob.put_object, Bucket=bucket, Key="new", Body=b"", **arguments) == ""


@pytest.mark.parametrize(
    ("condition", "allowed"),
    [
        ({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, True),
        ({"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}, False),
        ({"Bool": {"aws:SecureTransport": "false"}}, True),
        ({"Bool": {"aws:SecureTransport": "true"}}, False),
        ({"StringEquals": {"aws:username": "bob"}}, True),
        ({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/b*"}}, True),
        ({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, True),
        ({"DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, False),
        ({"NumericGreaterThan": {"aws:EpochTime": "1"}}, True),
        ({"StringLike": {"aws:UserAgent": "Boto3/*"}}, True),
        ({"StringEquals": {"s3:authType": "REST-HEADER"}}, True),
        ({"StringEquals": {"s3:signatureversion": "AWS4-HMAC-SHA256"}}, True),
        ({"NumericLessThan": {"s3:signatureAge": "60000"}}, True),
        ({"Null": {"aws:Referer": "true"}}, True),
        ({"StringEquals": {"s3:ExistingObjectTag/kind": "open"}}, True),
        ({"StringEquals": {"s3:ExistingObjectTag/kind": "secret"}}, False),
        ({"StringEquals": {"aws:NobodyKnows": "x"}}, False),
    ],
)
def test_conditions_on_reading(
    bucket: str, owner: Any, bob: Any, condition: dict[str, Any], allowed: bool
) -> None:
    owner.put_object(Bucket=bucket, Key="key", Body=b"", Tagging="kind=open")
    put_policy(owner, bucket, statement(bucket, "s3:GetObject", Condition=condition))
    assert can_read(bob, bucket) == allowed


def test_tags_in_a_body_are_looked_at(bucket: str, owner: Any, bob: Any) -> None:
    condition = {"StringEquals": {"s3:RequestObjectTag/team": "red"}}
    put_policy(owner, bucket, statement(bucket, "s3:PutObjectTagging", Condition=condition))
    red, blue = ({"TagSet": [{"Key": "team", "Value": value}]} for value in ("red", "blue"))
    assert outcome(bob.put_object_tagging, Bucket=bucket, Key="key", Tagging=red) == ""
    blue_one = {"Bucket": bucket, "Key": "key", "Tagging": blue}
    assert outcome(bob.put_object_tagging, **blue_one) == "AccessDenied"
    assert outcome(bob.put_object_tagging, Bucket=bucket, Key="no", Tagging=red) == "AccessDenied"
    tags = owner.get_object_tagging(Bucket=bucket, Key="key")["TagSet"]
    assert tags == red["TagSet"]


def test_copies_need_the_source_too(bucket: str, owner: Any, bob: Any, door: Door) -> None:
    mine = f"bucket-{next(numbers)}"
    bob.create_bucket(Bucket=mine)
    copied = {"Bucket": mine, "Key": "copy", "CopySource": f"{bucket}/key"}
    assert outcome(bob.copy_object, **copied) == "AccessDenied"
    upload = bob.create_multipart_upload(Bucket=mine, Key="copy")["UploadId"]
    part = {**copied, "UploadId": upload, "PartNumber": 1}
    assert outcome(bob.upload_part_copy, **part) == "AccessDenied"
    assert door.volume.objects.list(mine).entries == []
    put_policy(owner, bucket, statement(bucket, "s3:GetObject"))
    assert outcome(bob.copy_object, **copied) == ""
    assert outcome(bob.upload_part_copy, **part) == ""
    absent = {**copied, "CopySource": f"{bucket}/missing"}
    assert outcome(bob.copy_object, **absent) == "AccessDenied"
    assert bob.get_object_acl(Bucket=mine, Key="copy")["Owner"]["ID"] == canonical_id_of("bob")


def test_each_key_of_a_deletion_is_asked_about(bucket: str, owner: Any, bob: Any) -> None:
    owner.put_object(Bucket=bucket, Key="bobs/key", Body=b"")
    put_policy(
        owner,
        bucket,
        statement(
            bucket, "s3:DeleteObject", Resource=f"arn:aws:s3:::{bucket}/${{aws:username}}s/*"
        ),
    )
    keys = {"Objects": [{"Key": "key"}, {"Key": "bobs/key"}]}
    answer = bob.delete_objects(Bucket=bucket, Delete=keys)
    assert [(e["Key"], e["Code"]) for e in answer["Errors"]] == [("key", "AccessDenied")]
    assert [d["Key"] for d in answer["Deleted"]] == ["bobs/key"]
    assert can_read(owner, bucket)


def test_who_may_only_delete_learns_no_etag(bucket: str, owner: Any, bob: Any) -> None:
    key = {"Bucket": bucket, "Key": "key"}
    etag = owner.head_object(**key)["ETag"]
    put_policy(owner, bucket, statement(bucket, "s3:DeleteObject"))
    for guess in (etag, "wrong"):
        assert outcome(bob.delete_object, **key, IfMatch=guess) == "AccessDenied"
        answer = bob.delete_objects(
            Bucket=bucket, Delete={"Objects": [{"Key": "key", "ETag": guess}]}
        )
        assert [e["Code"] for e in answer["Errors"]] == ["AccessDenied"]
    assert can_read(owner, bucket)
    both = {**statement(bucket, "s3:DeleteObject"), "Action": ["s3:DeleteObject", "s3:GetObject"]}
    put_policy(owner, bucket, both)
    assert outcome(bob.delete_object, **key, IfMatch="wrong") == "PreconditionFailed"
    assert outcome(bob.delete_object, **key, IfMatch=etag) == ""
    owner.put_object(**key, Body=b"")
    put_policy(owner, bucket, statement(bucket, "s3:DeleteObject"))
    assert outcome(bob.delete_object, **key, IfMatch="*") == ""


def test_an_upload_is_its_initiators(bucket: str, owner: Any, bob: Any, nobody: Any) -> None:
    put_policy(owner, bucket, statement(bucket, "s3:PutObject", Principal={"AWS": "000000000000"}))
    upload = bob.create_multipart_upload(Bucket=bucket, Key="new")["UploadId"]
    named = {"Bucket": bucket, "Key": "new", "UploadId": upload}
    shown = bob.list_parts(**named)
    assert (shown["Initiator"]["DisplayName"], shown["Owner"]["ID"]) == (
        "Bob B.", canonical_id_of("bob"),
    )  # fmt: skip
    assert outcome(nobody.list_parts, **named) == "AccessDenied"
    assert outcome(nobody.abort_multipart_upload, **named) == "AccessDenied"
    assert outcome(owner.list_parts, **named) == ""
    assert outcome(bob.abort_multipart_upload, **named) == ""


# ------------------------------------------------------------------------------ identity policies


def test_policies_of_users_and_groups(door: Door, bucket: str) -> None:
    users = door.volume.users
    carol = f"carol-{next(numbers)}"
    users.create(User(carol))
    client = client_of(door, carol)
    assert outcome(client.list_buckets) == ""

    def give(*statements: dict[str, Any]) -> None:
        text = json.dumps({"Version": "2012-10-17", "Statement": statements}).encode()
        users.change(carol, lambda user: msgspec.structs.replace(user, policies={"p": text}))

    reading = {"Effect": "Allow", "Action": "s3:Get*", "Resource": f"arn:aws:s3:::{bucket}/*"}
    give(reading)
    assert can_read(client, bucket)
    assert outcome(client.put_object, Bucket=bucket, Key="new") == "AccessDenied"
    assert outcome(client.list_buckets) == "AccessDenied"
    assert outcome(client.create_bucket, Bucket="carols-own") == "AccessDenied"

    group = f"group-{next(numbers)}"
    users.create_group(group)
    denial = {"Version": "2012-10-17", "Statement": reading | {"Effect": "Deny"}}
    users.change_group(
        group, lambda g: msgspec.structs.replace(g, policies={"p": json.dumps(denial).encode()})
    )
    assert can_read(client, bucket)
    users.change(carol, lambda user: msgspec.structs.replace(user, groups=[group]))
    assert not can_read(client, bucket)
    users.delete_group(group)
    assert can_read(client, bucket)
    give({"Effect": "Allow", "Action": ["s3:ListAllMyBuckets", "s3:CreateBucket"], "Resource": "*"})
    assert outcome(client.create_bucket, Bucket=f"{carol}s-own") == ""
    assert f"{carol}s-own" in [b["Name"] for b in client.list_buckets()["Buckets"]]


# ------------------------------------------------------------------------------------------- ACLs


def grants(answer: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (grant["Permission"], grant["Grantee"].get("ID") or grant["Grantee"]["URI"])
        for grant in answer["Grants"]
    }


OWN = ("FULL_CONTROL", canonical_id_of("tester"))
BOB = canonical_id_of("bob")


@pytest.mark.parametrize(
    ("acl", "given"),
    [
        ("private", set()),
        ("public-read", {("READ", ALL_USERS)}),
        ("public-read-write", {("READ", ALL_USERS), ("WRITE", ALL_USERS)}),
        ("authenticated-read", {("READ", AUTHENTICATED)}),
        ("bucket-owner-read", set()),
        ("bucket-owner-full-control", set()),
    ],
)
def test_canned_acls(
    bucket: str, owner: Any, bob: Any, nobody: Any, acl: str, given: set[tuple[str, str]]
) -> None:
    owner.put_object(Bucket=bucket, Key="put", Body=b"", ACL=acl)
    owner.copy_object(Bucket=bucket, Key="copied", CopySource=f"{bucket}/key", ACL=acl)
    owner.put_object_acl(Bucket=bucket, Key="key", ACL=acl)
    for key in ("put", "copied", "key"):
        assert grants(owner.get_object_acl(Bucket=bucket, Key=key)) == given | {OWN}
        assert can_read(nobody, bucket, key) == (("READ", ALL_USERS) in given)
        assert can_read(bob, bucket, key) == bool(given)
    if not acl.startswith("bucket-owner"):
        owner.put_bucket_acl(Bucket=bucket, ACL=acl)
        assert grants(owner.get_bucket_acl(Bucket=bucket)) == given | {OWN}
        writable = ("WRITE", ALL_USERS) in given
        assert (outcome(nobody.put_object, Bucket=bucket, Key="new") == "") == writable
        assert (outcome(nobody.list_objects_v2, Bucket=bucket) == "") == (
            ("READ", ALL_USERS) in given
        )


@pytest.mark.parametrize("permission", ["READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL"])
def test_each_permission_gives_its_own(bucket: str, owner: Any, bob: Any, permission: str) -> None:
    acl = owner.get_bucket_acl(Bucket=bucket)
    granted = {"Grantee": {"Type": "CanonicalUser", "ID": BOB}, "Permission": permission}
    policy = {"Owner": acl["Owner"], "Grants": [*acl["Grants"], granted]}
    owner.put_bucket_acl(Bucket=bucket, AccessControlPolicy=policy)
    shown = owner.get_bucket_acl(Bucket=bucket)
    assert grants(shown) == {OWN, (permission, BOB)}
    names = [g["Grantee"]["DisplayName"] for g in shown["Grants"]]
    assert names == ["tester", "Bob B."]

    def may(operation: Any, **arguments: Any) -> bool:
        return outcome(operation, Bucket=bucket, **arguments) == ""

    everything = permission == "FULL_CONTROL"
    assert may(bob.list_objects_v2) == (everything or permission == "READ")
    assert may(bob.put_object, Key="bobs", Body=b"") == (everything or permission == "WRITE")
    assert may(bob.get_bucket_acl) == (everything or permission == "READ_ACP")
    assert not may(bob.get_object, Key="key")
    assert not may(bob.delete_object, Key="key")
    assert not may(bob.get_bucket_policy)
    if everything or permission == "WRITE":
        assert not may(owner.get_object, Key="bobs")
        assert may(bob.delete_object, Key="bobs")
    assert may(bob.put_bucket_acl, ACL="private") == (everything or permission == "WRITE_ACP")


def test_grants_in_headers(bucket: str, owner: Any, bob: Any) -> None:
    owner.put_object(
        Bucket=bucket,
        Key="put",
        Body=b"",
        GrantRead=f'id="{BOB}", uri="{AUTHENTICATED}"',
        GrantReadACP="emailAddress=bob@example.org",
    )
    shown = bob.get_object_acl(Bucket=bucket, Key="put")
    assert grants(shown) == {("READ", AUTHENTICATED), ("READ", BOB), ("READ_ACP", BOB)}
    name = f"bucket-{next(numbers)}"
    owner.create_bucket(Bucket=name, GrantWrite=f"id={BOB}")
    assert outcome(bob.put_object, Bucket=name, Key="key") == ""
    for arguments, code in (
        ({"GrantRead": "id=nobody"}, "InvalidArgument"),
        ({"GrantRead": "uri=http://x"}, "InvalidArgument"),
        ({"GrantRead": "nonsense"}, "InvalidArgument"),
        ({"GrantRead": "emailAddress=x@example.org"}, "UnresolvableGrantByEmailAddress"),
        ({"GrantRead": f"id={BOB}", "ACL": "private"}, "InvalidRequest"),
        ({"ACL": "nonsense"}, "InvalidArgument"),
    ):
        found = outcome(owner.put_object, Bucket=bucket, Key="new", Body=b"", **arguments)
        assert found == code
    assert outcome(owner.get_object, Bucket=bucket, Key="new") == "NoSuchKey"


def test_acl_documents_that_are_refused(bucket: str, owner: Any) -> None:
    acl = owner.get_object_acl(Bucket=bucket, Key="key")
    mine = {"Type": "CanonicalUser", "ID": acl["Owner"]["ID"]}
    for policy, code in (
        ({"Grants": acl["Grants"]}, "MalformedACLError"),
        ({"Owner": {"ID": BOB}, "Grants": []}, "AccessDenied"),
        ({"Owner": acl["Owner"], "Grants": [{"Grantee": mine}]}, "MalformedACLError"),
        ({"Owner": acl["Owner"], "Grants": [{"Grantee": mine, "Permission": "X"}]},
         "MalformedACLError"),
        ({"Owner": acl["Owner"], "Grants": [{"Grantee": {"Type": "Group"}, "Permission": "READ"}]},
         "MalformedACLError"),
        ({"Owner": acl["Owner"],
          "Grants": [{"Grantee": {**mine, "ID": "x"}, "Permission": "READ"}]}, "InvalidArgument"),
    ):  # fmt: skip
        put = {"Bucket": bucket, "Key": "key", "AccessControlPolicy": policy}
        assert outcome(owner.put_object_acl, **put) == code
    assert owner.get_object_acl(Bucket=bucket, Key="key")["Grants"] == acl["Grants"]
    assert outcome(owner.put_object_acl, Bucket=bucket, Key="key") == "MissingSecurityHeader"


def test_an_acl_changes_nothing_else(bucket: str, owner: Any) -> None:
    before = owner.head_object(Bucket=bucket, Key="key")
    owner.put_object_acl(Bucket=bucket, Key="key", ACL="public-read")
    after = owner.head_object(Bucket=bucket, Key="key")
    for member in ("ETag", "LastModified", "ContentType", "Metadata"):
        assert before[member] == after[member]


def test_acls_and_owners_outlive_the_index(tmp_path: Path) -> None:
    with serving(tmp_path, write_mode=WriteMode.WRITE_THROUGH, access_log="off") as door:
        owner, bob = door.client(), client_of(door, "bob")
        owner.create_bucket(Bucket="bucket", ACL="public-read-write")
        bob.put_object(Bucket="bucket", Key="bobs", Body=b"", ACL="public-read")
        owner.put_object(Bucket="bucket", Key="mine", Body=b"")
        owner.put_object_acl(Bucket="bucket", Key="mine", ACL="authenticated-read")
        bucket = door.volume.buckets.get("bucket")
        stored = door.volume.buckets.store(bucket).head(b"bobs").attributes
        was = {key: door.volume.objects.get("bucket", key).attributes for key in (b"bobs", b"mine")}
    assert stored is not None
    assert stored.own == {"owner": "bob", "acl": '[["READ","","AllUsers"],["FULL_CONTROL","bob"]]'}
    assert [attributes.owner for attributes in was.values()] == ["bob", ""]

    config = VolumeConfig(CacheConfig(state_dir=tmp_path / "new"), creatable_store="local")
    stores = {"local": PosixStore(PosixStoreConfig(path=door.store))}
    with contextlib.closing(Volume.open(config, stores)) as volume:
        volume.buckets.adopt()
        assert volume.buckets.get("bucket").settings == bucket.settings
        for key, attributes in was.items():
            found = volume.objects.get("bucket", key).attributes
            assert (found.owner, found.acl) == (attributes.owner, attributes.acl)


# ------------------------------------------------------------------------- ownership and blocks


def ownership(client: Any, bucket: str, mode: str) -> None:
    rules = {"Rules": [{"ObjectOwnership": mode}]}
    client.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=rules)


def owner_of(client: Any, bucket: str, key: str) -> str:
    return str(client.get_object_acl(Bucket=bucket, Key=key)["Owner"]["DisplayName"])


def test_ownership(bucket: str, owner: Any, bob: Any) -> None:
    everybody = {"AWS": "000000000000"}
    put_policy(owner, bucket, statement(bucket, "s3:*", Principal=everybody))
    assert outcome(owner.get_bucket_ownership_controls, Bucket=bucket) == (
        "OwnershipControlsNotFoundError"
    )
    full = {"ACL": "bucket-owner-full-control"}
    bob.put_object(Bucket=bucket, Key="writers", Body=b"", **full)
    assert owner_of(owner, bucket, "writers") == "Bob B."
    listed = owner.list_objects(Bucket=bucket)["Contents"]
    assert [(each["Key"], each["Owner"]["DisplayName"]) for each in listed] == [
        ("key", "tester"),
        ("writers", "Bob B."),
    ]
    bob.put_object(Bucket=bucket, Key="hidden", Body=b"")
    assert not can_read(owner, bucket, "hidden")
    ownership(owner, bucket, "BucketOwnerPreferred")
    bob.put_object(Bucket=bucket, Key="preferred", Body=b"", **full)
    bob.put_object(Bucket=bucket, Key="not", Body=b"")
    assert owner_of(owner, bucket, "preferred") == "tester"
    assert owner_of(bob, bucket, "not") == "Bob B."
    ownership(owner, bucket, "BucketOwnerEnforced")
    assert can_read(owner, bucket, "hidden")
    assert owner_of(owner, bucket, "hidden") == "tester"
    bob.put_object(Bucket=bucket, Key="enforced", Body=b"", **full)
    for arguments in ({"ACL": "private"}, {"ACL": "public-read"}, {"GrantRead": f"id={BOB}"}):
        put = outcome(bob.put_object, Bucket=bucket, Key="new", Body=b"", **arguments)
        assert put == "AccessControlListNotSupported"
        assert outcome(owner.put_bucket_acl, Bucket=bucket, **arguments) == (
            "AccessControlListNotSupported"
        )
    owner.delete_bucket_ownership_controls(Bucket=bucket)
    assert not can_read(owner, bucket, "hidden")
    assert owner_of(owner, bucket, "enforced") == "tester"


def test_no_acl_survives_enforced_ownership(bucket: str, owner: Any, nobody: Any) -> None:
    owner.put_bucket_acl(Bucket=bucket, ACL="public-read")
    with pytest.raises(ClientError, match="InvalidBucketAclWithObjectOwnership"):
        ownership(owner, bucket, "BucketOwnerEnforced")
    owner.put_bucket_acl(Bucket=bucket, ACL="private")
    owner.put_object_acl(Bucket=bucket, Key="key", ACL="public-read")
    assert can_read(nobody, bucket)
    ownership(owner, bucket, "BucketOwnerEnforced")
    assert not can_read(nobody, bucket)
    name = f"bucket-{next(numbers)}"
    create = {"Bucket": name, "ObjectOwnership": "BucketOwnerEnforced"}
    code = outcome(owner.create_bucket, **create, ACL="public-read")
    assert code == "InvalidBucketAclWithObjectOwnership"
    assert outcome(owner.create_bucket, **create) == ""
    for mode in ("Nonsense", ""):
        with pytest.raises(ClientError, match="MalformedXML"):
            ownership(owner, bucket, mode)


def block(client: Any, bucket: str, **switches: bool) -> None:
    client.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=switches)


def test_public_access_block(bucket: str, owner: Any, bob: Any, nobody: Any) -> None:
    owner.put_object_acl(Bucket=bucket, Key="key", ACL="public-read")
    assert owner.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"] == {"IsPublic": False}
    owner.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert owner.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"] == {"IsPublic": True}
    assert can_read(nobody, bucket)

    block(owner, bucket, IgnorePublicAcls=True)
    assert not can_read(nobody, bucket)
    assert owner.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"] == {"IsPublic": False}
    block(owner, bucket, BlockPublicAcls=True)
    assert can_read(nobody, bucket)
    for operation in (owner.put_object, owner.put_object_acl, owner.create_multipart_upload):
        denied = outcome(operation, Bucket=bucket, Key="key", ACL="authenticated-read")
        assert denied == "AccessDenied"
    assert outcome(owner.put_bucket_acl, Bucket=bucket, ACL="public-read") == "AccessDenied"
    owner.put_bucket_acl(Bucket=bucket, ACL="private")

    block(owner, bucket, BlockPublicPolicy=True)
    with pytest.raises(ClientError, match="AccessDenied"):
        put_policy(owner, bucket, statement(bucket, "s3:PutObject"))
    put_policy(owner, bucket, statement(bucket, "s3:PutObject", Principal={"AWS": "000000000000"}))
    block(owner, bucket)
    put_policy(owner, bucket, statement(bucket, "s3:PutObject"))
    assert outcome(nobody.put_object, Bucket=bucket, Key="new") == ""
    block(owner, bucket, RestrictPublicBuckets=True)
    assert outcome(nobody.put_object, Bucket=bucket, Key="new") == "AccessDenied"
    assert outcome(bob.put_object, Bucket=bucket, Key="new") == "AccessDenied"
    assert outcome(owner.put_object, Bucket=bucket, Key="new") == ""
    owner.delete_public_access_block(Bucket=bucket)
    assert outcome(owner.get_public_access_block, Bucket=bucket) == (
        "NoSuchPublicAccessBlockConfiguration"
    )


def test_creating_an_own_bucket_again_resets_its_acl(bucket: str, owner: Any, bob: Any) -> None:
    owner.put_bucket_acl(Bucket=bucket, ACL="public-read")
    owner.create_bucket(Bucket=bucket)
    assert grants(owner.get_bucket_acl(Bucket=bucket)) == {OWN}
    owner.create_bucket(Bucket=bucket, ACL="public-read")
    assert len(owner.get_bucket_acl(Bucket=bucket)["Grants"]) == 2
    assert outcome(bob.create_bucket, Bucket=bucket) == "BucketAlreadyExists"


def test_an_anonymous_writers_object_is_the_bucket_owners(
    bucket: str, door: Door, owner: Any, nobody: Any
) -> None:
    owner.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    nobody.put_object(Bucket=bucket, Key="new", Body=b"")
    found = door.volume.objects.get(bucket, b"new")
    assert found.attributes.owner == ""
    assert can_read(owner, bucket, "new")
    assert not can_read(nobody, bucket, "new")


def test_what_is_replaced_meanwhile_is_asked_about_again(
    bucket: str, door: Door, owner: Any, nobody: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A public object that gives way to a private one between the decision and the reading."""
    look = Access._find

    def replace() -> None:
        writer = door.volume.objects.writer(bucket, b"key", size_bytes=6)
        writer.write(b"secret")
        writer.commit(etag="0" * 32, attributes=ObjectAttributes())

    async def find(access: Access, key: bytes, version_id: str | None) -> Object | None:
        found = await look(access, key, version_id)
        await asyncio.to_thread(replace)
        return found

    for operation in (nobody.get_object, nobody.head_object):
        owner.put_object_acl(Bucket=bucket, Key="key", ACL="public-read")
        assert outcome(operation, Bucket=bucket, Key="key") == ""
        with monkeypatch.context() as patched:
            patched.setattr(Access, "_find", find)
            assert outcome(operation, Bucket=bucket, Key="key") in ("AccessDenied", "403")
        assert owner.get_object(Bucket=bucket, Key="key")["Body"].read() == b"secret"


def test_every_rule_is_of_an_operation_and_an_action() -> None:
    assert RULES.keys() <= MODEL.operations.keys()
    for name, rule in RULES.items():
        for action in (rule.action, rule.versioned, rule.also, rule.also_versioned):
            assert not action or re.fullmatch(r"s3:[A-Z][A-Za-z]+", action), name
        level = MODEL.operations[name].level
        assert rule.of_key == (level == "key"), name
        assert rule_of(name, level) is rule
    assert rule_of("GetObject", "key").actions("1") == ("s3:GetObjectVersion",)
    assert rule_of("GetObjectAttributes", "key").actions(None) == (
        "s3:GetObject",
        "s3:GetObjectAttributes",
    )
    assert rule_of("UploadPart", "key").actions(None) == ("s3:PutObject",)
    assert rule_of("RenameObject", "key") == Rule("s3:RenameObject", of_key=True)
